"""Networks of the user's that map images to features: programs, transformers folders, Inception."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.extras import needed
from ddim.files import read_json, refuse_code

Rows = Callable[[Tensor], Tensor]
"""uint8 images (B, C, H, W) to rows of features (B, D)."""

Opened = tuple[str, Rows, str, str]
"""A name, the map, a digest of what it depends on, and what it is, for a reader."""

INCEPTION = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""SHA-256 of the TorchScript of Inception-2015 that NVIDIA published with StyleGAN2-ADA; clean-fid
and k-diffusion measure FID with the same file."""
INCEPTION_FILE = "inception-2015-12-05.pt"


def opened(path: Path) -> Opened:
    """The extractor of a .pt2, an .onnx, the Inception file, or a transformers folder.

    Raises FileNotFoundError, ValueError or ImportError that say what to do.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{str(path)!r} is no feature space and no file; choose pixels, pca, cnn, inception, "
            "or the path of a .pt2, an .onnx or a transformers folder"
        )
    if path.is_dir():
        return _folder(path)
    if path.suffix not in _PROGRAMS:
        raise ValueError(f"{path} is no extractor; give a .pt2, an .onnx or a transformers folder")
    return _PROGRAMS[path.suffix](path)


def inception_file(cache: Path) -> Path:
    """Where the Inception file lies. Raises FileNotFoundError if nowhere."""
    folders = cache, Path(torch.hub.get_dir()) / "checkpoints"
    for folder in folders:
        if (folder / INCEPTION_FILE).exists():
            return folder / INCEPTION_FILE
    raise FileNotFoundError(
        f"inception needs {INCEPTION_FILE}, which NVIDIA published with StyleGAN2-ADA, and nothing "
        f"is downloaded here; put it into {folders[0]}, or give its path as the feature"
    )


def _inception(path: Path) -> Opened:
    digest = _digest(path)
    if digest != INCEPTION:
        raise ValueError(
            f"{path} is not {INCEPTION_FILE} (its SHA-256 begins {digest[:8]}, not "
            f"{INCEPTION[:8]}), the only TorchScript that is opened; export other networks as .pt2"
        )
    return "inception", torchscript(path), digest, "Inception-2015, the network of FID and KID"


def torchscript(path: Path) -> Rows:
    """The features of a TorchScript that resizes by itself, as that of Inception does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        load: Any = torch.jit.load
        net = load(str(path), map_location="cpu")
    net.eval()

    def rows(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return net(_colour(pixels), return_features=True)

    return rows


def _pt2(path: Path) -> Opened:
    refuse_code(path)
    try:
        net: Any = torch.export.load(path).module()
    except Exception as error:  # of the reader, which raises what it meets
        raise _unreadable(path, "a .pt2", error) from error

    def rows(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return net(pixels)

    return path.stem, _said(path, rows), _digest(path), f"the network in {path.name}"


def _onnx(path: Path) -> Opened:
    runtime = needed("onnxruntime", "eval", "an extractor in ONNX")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # of the runtime, which raises what it meets
        raise _unreadable(path, "ONNX", error) from error
    entry = session.get_inputs()[0].name

    def rows(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {entry: pixels.numpy()})[0])

    return path.stem, _said(path, rows), _digest(path), f"the network in {path.name}"


def _folder(path: Path) -> Opened:
    library = needed("transformers", "eval", "a transformers folder as feature space")
    try:
        net: Any = library.AutoModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # of the library, which raises what it meets
        raise _unreadable(path, "a transformers folder with safetensors", error) from error
    net.eval().requires_grad_(False)
    prepared = path / "preprocessor_config.json"
    about = read_json(prepared) if prepared.exists() else {}
    mean, std = (
        torch.tensor(about.get(name, [0.5] * 3), dtype=torch.float32).reshape(1, 3, 1, 1)
        for name in ("image_mean", "image_std")
    )
    side = getattr(net.config, "vision_config", net.config).image_size
    ask = getattr(net, "get_image_features", net)  # of CLIP, the half that looks at images

    def rows(pixels: Tensor) -> Tensor:
        x = _colour(pixels).float() / 255
        x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            answer = ask(pixel_values=(x - mean) / std)
        return answer if isinstance(answer, Tensor) else answer.pooler_output

    weights = sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256("".join(map(_digest, [*weights, prepared])).encode()).hexdigest()
    name = path.resolve().name
    return name, _said(path, rows), digest, f"the network in the folder {name}"


_PROGRAMS: dict[str, Callable[[Path], Opened]] = {".pt2": _pt2, ".onnx": _onnx, ".pt": _inception}


def _said(path: Path, rows: Rows) -> Rows:
    """The map, with one sentence for images that the network does not take."""

    def answer(pixels: Tensor) -> Tensor:
        try:
            return rows(pixels).float()
        except Exception as error:  # of the network, which raises what it meets
            raise ValueError(
                f"{path} does not take images {tuple(pixels.shape)} of uint8 "
                f"({_line(error)}); an extractor takes any number of them, (N, C, H, W), and "
                "scales them itself"
            ) from error

    return answer


def _unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as {kind} ({_line(error)}); export it anew")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _colour(pixels: Tensor) -> Tensor:
    """Grey images as three equal channels."""
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()
