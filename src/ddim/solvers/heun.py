"""Heun's method for Eq. (14)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.solvers.base import Run

PURE_NOISE = 1000.0


@dataclass(frozen=True)
class Heun:
    """Second order, two predictions an interval: the trapezoidal rule for dy/dr = eps, Eq. (14).

    An interval that ends at clean data, or begins at pure noise (noise/signal 1000 or more, as at
    the top of the cosine schedule), is DDIM, with one prediction: a trapezoid over nearly all of r
    is no slope. Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
    """

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        for t, s in pairwise(plan):
            p = yield x, t
            x = s.signal * p.x0 + s.noise * p.eps
            if s.noise and t.ratio < PURE_NOISE:
                q = yield x, s
                x = q.x + (s.noise - s.signal * t.ratio) / 2 * (q.eps - p.eps)
        return x
