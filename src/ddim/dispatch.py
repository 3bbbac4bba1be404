"""Tasks to workers that may fail: a few in flight, three tries each, and then the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

TRIES, LOSSES, HOPELESS = 3, 20, 30


class StoppedError(OSError):
    """No worker can go on, or not without what failed; what is there stays."""

    status = 1


@dataclass(frozen=True)
class Report:
    """What became of a task. error: None, or why it failed, in words.

    fatal: that every other would fail by it too, as on a full disk.   lost: that its worker was,
    which says little of the task.   result: what it made.
    """

    task: int
    error: str | None = None
    fatal: bool = False
    lost: bool = False
    result: object = None


class Crew(Protocol):
    """Workers, one task each at a time."""

    @property
    def size(self) -> int:
        """How many there are for now; a worker that failed may rest for a while."""
        ...

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

    A try that was lost with its worker counts a little: 20 of them are three. Raises StoppedError
    at a fatal failure, and where 30 tasks in a row, or three for each worker, failed at first or
    lost their workers, and none that was begun before them is under way.
    """
    waiting, flying, tries = deque(tasks), dict[int, int](), dict[int, float]()
    most, row, ended, began = crew.size, 0, 0, 0
    while waiting or flying:
        most = max(most, crew.size)
        while waiting and len(flying) < crew.size:
            task = waiting.popleft()
            flying[task] = ended
            crew.submit(task)
        for report in crew.wait():
            del flying[report.task]
            ended += 1
            if report.fatal:
                raise StoppedError(report.error)
            if report.error is None:
                row, began = 0, ended
            else:
                row += report.lost or report.task not in tries
                hopeless = row >= max(HOPELESS, TRIES * most)
                if hopeless and all(since >= began for since in flying.values()):
                    raise StoppedError(f"{row} tasks in a row failed, the last: {report.error}")
                counted = TRIES / LOSSES if report.lost else 1.0
                tries[report.task] = tries.get(report.task, 0.0) + counted
                if tries[report.task] < TRIES - 1e-9:
                    waiting.append(report.task)
                    continue
            tries.pop(report.task, None)
            yield report


class Rest:
    """How long workers rest that failed: 1 s, 2 s, 4 s, up to a minute, until one succeeds."""

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}
        self._until: dict[int, float] = {}

    def ended(self, worker: int, *, failed: bool, now: float) -> None:
        """A task of a worker has ended."""
        if not failed:
            self._failures.pop(worker, None)
            return
        count = self._failures[worker] = self._failures.get(worker, 0) + 1
        self._until[worker] = now + min(2.0 ** (count - 1), 60.0)

    def resting(self, now: float) -> set[int]:
        """Those that are given nothing yet."""
        self._until = {worker: until for worker, until in self._until.items() if until > now}
        return set(self._until)
