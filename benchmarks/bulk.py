"""Bulk generation: its memory as the number of images grows, its workers, and its own time.

python benchmarks/bulk.py [memory] [workers] [time]        about 15 minutes; all where none is named

memory: the peak of `ddim generate` and its workers at 20,000 images of a tiny model and at 2,000.
workers: images per second of two workers of one thread beside one of two threads, in turns.
time: the share of a worker's time that is not the network's.
It ends with status 1 where one misses its bound.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

import ddim
from bulk_kills import save_tiny
from ddim import speed
from ddim.bulk import Job, Worker
from ddim.cells import Setting
from ddim.identity import fingerprint
from ddim.packing import FORMATS
from ddim.places import Local
from ddim.ways import Way, by
from processes import workers as working
from speed_rivals import table, told

COUNTS = (2_000, 20_000)
GROWTH, RATE, OUTSIDE = 1.1, 0.9, 0.05
"""The bounds: at most, at least, at most."""
PARTS = ("network", "sampling", "format", "writing", "rest")
Found = tuple[str, bool]
"""A table, and whether the bound is kept."""


def main() -> None:
    asked = _asked()
    about = ", ".join(f"{key} {value}" for key, value in speed.about().items())
    kept = []
    for name in asked.sections or SECTIONS:
        told(f"{name}: {about}")
        found, good = SECTIONS[name](asked)
        kept.append(good)
        print(f"## {name}\n\n{found}\n\n{'kept' if good else 'MISSED'}\n", flush=True)
    sys.exit(0 if all(kept) else 1)


def _asked() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("sections", nargs="*", metavar="SECTION")
    options.add_argument("--models", default="../shared/models", help="the folder of mnist-unet")
    options.add_argument("--formats", type=lambda text: text.split(","), default=["npz", "png"])
    options.add_argument("--rounds", type=int, default=5, help="of workers and time")
    options.add_argument("--steps", type=int, default=10, help="of workers and time")
    options.add_argument("--num", type=int, default=512, help="images of workers, each round")
    options.add_argument("--shard-size", type=int, default=32, help="of workers")
    asked = options.parse_args()
    if wrong := [name for name in asked.sections if name not in SECTIONS]:
        options.error(f"{wrong[0]} is no section; choose of {', '.join(SECTIONS)}")
    return asked


def memory(asked: argparse.Namespace) -> Found:
    """Peaks at both counts, in shards of the usual size."""
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        save_tiny(Path(folder) / "model")
        for kind in asked.formats:
            peaks = [_peaks(folder, kind, count) for count in COUNTS]
            for j, name in enumerate(("PSS, at one moment", "VmHWM of each process")):
                few, many = (each[j] for each in peaks)
                worst = max(worst, many / few)
                rows.append([kind, name, f"{few:.0f}", f"{many:.0f}", f"{many / few:.3f}"])
    head = ["format", "sum of", *(f"{count:,} images, MB" for count in COUNTS), "ratio"]
    return f"2 workers and their parent:\n\n{table(head, rows)}", worst <= GROWTH


def _peaks(folder: str, kind: str, count: int) -> tuple[float, float]:
    """The greatest sum of PSS that was seen, and the sum of what each process held at the most."""
    told(f"memory: {count:,} images, {kind}")
    out, most, peak = f"{folder}/{kind}-{count}", Counter[int](), 0.0
    options = ["--format", kind, "--steps", "5"]
    with _generating(f"{folder}/model", out, count, 2, *options) as process:
        while process.poll() is None:
            now = 0.0
            for pid in (process.pid, *(each.pid for each in working(process.pid))):
                with suppress(OSError):
                    now += _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:")
                    most[pid] = max(most[pid], _kilobytes(f"/proc/{pid}/status", "VmHWM:"))
            peak = max(peak, now)
            time.sleep(0.05)
    return peak * 1024 / 1e6, most.total() * 1024 / 1e6


def _kilobytes(path: str, key: str) -> int:
    for line in Path(path).read_text("ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def workers(asked: argparse.Namespace) -> Found:
    """Rates from when the first shards were done: without the start."""
    ways = {"2 workers of 1 thread": (2, 1), "1 worker of 2 threads": (1, 2)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(asked.rounds):
            for name, (count, threads) in ways.items():
                told(f"workers: round {turn + 1}, {name}")
                out = f"{folder}/{count}-{turn}"
                options = ["--threads", threads, "--shard-size", asked.shard_size]
                options += ["--steps", asked.steps]
                model = f"{asked.models}/mnist-unet"
                with _generating(model, out, asked.num, count, *map(str, options)):
                    pass
                rates[name].append(_rate(Path(out), asked.shard_size))
    two, one = rates.values()
    ratio = median(a / b for a, b in zip(two, one, strict=True))
    rows = [
        [name, f"{median(each):.2f}", ", ".join(f"{rate:.2f}" for rate in each)]
        for name, each in rates.items()
    ]
    head = ["", "images/s", "of each round"]
    said = f"`mnist-unet`, {asked.num:,} images in {asked.steps} steps:\n\n{table(head, rows)}"
    return f"{said}\n\nratio {ratio:.3f}, the median over rounds", ratio >= RATE


def _rate(out: Path, shard_size: int) -> float:
    """Images per second: the slope of the whole shards done, over time, by least squares."""
    times = sorted(path.stat().st_mtime_ns / 1e9 for path in (out / "shards").glob("*.sidecar"))
    return shard_size * float(np.polyfit(np.array(times) - times[0], range(len(times)), 1)[0])


@contextmanager
def _generating(
    model: str, out: str, count: int, workers: int, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A run of ddim generate, to its end."""
    words = [sys.executable, "-m", "ddim", "generate", model, "--out", out, "--num", str(count)]
    words += ["--workers", str(workers), *options]
    given = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=given, start_new_session=True)
    try:
        yield process
        if process.wait():
            sys.exit(f"ddim generate failed with status {process.returncode}")
    finally:
        process.kill()  # its workers die with it


