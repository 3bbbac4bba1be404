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
from ddim.rows import Fitted, Rows, rows_of
from ddim.schedules import Schedule
from ddim.solvers import Solver

_NUDGE = 0.02
_DAMPING = 1e-2


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
    def widths(self) -> list[int]:
        """How many numbers of each row are free."""
        return [1 + min(i + 1, self.width) for i in range(self.steps)]

    def member(self, plan: Plan) -> Tensor:
        """The base solver on a plan, its levels as near as they can be."""
        logs = [math.log(float(level.ratio)) for level in self.fine[:-1]]
        places = []
        for level in plan[1:-1]:
            log = max(math.log(float(level.ratio)), logs[-1])
            i = next(i for i in range(len(logs) - 1) if logs[i + 1] <= log)
            places.append(i + (logs[i] - log) / (logs[i] - logs[i + 1]))
        return torch.tensor([*places, *[0.0] * sum(self.widths)], dtype=torch.float64)

    def plan(self, member: Tensor) -> Plan:
        """Its levels."""
        inner = []
        for place in member[: self.steps - 1].tolist():
            i = min(int(place), len(self.fine) - 3)
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
        return plan, Fitted(tuple(float(s.ratio) for s in plan), self.rows(member, plan))


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
    """Its numbers, float64 on the CPU, where the small systems are solved."""
    return x.flatten().cpu().double()


def _upto(run: _Run, i: int, state: Tensor) -> _Run:
    """The first i + 1 predictions of a run, and another state after them."""
    return _Run([*run.states[: i + 1], state], run.x0[: i + 1], run.eps[: i + 1])


def greedy(family: Family, member: Tensor, denoiser: Denoiser, states: Tensor) -> Tensor:
    """The member whose rows are fitted by ridge least squares, on the states that they lead to.

    states: (len(fine), B, ...) of the exact flow, from the noise to the end.
    """
    plan, steps = family.plan(member), family.steps
    base, fitted, free = rows_of(family.base, plan), member.clone(), []
    run = _Run([states[0]], [], [])
    for i, width in enumerate(family.widths):
        p = denoiser(run.states[i], plan[i])
        run.x0.append(p.x0)
        run.eps.append(p.eps)
        features = run.features(i)
        plain = _weighed(base[i], features)
        goal = states[-1] if i == steps - 1 else _between(family, states, plan, member, i)
        short = _flat(goal - plain)
        columns = torch.stack([_flat(f) for f in features[:width]], 1)
        normal = columns.T @ columns / len(short)
        damping = family.ridge * short.square().mean() + 1e-12
        more = torch.linalg.solve(
            normal + damping * torch.eye(width, dtype=torch.float64),
            columns.T @ short / len(short),
        )
        free.append(more)
        run.states.append(plain + _weighed(more.tolist(), features[:width]))
    fitted[steps - 1 :] = torch.cat(free)
    return fitted


def _between(family: Family, states: Tensor, plan: Plan, member: Tensor, i: int) -> Tensor:
    """The exact flow at plan[i + 1], linear in y between the fine levels."""
    k = min(int(member[i]), len(family.fine) - 3)
    a, b, s = family.fine[k], family.fine[k + 1], plan[i + 1]
    u = float((a.ratio - s.ratio) / (a.ratio - b.ratio))
    return s.signal * ((1 - u) / a.signal * states[k] + u / b.signal * states[k + 1])


def refined(
    family: Family,
    member: Tensor,
    denoiser: Denoiser,
    start: Tensor,
    end: Tensor,
    *,
    rounds: int = 6,
) -> list[Tensor]:
    """Better and better members: levels and rows fitted jointly to the end by Gauss and Newton.

    The Jacobian is taken once, by finite differences, and updated as Broyden does. An image far
    from its end counts by its distance and not by the square (Huber), for it may have gone to
    another mode.
    """
    jacobian, reached = _jacobian(family, member, denoiser, start)
    left = _flat(reached - end)
    found, damping = list[Tensor](), _DAMPING
    levels = family.steps - 1
    for _ in range(rounds):
        weight = _huber(left, len(start))
        cost = float((weight * left).square().mean())
        for _ in range(4):
            normal = jacobian.T @ (weight.square()[:, None] * jacobian) / len(left)
            pull = jacobian.T @ (weight.square() * left) / len(left)
            ridge = torch.full_like(pull, family.ridge * cost)
            ridge[:levels] = 0
            push = ridge * member
            scaled = normal + torch.diag(damping * normal.diag() + ridge + 1e-14)
            step = _kept_apart(family, member, -torch.linalg.solve(scaled, pull + push))
            tried = member + step
            plan = family.plan(tried)
            run = _gone(denoiser, plan, family.rows(tried, plan), _Run([start], [], []))
            now = _flat(run.states[-1] - end)
            better = float((weight * now).square().mean()) < cost
            scale = normal.diag() + 1e-14
            along = now - left - jacobian @ step
            jacobian = jacobian + torch.outer(along, scale * step) / float(scale @ step.square())
            if better:
                break
            damping *= 5
        else:
            return found
        member, left = tried, now
        damping = max(damping / 4, 1e-6)
        found.append(member)
    return found


def _huber(left: Tensor, count: int) -> Tensor:
    """The root of the weight of each number, mean 1."""
    far = left.view(count, -1).square().mean(1).sqrt()
    weight = 1 / torch.maximum(far, far.median()).clamp(min=1e-12)
    return (weight / weight.mean()).sqrt().repeat_interleave(left.numel() // count)


def _kept_apart(family: Family, member: Tensor, step: Tensor) -> Tensor:
    """The step, or as much of it as leaves the levels in their order."""
    levels, last = family.steps - 1, len(family.fine) - 2.0
    edge = torch.tensor([0.0], dtype=torch.float64)
    gaps = torch.cat([edge, member[:levels], edge + last + 1]).diff()
    closing = -torch.cat([edge, step[:levels], edge]).diff()
    share = min([1.0, *(float(0.6 * g / c) for g, c in zip(gaps, closing, strict=True) if c > 0)])
    step = share * step
    step[:levels] = torch.minimum(step[:levels], last - member[:levels])
    return step


def _jacobian(
    family: Family, member: Tensor, denoiser: Denoiser, start: Tensor
) -> tuple[Tensor, Tensor]:
    """d end/d member, (numbers, len(member)), and the end."""
    plan = family.plan(member)
    rows = family.rows(member, plan)
    run = _gone(denoiser, plan, rows, _Run([start], [], []))
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
        for feature in run.features(i)[:width]:
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
