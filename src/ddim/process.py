"""The forward process, and what a network may predict about it.

x_t = signal·x0 + noise·eps. When variance is preserved, signal = √α_t and noise = √(1 − α_t), with
α_t the cumulative product that other texts call ᾱ_t. Equation numbers are those of Song, Meng and
Ermon, "Denoising Diffusion Implicit Models" (2020), https://arxiv.org/abs/2010.02502.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Scalar = float | Tensor
"""A Python float while sampling; a tensor (B, 1, ..., 1), one value per image, while training."""


@dataclass(frozen=True)
class Level:
    """A point of the forward process: time t, and the weights of clean image and noise in x_t.

    t runs from 0 (clean) to T; it may be nan for a level made by hand, which a model then places
    by its ratio.
    """

    t: Scalar
    signal: Scalar
    noise: Scalar

    @property
    def ratio(self) -> Scalar:
        """noise/signal, the r of dy/dr = eps (Eq. 14); inf where the signal is 0."""
        if isinstance(self.signal, Tensor):
            return self.noise / self.signal
        return self.noise / self.signal if self.signal else math.inf


@dataclass(frozen=True)
class Prediction:
    """A state x (B, ...) and its split: x = signal·x0 + noise·eps, always."""

    x: Tensor
    x0: Tensor
    eps: Tensor

    def with_x0(self, x0: Tensor, level: Level) -> Prediction:
        """The same x explained by another clean image; eps follows. At noise 0, this prediction."""
        if not level.noise:
            return self
        return Prediction(self.x, x0, self.eps + level.signal / level.noise * (self.x0 - x0))

    def with_x(self, x: Tensor, level: Level) -> Prediction:
        """The same clean image seen in another state; eps follows. Needs noise at the level."""
        return Prediction(x, self.x0, self.eps + (x - self.x) / level.noise)


Denoiser = Callable[[Tensor, Level], Prediction]
"""A network with its target and condition bound: (x, level) to a Prediction in the dtype of x."""

Target = Callable[[Level], tuple[Scalar, Scalar]]
"""What a network outputs, as the row (a, b) of out = a·x0 + b·eps at a level."""

TARGETS: dict[str, Target] = {
    "eps": lambda level: (0.0, 1.0),
    "x0": lambda level: (1.0, 0.0),
    "v": lambda level: (-level.noise, level.signal),  # Salimans and Ho 2022, arXiv:2202.00512
    "flow": lambda level: (-1.0, 1.0),  # the velocity dx/du of x = (1 − u)·x0 + u·eps
}


def row(target: str, level: Level) -> tuple[Scalar, Scalar]:
    """The weights (a, b) of x0 and eps in the output of a network trained on `target`."""
    if target not in TARGETS:
        raise ValueError(f"target={target!r} is unknown; choose one of {', '.join(TARGETS)}")
    return TARGETS[target](level)


def determinant(target: str, level: Level) -> Scalar:
    """The determinant of x = signal·x0 + noise·eps, out = a·x0 + b·eps.

    Raises ValueError where it is 0.
    """
    a, b = row(target, level)
    det = level.signal * b - level.noise * a
    if torch.any(det == 0) if isinstance(det, Tensor) else det == 0:
        missing = "x0 where the signal" if target == "eps" else "eps where the noise"
        raise ValueError(
            f"the {target} target says nothing about {missing} is 0 (t={level.t}); "
            "choose another target, v for instance, or another level"
        )
    return det


def split(out: Tensor, x: Tensor, level: Level, target: str) -> Prediction:
    """Solve for x0 and eps what the network said of x.

    out, x: (B, ...), of one shape.   level: floats, or tensors (B, 1, ..., 1).
    Raises ValueError if the shapes differ or the target is singular at this level.
    """
    if out.shape != x.shape:
        raise ValueError(
            f"the network answered {tuple(out.shape)} to {tuple(x.shape)}; it must keep the shape"
        )
    (a, b), det = row(target, level), determinant(target, level)
    x0 = (b / det) * x - (level.noise / det) * out
    eps = (level.signal / det) * out - (a / det) * x
    return Prediction(x, x0, eps)


def floating(x: Tensor) -> Tensor:
    """x, if it may be an image. Raises ValueError for integers."""
    if not x.is_floating_point():
        raise ValueError(f"x holds {x.dtype}; give floating-point numbers, images in [-1, 1]")
    return x


def diffuse(x0: Tensor, level: Level, eps: Tensor) -> Tensor:
    """Draw x_t given x0, Eq. (4).

    x0, eps: (B, ...), images in [-1, 1]; eps standard normal.   level: floats, or tensors (B, 1,
    ..., 1). Returns x_t with x0's shape. Raises ValueError if the shapes differ.
    """
    if x0.shape != eps.shape:
        raise ValueError(
            f"x0 is {tuple(x0.shape)} and eps {tuple(eps.shape)}; they must have one shape"
        )
    return level.signal * x0 + level.noise * eps
