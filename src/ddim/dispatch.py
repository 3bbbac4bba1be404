"""Tasks to workers that may fail: a few in flight, three tries each, and then the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

TRIES = 3


class StoppedError(OSError):
    """No worker can go on; what is there stays."""

    status = 1


@dataclass(frozen=True)
class Report:
    """What became of a task. error: None, or why it failed, in words.

    fatal: that every other would fail by it too, as on a full disk.   result: what it made.
    """

    task: int
    error: str | None = None
    fatal: bool = False
    result: object = None


class Crew(Protocol):
    """Workers, one task each at a time."""

    size: int

    def submit(self, task: int) -> None:
        """Give a task to a free worker; no more than `size` are under way at once."""
        ...

    def wait(self) -> list[Report]:
        """What has ended by now, or after a second at most; a lost worker's task has failed."""
        ...

    def close(self) -> None:
        """Stop all workers, whatever they do."""
        ...


def dispatch(crew: Crew, tasks: Iterable[int]) -> Iterator[Report]:
    """One report for each task: that it is done, or how the last of three tries failed.

    Yields nothing of a task that is tried again. Raises StoppedError at a fatal failure.
    """
    waiting, tries, flying = deque(tasks), dict[int, int](), set[int]()
    while waiting or flying:
        while waiting and len(flying) < crew.size:
            task = waiting.popleft()
            flying.add(task)
            crew.submit(task)
        for report in crew.wait():
            flying.discard(report.task)
            if report.fatal:
                raise StoppedError(report.error)
            tries[report.task] = tries.get(report.task, 0) + 1
            if report.error is not None and tries[report.task] < TRIES:
                waiting.append(report.task)
                continue
            del tries[report.task]
            yield report
