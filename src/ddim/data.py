"""Training data in memory: images as uint8, arrays of floats, the bundled digits, an .npz."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 1024  # examples that are looked at together


class Examples(Protocol):
    """What a model is trained on: N examples of one shape."""

    @property
    def labels(self) -> Tensor | None:
        """int64 (N,), or None."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes 0..K-1, or () where labels are bare numbers."""
        ...

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples without their labels."""
        ...

    def batch(self, chosen: Tensor) -> Tensor:
        """The examples at these places, int64 (B,), as float32 (B, *shape)."""
        ...


@dataclass(frozen=True, eq=False)
class Images:
    """pixels: uint8 (N, C, H, W), C = 1 or 3, never to be written to.   labels, names: of Examples.

    skipped: a sentence for every picture that `read` left out.
    """

    pixels: Tensor
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

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
        check_labels(self.labels, self.names, shape[0], "images")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, c, h, w = self.pixels.shape
        return c, h, w

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shape and the pixels."""
        return _digest(self.pixels)

    def batch(self, chosen: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1]."""
        return to_float(self.pixels[chosen])


@dataclass(frozen=True, eq=False)
class Arrays:
    """values: float32 (N, ...) of any rank from 2 on, finite: vectors, signals, images, volumes.

    They are trained on as they are; a spread of about 1 around 0 suits the schedules.
    """

    values: Tensor
    labels: Tensor | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.values.shape)
        if self.values.dtype != torch.float32 or len(shape) < 2 or 0 in shape:
            raise ValueError(
                f"values are {self.values.dtype} {shape}; give float32 (N, ...) of rank 2 or more, "
                "N at least 1, or uint8 (N, C, H, W) images"
            )
        for start, part in enumerate(torch.split(self.values, _PART)):
            bad = ~torch.isfinite(part.flatten(1)).all(1)
            if bad.any():
                place = start * _PART + int(bad.nonzero()[0])
                raise ValueError(
                    f"example {place} holds a nan or an infinity; mend it or leave it out"
                )
        check_labels(self.labels, self.names, shape[0], "examples")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.values.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shape and the values."""
        return _digest(self.values)

    def batch(self, chosen: Tensor) -> Tensor:
        """(B, ...), as they are."""
        return self.values[chosen]


def check_labels(labels: Tensor | None, names: tuple[str, ...], count: int, what: str) -> None:
    """Raise ValueError unless each has one, int64, and every class a name if any has."""
    if labels is None:
        if names:
            raise ValueError(f"{len(names)} names of classes and no labels; give both or neither")
        return
    if labels.shape != (count,):
        raise ValueError(f"{tuple(labels.shape)} labels for {count} {what}; give one per image")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}; give int64")
    low, high = int(labels.min()), int(labels.max())
    if names and not 0 <= low <= high < len(names):
        raise ValueError(f"labels are {low}..{high} and {len(names)} have names; name each class")


def _digest(values: Tensor) -> str:
    digest = hashlib.sha256(repr(tuple(values.shape)).encode())
    for part in torch.split(values, _PART):
        digest.update(part.contiguous().numpy().data)
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
        return read_npz(path)


def read_npz(path: Path) -> Images:
    """The uint8 (N, H, W) or (N, H, W, 1 or 3) called images, and perhaps `labels` (N,).

    Raises ValueError for anything else.
    """
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
