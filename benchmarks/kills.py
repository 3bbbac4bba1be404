"""Kill a training run again and again, and compare its end with that of an unbroken one.

A third of the kills are aimed at the inside of a save, a third at random moments from the start of
the process, a third at random moments of training. After each, every state on disk is checked. It
ends with status 1 unless the raw weights, the averaged ones, the optimiser and the metrics are the
same in every bit.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ddim.checkpoints import newest, steps, verify
from ddim.nets import UNetConfig

AIMS = ("save", "start", "training")
TINY = UNetConfig(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    dropout=0.1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tiny.json").write_text(json.dumps(TINY.written()))
        options = ["--steps", chosen.updates, "--save-every", chosen.save_every, "--log-every", 5]
        options += ["--model", "tiny.json", "--batch-size", 8, "--ema", "0.99,0.999", "--flip"]
        options += ["--sample-every", 0]
        command = [sys.executable, "-m", "ddim", "train", "digits", *map(str, options), "--out"]
        subprocess.run([*command, "whole"], cwd=root, check=True, capture_output=True)
        killed, damaged = dict.fromkeys(AIMS, 0), 0
        bar = track(range(chosen.kills), "killing", console=Console(stderr=True), transient=True)
        for kill in bar:
            aim = AIMS[kill % len(AIMS)]
            killed[aim] += interrupted([*command, "broken"], root, aim, rng)
            damaged += sum(not is_whole(place) for place in states(root / "broken"))
        subprocess.run([*command, "broken"], cwd=root, check=True, capture_output=True)
        alike = dict(compared(root / "whole", root / "broken"))
    total = sum(killed.values())
    words = ", ".join(f"{count} aimed at {aim}" for aim, count in killed.items())
    print(f"{total} kills ({words}); {damaged} damaged states seen")
    for name, same in alike.items():
        print(f"{name:>10}  {'bit-identical' if same else 'DIFFERENT'}")
    sys.exit(0 if total == chosen.kills and not damaged and all(alike.values()) else 1)


def interrupted(command: list[str], root: Path, aim: str, rng: random.Random) -> bool:
    """Start the run and kill it; whether it was still running then."""
    training, metrics = root / "broken/training", root / "broken/metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    due = time.monotonic() + rng.uniform(0, 6)
    while process.poll() is None and not (aim == "start" and time.monotonic() > due):
        inside = next(training.glob(".step-*.tmp"), None) if training.exists() else None
        begun = metrics.exists() and metrics.stat().st_mtime_ns > before
        if inside is not None if aim == "save" else begun:
            break
    time.sleep(rng.uniform(0, {"save": 0.03, "start": 0.0, "training": 0.5}[aim]))
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


def states(out: Path) -> list[Path]:
    """The states that a run has, whole or not."""
    return list(steps(out / "training").values()) if (out / "training").exists() else []


def is_whole(place: Path) -> bool:
    """Whether a state is as it was written."""
    try:
        verify(place)
    except ValueError:
        return False
    return True


def compared(one: Path, other: Path) -> Iterator[tuple[str, bool]]:
    """What two runs ended with, and whether it is the same."""
    ends = [newest(out / "training") for out in (one, other)]
    a, b = [end for end in ends if end is not None]
    yield "raw", equal(a.raw, b.raw)
    yield "averaged", equal(a.model.net.state_dict(), b.model.net.state_dict())
    yield "further", all(equal(weights, b.averages[name]) for name, weights in a.averages.items())
    yield "optimiser", equal(a.optimizer, b.optimizer)
    yield "metrics", untimed(one) == untimed(other)


def equal(one: Any, other: Any) -> bool:
    """Whether two sets of tensors are alike in every bit."""
    tensors: list[tuple[Tensor, Tensor]] = [(one[name], other[name]) for name in one]
    return one.keys() == other.keys() and all(torch.equal(x, y) for x, y in tensors)


def untimed(out: Path) -> list[dict[str, Any]]:
    """The metrics of a run without its speed."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "examples_per_s"} for row in rows]


if __name__ == "__main__":
    main()
