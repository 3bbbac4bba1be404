"""The forward process, and what a network may predict about it.

x_t = signal·x0 + noise·eps. When variance is preserved, signal = √α_t and noise = √(1 − α_t), with
α_t the cumulative product that other texts call ᾱ_t. Equation numbers are those of Song, Meng and
Ermon, "Denoising Diffusion Implicit Models" (2020), https://arxiv.org/abs/2010.02502.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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
        ratio, change = level.signal / level.noise, self.x0 - x0
        if isinstance(ratio, Tensor):
            return Prediction(self.x, x0, self.eps + ratio * change)
        return Prediction(self.x, x0, self.eps.add(change, alpha=ratio))

    def with_x(self, x: Tensor, level: Level) -> Prediction:
        """The same clean image seen in another state; eps follows. Needs noise at the level."""
        return split(self.x0, x, level, "x0")

    def mixed(self, a: Scalar, b: Scalar) -> Tensor:
        """a·x0 + b·eps, always a new tensor: at (signal_s, noise_s), the step of DDIM to s."""
        return weighted(a, self.x0, b, self.eps)

    def blended(self, x: Tensor, blend: Callable[[Tensor], Tensor]) -> Prediction:
        """That of x, whose x0 and eps are the same blend, of weights that sum to 1, of these."""
        return Prediction(x, blend(self.x0), blend(self.eps))


Rows = tuple[tuple[Scalar, Scalar], tuple[Scalar, Scalar]]
"""The weights of (x, out) in x0, and those in eps."""


class Split(Prediction):
    """The prediction that a network's answer `out` to x stands for, computed where it is asked for.

    `mixed` goes from (x, out) to the next state in two operations, without x0 and eps between. What
    is the answer itself, eps or x0 as the target has it, is that tensor and no copy.
    """

    _out: Tensor
    _rows: Rows
    _graded: bool

    def __init__(self, x: Tensor, out: Tensor, rows: Rows) -> None:
        if out.shape != x.shape:
            raise ValueError(
                f"the network answered {tuple(out.shape)} to {tuple(x.shape)}; "
                "it must keep the shape"
            )
        # Gradients are kept or not as when it was made, not as when x0 is first looked at.
        vars(self).update(x=x, _out=out, _rows=rows, _graded=torch.is_grad_enabled())

    @cached_property
    def x0(self) -> Tensor:
        """The clean image, computed once."""
        return self._solved(*self._rows[0])

    @cached_property
    def eps(self) -> Tensor:
        """The noise, computed once."""
        return self._solved(*self._rows[1])

    def mixed(self, a: Scalar, b: Scalar) -> Tensor:
        """As of any prediction."""
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return super().mixed(a, b)
        (x0_x, x0_out), (eps_x, eps_out) = self._rows
        x = self.x if self._graded or not torch.is_grad_enabled() else self.x.detach()
        return weighted(a * x0_x + b * eps_x, x, a * x0_out + b * eps_out, self._out)

    def blended(self, x: Tensor, blend: Callable[[Tensor], Tensor]) -> Prediction:
        """As of any prediction."""
        return Split(x, blend(self._out), self._rows)

    def _solved(self, on_x: Scalar, on_out: Scalar) -> Tensor:
        if not isinstance(on_x, Tensor) and (on_x, on_out) == (0, 1):
            return self._out
        with torch.set_grad_enabled(self._graded):
            return weighted(on_x, self.x, on_out, self._out)


def weighted(a: Scalar, x: Tensor, b: Scalar, y: Tensor) -> Tensor:
    """a·x + b·y in a new tensor, written over where the weights are numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or x.shape != y.shape or x.dtype != y.dtype:
        return a * x + b * y
    return y.mul(b).add_(x, alpha=a)


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


def rows(target: str, level: Level) -> Rows:
    """x = signal·x0 + noise·eps, out = a·x0 + b·eps, solved for x0 and eps.

    Raises ValueError where the target is singular at this level.
    """
    (a, b), det = row(target, level), determinant(target, level)
    return (b / det, -level.noise / det), (-a / det, level.signal / det)


def split(out: Tensor, x: Tensor, level: Level, target: str) -> Prediction:
    """Solve for x0 and eps what the network said of x.

    out, x: (B, ...), of one shape.   level: floats, or tensors (B, 1, ..., 1).
    Raises ValueError if the shapes differ or the target is singular at this level.
    """
    return Split(x, out, rows(target, level))


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
