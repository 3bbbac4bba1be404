"""The settings of an evaluation sampled by a crew, whose workers return what adds up: `Spread`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ddim.bulk import Job, Worker
from ddim.cells import Setting
from ddim.dispatch import Crew, StoppedError, dispatch
from ddim.features import Features
from ddim.sampling import Tick
from ddim.sketches import Growing, Portion, Sketch, portion

Opened = Callable[[], Callable[[int], object]]
"""Opens what a worker needs, there, and gives what makes a task."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Some images, uint8; their seconds and network calls; and what they add to each sketch."""

    pixels: Tensor
    seconds: float
    calls: int
    portions: Mapping[str, Portion]


class Measurer:
    """Samples and measures: task k is shard k % shards of job k // shards."""

    def __init__(self, jobs: Sequence[Job], spaces: Sequence[Features]) -> None:
        self._jobs, self._spaces = jobs, spaces
        self._workers: dict[int, Worker] = {}

    def make(self, task: int) -> Measured:
        """What a task is. Raises ValueError for a sample, or features, that are not finite."""
        which, shard = divmod(task, self._jobs[0].shards)
        job = self._jobs[which]
        if which not in self._workers:
            self._workers = {which: Worker(job)}  # one at a time
        (first, end), begin = job.span(shard), time.perf_counter()
        pixels = self._workers[which].samples(first, end)
        spent = time.perf_counter() - begin
        found = {space.name: portion(space, pixels, first, job.num) for space in self._spaces}
        return Measured(pixels, spent, self._workers[which].calls, found)


class Spread:
    """Draws the cells of an evaluation by a crew, which is hired for the first that is missing.

    job: with the model, the seeds and the labels; its setting is replaced.
    hire: a crew for tasks of what is opened.   To be closed.
    """

    def __init__(
        self,
        job: Job,
        settings: Sequence[Setting],
        spaces: Sequence[Features],
        hire: Callable[[Opened], Crew],
    ) -> None:
        self._settings, self._hire = tuple(settings), hire
        self._jobs = tuple(replace(job, setting=setting) for setting in settings)
        self._opened = partial(_opened, self._jobs, tuple(spaces))
        self._crew: Crew | None = None
        self._names, self._sketches = [space.name for space in spaces], dict[Any, Sketch]()

    def drawn(self, setting: Setting, tick: Tick) -> Iterator[tuple[Tensor, float]]:
        """The images of a setting in their order, uint8, some at a time, and their seconds.

        Raises StoppedError where some of them failed.
        """
        which = self._settings.index(setting)
        job, waiting, next_ = self._jobs[which], dict[int, Measured](), 0
        growing = {name: Growing(job.num) for name in self._names}
        self._crew = self._crew or self._hire(self._opened)
        tasks = range(which * job.shards, (which + 1) * job.shards)
        for report in dispatch(self._crew, tasks):
            if report.error is not None:
                raise StoppedError(f"{setting.solver} in {setting.steps} steps: {report.error}")
            assert isinstance(report.result, Measured)
            waiting[report.task] = report.result
            while (ready := waiting.pop(tasks.start + next_, None)) is not None:
                for name in self._names:
                    growing[name].add(ready.portions[name])
                next_ += 1
                tick(ready.calls * len(ready.pixels))
                yield ready.pixels, ready.seconds
        self._sketches |= {(setting, name): each.whole() for name, each in growing.items()}

    def sketch(self, setting: Setting, space: str) -> Sketch | None:
        """Of the images that were drawn here, or None."""
        return self._sketches.get((setting, space))

    def close(self) -> None:
        """Let the crew go."""
        if self._crew is not None:
            self._crew.close()


def _opened(jobs: Sequence[Job], spaces: Sequence[Features]) -> Callable[[int], object]:
    return Measurer(jobs, spaces).make
