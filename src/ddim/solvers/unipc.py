"""UniPC: a multistep predictor, and a corrector that costs no prediction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
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
    gap,
    memory,
    regular,
    weights,
    windows,
)


@dataclass(frozen=True)
class UniPC:
    """UniP and UniC in x0: order p + 1 with p predictions combined, one prediction an interval.

    Once the prediction at a level is known, the step that led there is done again with it in the
    polynomial. The next step starts from that state, with the prediction as it is.
    order: p, 1 to 3; 3 pays where neighbouring steps differ little in log-ratio.
    variant: "bh1" (B = h) or "bh2" (B = 1 − e^(−h)), the weight where the paper has a free one: the
        corrector of p = 1 and the predictor of p = 2.
    Zhao et al. 2023, arXiv:2302.04867.
    """

    order: int = 2
    variant: str = "bh2"

    def __post_init__(self) -> None:
        chosen_order(self.order, 3)
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"variant={self.variant!r}; choose 'bh1' or 'bh2'")

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        past: list[Tensor] = []
        for (t, s), (w, corrector), kept in _steps(self, plan):
            p = yield x, t
            if corrector:
                new, *old = corrector
                p = p.with_x(added(p.x.add(p.x0, alpha=new), old, past), t)
            x = added(p.mixed(s.signal - sum(w), s.noise), w, past)
            past = [p.x0, *past][:kept] if kept else []
            del p
        return x

    def _weights(self, seen: Plan, s: Level) -> tuple[list[float], list[float]]:
        """The predictor's weights of the past, and the corrector's of the past and of s."""
        t = seen[0]
        if not (regular(t) and regular(s)):
            return [], []
        h = gap(t, s)
        free = h if self.variant == "bh1" else 1 - fall(t, s)
        if len(seen) == 1:
            return [], [free / 2]
        corrector = weights((*seen, s), t, s)[1:]
        if len(seen) == 2:
            return [free / (2 * gap(t, seen[1]) / h)], corrector
        return weights(seen, t, s)[1:], corrector


@lru_cache(maxsize=16)
def _steps(
    solver: UniPC, plan: Plan
) -> list[tuple[tuple[Level, Level], tuple[list[float], list[float]], int]]:
    """Each interval t → s, the weights of the x0 before that at t, and how many x0 to keep.

    First the predictor's weights, then those, with x0 at t the first, of what the corrector changes
    at t, which the interval before led to: its own weights less those of the predictor.
    """
    change, rows = list[float](), []
    for seen, s in windows(plan, solver.order):
        predictor, corrector = solver._weights(seen, s)
        rows.append(([float(s.signal) * w for w in predictor], change))
        if not corrector:
            change = []
            continue
        *of_past, new = corrector
        old = [c - p for c, p in zip(of_past, predictor, strict=True)]
        change = [float(s.signal) * w for w in (new, -new - sum(old), *old)]
    used = [max(len(w), len(change) - 1) for w, change in rows]
    return list(zip(pairwise(plan), rows, memory(used), strict=True))
