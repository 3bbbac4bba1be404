"""What is known of an image, and the denoiser that keeps to it: inpainting, enlarging, deblurring.

A linear measurement y = A x0 leaves A's null space open. `project` puts the part of x̂_0 that A sees
at what was measured, x̂_0 + A⁺(y − A x̂_0), at every call (Wang et al. 2022, DDNM, arXiv:2212.00490).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.process import Denoiser, Level, Prediction


class Measurement(Protocol):
    """A linear map of images (B, C, H, W) and its pseudo-inverse A⁺, with A A⁺ A = A."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x."""
        ...

    def inverse(self, y: Tensor) -> Tensor:
        """A⁺ y."""
        ...


@dataclass(frozen=True, eq=False)
class Mask:
    """The known pixels; the others are measured as 0.

    known: bool, of any shape that broadcasts to the images, (H, W) for instance.
    """

    known: Tensor

    def __post_init__(self) -> None:
        if self.known.dtype != torch.bool:
            raise ValueError(f"known holds {self.known.dtype}; give bool, True where it is known")

    def __call__(self, x: Tensor) -> Tensor:
        """x where it is known, else 0. Raises ValueError if the mask does not fit."""
        sizes = zip(reversed(self.known.shape), reversed(x.shape), strict=False)
        if self.known.ndim >= x.ndim or not all(own in (1, size) for own, size in sizes):
            raise ValueError(
                f"known is {tuple(self.known.shape)}, an image {tuple(x.shape[1:])}; give it a "
                "shape that broadcasts to the image"
            )
        return torch.where(self.known.to(x.device), x, 0.0)

    def inverse(self, y: Tensor) -> Tensor:
        """The same."""
        return self(y)


@dataclass(frozen=True)
class Downsample:
    """Means over squares of factor × factor pixels."""

    factor: int

    def __post_init__(self) -> None:
        if type(self.factor) is not int or self.factor < 1:
            raise ValueError(f"factor={self.factor!r}; choose a whole number from 1")

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/factor, W/factor). Raises ValueError if it does not divide."""
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ValueError(
                f"images of {x.shape[-2]}×{x.shape[-1]} do not divide by factor={self.factor}; "
                "choose one that does"
            )
        return F.avg_pool2d(x, self.factor)

    def inverse(self, y: Tensor) -> Tensor:
        """Every pixel factor × factor times."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur that wraps around the edges.

    std: in pixels.   cutoff: spatial frequencies weakened below this share count as unseen, so that
    rounding of y is never magnified by more than 1/cutoff.
    """

    std: float
    cutoff: float = 0.01

    def __post_init__(self) -> None:
        numbers = isinstance(self.std, int | float) and isinstance(self.cutoff, float)
        if not (numbers and 0 <= self.std < math.inf and 0 < self.cutoff < 1):
            raise ValueError(
                f"std={self.std}, cutoff={self.cutoff}; choose a std from 0, a cutoff in (0, 1)"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """The blurred images, (B, C, H, W)."""
        return self._scaled(x, lambda gain: gain)

    def inverse(self, y: Tensor) -> Tensor:
        """The images whose seen frequencies blur to y; the unseen ones are 0."""
        return self._scaled(y, lambda gain: torch.where(gain > 0, 1 / gain, 0.0))

    def _scaled(self, x: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        h, w = x.shape[-2:]
        down, across = torch.fft.fftfreq(h), torch.fft.rfftfreq(w)
        square = (down[:, None] ** 2 + across**2).double()
        gain = torch.exp(-2 * (torch.pi * self.std) ** 2 * square)
        seen = torch.where(gain >= self.cutoff, gain, 0.0)
        return torch.fft.irfft2(torch.fft.rfft2(x) * factor(seen).to(x), s=(h, w))


MEASUREMENTS: dict[str, Callable[..., Measurement]] = {"downsample": Downsample, "blur": Blur}


def project(denoiser: Denoiser, measurement: Measurement, y: Tensor) -> Denoiser:
    """Keep x0 to what was measured: measurement(x0) = y at every call, so also in the final image.

    y: as measurement(x) returns it, (B, ...) or one for all. Clip within, not around it.
    """

    def projected(x: Tensor, level: Level) -> Prediction:
        p = denoiser(x, level)
        seen = measurement(p.x0)
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(x)):
            raise ValueError(
                f"measured {tuple(y.shape)}, but images of {tuple(x.shape)} are measured as "
                f"{tuple(seen.shape)}; give one measurement per image, or one for all"
            )
        return p.with_x0(p.x0 + measurement.inverse(y.to(seen) - seen), level)

    return projected
