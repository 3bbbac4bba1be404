"""Kill `ddim generate` again and again, go on, and compare its folder with that of an unbroken run.

python benchmarks/bulk_kills.py        about 20 minutes

Each run makes 2,000 images of a tiny model by two workers of a pool, or of Ray. Twice or three
times it is killed by SIGKILL at a random moment of its work, every second time while a file is half
written: one worker, the parent alone, or the whole group; at once the same command goes on. It ends
with status 1 unless what was killed was gone soon, nothing is lost, duplicated, damaged or left
over, and every folder is the unbroken one byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

import ddim
from ddim.extras import present
from ddim.packing import FORMATS
from kills import TINY
from processes import SOON, left, psutil, session, workers
from speed_rivals import table, told

VICTIMS = ("worker", "parent", "group")
LONG = 300.0
"""Seconds that no run may take."""


@dataclass(frozen=True)
class Kill:
    """One of a run, when `shards` were done.

    half: files that it left half written.   gone: seconds until all that should end had ended, None
    where some did not.
    """

    victim: str
    shards: int
    half: int
    gone: float | None


@dataclass(frozen=True)
class End:
    """How a run ended: 0 and 0 where all is well.

    status, verify: of the last command, and of ddim verify.   lost, twice: images.   damaged,
    other: files unlike those of the unbroken run, and in one of the two folders alone.
    """

    status: int
    verify: int
    lost: int
    twice: int
    damaged: int
    other: int


def main() -> None:
    asked = _asked()
    by_ray = asked.ray if present("ray") else 0
    rows, kills, faults = list[list[str]](), list[Kill](), 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills", ignore_cleanup_errors=True) as folder:
        runs = Runs(Path(folder), asked)
        try:
            for run in range(asked.runs):
                engine = "ray" if run >= asked.runs - by_ray else "pool"
                kind = list(FORMATS)[run % len(FORMATS)]
                told(f"run {run + 1} of {asked.runs}: {engine}, {kind}")
                found, end = runs.broken(engine, kind)
                rows.append([str(run + 1), engine, kind, *_cells(found), *_values(end)])
                told(" | ".join(rows[-1]))
                faults += len(found) < 2 or any(each.gone is None for each in found)
                faults += sum(map(bool, vars(end).values()))
                kills += found
        finally:
            runs.close()
    head = ["run", "engine", "format", "killed, at shard", "left half written", "gone after, s"]
    print(table([*head, *(each.name for each in fields(End))], rows))
    counts = Counter(kill.victim for kill in kills)
    words = ", ".join(f"{counts[victim]} of {victim}" for victim in VICTIMS)
    print(
        f"\n{asked.runs} runs of {asked.num:,} images, {by_ray} of them by Ray; {len(kills)} kills "
        f"({words}), {sum(kill.half > 0 for kill in kills)} in the middle of a file; {faults} "
        f"faults; {(time.monotonic() - begin) / 60:.0f} minutes"
    )
    sys.exit(1 if faults else 0)


def _asked() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--runs", type=int, default=20)
    options.add_argument("--ray", type=int, default=5, help="how many of them are by Ray")
    options.add_argument("--num", type=int, default=2000, help="images of a run")
    options.add_argument("--shard-size", type=int, default=50)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    return options.parse_args()


class Runs:
    """Runs of one command in a folder, unbroken and broken."""

    def __init__(self, root: Path, asked: argparse.Namespace) -> None:
        self._root, self._num, self._rng = root, asked.num, random.Random(asked.seed)
        self._shards = -(-asked.num // asked.shard_size)
        self._words = ["generate", "model", "--num", asked.num, "--shard-size", asked.shard_size]
        self._words += ["--steps", asked.steps, "--workers", 2]
        self._whole, self._leaders = dict[str, dict[str, bytes]](), list[int]()
        save_tiny(root / "model")

    def broken(self, engine: str, kind: str) -> tuple[list[Kill], End]:
        """Kill a run, go on, and so again; then go on to the end."""
        whole, rng = self._unbroken(kind), self._rng
        out = Path(tempfile.mkdtemp(prefix=f"{engine}-{kind}-", dir=self._root))
        victims = ["worker", rng.choice(["parent", "group"])]
        victims += [rng.choice(VICTIMS)] * rng.randint(0, 1)
        rng.shuffle(victims)
        moments = sorted(rng.sample(range(1, self._shards * 3 // 4), len(victims)))
        kills, process = list[Kill](), self._begun(kind, out, engine)
        for victim, moment in zip(victims, moments, strict=True):
            if not (makers := _working(process, out, moment)):
                break
            killed = [self._rng.choice(makers)] if victim == "worker" else session(process.pid)
            self._kill(process, victim, killed, out)
            shards, half = done(out), _half(out, killed)
            if victim != "worker":
                process.wait()
                process = self._begun(kind, out, engine)
            kills.append(Kill(victim, shards, half, left(killed)))
        status = process.wait(LONG)
        if left(session(process.pid)) is None:
            status = status or -1
        return kills, self._end(status, out, whole)

    def close(self) -> None:
        """Kill what is still there of any run."""
        for process in (each for leader in self._leaders for each in session(leader)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _unbroken(self, kind: str) -> dict[str, bytes]:
        if kind not in self._whole:
            begin, out = time.monotonic(), self._root / f"whole-{kind}"
            if self._begun(kind, out, "pool").wait(LONG):
                sys.exit(f"the unbroken run failed: {_log(out).read_text('utf-8')}")
            told(f"an unbroken run, {kind}: {time.monotonic() - begin:.1f} s")
            self._whole[kind] = contents(out)
        return self._whole[kind]

    def _begun(self, kind: str, out: Path, engine: str) -> subprocess.Popen[bytes]:
        words = [*self._words, "--format", kind, "--out", out.name]
        words += ["--ray"] if engine == "ray" else []
        given = {**os.environ, "RAY_TMPDIR": str(self._root)}
        given.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "ddim", *map(str, words)]
        with _log(out).open("ab") as log:
            streams: dict[str, Any] = {"stdout": log, "stderr": log}
            process = subprocess.Popen(
                command, cwd=self._root, env=given, start_new_session=True, **streams
            )
        self._leaders.append(process.pid)
        return process

    def _kill(
        self, process: subprocess.Popen[bytes], victim: str, killed: Sequence[Any], out: Path
    ) -> None:
        """At a random moment, or at once when one of these processes has a file half written."""
        if self._rng.random() < 0.5:
            time.sleep(self._rng.uniform(0, 0.5))
        else:
            until = time.monotonic() + SOON
            while not _half(out, killed) and time.monotonic() < until:
                pass
        if victim == "worker":
            with suppress(psutil.NoSuchProcess):
                killed[0].kill()
        elif victim == "parent":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)

    def _end(self, status: int, out: Path, whole: dict[str, bytes]) -> End:
        words = [sys.executable, "-m", "ddim", "verify", out.name]
        verify = subprocess.run(words, cwd=self._root, capture_output=True, text=True, check=False)
        images, ours = Counter[int](), contents(out)
        for sidecar in (out / "shards").glob("*.sidecar"):
            entries = json.loads(sidecar.read_bytes())
            images.update(range(entries["begin"], entries["end"]))
        if status or verify.returncode or ours != whole:
            told(_log(out).read_text("utf-8")[-3000:] + verify.stdout[-1000:])
        return End(
            status,
            verify.returncode,
            lost=len(set(range(self._num)) - images.keys()),
            twice=images.total() - len(images),
            damaged=sum(ours[name] != whole[name] for name in ours.keys() & whole.keys()),
            other=len(ours.keys() ^ whole.keys()),
        )


def save_tiny(folder: Path) -> None:
    """A tiny model of random weights, none of them zero: a fresh network would answer 0."""
    model = ddim.Model.new((1, 8, 8), ddim.schedules.linear(), "eps", TINY)
    torch.manual_seed(1)
    for weight in model.net.requires_grad_(False).parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    ddim.save(model, folder)


def _log(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


def _working(process: subprocess.Popen[bytes], out: Path, shards: int) -> list[Any]:
    """Wait until so many shards are done; the workers then, none if the run has ended."""
    until, makers = time.monotonic() + LONG, list[Any]()
    while process.poll() is None and not makers and time.monotonic() < until:
        time.sleep(0.01)
        makers = workers(process.pid) if done(out) >= shards else []
    return makers


def _half(out: Path, makers: Iterable[Any]) -> int:
    """The files that these processes have half written."""
    endings = tuple(f".{each.pid}.tmp" for each in makers)
    names = (name for folder in (out, out / "shards") for name in os.listdir(folder))
    return sum(name.endswith(endings) for name in names)


def done(out: Path) -> int:
    """The number of shards that are done."""
    return sum(1 for _ in (out / "shards").glob("*.sidecar")) if (out / "shards").exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _cells(kills: Sequence[Kill]) -> list[str]:
    moments = ", ".join(f"{kill.victim} {kill.shards}" for kill in kills)
    half = ", ".join(str(kill.half) for kill in kills)
    gone = ", ".join("never" if kill.gone is None else f"{kill.gone:.1f}" for kill in kills)
    return [moments, half, gone]


def _values(end: End) -> list[str]:
    return [str(value) for value in vars(end).values()]


if __name__ == "__main__":
    main()
