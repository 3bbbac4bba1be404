"""Which levels the sampler visits: spacings, and plans made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch

from ddim.process import Level
from ddim.schedules import Schedule

Plan = tuple[Level, ...]
"""The levels in order of the visit, noise/signal strictly monotone: falling to sample."""

Spacing = Callable[[Schedule, int], tuple[int, ...]]
"""(schedule, steps) to `steps` strictly falling t from T (or near it), and a last 0."""


def plan(
    schedule: Schedule, steps: int | Sequence[float], spacing: str | Spacing = "trailing"
) -> Plan:
    """The levels of a run: `steps` intervals laid by a spacing, or an explicit list of t.

    steps: 1..T, or t themselves, strictly monotone, such as (1000, 400, 0). Slices are plans too:
    plan[k:] starts lower (image-to-image), plan[::-1] encodes.
    Raises ValueError for a number of steps the schedule does not admit, t outside 0..T, or t that
    turn back.
    """
    if isinstance(steps, Iterable):
        return checked(tuple(schedule.level(t) for t in steps))
    if steps != int(steps):
        raise ValueError(f"steps={steps}; choose a whole number")
    steps = int(steps)
    if not 1 <= steps <= schedule.T:
        raise ValueError(
            f"steps={steps} but the schedule has T={schedule.T}; "
            f"choose 1..{schedule.T}, or train with a larger T"
        )
    if isinstance(spacing, str):
        if spacing not in SPACINGS:
            raise ValueError(f"spacing={spacing!r} is unknown; choose one of {', '.join(SPACINGS)}")
        spacing = SPACINGS[spacing]
    return checked(tuple(schedule.level(t) for t in spacing(schedule, steps)))


def checked(levels: Plan) -> Plan:
    """The levels, if they are a plan.

    Raises ValueError if there is none or noise/signal is not strictly monotone.
    """
    if not levels:
        raise ValueError("the plan is empty; give at least one level")
    ratios = [float(level.ratio) for level in levels]
    falling = ratios[0] > ratios[-1]
    for k, (r, after) in enumerate(pairwise(ratios)):
        if not (r > after if falling else r < after):
            raise ValueError(
                f"the plan turns back or repeats: noise/signal {r:.4g} (t={levels[k].t}) is "
                f"followed by {after:.4g} (t={levels[k + 1].t}); it must be strictly monotone"
            )
    return tuple(levels)


def placed(level: Level, schedule: Schedule) -> Level:
    """The level of the schedule with the same ratio, where a network trained on it may be asked.

    Raises ValueError if t, where it is not nan, says otherwise.
    """
    t, ratio = float(level.t), float(level.ratio)
    if math.isnan(t):
        return schedule.level(schedule.time(ratio))
    known = schedule.level(t)
    if not math.isclose(ratio, float(known.ratio), rel_tol=1e-6):
        raise ValueError(
            f"t={t:g} has noise/signal {ratio:.6g} in the plan and {known.ratio:.6g} in the "
            "schedule of the model; make the plan with model.plan"
        )
    return known


def descending(plan: Plan, steps: int = 1) -> Plan:
    """The plan, if it falls, in so many steps or more. Raises ValueError otherwise."""
    if len(checked(plan)) <= steps:
        raise ValueError(f"the plan has {len(plan)} levels; give at least {steps + 1}")
    if float(plan[0].ratio) < float(plan[-1].ratio):
        raise ValueError(
            f"the plan rises from t={plan[0].t:g} to {plan[-1].t:g}; give the falling one that "
            "sampling uses, plan[::-1]"
        )
    return plan


def trailing(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """T − ⌊iT/S⌋: from T in even strides. Lin et al. 2023, Table 2."""
    T = schedule.T
    return (*(T - i * T // steps for i in range(steps)), 0)


def leading(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """(S − 1 − i)⌊T/S⌋ + 1: the DDIM paper's uniform sub-sequence.

    It starts below T, far below where T/S is a little under a whole number: S = 501 starts at 501.
    """
    stride = schedule.T // steps
    return (*((steps - 1 - i) * stride + 1 for i in range(steps)), 0)


def uniform(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """1..T evenly, both ends included."""
    return (*_distinct(_evenly(schedule.T, 1, steps), schedule.T), 0)


def quadratic(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """τ_i = T(i/S)²: dense near the data, as the paper's quadratic sub-sequence, but from T."""
    return (*_distinct([schedule.T * (i / steps) ** 2 for i in range(steps, 0, -1)], schedule.T), 0)


def log_snr(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """Even in log(noise/signal) from T to 1. Lu et al. 2022."""
    return _even_in(schedule, steps, math.log, math.exp)


def rho(schedule: Schedule, steps: int, power: float = 7.0) -> tuple[int, ...]:
    """Even in (noise/signal)^(1/power) from T to 1. Karras et al. 2022, Eq. 5."""
    if not power > 0:
        raise ValueError(f"power={power}; choose a number above 0")
    return _even_in(schedule, steps, lambda r: r ** (1 / power), lambda y: y**power)


def _evenly(start: float, end: float, count: int) -> list[float]:
    return [float(value) for value in torch.linspace(start, end, count, dtype=torch.float64)]


def _even_in(
    schedule: Schedule, steps: int, to: Callable[[float], float], back: Callable[[float], float]
) -> tuple[int, ...]:
    """The t nearest to even steps of to(ratio); a level without signal comes before them."""
    first = (schedule.T,) if schedule.top < schedule.T else ()
    count = steps - len(first)
    if not count:
        return (*first, 0)
    high, low = (to(float(schedule.level(t).ratio)) for t in (schedule.top, 1))
    times = [schedule.time(back(value)) for value in _evenly(high, low, count)]
    return (*first, *_distinct(times, schedule.top), 0)


def _distinct(times: Sequence[float], top: int) -> tuple[int, ...]:
    """The nearest free integers in 1..top of falling times; where two meet, one moves up."""
    chosen: list[int] = []
    for time in reversed(times):
        chosen.append(max(round(time), chosen[-1] + 1 if chosen else 1))
    return tuple(min(t, top - i) for i, t in enumerate(reversed(chosen)))


SPACINGS: dict[str, Spacing] = {
    "trailing": trailing,
    "leading": leading,
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "rho": rho,
}
