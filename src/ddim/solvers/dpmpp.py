"""DPM-Solver++: the polynomial through past x0. Lu et al. 2022, arXiv:2211.01095."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level
from ddim.solvers.base import (
    Run,
    added,
    chosen_order,
    fall,
    falling,
    gap,
    noised,
    regular,
    steps,
    weights,
)


@dataclass(frozen=True)
class DPMpp:
    """DPM-Solver++ multistep, one prediction an interval: 2M at order 2, 3M at order 3.

    order: 1 (DDIM) to 3, the number of predictions combined.
    eta: 0 solves the ODE, 1 the SDE, 0 to 10; noise of std noise_s √(1 − e^(−2·eta·h)) is added, as
        in k-diffusion. At order 1 eta = 1 is DDPM; between 0 and 1 this is not the η of Eq. (16).
        In law it is of order 1 with order=1 and of order 2 with order=2; 3 adds nothing.
    compat: at order 3, the third-order term of the authors' code and its copies, which lacks a
        factor 2 and leaves order 2.
    """

    order: int = 2
    eta: float = 0.0
    compat: bool = False

    def __post_init__(self) -> None:
        chosen_order(self.order, 3)
        if not isinstance(self.eta, int | float) or not 0 <= self.eta <= 10:
            raise ValueError(
                f"eta={self.eta}; choose a number from 0 (the ODE) to 10; 1 is the SDE"
            )
        if not isinstance(self.compat, bool) or (self.compat and self.order != 3):
            raise ValueError(
                f"compat={self.compat} with order={self.order}; it is True or False, and concerns "
                "the third-order term alone: set order=3 with it"
            )

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        past: list[Tensor] = []
        for k, (t, s, w, kept) in enumerate(steps(self, falling(plan) if self.eta else plan)):
            on_eps, std = self._noise(t, s)
            p = yield x, t
            x = added(p.mixed(s.signal - sum(w), on_eps), w, past)
            past = [p.x0, *past][:kept] if kept else []
            del p
            if std:
                x = noised(x, std, noise(x, k))
        return x

    def _noise(self, t: Level, s: Level) -> tuple[float, float]:
        """The weight of eps and the std of the noise added; their squares sum to noise_s²."""
        if not self.eta:
            return float(s.noise), 0.0
        share = fall(t, s) ** self.eta
        return float(s.noise) * share, float(s.noise) * math.sqrt((1 - share) * (1 + share))

    def past(self, seen: Plan, s: Level) -> list[float]:
        """See `Multistep`."""
        t, rate, scale = seen[0], 1 + self.eta, float(s.signal)
        h, r0 = gap(t, s), gap(seen[1], t) / gap(t, s)
        if len(seen) == 2:
            return [scale * math.expm1(-rate * h) / (2 * r0)]
        exact = [scale * w for w in weights(seen, t, s, rate)[1:]]
        if not self.compat:
            return exact
        r1 = gap(seen[2], seen[1]) / h
        phi3 = ((math.expm1(-rate * h) / (rate * h)) + 1) / (rate * h) - 0.5
        half = (-1 / (r0 * r1), 1 / (r1 * (r0 + r1)))  # D2 is twice this
        return [w + scale * phi3 * d for w, d in zip(exact, half, strict=True)]


@dataclass(frozen=True)
class DPMpp2S:
    """DPM-Solver++(2S): second order, two predictions an interval, none remembered.

    The second prediction is at the middle of the interval in log-ratio, a level made by hand (t is
    nan, variance preserved) that a model places by its ratio. An interval that ends at clean data
    or begins without signal is DDIM, with one prediction.
    """

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        for t, s in pairwise(plan):
            p = yield x, t
            if regular(t) and regular(s):
                m = _between(t, s)
                x, x0 = p.mixed(m.signal, m.noise), p.x0
                del p
                p = yield x, m
                w = float(s.signal) * (fall(t, s) - fall(m, s))
                x = added(p.mixed(s.signal - w, s.noise), [w], [x0])
                del p, x0
            else:
                x = p.mixed(s.signal, s.noise)
                del p
        return x


def _between(t: Level, s: Level) -> Level:
    ratio = math.sqrt(float(t.ratio) * float(s.ratio))
    signal = 1 / math.hypot(1, ratio)
    return Level(math.nan, signal, signal * ratio)
