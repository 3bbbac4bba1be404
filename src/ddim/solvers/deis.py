"""DEIS: the polynomial through past eps, integrated exactly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level
from ddim.solvers.base import Run, added, chosen_order, steps, weights


@dataclass(frozen=True)
class DEIS:
    """y_s = y_t + ∫ P dr, P the polynomial in log r through the last `order` values of eps.

    order: 1 to 4, the number of values; 1 is DDIM.
    Zhang and Chen 2022 (arXiv:2204.13902), with log r as the variable (the log-ρ form).
    """

    order: int = 3

    def __post_init__(self) -> None:
        chosen_order(self.order, 4)

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        past: list[Tensor] = []
        for t, s, w, kept in steps(self, plan):
            p = yield x, t
            x = added(p.mixed(s.signal, s.noise - sum(w)), w, past)
            past = [p.eps, *past][:kept] if kept else []
            del p
        return x

    def past(self, seen: Plan, s: Level) -> list[float]:
        """See `Multistep`."""
        return [float(s.noise) * w for w in weights(seen, seen[0], s, rate=-1)[1:]]
