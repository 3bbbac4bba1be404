"""Fitted solvers on disk: recipes/calls-10.json in the folder of the model they were fitted to."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddim.files import read_json, write_json
from ddim.latents import fingerprint
from ddim.model import Model
from ddim.plans import Plan
from ddim.rows import Fitted
from ddim.solvers import Solver
from ddim.spec import build

_FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """How to sample a model in `calls` network calls: a solver, and the plan it belongs to.

    solver: a `Fitted` one, or the text of a built-in that no fit was better than.
    times: t of the plan, falling to 0.   model: `fingerprint` of the model.   guidance, clip: of
    the denoiser it was fitted to.   report: what was measured, and how.
    """

    calls: int
    times: tuple[float, ...]
    solver: Fitted | str
    model: str
    guidance: float = 1.0
    clip: float | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether it holds a fit, and not a built-in."""
        return isinstance(self.solver, Fitted)

    def made(self, model: Model) -> tuple[Plan, Solver]:
        """The plan on the model's schedule, and the solver.

        Raises ValueError for another model than it was fitted to: other weights or another
        schedule.
        """
        if fingerprint(model) != self.model:
            raise ValueError(
                f"the recipe for {self.calls} calls was fitted to other weights or another "
                "schedule; fit it anew with ddim tune, or choose --solver"
            )
        solver = build(self.solver) if isinstance(self.solver, str) else self.solver
        return model.plan(self.times), solver

    @property
    def name(self) -> str:
        """Its file's: calls-10.json, and -w2.0 for a scale of guidance, -clip1.0 for a clip."""
        return recipe_name(self.calls, self.guidance, self.clip)


def recipe_name(calls: int, guidance: float = 1.0, clip: float | None = None) -> str:
    """The name of a recipe's file."""
    scale = "" if guidance == 1 else f"-w{float(guidance)}"
    limit = "" if clip is None else f"-clip{float(clip)}"
    return f"calls-{calls}{scale}{limit}.json"


def save_recipe(recipe: Recipe, folder: Path) -> Path:
    """Write a recipe into the folder of a model; returns its path."""
    path = folder / "recipes" / recipe.name
    content = {
        "format": _FORMAT,
        "calls": recipe.calls,
        "times": list(recipe.times),
        "solver": recipe.solver
        if isinstance(recipe.solver, str)
        else {"ratios": list(recipe.solver.ratios), "rows": [*map(list, recipe.solver.rows)]},
        "model": recipe.model,
        "guidance": recipe.guidance,
        "clip": recipe.clip,
        "report": dict(recipe.report),
    }
    write_json(path, {**content, "checksum": _checksum(content)})
    return path


def load_recipe(path: Path) -> Recipe:
    """Read what `save_recipe` wrote.

    Raises ValueError, one sentence, for another format, an edited entry, or numbers that are not
    finite.
    """
    content = read_json(path)
    if content.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')!r}, and this ddim reads {_FORMAT}; fit it "
            "anew with ddim tune"
        )
    said = content.pop("checksum", None)
    try:
        solver = content["solver"]
        if not isinstance(solver, str):
            solver = Fitted(tuple(solver["ratios"]), tuple(map(tuple, solver["rows"])))
        times = tuple(float(t) for t in content["times"])
        if not all(map(math.isfinite, times)):
            raise ValueError("a t is not finite")
        recipe = Recipe(
            content["calls"],
            times,
            solver,
            content["model"],
            content["guidance"],
            content["clip"],
            content["report"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no recipe ({error}); fit it anew with ddim tune") from error
    if said != _checksum(content):
        raise ValueError(f"{path} was edited after it was written; fit it anew with ddim tune")
    return recipe


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
