"""What tuning gains: distances from the teacher's images, as many calls of DDIM, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from ddim.data import shrunk
from ddim.metrics import frechet, sliced_w2
from ddim.model import Model
from ddim.pictures import grid
from ddim.plans import Plan
from ddim.recipes import Recipe
from ddim.solvers import Solver
from ddim.spec import build
from ddim.teacher import Taught, Teacher, bound

SHOWN = 12
_COMPONENTS = 16
_MOST = 256


class Curve:
    """DDIM's typical error at 2, 4, 8, … calls, taken when it is asked for."""

    def __init__(self, model: Model, judge: Taught) -> None:
        self.model, self.judge = model, judge
        self.most = min(_MOST, model.schedule.T)
        self.known: dict[int, float] = {}

    def typical(self, plan: Plan, solver: Solver) -> float:
        """The error of a solver."""
        return self.judge.typical(self.judge.reached(plan, solver))

    def calls_for(self, calls: int, error: float) -> int | None:
        """About how many DDIM needs for an error, at least `calls`; None beyond `most`.

        Even in both logs between those that are known.
        """
        least, calls = calls, 2 ** int(math.log2(calls))
        before = calls
        while True:
            if calls not in self.known:
                self.known[calls] = self.typical(self.model.plan(calls), build("ddim"))
            if self.known[calls] <= error:
                if calls == before:
                    return least
                high, goal, low = (
                    math.log(max(each, 1e-30))
                    for each in (self.known[before], error, self.known[calls])
                )
                share = (high - goal) / max(high - low, 1e-30)
                return max(least, round(before * (calls / before) ** share))
            if calls >= self.most:
                return None
            before, calls = calls, min(2 * calls, self.most)


def figures(end: Tensor, teacher: Tensor) -> dict[str, float]:
    """How far images are from the teacher's: each from its own, and as a set.

    rmse: over all images.   mean: of the images' own root mean squares, on which a few that went
    to another mode weigh less.   sw2: sliced W2.   fd: Fréchet distance in the first principal
    components of the teacher's images.
    """
    rows, own = _small(end), _small(teacher)
    count = min(_COMPONENTS, max(1, len(own) // 4))
    axes = torch.linalg.svd(own - own.mean(0), full_matrices=False).Vh[:count].T
    far = (end - teacher).flatten(1).square().mean(1)
    return {
        "rmse": float(far.mean().sqrt()),
        "mean": float(far.sqrt().mean()),
        "sw2": sliced_w2(rows, own),
        "fd": frechet(rows @ axes, own @ axes),
    }


def _small(images: Tensor) -> Tensor:
    """Rows, float64; of images, at 32×32 at most."""
    return (shrunk(images, 32) if images.ndim == 4 else images).flatten(1).cpu().double()


@torch.no_grad()
def compared(model: Model, recipes: Sequence[Recipe]) -> tuple[Image, str]:
    """The teacher's images of the first judging seeds, and three rows for each recipe.

    Returns the picture and what its rows are. All recipes are of one `tune`.
    """
    first, options = recipes[0], recipes[0].report["options"]
    bind = bound(model, first.guidance, first.clip, SHOWN, lambda images: None)
    begin = options["first_seed"] + options["fit"] + options["choose"]
    seeds = range(begin, begin + min(SHOWN, options["judge"]))
    judge = Teacher(model, bind, first.report["teacher"]["steps"]).taught(seeds, whole=False)
    rows, names = [judge.end], ["the teacher"]
    for recipe in recipes:
        calls, best = recipe.calls, recipe.report["built_in"]
        plan = model.plan(calls, best["spacing"])
        rows += [
            judge.reached(model.plan(calls), build("ddim")),
            judge.reached(plan, build(best["solver"])),
            judge.reached(*recipe.made(model)),
        ]
        names += [f"{calls} calls of DDIM", best["solver"], "and the recipe"]
    return grid(torch.cat(rows).cpu(), len(seeds)), ", ".join(names)
