"""What a solver is: a coroutine that asks for predictions and never sees the network.

    run = solver(x, plan, noise)
    x, level = next(run)                            # the first question
    x, level = run.send(denoiser(x, level))         # the answer, and the next question
    ...                                             # StopIteration.value is the final state

After a `yield` the state is `p.x`, not the x that was asked, for the driver may have edited it.

With y = x/signal, r = noise/signal and λ = −log r, every deterministic solver approximates one of

    y_s = y_t + ∫ eps dr                       (Eq. 14)
    y_s = (r_s/r_t) y_t + r_s ∫ e^λ x0 dλ      (the same flow, Lu et al. 2022, arXiv:2211.01095)

DDIM holds the integrand at its value at t. A multistep method puts a polynomial in λ through the
last few values: `windows` says which, `weights` integrates it, and `added` puts those of the past
beside the step of DDIM. `steps` has all of this for a plan.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise, takewhile
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level, Prediction, Scalar

R = TypeVar("R")
Run = Generator[tuple[Tensor, Level], Prediction, R]
"""Asks (x, level), is sent a Prediction, returns R."""

Step = tuple[Level, Level, list[float], int]
"""t, s, the weights of the predictions before that at t, newest first, and how many to keep."""

_LEAP = 8.0

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class Solver(Protocol):
    """A frozen dataclass; its fields are its options.

    x: (B, ...) at plan[0], float32 or wider. Returns x at plan[-1].
    """

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run."""
        ...


class Multistep(Protocol):
    """A solver that combines the predictions of up to `order` intervals."""

    @property
    def order(self) -> int:
        """So many, at most."""
        ...

    def past(self, seen: Plan, s: Level) -> list[float]:
        """The weights in x_s of the predictions before that at t = seen[0], two or more seen."""
        ...


def chosen_order(order: int, highest: int) -> None:
    """Raise ValueError unless order is a whole number from 1 to the highest."""
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= highest:
        raise ValueError(f"order={order!r}; choose a whole number from 1 to {highest}")


def falling(plan: Plan) -> Plan:
    """The plan, if noise may be added on it. Raises ValueError for a rising one."""
    if any(float(s.ratio) > float(t.ratio) for t, s in pairwise(plan)):
        raise ValueError(
            "a solver that draws noise on a rising plan; noise is added on the way down only, "
            "so encode with ddim or another solver that draws none"
        )
    return plan


def fall(t: Level, s: Level) -> float:
    """ratio_s/ratio_t = e^(λ_t − λ_s), safe where t has no signal."""
    return float(s.noise * t.signal / (s.signal * t.noise))


def gap(t: Level, s: Level) -> float:
    """h = λ_s − λ_t of two regular levels."""
    return math.log(float(t.ratio) / float(s.ratio))


def regular(level: Level) -> bool:
    """Whether λ is finite: there is both signal and noise."""
    return bool(level.signal and level.noise)


def windows(plan: Plan, count: int) -> list[tuple[Plan, Level]]:
    """For each interval t → s the levels a multistep method combines, t first, and s.

    At most `count` of them, all regular. There is t alone, which is DDIM, where t or s is not, and
    where the interval is over 8 times the one before: so far a polynomial only overshoots.
    """
    found = []
    for i, s in enumerate(plan[1:]):
        past = plan[max(0, i + 1 - count) : i + 1][::-1]
        usable = tuple(takewhile(regular, past)) if regular(s) else ()
        if len(usable) > 1 and abs(gap(past[0], s)) > _LEAP * abs(gap(past[1], past[0])):
            usable = past[:1]
        found.append((usable or past[:1], s))
    return found


def weights(nodes: Plan, t: Level, s: Level, rate: float = 1.0) -> list[float]:
    """∫ l_j(λ) rate·e^(−rate·(λ_s − λ)) dλ from t to s, for the Lagrange polynomial l_j of a node.

    They sum to 1 − e^(−rate·h), h = λ_s − λ_t: rate 1 integrates x0, rate −1 eps (in units of
    r_s), and 1 + eta the x0 of the SDE. By 64 Gauss-Legendre nodes, which unlike the closed forms
    lose few digits for small h.
    """
    at, h = [gap(t, node) for node in nodes], gap(t, s)
    if len(at) == 1:
        return [-math.expm1(-rate * h)]
    u = h * (_NODES + 1) / 2  # λ − λ_t
    kernel = _WEIGHTS / 2 * h * rate * np.exp(-rate * (h - u))
    others = ([m for m in at if m != node] for node in at)
    return [
        float(kernel @ math.prod((u - m) / (node - m) for m in rest))
        for node, rest in zip(at, others, strict=True)
    ]


def memory(lengths: Sequence[int]) -> list[int]:
    """How many predictions to keep after each interval, if so many past ones are used in each."""
    kept = [0]
    for length in lengths[:0:-1]:
        kept.append(max(length, kept[-1] - 1))
    return kept[::-1]


@lru_cache(maxsize=64)
def steps(solver: Multistep, plan: Plan) -> list[Step]:
    """The steps of a plan, whose weights are computed once."""
    found = [
        solver.past(seen, s) if len(seen) > 1 else [] for seen, s in windows(plan, solver.order)
    ]
    return list(zip(plan, plan[1:], found, memory([len(w) for w in found]), strict=False))


def added(x: Tensor, weight: Sequence[float], values: Iterable[Tensor]) -> Tensor:
    """x + Σ_j w_j v_j, written over x: give one that nobody else has seen."""
    for w, value in zip(weight, values, strict=False):
        x.add_(value, alpha=w)
    return x


def noised(x: Tensor, std: Scalar, z: Tensor) -> Tensor:
    """x + std·z, in a new tensor, for whoever drew z was shown x."""
    return x + std * z if isinstance(std, Tensor) else x.add(z, alpha=std)
