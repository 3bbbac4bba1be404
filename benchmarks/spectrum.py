"""Train on signals whose spectrum is known, and compare that of the samples.

The signals are Gaussian and periodic, of 64 values, with power 1/(1 + (k/4)²)² at frequency k, in
all 1. The samples are UniPC's: DDIM even in 30 steps has a tenth less power at each frequency.
Prints both spectra and the greatest relative difference where the power is at least a
hundredth of the most; ends with status 1 if that is above --tolerance.
"""

from __future__ import annotations

import argparse
import sys

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import ddim
from ddim.nets import UNet1DConfig

LENGTH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.15)
    chosen = parser.parse_args()
    data = ddim.Arrays(signals(8000))
    config = UNet1DConfig(LENGTH, 1, (32, 64, 64), periodic=True)
    model = ddim.Model.new((1, LENGTH), ddim.schedules.cosine(), "v", config)
    options = ddim.Training(steps=chosen.updates, batch_size=64)
    updates = track(
        ddim.train(model, data, options),
        "training",
        total=chosen.updates,
        console=Console(stderr=True),
        transient=True,
    )
    for update in updates:
        model = update.model
    start = ddim.Seeded(range(chosen.samples)).start(model.shape)
    with torch.no_grad():
        samples = ddim.sample(model.denoiser(), start, model.plan(chosen.steps), ddim.UniPC())
    wanted, found, drawn = spectrum(), power(samples), power(data.values)
    print(" k  wanted   data     samples")
    for k in range(17):
        print(f"{k:2}  {wanted[k]:.5f}  {drawn[k]:.5f}  {found[k]:.5f}")
    strong = wanted >= wanted.max() / 100
    apart = float((found / wanted - 1)[strong].abs().max())
    noise = float((drawn / wanted - 1)[strong].abs().max())
    print(f"greatest difference {apart:.1%}, {chosen.tolerance:.0%} allowed; data {noise:.1%}")
    sys.exit(int(apart > chosen.tolerance))


def spectrum() -> Tensor:
    """(33,) the power at each frequency from 0, both signs of it together."""
    k = torch.arange(LENGTH // 2 + 1, dtype=torch.float64)
    both = torch.full_like(k, 2.0)
    both[[0, -1]] = 1
    shape = both / (1 + (k / 4) ** 2) ** 2
    return shape / shape.sum()


def signals(num: int) -> Tensor:
    """(num, 1, 64) draws with that spectrum."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(num, LENGTH, generator=generator, dtype=torch.float64)
    each = spectrum()
    each[1:-1] /= 2
    shaped = torch.fft.rfft(white) * (each * LENGTH).sqrt()
    return torch.fft.irfft(shaped, LENGTH)[:, None].float()


def power(x: Tensor) -> Tensor:
    """(33,) the mean power of signals (N, 1, 64) at each frequency."""
    each = torch.fft.rfft(x[:, 0].double()).abs().square().mean(0) / LENGTH**2
    each[1:-1] *= 2
    return each


if __name__ == "__main__":
    main()
