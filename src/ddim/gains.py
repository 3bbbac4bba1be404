"""What tuning gained, to look at: the same seeds by the teacher, DDIM, the best built-in, a fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL.Image import Image

from ddim.model import Model
from ddim.pictures import grid
from ddim.recipes import Recipe
from ddim.spec import build
from ddim.teacher import Teacher, bound

SHOWN = 12


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
