"""Peak memory of `ddim evaluate` at 1,000 and at 20,000 images per setting: it should not grow.

python benchmarks/evaluation_memory.py        about 5 minutes

Both runs are of one model and one data set of 40,000 images, half of which are the most that a run
may ask for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import ddim

COUNTS = (1_000, 20_000)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        digits = ddim.digits().pixels[:, 0].numpy()
        random = np.random.default_rng(0)
        chosen = digits[random.integers(0, len(digits), 2 * max(COUNTS))]
        moved = chosen + random.integers(0, 30, chosen.shape)
        np.savez(Path(folder) / "data.npz", images=moved.clip(0, 255).astype(np.uint8))
        ddim.save(ddim.Model.new((1, 8, 8)), Path(folder) / "model")
        peaks = [peak(folder, count) for count in COUNTS]
    for count, mib in zip(COUNTS, peaks, strict=True):
        print(f"{count:6,} images per setting: {mib:.0f} MiB at the most")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


def peak(folder: str, count: int) -> float:
    """The most memory, in MiB, that an evaluation of so many images held."""
    words = ["evaluate", f"{folder}/model", f"{folder}/data.npz", "--num", str(count)]
    words += ["--calls", "2", "--solvers", "ddim:eta=0;ddpm", "--fine", "5", "--reconstruct", "8"]
    words += ["--out", f"{folder}/{count}", "--cache", f"{folder}/cache"]
    process = subprocess.Popen([sys.executable, "-m", "ddim", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
