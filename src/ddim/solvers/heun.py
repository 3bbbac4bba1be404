"""Heun's method for Eq. (14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.solvers.base import Run, added

_LONGEST = 3.0


@dataclass(frozen=True)
class Heun:
    """Second order, two predictions an interval: the trapezoidal rule for dy/dr = eps, Eq. (14).

    An interval that ends at clean data is DDIM, with one prediction, and so is one that is too long
    for a trapezoid, signal_s·|r_t − r_s| above 3: from no signal, or nearly none as at the top of
    the cosine schedule. Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
    """

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        for t, s in pairwise(plan):
            p = yield x, t
            x = p.mixed(s.signal, s.noise)
            step = float(s.noise - s.signal * t.ratio) if t.signal else math.inf
            if s.noise and abs(step) <= _LONGEST:
                eps = p.eps
                del p
                p = yield x, s
                x = added(p.x.add(eps, alpha=-step / 2), [step / 2], [p.eps])
                del eps
            del p
        return x