def own_time(asked: argparse.Namespace) -> Found:
    """Where a worker of one thread is while it makes shards."""
    rows, worst = [], 0.0
    folder = Path(asked.models) / "mnist-unet"
    weights = fingerprint(ddim.load(folder))
    for kind in asked.formats:
        setting = Setting("ddim:eta=0.0", "trailing", asked.steps)
        job = Job(str(folder), weights, 512, setting, format=kind, shard_size=128)
        told(f"time: {kind}")
        spent = list(_spent(job, asked.rounds))
        shares = {part: median(e[part] / sum(e.values()) for e in spent) for part in PARTS}
        outside = median(1 - each["network"] / sum(each.values()) for each in spent)
        worst = max(worst, outside)
        rows.append([kind, *(f"{100 * share:.2f} %" for share in (*shares.values(), outside))])
    head = ["format", *PARTS, "outside the network"]
    said = f"`mnist-unet`, one thread, {asked.steps} steps, shards of 128 images:"
    return f"{said}\n\n{table(head, rows)}", worst <= OUTSIDE


def _spent(job: Job, rounds: int) -> Iterator[dict[str, float]]:
    """The seconds of each part, in a round of several shards; a shard before is not timed."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        clock, out = Clock(), Local(folder)
        worker = Worker(job, out)
        model: Any = worker._model
        timed = by(model, Way(*job.way), clock.timed("network", model.net.program))
        wrapped = {job.format: clock.timed("format", FORMATS[job.format])}
        patches.enter_context(patch.object(worker, "_model", timed))
        sampling = clock.timed("sampling", worker.samples)
        patches.enter_context(patch.object(worker, "samples", sampling))
        patches.enter_context(patch.dict("ddim.bulk.FORMATS", wrapped))
        patches.enter_context(patch.object(out, "write", clock.timed("writing", out.write)))
        make = clock.timed("rest", worker.make)
        make(0)
        for _ in range(rounds):
            clock.spent.clear()
            for shard in range(job.shards):
                make(shard)
            yield clock.spent.copy()


class Clock:
    """Seconds of named calls, without those of named calls within them."""

    def __init__(self) -> None:
        self.spent = defaultdict[str, float](float)
        self._within = [0.0]

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed."""

        def run(*given: Any) -> Any:
            self._within.append(0.0)
            begin = time.perf_counter()
            try:
                return call(*given)
            finally:
                took = time.perf_counter() - begin
                self.spent[name] += took - self._within.pop()
                self._within[-1] += took

        return run


SECTIONS: Mapping[str, Callable[[argparse.Namespace], Found]] = {
    "memory": memory,
    "workers": workers,
    "time": own_time,
}

if __name__ == "__main__":
    main()
