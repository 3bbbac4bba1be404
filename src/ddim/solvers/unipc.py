"""UniPC: a multistep predictor, and a corrector that costs no prediction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level
from ddim.solvers.base import Run, beyond, chosen_order, fall, gap, regular, weights, windows


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
        past, used = list[Tensor](), list[Tensor]()
        base, corrector = x, list[float]()
        for seen, s in windows(plan, self.order):
            t = seen[0]
            p = yield x, t
            if corrector:
                done_again = base + t.signal * beyond([*used, p.x0], corrector)
                p = p.with_x(done_again + (p.x - x), t)
            past = [p.x0, *past][: self.order]
            used = past[: len(seen)]
            base = x = s.signal * p.x0 + s.noise * p.eps
            predictor, corrector = self._weights(seen, s)
            if predictor:
                x = x + s.signal * beyond(used, predictor)
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
