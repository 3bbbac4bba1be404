"""What a model does in many steps, for few to learn from: noises, and where its flow takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import gcd

import numpy as np
import torch
from torch import Tensor

from ddim.model import Model
from ddim.noise import Seeded, undrawn
from ddim.plans import Plan
from ddim.process import Denoiser, Level, Prediction
from ddim.sampling import Tick, sample, ticking, trace
from ddim.solvers import IPNDM, Solver

SOLVER = IPNDM(order=4)
FINEST = 512
_FIRST = 64
_SOME = 8
_ROOM = 2**30

Bind = Callable[[Sequence[int]], Denoiser]
"""The seeds of images to a denoiser for them."""


@dataclass(frozen=True, eq=False)
class Taught:
    """Some seeds, and the states (len(levels), B, ...) of the teacher's run on them.

    levels: from the noise to the end; the run had all of them or more.
    """

    bind: Bind
    levels: Plan
    states: Tensor
    seeds: range

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def start(self) -> Tensor:
        """(B, ...) the noise."""
        return self.states[0]

    @property
    def end(self) -> Tensor:
        """(B, ...) the teacher's images."""
        return self.states[-1]

    @property
    def denoiser(self) -> Denoiser:
        """For all of them at once."""
        return self.bind(self.seeds)

    def first(self, count: int) -> Taught:
        """Some of them."""
        return Taught(self.bind, self.levels, self.states[:, :count], self.seeds[:count])

    def at(self, level: Level) -> Tensor:
        """(B, ...) where the flow is at a level: linear in y = x/signal between those there are.

        Raises ValueError for one above the first.
        """
        ratios = [float(each.ratio) for each in self.levels]
        ratio = float(level.ratio)
        if ratio > ratios[0]:
            raise ValueError(f"t={level.t:g} is above the first level, t={self.levels[0].t:g}")
        k = next(k for k in range(len(ratios) - 1) if ratios[k + 1] <= ratio)
        if not self.levels[k].signal:
            return self.states[k + (ratio < ratios[k])]
        share = (ratios[k] - ratio) / (ratios[k] - ratios[k + 1])
        above, below = ((1 - share) / self.levels[k].signal, share / self.levels[k + 1].signal)
        return level.signal * (above * self.states[k] + below * self.states[k + 1])

    def reached(self, plan: Plan, solver: Solver) -> Tensor:
        """What a solver makes of the same noise."""
        return sample(self.denoiser, self.start, plan, solver)

    def abreast(self, plan: Plan, solvers: Sequence[Solver]) -> list[Tensor]:
        """What each of some solvers makes of it, in common network calls, one an interval."""
        runs = [solver(self.start, plan, undrawn) for solver in solvers]
        denoiser = self.bind([*self.seeds] * len(runs))
        states, ends = [next(run)[0] for run in runs], list[Tensor]()
        for k, level in enumerate(plan[:-1]):
            p = denoiser(torch.cat(states), level)
            fields = (field.chunk(len(runs)) for field in (p.x, p.x0, p.eps))
            answers = [Prediction(*each) for each in zip(*fields, strict=True)]
            if k < len(plan) - 2:
                states = [run.send(each)[0] for run, each in zip(runs, answers, strict=True)]
                continue
            for run, each in zip(runs, answers, strict=True):
                try:
                    run.send(each)
                except StopIteration as end:
                    ends.append(end.value)
        return ends

    def far(self, images: Tensor) -> Tensor:
        """(B,) each image's root mean square distance from the teacher's."""
        return (images - self.end).flatten(1).square().mean(1).sqrt().cpu().double()

    def error(self, images: Tensor) -> float:
        """The root mean square of their distances."""
        return float(self.far(images).square().mean().sqrt())

    def typical(self, images: Tensor) -> float:
        """Their mean, on which the few images that went to another mode weigh less."""
        return float(self.far(images).mean())


