"""The solvers that a fit chooses from: levels that move, and rows that leave those of a base.

A member is a vector: the places of the inner levels along a fine plan, and for each interval what
is added to the first few numbers of the base solver's row there. `greedy` fits rows one interval
after another on the states that they lead to; `refined` fits everything to the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.plans import Plan
from ddim.process import Denoiser
from ddim.rows import Fitted, Rows, rows_of, trimmed
from ddim.schedules import Schedule
from ddim.solvers import Solver
from ddim.teacher import Taught

_NUDGE = 0.02
_DAMPING = 1e-2
_MANY = 10
_TRIES = 8
_ROUNDS = 12
_PASSES = 2
_POWERS = (1.0, 0.5)
_WORTH = 0.98
_NUMBERS = 4096


@dataclass(frozen=True, eq=False)
class Family:
    """Solvers of `steps` intervals near a base solver.

    fine: a plan with all levels that inner ones may lie between.   width: how many eps of a row may
    leave the base's.   ridge: the weight of what leaves it, in units of the error.
    """

    schedule: Schedule
    fine: Plan
    base: Solver
    steps: int
    width: int = 3
    ridge: float = 1e-4

    @property
    def first(self) -> int:
        """The first place that a level may have: below one without signal."""
        return 0 if self.fine[0].signal else 1

    @property
    def widths(self) -> list[int]:
        """How many numbers of each row may leave the base's."""
        return [1 + min(i + 1, self.width) for i in range(self.steps)]

    @property
    def most(self) -> int:
        """How many numbers of a row are fitted to the end."""
        return 1 + self.width if self.steps <= _MANY else 2

    @property
    def free(self) -> list[int]:
        """The places in a member of the levels and of those numbers."""
        begins = [self.steps - 1 + sum(self.widths[:i]) for i in range(self.steps)]
        rows = [
            begin + j
            for begin, width in zip(begins, self.widths, strict=True)
            for j in range(min(width, self.most))
        ]
        return [*range(self.steps - 1), *rows]

    def member(self, plan: Plan) -> Tensor:
        """The base solver on a plan, its levels as near as they can be."""
        first = self.first
        logs = [math.log(float(level.ratio)) for level in self.fine[first:-1]]
        places = []
        for level in plan[1:-1]:
            log = min(max(math.log(float(level.ratio)), logs[-1]), logs[0])
            i = next(i for i in range(len(logs) - 1) if logs[i + 1] <= log)
            places.append(first + i + (logs[i] - log) / (logs[i] - logs[i + 1]))
        return torch.tensor([*places, *[0.0] * sum(self.widths)], dtype=torch.float64)

    def plan(self, member: Tensor) -> Plan:
        """Its levels."""
        inner = []
        for place in member[: self.steps - 1].tolist():
            i = max(self.first, min(int(place), len(self.fine) - 3))
            high, low = (math.log(float(level.ratio)) for level in self.fine[i : i + 2])
            inner.append(
                self.schedule.level(self.schedule.time(math.exp(high + (low - high) * (place - i))))
            )
        return (self.fine[0], *inner, self.fine[-1])

    def rows(self, member: Tensor, plan: Plan) -> Rows:
        """Its rows on a plan."""
        free = torch.split(member[self.steps - 1 :], self.widths)
        return tuple(
            tuple(value + (float(more[j]) if j < len(more) else 0.0) for j, value in enumerate(row))
            for row, more in zip(rows_of(self.base, plan), free, strict=True)
        )

    def made(self, member: Tensor) -> tuple[Plan, Fitted]:
        """Its plan, at whole t where they stay apart, and the solver."""
        plan = self.plan(member)
        times = [round(float(level.t)) for level in plan]
        if all(t > s for t, s in pairwise(times)):
            plan = tuple(self.schedule.level(t) for t in times)
        rows = trimmed(self.rows(member, plan))
        return plan, Fitted(tuple(float(s.ratio) for s in plan), rows)


@dataclass
class _Run:
    """The states of a run, and the predictions at them."""

    states: list[Tensor]
    x0: list[Tensor]
    eps: list[Tensor]

    def features(self, i: int) -> list[Tensor]:
        """What row i weighs."""
        return [self.x0[i], *self.eps[: i + 1][::-1]]


