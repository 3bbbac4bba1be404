"""What a page asks a model for: checked, as a command, as Python, and done."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ddim.app.home import Home
from ddim.model import Model
from ddim.noise import Seeded
from ddim.pictures import grid
from ddim.plans import SPACINGS, Plan
from ddim.process import Denoiser
from ddim.sampling import calls, trace
from ddim.solvers import SOLVERS, Solver
from ddim.spec import build, describe, integers

TUNED = "fitted recipe"
MOST_SEEDS = 64
_FILM, _SIDE = 100, 1024  # pictures of a trajectory, and the longer side of each
_REPEATS = 100


@dataclass(frozen=True)
class Frame:
    """A moment of a run: the images that the network foresees, or those that it ended in.

    done, of: network calls.   images: (B, C, H, W), at the end alone.
    """

    picture: Image
    done: int
    of: int
    seconds: float
    images: Tensor | None = None


@dataclass(frozen=True)
class Asked:
    """Images of one model: all that decides them.

    solver: in the text of `build`, or TUNED, whose `steps` are network calls.
    """

    name: str
    solver: str
    steps: int
    spacing: str
    seeds: tuple[int, ...]
    label: int | None = None
    guidance: float = 1.0
    clip: float | None = None

    def command(self, home: Home) -> str:
        """The command that makes the same images."""
        words = ["ddim", "sample", home.path(self.name)]
        if self.solver == TUNED:
            words += ["--calls", str(self.steps)]
        else:
            words += ["--steps", str(self.steps), "--solver", self.solver]
            words += ["--spacing", self.spacing]
        words += ["--seeds", ranges(self.seeds)]
        if self.label is not None:
            words += ["--label", str(self.label)]
        if self.guidance != 1:
            words += ["--guidance", repr(self.guidance)]
        if self.clip is not None:
            words += ["--clip", repr(self.clip)]
        if home.device != "cpu" or torch.cuda.is_available() or torch.backends.mps.is_available():
            words += ["--device", home.device]
        return shlex.join([*words, "-o", "grid.png"])

    def python(self, home: Home) -> str:
        """The program that makes the same images."""
        path = home.path(self.name)
        usual = {"label": None, "clip": None, "guidance": 1.0}
        options = self._options(usual)
        place = "" if home.device == "cpu" else f", {home.device!r}"
        opened = f'model = ddim.load({path!r}{place}).optimize("fp32", "eager")'
        lines = ["import ddim", "", opened]
        if self.solver == TUNED:
            kept = self._options({"guidance": 1.0, "clip": None})
            found = ", ".join(filter(None, [f"Path({path!r})", str(self.steps), kept]))
            lines = ["from pathlib import Path", "", *lines]
            lines += [f"plan, solver = ddim.find_recipe({found}).made(model)"]
        else:
            lines += [f"plan = model.plan({self.steps}, {self.spacing!r})"]
            lines += [f"solver = ddim.build({self.solver!r})"]
        lines += [
            f"noise = ddim.Seeded({_listed(self.seeds)})",
            f"start = noise.start(model.shape{place})",
            f"images = ddim.sample(model.denoiser({options}), start, plan, solver, noise)",
            'ddim.save_grid(images, "grid.png")',
        ]
        return "\n".join(lines) + "\n"

    def _options(self, usual: dict[str, Any]) -> str:
        """Those of the fields that are not as usual, as arguments."""
        given = {name: getattr(self, name) for name in usual}
        return ", ".join(f"{k}={v!r}" for k, v in given.items() if v != usual[k])

    def made(self, home: Home, model: Model) -> tuple[Plan, Solver]:
        """The plan and the solver."""
        if self.solver == TUNED:
            return home.recipe(self.name, self.steps, self.guidance, self.clip).made(model)
        return model.plan(self.steps, self.spacing), build(self.solver)

    def denoiser(self, model: Model) -> Denoiser:
        """The network with all that is bound."""
        return model.denoiser(self.label, self.clip, self.guidance)

    def frames(self, home: Home) -> Iterator[Frame]:
        """Do it, with a picture at every network call; the last has the images.

        Raises FloatingPointError where one would hold a nan or an infinity.
        """
        opened = home.model(self.name)
        plan, solver = self.made(home, opened)
        model = opened.optimize("fp32", "eager", len(self.seeds))
        noise, begin = Seeded(list(self.seeds)), time.perf_counter()
        start = noise.start(model.shape, next(model.net.parameters()).device)
        total, done = calls(solver, plan, len(start)), 0
        run = trace(self.denoiser(model), start, plan, solver, noise)
        while True:
            try:
                with torch.no_grad():  # here, for each step may run in another thread
                    _, prediction = next(run)
            except StopIteration as end:
                images: Tensor = end.value.cpu()
                break
            done += 1
            picture = grid(prediction.x0.clamp(-1, 1))
            yield Frame(picture, done, total, time.perf_counter() - begin)
        yield Frame(grid(images), total, total, time.perf_counter() - begin, images)


def asked(home: Home, name: Any, fields: dict[str, Any]) -> Asked:
    """What the fields of a page ask for. Raises ValueError, one sentence, for what is not allowed.

    fields: solver, steps, spacing, eta, seeds, label, guidance, clip; those that are not there have
    their usual values.
    """
    model = home.model(name)
    if not model.of_images:
        raise ValueError(f"samples of {name} are {model.shape}, not images; choose another model")
    solver = str(fields.get("solver") or "ddim")
    steps = whole("steps", fields.get("steps", 20), 1, model.schedule.T)
    spacing = fields.get("spacing") or "trailing"
    if spacing not in SPACINGS:
        raise ValueError(f"{spacing!r} is no spacing; choose one of {', '.join(SPACINGS)}")
    if solver != TUNED and "eta" in fields:
        solver = _with_eta(solver, number("η", fields["eta"], 0.0, 1.0))
    label = fields.get("label")
    if label is not None:
        if not model.labels:
            raise ValueError(f"{name} was trained without classes; leave the label at none")
        label = whole("label", label, 0, model.labels - 1)
    guidance = number("guidance", fields.get("guidance", 1.0), 0.0, 100.0)
    if label is None and guidance != 1:
        raise ValueError("guidance leads to a label; choose one, or set guidance to 1")
    clip = fields.get("clip") or None
    if clip is not None:
        clip = number("clip", clip, 0.01, 100.0)
    _limited(solver, steps, model.schedule.T)
    chosen = tuple(integers(str(fields.get("seeds", "0-15"))[:1000], MOST_SEEDS))
    return Asked(str(name), solver, steps, spacing, chosen, label, guidance, clip)


def _with_eta(text: str, eta: float) -> str:
    """The solver's text with η, where it takes one. Raises ValueError for an η that it does not."""
    build(text)  # which checks it
    name, _, options = text.partition(":")
    usual = signature(SOLVERS[name]).parameters.get("eta")
    if usual is None or "eta=" in options:
        if eta:
            why = "takes no η" if usual is None else "says its η itself"
            raise ValueError(f"{text} {why}; set η to 0, or choose ddim, dpmpp or resample")
        return text
    if eta == usual.default:
        return text
    return describe(build(f"{text}{',' if options else ':'}eta={eta:g}"))


