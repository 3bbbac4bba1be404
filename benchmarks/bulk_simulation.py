"""A thousand workers that fail, played in virtual time through the real code of `ddim generate`.

    python benchmarks/bulk_simulation.py                 a million images, ten seconds
    python benchmarks/bulk_simulation.py --arithmetic    the tables of docs/scale.md instead

Real are the search for what is missing, the dispatch, the rest of workers that fail, the packing,
the sidecars, the place (that of fsspec in memory) and the check. Played are the clock, the workers
and the network: sample i is the number i. A try fails before its shard is written, or between shard
and sidecar. In a fifth of the failures the worker is lost, some after both, and comes back minutes
later; half of those then write their shard once more. Some workers are on machines without the
model, and fail at once, always. One try in a hundred takes twenty times as long. `generate` is
called until nothing has failed. The status is 1 unless all bytes are those of a run without
failures.
"""

from __future__ import annotations

import argparse
import heapq
import io
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ddim
from ddim.bulk import Job, Worker
from ddim.cells import Setting
from ddim.dispatch import Report, Rest, StoppedError
from ddim.generation import generate, strangers, verify
from ddim.packing import FORMATS, Part, digest
from ddim.places import Place, place
from speed_rivals import table

LOST, LATE, SLOW = 0.2, 0.5, 0.01  # of failures; of the lost; of tries
RUNS = 20  # at most
PERFORMANCE = Path(__file__).parents[1] / "docs/performance.md"
BATCH, STEPS = 256, 50
COUNTS = (10**6, 10**9)
SHARDS = (1024, 16384, 65536)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=10**6)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--failures", type=float, default=0.05, help="of the tries")
    parser.add_argument("--broken", type=int, default=5, help="workers that fail always")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arithmetic", action="store_true")
    parser.add_argument("--data", default="../shared/data/cifar10_10k.npz", help="to be packed")
    chosen = parser.parse_args()
    if chosen.arithmetic:
        print("\n\n".join(arithmetic(Path(chosen.data))))
        return
    sys.exit(0 if simulated(chosen) else 1)


class Numbers(Worker):
    """A worker without a network: sample i is the number i, in eight grey levels."""

    def __init__(self, job: Job, out: Place) -> None:
        self._job, self._out = job, out

    def samples(self, begin: int, end: int) -> Tensor:
        """See `Worker`."""
        digits = np.arange(begin, end, dtype=">u8").view(np.uint8)
        return torch.from_numpy(digits.reshape(-1, 1, 2, 4))

    def begin(self, shard: int) -> None:
        """What is there of a shard whose worker died before the sidecar."""
        assert self._out is not None
        self._out.write(self.files(shard))


class Played:
    """A `Crew` whose workers live in virtual time. The clock moves in `wait`."""

    def __init__(
        self, worker: Numbers, size: int, rng: random.Random, failures: float = 0, broken: int = 0
    ) -> None:
        self.seconds, self.tries, self.failed, self.lost = 0.0, 0, 0, 0
        self._worker, self._rng, self._failures, self._broken = worker, rng, failures, broken
        self._flying, self._free, self._rest = dict[int, int](), list(range(size)), Rest()
        self._events: list[tuple[float, int, Callable[[], Report | None]]] = []
        self._ticks = count()

    @property
    def size(self) -> int:
        """See `Crew`."""
        return len(self._flying) + len(self._ready())

    def _ready(self) -> list[int]:
        resting = self._rest.resting(self.seconds)
        return [worker for worker in self._free if worker not in resting]

    def submit(self, task: int) -> None:
        """See `Crew`."""
        assert task not in self._flying, f"{task} is under way"
        worker = self._ready()[0]
        self._free.remove(worker)
        self._flying[task] = worker
        self.tries += 1
        slow = 20 if self._rng.random() < SLOW else 1
        seconds = 0.05 if worker < self._broken else slow * self._rng.uniform(30, 90)
        self._after(seconds, partial(self._end, task))

    def wait(self) -> list[Report]:
        """See `Crew`. It hears of an end a twentieth of a second late, so of several at once."""
        soon = self._events[0][0] if self._events else math.inf
        self.seconds = min(soon, self.seconds + 1) + 0.05
        reports = []
        while self._events and self._events[0][0] <= self.seconds:
            if (report := heapq.heappop(self._events)[2]()) is not None:
                reports.append(report)
        return reports

    def close(self) -> None:
        """See `Crew`."""
        self._events.clear()

    def _after(self, seconds: float, happens: Callable[[], Report | None]) -> None:
        heapq.heappush(self._events, (self.seconds + seconds, next(self._ticks), happens))

    def _end(self, task: int) -> Report:
        worker = self._flying.pop(task)
        broken = worker < self._broken
        failed = broken or self._rng.random() < self._failures
        self._rest.ended(worker, failed=failed, now=self.seconds)
        self.failed += failed
        lost = failed and not broken and self._rng.random() < LOST
        self.lost += lost
        if lost:
            self._after(self._rng.uniform(60, 1800), partial(self._back, worker, task))
        else:
            self._free.append(worker)
        if broken:
            return Report(task, "there is no model", lost=True)
        ways = [lambda task: None, self._worker.begin, self._worker.make]
        self._rng.choice(ways[: 3 if lost else 2] if failed else ways[2:])(task)
        return Report(task, "it failed" if failed else None, lost=lost)

    def _back(self, worker: int, task: int) -> None:
        """A lost worker joins again; it may not have noticed, and finish what it did."""
        self._free.append(worker)
        if self._rng.random() < LATE:
            self._worker.make(task)


