"""iPNDM: the coefficients of Adams and Bashforth, whatever the steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level
from ddim.solvers.base import Run, added, chosen_order, steps

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class IPNDM:
    """y_s = y_t + (r_s − r_t) Σ_j c_j eps_j over the last 1 to 4 predictions, c constant.

    The c_j are those of even steps in r, so on uneven ones its order is 1, and 2 where neighbouring
    steps differ by O(h²), as in a smooth spacing.
    Zhang and Chen 2022 (arXiv:2204.13902), after Liu et al. 2022 (arXiv:2202.09778).
    """

    order: int = 4

    def __post_init__(self) -> None:
        chosen_order(self.order, len(ADAMS_BASHFORTH))

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
        step = float(s.noise - s.signal * seen[0].ratio)  # signal_s (r_s − r_t)
        return [step * c for c in ADAMS_BASHFORTH[len(seen) - 1][1:]]
