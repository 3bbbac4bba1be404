"""DEIS: the polynomial through past eps, integrated exactly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.solvers.base import Run, beyond, chosen_order, weights, windows


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
        for seen, s in windows(plan, self.order):
            t = seen[0]
            p = yield x, t
            past = [p.eps, *past][: self.order]
            x = s.signal * p.x0 + s.noise * p.eps
            if len(seen) > 1:
                x = x + s.noise * beyond(past[: len(seen)], weights(seen, t, s, rate=-1)[1:])
        return x
