"""What one setting made, on disk: sampled once, whole or not at all, and read a part at a time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim import __version__
from ddim.data import Images, to_float, to_pixels
from ddim.drawing import at_hand
from ddim.files import read_json, write_json
from ddim.identity import fingerprint
from ddim.inversion import reconstruct
from ddim.model import Model
from ddim.nets.optimized import Optimized
from ddim.noise import Seeded
from ddim.plans import Plan
from ddim.process import Denoiser
from ddim.recipes import Recipe, recipe_from
from ddim.sampling import Tick, calls, sample, ticking
from ddim.solvers import Solver
from ddim.spec import build, describe

TUNED = "tuned"


@dataclass(frozen=True)
class Setting:
    """One way to sample: a solver in the text of `describe`, a spacing, a number of steps.

    recipe: that of `ddim tune` instead, as JSON; the solver is then called tuned and the spacing
    recipe.
    """

    solver: str
    spacing: str
    steps: int
    recipe: str | None = None

    @classmethod
    def tuned(cls, recipe: Recipe) -> Setting:
        """The way of a recipe."""
        content = json.dumps(recipe.content(), sort_keys=True)
        return cls(TUNED, "recipe", len(recipe.times) - 1, content)

    def made(self, model: Model) -> tuple[Solver, Plan]:
        """The solver and the plan."""
        if self.recipe is not None:
            plan, solver = recipe_from(json.loads(self.recipe)).made(model)
            return solver, plan
        return build(self.solver), model.plan(self.steps, self.spacing)

    @property
    def row(self) -> dict[str, Any]:
        """What tells it from the others of a sweep."""
        return {"solver": self.solver, "spacing": self.spacing, "steps": self.steps}

    def calls(self, model: Model) -> int:
        """Network calls per image."""
        solver, plan = self.made(model)
        return calls(solver, plan)


@dataclass(frozen=True)
class Subject:
    """What all settings share: the model, the seeds, and how its denoiser is bound.

    Image i has the seed first_seed + i, and labels[i] where a model has classes.
    """

    model: Model
    num: int
    first_seed: int = 0
    labels: tuple[int, ...] | None = None
    guidance: float = 1.0
    clip: float | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.num < 1 or self.batch_size < 1 or self.first_seed < 0:
            raise ValueError(
                f"num={self.num}, batch_size={self.batch_size}, first_seed={self.first_seed}; "
                "choose num and batch_size from 1, first_seed from 0"
            )
        if self.labels is not None and len(self.labels) != self.num:
            raise ValueError(f"{len(self.labels)} labels for {self.num} images; give one each")

    @property
    def batches(self) -> list[range]:
        """The places of the images, a batch at a time; the last may be smaller."""
        return [
            range(begin, min(begin + self.batch_size, self.num))
            for begin in range(0, self.num, self.batch_size)
        ]

    def denoiser(self, places: range) -> Denoiser:
        """The denoiser of a batch."""
        labels = None if self.labels is None else self.labels[places.start : places.stop]
        return self.model.denoiser(labels, self.clip, self.guidance)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its images depend on beside the setting."""
        way = {"way": self.model.net.way} if isinstance(self.model.net, Optimized) else {}
        return {
            "model": fingerprint(self.model),
            **way,
            "num": self.num,
            "first_seed": self.first_seed,
            "labels": None if self.labels is None else list(self.labels),
            "guidance": self.guidance,
            "clip": self.clip,
            "ddim": __version__,
        }


@dataclass(frozen=True)
class Cell:
    """The images of a setting: an .npy of uint8 (N, C, H, W), and a JSON of what it took."""

    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Cell:
        """The cell whose images are in a file."""
        return cls(path, read_json(path.with_suffix(".json")))

    @property
    def setting(self) -> Setting:
        """How it was sampled."""
        return Setting(**self.facts["setting"])

    def read(self, begin: int, end: int) -> Tensor:
        """Some of its images, uint8; no more than them is held in memory."""
        try:
            stored = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({error}); delete it, to sample it again"
            ) from error
        return torch.from_numpy(np.array(stored[begin:end]))


Draw = Callable[[Setting, Tick], Iterator[tuple[Tensor, float]]]
"""The images of a setting in their order, uint8, some at a time, and the seconds they took."""


