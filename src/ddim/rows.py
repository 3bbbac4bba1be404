"""A multistep solver given by its numbers, and those of every solver that is linear in what it saw.

Each state of a deterministic solver with one prediction an interval is a fixed linear combination
of the last prediction and of the eps before it,

    x_s = a x0 + b_0 eps + b_1 eps_1 + b_2 eps_2 + …,

so that a row (a, b_0, b_1, …) per interval says all of it. DDIM has a = signal_s, b_0 = noise_s and
no more; a row without a past differs from it only by numbers that a fit may choose. This is the
non-stationary family of Shaul et al. 2024, arXiv:2403.01329.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddim.noise import Noise, undrawn
from ddim.plans import Plan, descending
from ddim.process import Prediction
from ddim.solvers.base import Run, Solver, added, memory

Rows = tuple[tuple[float, ...], ...]
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Fitted:
    """x_s = a x0 + Σ_j b_j eps_j on one plan, one row (a, b_0, b_1, …) per interval.

    ratios: noise/signal of the levels of the plan that the rows belong to.   rows: row i has one to
    i + 1 weights of eps, newest first. On the end of that plan (image-to-image) the eps that were
    not seen are taken to be the first that was. Raises ValueError for a number that is not finite
    or a row of another length, and on another plan.
    """

    ratios: tuple[float, ...]
    rows: Rows

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.ratios) - 1 or not self.rows:
            raise ValueError(
                f"{len(self.rows)} rows for {len(self.ratios)} levels; give one per interval"
            )
        for i, row in enumerate(self.rows):
            if not 2 <= len(row) <= i + 2 or not all(map(math.isfinite, row)):
                raise ValueError(
                    f"row {i} is {row}; give 2 to {i + 2} finite numbers, those of x0 and of the "
                    "eps so far"
                )

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        past: list[Tensor] = []
        rows = self._rows(plan)
        keep = memory([len(row) - 2 for row in rows])
        for i, (t, (a, *b), kept) in enumerate(zip(plan, rows, keep, strict=False)):
            now, *w = (*b[:i], sum(b[i:])) if len(b) > i else b  # unseen: the first that was
            p = yield x, t
            x = added(p.mixed(a, now), w, past)
            past = [p.eps, *past][:kept] if kept else []
            del p
        return x

    def _rows(self, plan: Plan) -> Rows:
        """Those of a plan that is this one, or the end of it."""
        skipped = len(self.ratios) - len(plan)
        if (
            len(plan) < 2
            or skipped < 0
            or not all(
                math.isclose(float(level.ratio), ratio, rel_tol=1e-6)
                for level, ratio in zip(plan, self.ratios[skipped:], strict=True)
            )
        ):
            raise ValueError(
                f"the plan is not the one of {len(self.rows)} steps that this solver was fitted "
                "on, nor the end of it; take the plan of its recipe"
            )
        return self.rows[skipped:]


def trimmed(rows: Rows) -> Rows:
    """Without the last weights that are nothing but rounding, whose eps need not be kept."""
    found = []
    for row in rows:
        least = _ROUNDING * max(map(abs, row))
        used = max((j + 1 for j, weight in enumerate(row) if abs(weight) > least), default=2)
        found.append(row[: max(used, 2)])
    return tuple(found)


def fitted(numbers: Mapping[str, Any]) -> Fitted:
    """That of plain numbers, {ratios, rows}, where a ratio of None is without end."""
    ratios = tuple(math.inf if ratio is None else float(ratio) for ratio in numbers["ratios"])
    return Fitted(ratios, tuple(tuple(map(float, row)) for row in numbers["rows"]))


def rows_of(solver: Solver, plan: Plan) -> Rows:
    """The rows of a solver on a falling plan: run on the basis of all that it can see.

    The basis is the state at the start, then an eps for each call; for the first call its x0 where
    the plan begins without signal, since the state is the eps there.
    Raises ValueError where the solver is not of this form: a second prediction in an interval, or
    noise.
    """
    steps = len(descending(plan)) - 1
    basis = torch.eye(steps + 1, dtype=torch.float64)
    bare = not plan[0].signal
    run = solver(basis[:1], plan, undrawn)
    states = []
    asked, level = next(run)
    for k in range(steps):
        if level != plan[k]:
            raise ValueError(f"{type(solver).__name__} asks twice in an interval; it has no rows")
        states.append(asked[0])
        seen = basis[k + 1 : k + 2]
        if bare and k == 0:
            x0, eps = seen, asked / level.noise
        else:
            x0, eps = (asked - level.noise * seen) / level.signal, seen
        try:
            asked, level = run.send(Prediction(asked, x0, eps))
        except StopIteration as end:
            asked = end.value
    states.append(asked[0])
    found: list[tuple[float, ...]] = []
    for k, (now, after) in enumerate(pairwise(states)):
        if bare and k == 0:
            found.append((float(after[1]), float(after[0] * plan[0].noise)))
            continue
        t, mark = plan[k], int(bare)
        a = float(after[mark] / now[mark] * t.signal)
        rest = after - a / t.signal * now
        rest[k + 1] += a * t.noise / t.signal
        if bare:
            rest[1] = rest[0] * plan[0].noise
        found.append((a, *rest[1 : k + 2].flip(0).tolist()))
    return tuple(found)