@dataclass(frozen=True, eq=False)
class Teacher:
    """A model's flow in steps so small that halving them changes the end by `change`.

    steps: so many.   change: root mean square over an image, the median of eight; 0 where none was
    measured.
    """

    model: Model
    bind: Bind
    steps: int
    change: float = 0.0

    @cached_property
    def plan(self) -> Plan:
        """Three parts of its levels' density even in t and one in log-ratio.

        They are at whole t where they are more than 1 apart.
        """
        schedule = self.model.schedule
        times, logs = np.arange(1, schedule.top + 1), np.array(schedule.log_ratio)
        places = 0.75 * _share(times) + 0.25 * _share(logs)
        laid = np.interp(np.linspace(0, 1, self.steps), places, times)
        gaps = np.diff(laid, prepend=-np.inf, append=np.inf)
        laid = np.where(np.minimum(gaps[:-1], gaps[1:]) > 1, laid.round(), laid)
        return self.model.plan(sorted({0.0, *laid.tolist(), float(schedule.T)}, reverse=True))

    @classmethod
    def of(cls, model: Model, bind: Bind, first_seed: int, tolerance: float) -> Teacher:
        """With as many steps as the tolerance asks for, of 64, 128, … `FINEST`."""
        some = range(first_seed, first_seed + _SOME)
        teacher = cls(model, bind, _FIRST)
        end = teacher.taught(some, whole=False).end
        while True:
            finer = cls(model, bind, 2 * teacher.steps)
            now = finer.taught(some, whole=False).end
            change = float((now - end).flatten(1).square().mean(1).sqrt().median())
            if change <= tolerance or finer.steps > FINEST:
                return cls(model, bind, teacher.steps, change)
            teacher, end = finer, now

    def taught(self, seeds: range, *, whole: bool = True) -> Taught:
        """Run it; whole: keep states on the way, of as many levels as a GiB has room for.

        Raises FloatingPointError where the network's answers lead to numbers that are not finite.
        """
        weight = next(self.model.net.parameters(), torch.zeros(()))
        start = Seeded(list(seeds)).start(self.model.shape, weight.device)
        steps = len(self.plan) - 1
        stride = max(1, math.ceil(steps * start.numel() * 4 / _ROOM)) if whole else steps
        kept = [*(k for k in range(steps) if k < 2 or k % stride == 0), steps]
        states = start.new_empty(len(kept), *start.shape)
        run, row = trace(self.bind(seeds), start, self.plan, SOLVER), 0
        for k in range(steps):
            state = next(run)[1].x
            if k == kept[row]:
                states[row] = state
                row += 1
        try:
            next(run)
        except StopIteration as end:
            states[-1] = end.value
        if not states[-1].isfinite().all():
            raise FloatingPointError(
                f"the network leads seeds {seeds[0]}..{seeds[-1]} to numbers that are not finite, "
                "so it cannot teach; look at its samples, or load its weights in float32"
            )
        return Taught(self.bind, tuple(self.plan[k] for k in kept), states, seeds)


def _share(rising: np.ndarray) -> np.ndarray:
    return (rising - rising[0]) / max(rising[-1] - rising[0], 1e-12)


def bound(model: Model, guidance: float, clip: float | None, batch_size: int, tick: Tick) -> Bind:
    """A model's denoiser for images of any seeds, a batch at a time; a seed says the class.

    A few seeds in a row have classes far apart.
    """
    null = model.notes.get("null_label")
    classes = [c for c in range(model.classes or 0) if c != null]
    count = len(classes)
    stride = next(k for k in range(max(1, round(0.618 * count)), count + 2) if gcd(k, count) == 1)

    def bind(seeds: Sequence[int]) -> Denoiser:
        edges = [*range(0, len(seeds), batch_size), len(seeds)]
        parts = [
            model.denoiser(
                [classes[stride * seed % count] for seed in seeds[a:b]] if classes else None,
                clip,
                guidance,
            )
            for a, b in pairwise(edges)
        ]

        def denoise(x: Tensor, level: Level) -> Prediction:
            each = [
                part(x[a:b], level) for part, (a, b) in zip(parts, pairwise(edges), strict=True)
            ]
            return Prediction(x, torch.cat([p.x0 for p in each]), torch.cat([p.eps for p in each]))

        return ticking(denoise, tick)

    return bind
