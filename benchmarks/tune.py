"""Fitted solvers against DDIM and the built-in ones, on seeds that tuning never took.

Prints the tables of docs/tuning.md for a model's folder: the error to the teacher at each number
of network calls, and DDIM's at more of them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import ddim
from ddim.tuning import FINEST, Tuning

DDIM_CALLS = (15, 20, 40, 100, 200)


@torch.no_grad()
def main() -> None:
    """Tune, and measure on fresh seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calls", default="5,10")
    parser.add_argument("--num", type=int, default=512, help="fresh images")
    parser.add_argument("--batch-size", type=int, default=256)
    asked = parser.parse_args()
    model, options = ddim.load(asked.model), Tuning(batch_size=asked.batch_size)
    denoiser = model.denoiser()
    starts = [
        ddim.Seeded(range(i, min(i + asked.batch_size, asked.num))).start(model.shape)
        for i in range(0, asked.num, asked.batch_size)
    ]

    def reached(plan: ddim.Plan, solver: ddim.Solver) -> torch.Tensor:
        return torch.cat([ddim.sample(denoiser, x, plan, solver) for x in starts])

    exact = reached(model.plan(min(FINEST, model.schedule.T) // 2, "log_snr"), ddim.UniPC(order=3))

    def told(name: str, plan: ddim.Plan, solver: ddim.Solver, more: str = "") -> None:
        far = (reached(plan, solver) - exact).flatten(1).square().mean(1)
        figures = f"{float(far.mean().sqrt()):.4f}  {float(far.sqrt().mean()):.4f}"
        print(f"{name:32}{figures}  {more}".rstrip(), flush=True)

    print(f"N = {asked.num} fresh seeds; RMSE over all images, and the mean of the images' own")
    for count in DDIM_CALLS:
        told(f"ddim, {count} calls", model.plan(count), ddim.DDIM())
    for count in map(int, asked.calls.split(",")):
        begin = time.perf_counter()
        (recipe,) = ddim.tune(model, [count], options)
        spent = time.perf_counter() - begin
        base = recipe.report["built_in"]
        plan = model.plan(count, base["spacing"])
        told(f"ddim, {count} calls", model.plan(count), ddim.DDIM())
        told(f"{base['solver']}, {base['spacing']}, {count}", plan, ddim.build(base["solver"]))
        images = recipe.report["network_calls"] + recipe.report["teaching_calls"]
        kept = f"{recipe.report['kept']}; {images} images through the network, {spent:.0f} s"
        told(f"tuned, {count} calls", *recipe.made(model), kept)


if __name__ == "__main__":
    main()