def simulated(chosen: argparse.Namespace) -> bool:
    """Play it, and print what happened; whether all is as it should be."""
    begin, rng = time.perf_counter(), random.Random(chosen.seed)
    setting = Setting("ddim", "trailing", 1)
    job = Job("none", "none", chosen.num, setting, shard_size=chosen.shard_size)
    whole, out = place("memory://whole"), place("memory://failing")
    generate(job, whole, lambda shards: Played(Numbers(job, whole), 1, rng))
    print(
        f"{job.num:,} images in {job.shards:,} shards by {chosen.workers:,} workers, "
        f"{chosen.broken} of them without a model; {100 * chosen.failures:g} % of the tries fail"
    )
    crews, left = list[Played](), True

    def hire(shards: int) -> Played:
        size = min(chosen.workers, shards)
        broken = min(chosen.broken, size - 1)
        crews.append(Played(Numbers(job, out), size, rng, chosen.failures, broken))
        return crews[-1]

    while left and len(crews) < RUNS:
        try:
            failed = len(generate(job, out, hire).failed)
            said, left = f"failed three times: {failed:,}", failed > 0
        except StoppedError as error:
            said = f"stopped: {error}"
        crew = crews[-1]
        print(
            f"run {len(crews)}: {crew.tries:,} tries, {crew.failed:,} failed, {crew.lost:,} of "
            f"them with their worker; {said}; {crew.seconds / 3600:.2f} virtual hours"
        )
    checks = compared(job, whole, out)
    for what, holds in checks.items():
        print(f"{'yes' if holds else 'NO':>4}  {what}")
    print(f"{time.perf_counter() - begin:.1f} s")
    return all(checks.values())


def compared(job: Job, whole: Place, out: Place) -> dict[str, bool]:
    """What should be true of the set that failures went through."""
    names = out.names()
    found = {"no file is missing, and no other is there": names == whole.names()}
    if not all(found.values()):
        return found
    read = np.concatenate([numbers(job, out, shard) for shard in range(job.shards)])
    return found | {
        "verify finds nothing": not verify(job, out) and not strangers(job, names),
        "the manifest is that of the job": Job.of(out) == job,
        "all bytes are those of the run without failures": all(
            out.read(name) == whole.read(name) for name in names
        ),
        "every image is there once": np.array_equal(read, np.arange(job.num)),
    }


def numbers(job: Job, out: Place, shard: int) -> np.ndarray:
    """The numbers that a shard's images are."""
    (name,) = job.names(shard)
    return np.load(io.BytesIO(out.read(name)))["arr_0"].reshape(-1).view(">u8")


def arithmetic(data: Path) -> Iterable[str]:
    """The tables of docs/scale.md: calls and GPU hours, storage, files."""
    heads = [f"{head}, {num}" for head in ("calls", "GPU hours") for num in ("10⁶", "10⁹")]
    yield table(["calls per image", "ms per image", *heads], computed())
    pixels = torch.from_numpy(np.load(data)["images"][:1024]).permute(0, 3, 1, 2).contiguous()
    heads = ["format", "bytes per image", "10⁶, GB", "10⁹, TB", "µs to pack"]
    yield table(heads, stored(pixels))
    yield table(["shard size", "MB of an npz", "files, 10⁶", "files, 10⁹"], counted())
    drawn = spent(lambda: ddim.Seeded(range(len(pixels))).start((3, 32, 32))) / len(pixels)
    files = FORMATS["npz"]("shard", Part(0, pixels, range(len(pixels))))
    hashed = spent(lambda: digest(files)) / len(pixels)
    yield f"Of an image, to draw its noise takes {drawn:.0f} µs, to hash it as npz {hashed:.1f} µs."


def computed() -> Iterable[list[str]]:
    """What the network takes, at the images per second that docs/performance.md has measured."""
    found = re.search(rf"\| bf16 eager \| {BATCH} \| ([\d.]+) \|", PERFORMANCE.read_text())
    assert found is not None
    rate = float(found[1]) * STEPS
    for calls in (10, 20, 50):
        hours = [f"{num * calls / rate / 3600:,.2f}" for num in COUNTS]
        made = [f"{math.ceil(num / BATCH) * calls:,}" for num in COUNTS]
        yield [str(calls), f"{1000 * calls / rate:.2f}", *made, *hours]


def stored(pixels: Tensor) -> Iterable[list[str]]:
    """What an image takes, by format, in one shard of all of them."""
    part = Part(0, pixels, range(len(pixels)))
    for kind, pack in FORMATS.items():
        size = sum(map(len, pack("shard", part).values())) / len(pixels)
        took = spent(partial(pack, "shard", part)) / len(pixels)
        yield [kind, f"{size:,.0f}", f"{size / 1e3:.2f}", f"{size / 1e3:.2f}", f"{took:.0f}"]


def spent(run: Callable[[], object]) -> float:
    """Microseconds, the least of five."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - begin))
    return min(times)


def counted() -> Iterable[list[str]]:
    """Shards of 32×32 in colour, and their files: each with its sidecar, and the manifest."""
    for size in SHARDS:
        files = [f"{2 * math.ceil(num / size) + 1:,}" for num in COUNTS]
        yield [f"{size:,}", f"{size * 3 * 32 * 32 / 1e6:.1f}", *files]


if __name__ == "__main__":
    main()
