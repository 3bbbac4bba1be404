"""The demo's comparison at N = 2,000, on the excess over the floor.

Uses the model of runs/demo (`python3 run.py demo` makes it, else this does). Prints one line per
setting, with the standard deviation of the distance over blocks of 256 images, then each claim, and
exits with status 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ddim import demo
from ddim.data import digits, to_float, to_pixels
from ddim.metrics import frechet


def spread(images: Tensor) -> float:
    """The standard deviation of the distance over disjoint blocks of 256 images."""
    real = to_float(digits().pixels)
    seen = to_float(to_pixels(images))
    blocks = [seen[i : i + 256] for i in range(0, len(seen) - 255, 256)]
    return float(torch.tensor([frechet(block, real) for block in blocks]).std())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="the demo's folder")
    parser.add_argument("--num", type=int, default=2000, help="images per setting")
    options = parser.parse_args()
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        tasks = {
            "training": bar.add_task("training", total=demo.TRAINING.steps),
            "sampling": bar.add_task("sampling", total=sum(steps for _, steps in demo.SETTINGS)),
        }
        model = demo.trained(options.out, lambda name, units: bar.advance(tasks[name], units))
        results = demo.measured(
            model, options.num, lambda name, units: bar.advance(tasks[name], units)
        )
    print(json.dumps(results.document()["floor"]))
    excess = {}
    for row, images in zip(results.rows, results.images, strict=True):
        name = demo.label(row)
        excess[name] = row.fd_pixels - results.floor["fd_pixels"]
        print(
            f"{name:>10}  FD {row.fd_pixels:.4f}  excess {excess[name]:.4f}  "
            f"SW2 {row.sliced_w2:.4f}  FD of 256: sd {spread(images):.3f}"
        )
    quick, slow = (
        next(r for r in results.rows if demo.label(r) == name) for name in ("DDIM 20", "DDPM 1000")
    )
    claims = {
        "DDIM 20 <= 1.25 x DDPM 1000": excess["DDIM 20"] <= 1.25 * excess["DDPM 1000"],
        "DDIM 5 > 1.25 x DDPM 1000": excess["DDIM 5"] > 1.25 * excess["DDPM 1000"],
        **{f"DDIM {s} < DDPM {s}": excess[f"DDIM {s}"] < excess[f"DDPM {s}"] for s in (10, 20, 30)},
        "40 times faster at 20 than at 1000": slow.ms_per_image >= 40 * quick.ms_per_image,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}  {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
