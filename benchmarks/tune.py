"""Fitted solvers against DDIM and the best built-in ones, on seeds that tuning never took.

Prints the tables of docs/tuning.md for a model's folder, or for a mixture of Gaussians with its
exact denoiser (mixture:8, mixture:32): how far each is from a solution twice as fine as the
teacher, and what holds of the gains. Recipes of the folder are taken where they stand.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import ddim
from ddim.exact import Mixture
from ddim.gains import figures
from ddim.recipes import Recipe
from ddim.schedules import linear
from ddim.teacher import Taught, Teacher, bound
from ddim.tuning import Tuning, stands

DDIM_CALLS = (15, 20, 40, 100, 200)
AS_GOOD = {"rmse": {5: 15, 10: 40, 20: 200}, "sw2": {5: 20, 10: 100}, "fd": {5: 20, 10: 100}}


class Exact(nn.Module):
    """The eps of a mixture of Gaussians, as a network."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.data = Mixture(torch.randn(6, dimensions, generator=generator), 0.3)
        self.schedule = linear()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, D) at times t (B,), all alike."""
        return self.data(x, self.schedule.level(float(t.flatten()[0]) + 1)).eps


def opened(name: str) -> ddim.Model:
    """A model of a folder, or of mixture:D."""
    kind, _, dimensions = name.partition(":")
    if kind != "mixture":
        return ddim.load(name)
    net = Exact(int(dimensions))
    return ddim.Model(net, net.schedule, "eps", (int(dimensions),))


def recipe_for(model: ddim.Model, name: str, calls: int, options: Tuning) -> tuple[Recipe, str]:
    """That of the folder, or a new one, and what it took."""
    path = Path(name) / "recipes" / f"calls-{calls}.json"
    if path.is_file() and stands(recipe := ddim.load_recipe(path), model, options):
        return recipe, f"{recipe.report['network_calls']} images through the network"
    begin = time.perf_counter()
    (recipe,) = ddim.tune(model, [calls], options)
    images = recipe.report["network_calls"] + recipe.report["teaching_calls"]
    spent = time.perf_counter() - begin
    return recipe, f"{images} images through the network with the teacher's, {spent:.0f} s"


@torch.no_grad()
def main() -> None:
    """Tune, and measure on fresh seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calls", default="4,5,6,8,10,15,20")
    parser.add_argument("--num", type=int, default=512, help="fresh images")
    asked = parser.parse_args()
    model, options = opened(asked.model), Tuning()
    counts = [int(n) for n in asked.calls.split(",")]
    made = {n: recipe_for(model, asked.model, n, options) for n in counts}
    bind = bound(model, 1.0, None, options.batch(model), lambda images: None)
    steps = 2 * made[counts[0]][0].report["teacher"]["steps"]
    fresh = Teacher(model, bind, steps).taught(range(asked.num), whole=False)
    print(f"N = {asked.num} fresh seeds, against {steps} steps")
    print(f"{'':32}RMSE    mean    SW2     FD")
    ddims = {n: told(fresh, f"ddim, {n}", model.plan(n), ddim.DDIM()) for n in DDIM_CALLS}
    tuned, gains = {}, {}
    for n, (recipe, spent) in made.items():
        base = recipe.report["built_in"]
        name = f"{base['solver']}, {base['spacing']}, {n}"
        told(fresh, f"ddim, {n}", model.plan(n), ddim.DDIM())
        best = told(fresh, name, model.plan(n, base["spacing"]), ddim.build(base["solver"]))
        tuned[n] = told(fresh, f"tuned ({recipe.report['kept']}), {n}", *recipe.made(model), spent)
        gains[n] = 1 - tuned[n]["rmse"] / best["rmse"]
    listed = ", ".join(f"{n}: {100 * gain:.0f} %" for n, gain in gains.items())
    print(f"gain in RMSE over the best built-in: {listed}", end="; ")
    print(f"median {100 * statistics.median(gains.values()):.0f} %")
    for figure, pairs in AS_GOOD.items():
        for n, calls in pairs.items():
            if n in tuned:
                ours, theirs = tuned[n][figure], ddims[calls][figure]
                print(f"{figure}: {n} tuned calls {ours:.4f}, {calls} of ddim {theirs:.4f}", end="")
                print("" if ours <= theirs else "  NOT as good")


def told(
    fresh: Taught, name: str, plan: ddim.Plan, solver: ddim.Solver, more: str = ""
) -> dict[str, float]:
    """Print a line of the table, and return its figures."""
    found = figures(fresh.reached(plan, solver), fresh.end)
    print(f"{name:32}" + "  ".join(f"{v:.4f}" for v in found.values()), more, flush=True)
    return found


if __name__ == "__main__":
    main()
