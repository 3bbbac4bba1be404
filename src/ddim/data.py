"""Training images: the bundled digits, an .npz, or a folder of pictures, held as uint8."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[np.uint8]]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Images:
    """pixels: uint8 (N, C, H, W), C = 1 or 3.   labels: int64 (N,) or None."""

    pixels: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if (
            self.pixels.dtype != torch.uint8
            or len(shape) != 4
            or shape[1] not in (1, 3)
            or 0 in shape
        ):
            raise ValueError(
                f"pixels are {self.pixels.dtype} {shape}; "
                "give uint8 (N, C, H, W), C 1 or 3, N at least 1"
            )
        if self.labels is not None and self.labels.shape != shape[:1]:
            raise ValueError(
                f"{tuple(self.labels.shape)} labels for {shape[0]} images; give one per image"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, c, h, w = self.pixels.shape
        return c, h, w

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the shape and the pixels."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().tobytes())
        return digest.hexdigest()


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_pixels(x: Tensor) -> Tensor:
    """[-1, 1] to uint8, clipped and rounded. Raises FloatingPointError for a nan or an infinity."""
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            "an image holds a nan or an infinity; the network or its input is broken"
        )
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def shrunk(x: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W), sides above `side` averaged down to it."""
    height, width = (min(length, side) for length in x.shape[-2:])
    return x if (height, width) == x.shape[-2:] else F.adaptive_avg_pool2d(x, (height, width))


def digits() -> Images:
    """The 1,797 bundled 8×8 scans of handwritten digits, with their labels.

    UCI "Optical Recognition of Handwritten Digits", CC BY 4.0; see bundled/NOTICE.
    """
    with resources.as_file(resources.files("ddim") / "bundled" / "digits.npz") as path:
        return _read_npz(path)


def read(source: str | Path, size: int | None = None) -> Images:
    """The images of a folder (searched through), an .npz or one picture; "digits" are the bundled.

    An .npz holds `images`, uint8 (N, H, W) or (N, H, W, 1 or 3), and perhaps `labels` (N,). A
    folder's images are grey if all of them are, else RGB, the first frame of each, transparency
    on white; `size` crops each to a centred square and resizes it to size × size.
    Raises FileNotFoundError or ValueError with the name of the offending file.
    """
    path = Path(source)
    if str(source) == "digits" and not path.exists():
        if size is not None:
            raise ValueError(f"size={size} is for folders of images; the digits are 8×8")
        return digits()
    if size is not None and size < 1:
        raise ValueError(f"size={size}; choose at least 1 pixel")
    if path.suffix == ".npz" and path.is_file():
        if size is not None:
            raise ValueError(
                f"size={size} is for folders of images; {path} holds arrays, so resize them there"
            )
        return _read_npz(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return Images(torch.from_numpy(_read_picture(path, size)[None].copy()))
    if not path.is_dir():
        missing = "does not exist" if not path.exists() else "is neither a folder nor images"
        raise FileNotFoundError(
            f"{path} {missing}; give a folder of images, a picture, an .npz, or the word digits"
        )
    return _read_folder(path, size)


def _read_npz(path: Path) -> Images:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("images", "labels") if key in file.files}
            found = file.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz of plain arrays ({error}); write it with numpy.savez"
        ) from error
    if "images" not in arrays:
        raise ValueError(
            f"{path} holds {', '.join(found) or 'nothing'}; it needs an array called images"
        )
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{path}: images is {images.dtype} {images.shape}; "
            "it must be uint8 (N, H, W) or (N, H, W, C) with C 1 or 3"
        )
    labels = arrays.get("labels")
    if labels is not None and labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels is {labels.dtype}; it must hold whole numbers")
    labels = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return Images(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), labels)


def _read_folder(path: Path, size: int | None) -> Images:
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    if not files:
        raise ValueError(f"{path} holds no images; it needs files ending in {', '.join(SUFFIXES)}")
    pictures = [_read_picture(file, size) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape[1:] != pictures[0].shape[1:]:
            raise ValueError(
                f"{file} is {_extent(picture)} and {files[0]} {_extent(pictures[0])}; "
                "give images of one size, or --size N to crop and resize them"
            )
    return Images(torch.from_numpy(np.stack(_one_mode(pictures))))


def _read_picture(file: Path, size: int | None) -> Array:
    """uint8 (C, H, W), upright, C = 1 for grey pictures."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                picture = _plain(ImageOps.exif_transpose(opened))
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise ValueError(
            f"{file} cannot be read as an image ({error}); mend it or take it out"
        ) from error
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _plain(picture: Image) -> Image:
    """As L or RGB: 16-bit grey scaled down, transparency on white, a palette of greys grey."""
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), clear)
    colour = picture.convert("RGB")
    red, green, blue = (np.asarray(band) for band in colour.split())
    grey = picture.mode != "RGB" and (red == green).all() and (red == blue).all()
    return colour.convert("L") if grey else colour


def _one_mode(pictures: list[Array]) -> list[Array]:
    if all(len(picture) == 1 for picture in pictures):
        return pictures
    return [np.repeat(picture, 3, axis=0) if len(picture) == 1 else picture for picture in pictures]


def _extent(picture: Array) -> str:
    return "×".join(map(str, picture.shape[:0:-1]))