def sampled(
    subject: Subject,
    setting: Setting,
    folder: Path,
    tick: Tick,
    draw: Draw | None = None,
) -> Cell:
    """The cell of a setting, from the folder if it is there, else sampled into it.

    draw: who samples in place of this process. Raises FloatingPointError where an image holds a
    nan.
    """
    solver, plan = setting.made(subject.model)
    path = folder / f"{_name(setting)}-{_key(subject.identity, setting)}.npy"
    record = path.with_suffix(".json")
    each = calls(solver, plan)
    if record.exists() and path.exists():
        tick(each * subject.num)
        return Cell.of(path)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    seconds = 0.0
    try:
        with temporary.open("wb") as file:
            shape = (subject.num, *subject.model.shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for pixels, spent in (draw or partial(_drawn, subject))(setting, tick):
                file.write(pixels.numpy().tobytes())
                seconds += spent
            file.flush()
            os.fsync(file.fileno())
        if temporary.exists():  # or another process has put the same images there by now
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for killed in folder.glob(f".{path.name}.*.tmp"):
        killed.unlink(missing_ok=True)
    facts = {"setting": asdict(setting), **subject.identity, "calls": each, **_took(seconds)}
    if draw is not None:
        facts["threads"] = 1  # of each of its workers
    write_json(record, facts)
    return Cell(path, facts)


def _drawn(subject: Subject, setting: Setting, tick: Tick) -> Iterator[tuple[Tensor, float]]:
    for places in subject.batches:
        images, spent = _batch(subject, places, setting.made(subject.model), tick)
        yield _pixels(images, setting), spent


def _batch(
    subject: Subject, places: range, how: tuple[Solver, Plan], tick: Tick
) -> tuple[Tensor, float]:
    """The images of a batch, and the seconds that they took."""
    noise = Seeded([subject.first_seed + i for i in places])
    x = noise.start(subject.model.shape, next(subject.model.net.parameters()).device)
    denoiser = ticking(subject.denoiser(places), tick)
    begin = time.perf_counter()
    with torch.no_grad(), at_hand(noise, x.device) as drawn:
        images = sample(denoiser, x, how[1], how[0], drawn).cpu()
    return images, time.perf_counter() - begin


def _pixels(images: Tensor, setting: Setting) -> Tensor:
    try:
        return to_pixels(images)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{setting.solver} in {setting.steps} steps ({setting.spacing}) made an image with a "
            "nan or an infinity; leave that setting out, or mend the model"
        ) from error


def reconstructed(
    subject: Subject, images: Images, steps: int, folder: Path, tick: Tick
) -> dict[str, Any]:
    """The error of encoding and decoding images by DDIM on one plan, the paper's Table 2.

    Its "mse" holds one mean squared error per dimension for each image, in units where an image
    spans [0, 1]. From the folder if it is there. The first subject.num images are taken, with the
    subject's labels; guidance or a clip would bend the map, so that they are refused.
    """
    if subject.guidance != 1 or subject.clip is not None:
        raise ValueError("reconstruction is of the model as it is; leave guidance and clip out")
    setting = Setting("ddim:eta=0", "leading", steps)
    _, plan = setting.made(subject.model)
    identity = {**subject.identity, "data": images.fingerprint}
    path = folder / f"reconstruction-{steps}-{_key(identity, setting)}.json"
    if path.exists():
        tick(2 * steps * subject.num)
        return read_json(path)
    errors: list[float] = []
    seconds = 0.0
    for places in subject.batches:
        chosen = slice(places.start, places.stop)
        x = to_float(images.pixels[chosen]).to(next(subject.model.net.parameters()).device)
        denoiser = ticking(subject.denoiser(places), tick)
        begin = time.perf_counter()
        with torch.no_grad():
            back = reconstruct(denoiser, x, plan)
        seconds += time.perf_counter() - begin
        errors += ((back - x) / 2).square().flatten(1).mean(1).tolist()
    if not np.isfinite(errors).all():
        raise FloatingPointError(f"reconstruction in {steps} steps holds a nan; mend the model")
    facts = {"setting": asdict(setting), **identity, "mse": errors, **_took(seconds)}
    write_json(path, facts)
    return facts


def parsed(
    model: Model,
    solvers: str,
    budgets: list[int],
    spacings: list[str],
    recipe: Callable[[int], Recipe] | None = None,
) -> list[Setting]:
    """Every setting of a sweep: solvers × spacings × budgets of network calls.

    solvers: separated by ";", each with budgets of its own after an "@", as in
    "ddim:eta=0;unipc:order=3@5,10". A solver that calls twice a step takes as many steps as fit.
    recipe: that of a number of calls, for the word tuned; it has levels of its own.
    Raises ValueError for a budget that no plan fits.
    """
    settings: dict[Setting, None] = {}
    for text in filter(None, map(str.strip, solvers.split(";"))):
        spec, at, own = text.partition("@")
        asked = numbers(own) if at else budgets
        if spec.strip() == TUNED and recipe is not None:
            settings |= {Setting.tuned(recipe(budget)): None for budget in asked}
            continue
        solver = build(spec)
        for spacing in spacings:
            for budget in asked:
                steps = fitting(model, solver, budget, spacing)
                settings[Setting(describe(solver), spacing, steps)] = None
    if not settings:
        raise ValueError('no solver is named; write --solvers such as "ddim:eta=0;unipc:order=3"')
    return list(settings)


def fitting(model: Model, solver: Solver, budget: int, spacing: str) -> int:
    """The most steps whose network calls are within the budget."""

    def cost(steps: int) -> int:
        return calls(solver, model.plan(steps, spacing))

    most = min(budget, model.schedule.T)
    if found := bisect_right(range(1, most + 1), budget, key=cost):  # the cost rises with the steps
        return found
    raise ValueError(f"{budget} network calls are too few for {describe(solver)}; give it more")


def numbers(text: str) -> list[int]:
    """The numbers of network calls of a list such as 5,10,20."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d*", part) for part in parts):
        raise ValueError(f"{text!r} is not a list of network calls; write it as 5,10,20")
    return [int(part) for part in parts]


def _name(setting: Setting) -> str:
    plain = re.sub(r"[^A-Za-z0-9.=,-]", "-", setting.solver)
    return f"{plain[:60]}-{setting.spacing}-{setting.steps}"


def _key(identity: Mapping[str, Any], setting: Setting) -> str:
    text = json.dumps([identity, asdict(setting)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _took(seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
