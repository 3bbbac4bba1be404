"""How well images come back from their latents: the DDIM paper's Table 2 for the demo's model.

Uses the model of runs/demo (`ddim demo` makes it). Prints, as Markdown, the mean square error per
dimension of real digits encoded and decoded, scaled to [0, 1] as in the paper, and for the lattice
how many bits of the float32 images differ. Then how near each latent is to that of the true flow
(UniPC in 1000 steps), and what the fixed point of DDIM reports. Exits with status 1 unless the
lattice returns every bit, O-BELM errs by at most 1e-9 up to 200 steps, and DDIM's error falls.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import ddim
from ddim.belm import UNIT
from ddim.fixed_point import invert

PAPER = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}
"""CIFAR-10, Song et al. 2020, Table 2."""

LATTICE = (10, 20, 50, 100, 1000)
FLOW = (10, 20, 50, 100)


def error(back: Tensor, x: Tensor) -> float:
    return float(((back - x) / 2).square().mean())


def row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table_2(model: ddim.Model, x: Tensor, few: Tensor, spacing: str) -> bool:
    """Print the table; whether what the project promises holds."""
    print(
        row(
            ["steps", "paper, CIFAR-10", "`ddim`", "`unipc`", "`belm`", "`lattice`, differing bits"]
        )
    )
    print(row(["---"] * 6))
    plain, holds = [], True
    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    with bar:
        for steps in bar.track(PAPER):
            plan = model.plan(steps, spacing)
            denoiser = model.denoiser()
            errors = {
                name: error(ddim.reconstruct(denoiser, few, plan, solver, exact), few)
                for name, solver, exact in (
                    ("ddim", ddim.DDIM(), None),
                    ("unipc", ddim.UniPC(), None),
                    ("belm", ddim.DDIM(), "belm"),
                )
            }
            plain.append(errors["ddim"])
            holds &= steps > 200 or errors["belm"] <= 1e-9
            bits = ""
            if steps in LATTICE:
                back = ddim.reconstruct(denoiser, x, plan, exact="lattice")
                wrong = (back.view(torch.int32) ^ x.view(torch.int32)).reshape(-1)
                count = sum(int((wrong >> k & 1).sum()) for k in range(32))
                holds &= count == 0
                bits = f"{count} of {32 * x.numel():,}"
            given = [f"{errors[name]:.1e}" for name in errors]
            print(row([steps, f"{PAPER[steps]:.4f}", *given, bits]), flush=True)
    return holds and all(a > b for a, b in pairwise(plain))


def nearness(model: ddim.Model, x: Tensor, spacing: str) -> None:
    """Print how far each latent is from the true flow's, root mean square, and the fixed points."""
    denoiser = model.denoiser()
    ways = ("ddim", "unipc", "belm", "lattice")
    print(row(["steps", *(f"`{way}`" for way in ways), "`fixed_point`"]))
    print(row(["---"] * 6))
    for steps in FLOW:
        plan = model.plan(steps, spacing)
        top = int(plan[0].t)
        true = ddim.encode(denoiser, x, model.plan(range(top, -1, -1)), ddim.UniPC())
        found = [
            ddim.encode(denoiser, x, plan),
            ddim.encode(denoiser, x, plan, ddim.UniPC()),
            ddim.encode(denoiser, x, plan, exact="belm").x,
            ddim.encode(denoiser, x, plan, exact="lattice").x * UNIT,
        ]
        far = [f"{float((each - true).square().mean().sqrt()):.3f}" for each in found]
        inverse = invert(denoiser, x, plan)
        solved = f"{int(inverse.converged.sum())} of {len(x)}, {inverse.calls} calls"
        print(row([steps, *far, solved]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("runs/demo"), help="a model of digits")
    parser.add_argument("--num", type=int, default=1000, help="digits on the lattice")
    parser.add_argument("--few", type=int, default=128, help="digits for everything else")
    parser.add_argument("--spacing", default="leading", help="the paper's is leading")
    options = parser.parse_args()
    model = ddim.load(options.model)
    x = ddim.data.to_float(ddim.digits().pixels[: options.num])
    holds = table_2(model, x, x[: options.few], options.spacing)
    print()
    nearness(model, x[: options.few // 2], options.spacing)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
