"""Named feature spaces, in which sets of images are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ddim import __version__
from ddim.classifier import DIMENSION, Classifier, Course, fitted, places
from ddim.data import Images, shrunk, to_float
from ddim.extractors import INCEPTION, Rows, inception_file, opened
from ddim.files import read_tensors, write
from ddim.metrics import Moments

_LARGEST = 32
_COMPONENTS = 64


@dataclass(frozen=True, eq=False)
class Features:
    """A feature space: a name, and a map of uint8 images (B, C, H, W) to rows (B, dimension).

    digest: of all that the map depends on; figures of one digest can be compared.
    about: what it is, for a reader.   classify: rows to classes, if it is a classifier's.
    facts: what else there is to know, such as that classifier's accuracy.
    """

    name: str
    dimension: int
    of: Rows
    digest: str
    about: str
    classify: Callable[[Tensor], Tensor] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def inception(self) -> bool:
        """Whether this is the network that FID and KID are named after."""
        return self.digest == INCEPTION

    def title(self, figure: str) -> str:
        """What to call a figure here: FID and KID with Inception-2015 alone, else "FD[pca]"."""
        if self.inception and figure in ("fd", "kd"):
            return {"fd": "FID", "kd": "KID"}[figure]
        short = {"fd": "FD", "kd": "KD", "sw2": "SW2"}.get(figure, figure)
        return f"{short}[{self.name}]"


def extractor(spec: str, images: Images, cache: Path) -> Features:
    """The feature space that a text names, for images like these.

    pixels; pca (64 principal components of the images; "pca:16" for 16); cnn (a small classifier
    trained on their labels); inception (its file in the cache or in torch's hub folder); the path
    of a .pt2 or .onnx that takes uint8 (N, C, H, W) and answers (N, D), of the inception file, or
    of a transformers folder (DINOv2, CLIP). What is fitted is kept in the folder `cache`, by a
    fingerprint of the data. Raises ValueError, FileNotFoundError or ImportError that say what to
    do.
    """
    name, _, option = spec.partition(":")
    if spec == "pixels":
        dimension = small_rows(images.pixels[:1]).shape[1]
        return Features(
            "pixels", dimension, small_rows, f"pixels {_LARGEST}", "pixels, from 0 to 1"
        )
    if name == "pca":
        return _pca(images, option, cache)
    if spec == "cnn":
        return _cnn(images, cache)
    path = inception_file(cache) if spec == "inception" else Path(spec)
    name, rows, digest, about = opened(path)
    answer = rows(images.pixels[:2])
    if answer.ndim != 2 or len(answer) != len(images.pixels[:2]):
        raise ValueError(
            f"{path} answers {tuple(answer.shape)} for {len(images.pixels[:2])} images; an "
            "extractor answers one row of features per image, (N, D)"
        )
    return Features(name, answer.shape[1], rows, digest, about)


def extractors(specs: str, images: Images, cache: Path) -> list[Features]:
    """The spaces of a list separated by commas. Raises ValueError if two have one name."""
    made = [extractor(spec.strip(), images, cache) for spec in specs.split(",") if spec.strip()]
    names = [space.name for space in made]
    if not made or len(set(names)) < len(names):
        raise ValueError(f"features {specs!r} name one space twice, or none; write such as pca,cnn")
    return made


def sum_of_moments(parts: Iterable[Tensor]) -> Moments:
    """The moments of all rows of an iterable of rows. Raises ValueError if it is empty."""
    total: Moments | None = None
    for rows in parts:
        total = Moments.of(rows) if total is None else total + Moments.of(rows)
    if total is None:
        raise ValueError("no images; give at least one")
    return total


def small_rows(pixels: Tensor) -> Tensor:
    """uint8 images (B, C, H, W) as rows in [0, 1]; sides above 32 are averaged down to 32."""
    return shrunk(pixels.float() / 255, _LARGEST).flatten(1)


def _pca(images: Images, option: str, cache: Path) -> Features:
    most = min(small_rows(images.pixels[:1]).shape[1], len(images) - 1)
    count = min(_COMPONENTS, most) if not option else int(option) if option.isdecimal() else 0
    if not 1 <= count <= most:
        raise ValueError(
            f"pca:{option} is no number of components here; write pca:1 to pca:{most}, or pca"
        )

    def fit() -> dict[str, Tensor]:
        moments = sum_of_moments(small_rows(part) for part in torch.split(images.pixels, 1024))
        values, vectors = torch.linalg.eigh(moments.scatter)
        share = values[-count:].sum() / values.sum().clamp(min=1e-300)
        components = vectors[:, -count:].flip(1).contiguous()
        return {"mean": moments.mean, "components": components, "share": share}

    key = f"{__version__} pca {count} {_LARGEST} {images.fingerprint}"
    found = _cached(cache, "pca", key, fit)
    mean, components = found["mean"].float(), found["components"].float()
    about = (
        f"{count} principal components of this data's pixels, which hold "
        f"{100 * float(found['share']):.0f} % of their variance"
    )
    name = "pca" if not option else f"pca{count}"
    return Features(
        name, count, lambda pixels: (small_rows(pixels) - mean) @ components, _sha(key), about
    )


def _cnn(images: Images, cache: Path) -> Features:
    targets = places(images)
    key = f"{__version__} cnn {Course()} {images.fingerprint} {_sha(targets.numpy().tobytes())}"

    def fit() -> dict[str, Tensor]:
        net, accuracy = fitted(images)
        parts = torch.split(images.pixels, 1024)
        square = [net.features(to_float(part)).double().square().sum() for part in parts]
        scale = (sum(square) / (len(images) * DIMENSION)) ** 0.5
        about = {"accuracy": torch.tensor(accuracy, dtype=torch.float64), "scale": scale}
        return {**net.state_dict(), **about}

    weights = _cached(cache, "cnn", key, fit)
    digest = _sha(b"".join(tensor.numpy().tobytes() for tensor in weights.values()))
    accuracy, scale = float(weights.pop("accuracy")), float(weights.pop("scale"))
    net = Classifier(images.shape[0], int(targets.max()) + 1)
    net.load_state_dict(weights)
    net.eval().requires_grad_(False)
    about = (
        "the last hidden layer, of mean square 1, of a small classifier of this data, right on "
        f"{100 * accuracy:.1f} % of a tenth that it never saw"
    )
    return Features(
        "cnn",
        DIMENSION,
        lambda pixels: net.features(to_float(pixels)) / scale,
        digest,
        about,
        lambda rows: net.head(rows.float() * scale).argmax(1),
        {"accuracy": accuracy},
    )


def _cached(
    cache: Path, kind: str, key: str, fit: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `fit` returns: from the cache, or made and put there."""
    path = cache / f"{kind}-{_sha(key)[:16]}.safetensors"
    if not path.exists():
        write(path, safetensors.torch.save(fit()))
    return read_tensors(path)


def _sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
