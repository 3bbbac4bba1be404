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
from ddim.identity import fingerprint
from ddim.model import Model
from ddim.plans import Plan
from ddim.rows import Fitted, fitted
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
    def fit(self) -> dict[str, Any] | None:
        """The fit as plain numbers, {ratios, rows}; a ratio without end is None. None: built-in."""
        if isinstance(self.solver, str):
            return None
        ratios = [None if math.isinf(ratio) else ratio for ratio in self.solver.ratios]
        return {"ratios": ratios, "rows": [list(row) for row in self.solver.rows]}

    @property
    def scheduler(self) -> dict[str, Any]:
        """Options of `SolverScheduler.from_config` that make it sample by this recipe."""
        solver = self.solver if isinstance(self.solver, str) else "ddim"
        return {"solver": solver, "times": list(self.times), "fit": self.fit}

    def content(self) -> dict[str, Any]:
        """All of it as JSON holds it, with a checksum; see `recipe_from`."""
        said = {
            "format": _FORMAT,
            "calls": self.calls,
            "times": list(self.times),
            "solver": self.fit or self.solver,
            "model": self.model,
            "guidance": self.guidance,
            "clip": self.clip,
            "report": dict(self.report),
        }
        return {**said, "checksum": _checksum(said)}

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
    write_json(path, recipe.content())
    return path


def find_recipe(
    folder: Path, calls: int, guidance: float = 1.0, clip: float | None = None
) -> Recipe:
    """The recipe in a model's folder. Raises ValueError if there is none, or as `load_recipe`."""
    path = folder / "recipes" / recipe_name(calls, guidance, clip)
    if not folder.is_dir():
        raise ValueError(
            f"recipes are in a model's folder, and {folder} is none; make one with ddim import, "
            "and its recipe with ddim tune"
        )
    if not path.is_file():
        more = "" if guidance == 1 else f" --guidance {guidance:g}"
        more += "" if clip is None else f" --clip {clip:g}"
        raise ValueError(
            f"there is no {path}; make it with ddim tune {folder} --calls {calls}{more}"
        )
    return load_recipe(path)


def load_recipe(path: Path) -> Recipe:
    """Read what `save_recipe` wrote.

    Raises ValueError, one sentence, for another format, an edited entry, or numbers that are not
    finite.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; fit it anew with ddim tune") from error
    return recipe_from(content, str(path))


def recipe_from(content: Mapping[str, Any], where: str = "this") -> Recipe:
    """The recipe of a `Recipe.content`; `where` names it in errors, as in `load_recipe`."""
    if content.get("format") != _FORMAT:
        raise ValueError(
            f"{where} has format {content.get('format')!r}, and this ddim reads {_FORMAT}; fit it "
            "anew with ddim tune"
        )
    said = {key: value for key, value in content.items() if key != "checksum"}
    try:
        solver = said["solver"]
        if not isinstance(solver, str):
            solver = fitted(solver)
        times = tuple(float(t) for t in said["times"])
        if not all(map(math.isfinite, times)):
            raise ValueError("a t is not finite")
        named = (said[key] for key in ("model", "guidance", "clip", "report"))
        recipe = Recipe(said["calls"], times, solver, *named)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is no recipe ({error}); fit it anew with ddim tune") from error
    if content.get("checksum") != _checksum(said):
        raise ValueError(f"{where} was edited after it was written; fit it anew with ddim tune")
    return recipe


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