def _gone(denoiser: Denoiser, plan: Plan, rows: Rows, begin: _Run) -> _Run:
    """A run to its end, from the last of the states that are known."""
    run = _Run([*begin.states], [*begin.x0], [*begin.eps])
    for i in range(len(run.states) - 1, len(rows)):
        p = denoiser(run.states[i], plan[i])
        run.x0.append(p.x0)
        run.eps.append(p.eps)
        run.states.append(_weighed(rows[i], run.features(i)))
    return run


def _weighed(row: Sequence[float], features: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * f for w, f in zip(row, features, strict=True)]).sum(0)


def _flat(x: Tensor) -> Tensor:
    """Its numbers, of large images evenly some, float64 on the CPU, where systems are solved."""
    rows = x.flatten(1)
    return rows[:, :: -(-rows.shape[1] // _NUMBERS) | 1].flatten().cpu().double()


def _upto(run: _Run, i: int, state: Tensor) -> _Run:
    """The first i + 1 predictions of a run, and another state after them."""
    return _Run([*run.states[: i + 1], state], run.x0[: i + 1], run.eps[: i + 1])


def greedy(family: Family, member: Tensor, taught: Taught) -> tuple[Tensor, float]:
    """The member whose rows are fitted by ridge least squares, on the states that they lead to.

    An image counts by its distance and not by its square, as in `refined`.
    Returns it, and the mean of its images' distances from the teacher's.
    """
    plan, steps, denoiser = family.plan(member), family.steps, taught.denoiser
    base, fitted, free = rows_of(family.base, plan), member.clone(), []
    run, calm = _start(taught), torch.ones(len(taught), dtype=torch.float64)
    for i, width in enumerate(family.widths):
        p = denoiser(run.states[i], plan[i])
        run.x0.append(p.x0)
        run.eps.append(p.eps)
        features = run.features(i)
        plain = _weighed(base[i], features)
        short = _flat(taught.at(plan[i + 1]) - plain)
        columns = torch.stack([_flat(f) for f in features[:width]], 1)
        more = torch.zeros(width, dtype=torch.float64)
        for _ in range(_PASSES):
            weight = _weights(short - columns @ more, calm, 1.0)
            weighed = weight.square()[:, None] * columns
            normal = columns.T @ weighed / len(short)
            damping = family.ridge * (weight * short).square().mean() + 1e-12
            more = torch.linalg.solve(
                normal + damping * torch.eye(width, dtype=torch.float64),
                weighed.T @ short / len(short),
            )
        free.append(more)
        run.states.append(plain + _weighed(more.tolist(), features[:width]))
    fitted[steps - 1 :] = torch.cat(free)
    return fitted, float(taught.far(run.states[-1]).mean())


def refined(family: Family, member: Tensor, taught: Taught) -> list[Tensor]:
    """Better and better members: levels and rows fitted jointly to the end by Gauss and Newton.

    The Jacobian is taken once, by finite differences, and updated as Broyden does. It costs as the
    square of the steps; with more than ten only the first two numbers of a row move, and three
    quarters of the images are seen. An image far from its end, or with a sensitive one, counts for
    less: it may have gone to another mode, or be about to. How much less is tried twice, and the
    members of both are returned.
    """
    if family.steps > _MANY:
        taught = taught.first(-(-3 * len(taught) // 4))
    begun = _jacobian(family, member, taught)
    return [
        better for power in _POWERS for better in _descent(family, member, taught, begun, power)
    ]


def _descent(
    family: Family,
    member: Tensor,
    taught: Taught,
    begun: tuple[Tensor, Tensor],
    power: float,
) -> list[Tensor]:
    """The members on the way down from one, whose Jacobian and end are begun.

    power: of the weights. At 1 a far image counts by its distance (Huber), at 0 by its square.
    """
    (jacobian, reached), free = begun, family.free
    left = _flat(reached - taught.end)
    calm = _calm(jacobian, len(taught))
    found, damping = list[Tensor](), _DAMPING
    ridge = torch.full((len(free),), family.ridge, dtype=torch.float64)
    ridge[: family.steps - 1] = 0
    for _ in range(_ROUNDS):
        weight = _weights(left, calm, power)
        cost = float((weight * left).square().mean())
        for _ in range(_TRIES):
            normal = jacobian.T @ (weight.square()[:, None] * jacobian) / len(left)
            pull = jacobian.T @ (weight.square() * left) / len(left)
            push = ridge * cost * member[free]
            scaled = normal + torch.diag(damping * normal.diag() + ridge * cost + 1e-14)
            step = torch.zeros_like(member)
            step[free] = -torch.linalg.solve(scaled, pull + push)
            step = _kept_apart(family, member, step)
            tried = member + step
            plan = family.plan(tried)
            run = _gone(taught.denoiser, plan, family.rows(tried, plan), _start(taught))
            now = _flat(run.states[-1] - taught.end)
            after = float((weight * now).square().mean())
            if not math.isfinite(after):
                damping *= 4
                continue
            moved, scale = step[free], normal.diag() + 1e-14
            along = now - left - jacobian @ moved
            jacobian = jacobian + torch.outer(along, scale * moved) / max(
                float(scale @ moved.square()), 1e-300
            )
            if after < cost:
                break
            damping *= 4
        else:
            return found
        member, left = tried, now
        damping = max(damping / 4, 1e-6)
        found.append(member)
        if after > _WORTH * cost:
            break
    return found


def _calm(jacobian: Tensor, count: int) -> Tensor:
    """(count,) 1 for an image whose end is as sensitive as the median one's, or less."""
    steep = jacobian.square().sum(1).view(count, -1).mean(1).sqrt()
    steep = steep.clamp(min=1e-12)
    return (steep.median() / steep).clamp(max=1)


def _weights(left: Tensor, calm: Tensor, power: float) -> Tensor:
    """The root of the weight of each number, mean 1."""
    far = left.view(len(calm), -1).square().mean(1).sqrt()
    weight = (calm.square() / torch.maximum(far, far.median()).clamp(min=1e-12)) ** power
    return (weight / weight.mean()).sqrt().repeat_interleave(left.numel() // len(calm))


def _start(taught: Taught) -> _Run:
    return _Run([taught.start], [], [])


def _kept_apart(family: Family, member: Tensor, step: Tensor) -> Tensor:
    """The step, or as much of it as leaves the levels in their order."""
    levels, last = family.steps - 1, len(family.fine) - 2.0
    edge = torch.tensor([0.0], dtype=torch.float64)
    gaps = torch.cat([edge, member[:levels], edge + last + 1]).diff()
    closing = -torch.cat([edge, step[:levels], edge]).diff()
    share = min([1.0, *(float(0.6 * g / c) for g, c in zip(gaps, closing, strict=True) if c > 0)])
    step = share * step
    room = min(0.05, (last - family.first) / (2 * max(levels, 1))) * torch.arange(levels)
    moved = torch.maximum(member[:levels] + step[:levels], family.first + room)
    step[:levels] = torch.minimum(moved, last - room.flip(0)) - member[:levels]
    return step


def _jacobian(family: Family, member: Tensor, taught: Taught) -> tuple[Tensor, Tensor]:
    """d end/d member[family.free], (numbers, len(family.free)), and the end."""
    plan, denoiser = family.plan(member), taught.denoiser
    rows = family.rows(member, plan)
    run = _gone(denoiser, plan, rows, _start(taught))
    end, columns, levels = run.states[-1], list[Tensor](), family.steps - 1
    for k in range(levels):
        moved = member.clone()
        moved[k] += _level_step(family, member, k)
        other = family.plan(moved)
        changed = family.rows(moved, other)
        state = _weighed(changed[k], run.features(k))
        reached = _gone(denoiser, other, changed, _upto(run, k, state)).states[-1]
        columns.append(_flat(reached - end) / float(moved[k] - member[k]))
    for i, width in enumerate(family.widths):
        nudge = _NUDGE * max(float(plan[i + 1].noise), _NUDGE)
        for feature in run.features(i)[: min(width, family.most)]:
            if i == levels:
                columns.append(_flat(feature))
                continue
            begun = _upto(run, i, run.states[i + 1] + nudge * feature)
            reached = _gone(denoiser, plan, rows, begun).states[-1]
            columns.append(_flat(reached - end) / nudge)
    return torch.stack(columns, 1), end


def _level_step(family: Family, member: Tensor, k: int) -> float:
    """How far to move a level, to see what it does."""
    last = len(family.fine) - 2.0
    here = float(member[k])
    before = float(member[k - 1]) if k else 0.0
    after = float(member[k + 1]) if k + 2 < family.steps else last
    step = 0.15 * min(here - before, max(after - here, 0.3))
    return step if here + step <= last else -step