def _limited(text: str, steps: int, T: int) -> None:
    """Raise ValueError for a solver that would call the network without an end in sight."""
    repeats = 1 if text == TUNED else getattr(build(text), "repeats", 1)
    if repeats > _REPEATS or repeats * steps > 10 * T:
        raise ValueError(f"{text} in {steps} steps is too much for a page; repeat less")


def whole(what: str, value: Any, least: int, most: int) -> int:
    """A whole number of a field. Raises ValueError for anything else."""
    given = number(what, value, least, most)
    if given != int(given):
        raise ValueError(f"{what} is {given:g}; choose a whole number from {least} to {most}")
    return int(given)


def number(what: str, value: Any, least: float, most: float) -> float:
    """A number of a field. Raises ValueError for anything else, an empty field and NaN too."""
    try:
        given = float(value)
    except (TypeError, ValueError, OverflowError):
        given = math.nan
    if not least <= given <= most:
        told = "empty or no number" if math.isnan(given) else f"{given:g}"
        raise ValueError(f"{what} is {told}; choose {least:g} to {most:g}")
    return given


def ranges(chosen: tuple[int, ...]) -> str:
    """Seeds as `integers` reads them."""
    parts: list[list[int]] = []
    for seed in chosen:
        if parts and parts[-1][-1] + 1 == seed:
            parts[-1] = [parts[-1][0], seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def _listed(chosen: tuple[int, ...]) -> str:
    if chosen == tuple(range(chosen[0], chosen[0] + len(chosen))) and len(chosen) > 2:
        return f"range({chosen[0]}, {chosen[-1] + 1})"
    return repr(list(chosen))


class Film:
    """Pictures of a trajectory as they come: not too many, evenly, and none too large."""

    def __init__(self) -> None:
        self.pictures, self._stride, self._seen = list[Image](), 1, 0

    def add(self, picture: Image) -> None:
        """Keep it, or not."""
        if self._seen % self._stride == 0:
            self.pictures.append(small(picture))
        self._seen += 1
        if len(self.pictures) > _FILM:
            self.pictures, self._stride = self.pictures[::2], 2 * self._stride


def small(picture: Image) -> Image:
    """A copy whose sides are at most those of a film."""
    copied = picture.copy()
    copied.thumbnail((_SIDE, _SIDE))
    return copied
