"""The section quality of speed.py: seconds to samples as good as those of DDIM in 50 steps.

As good is a distance from real digits that is greater by at most the spread of that between two
sets of real ones, or by nothing with --strict.
A scheduler's images are the same whichever network of equal weights is behind it, so that ours
draws them, and the seconds are those of diffusers' own network and scheduler.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import ddim
from ddim.data import to_pixels
from ddim.features import extractor
from ddim.files import cache_folder
from ddim.recipes import recipe_name
from ddim.references import Published, Reference, Statistics, reference
from ddim.significance import Figure, difference
from ddim.sketches import sketch
from ddim.tuning import Tuning, one_by_one, stands
from speed_rivals import (
    LINEAR,
    PAUSE,
    Run,
    answer,
    diffusers,
    driven,
    in_turns,
    opened,
    table,
    told,
    unet_of,
)

SCHEDULERS: dict[str, dict[str, Any]] = {
    "UniPCMultistepScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "HeunDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "DDIMScheduler": {},
}
BATCH, GOAL, PAIRED = 64, 50, 20
Sampler = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Judge:
    """FD[cnn] of the samples of seeds 0 to num − 1 to as many real images."""

    real: Reference
    num: int
    shape: tuple[int, ...]

    def figure(self, sampler: Sampler) -> Figure:
        """The distance, with what it is without each tenth of the seeds."""
        total = self.real.real.total
        against = Published(self.real.space, Statistics(total.mean, total.covariance))
        drawn = sketch(self.real.space, self._batches(sampler), self.num)
        return against.figures(drawn)["fd"]

    @torch.no_grad()
    def _batches(self, sampler: Sampler) -> Iterator[Tensor]:
        for seeds in torch.split(torch.arange(self.num), BATCH):
            yield to_pixels(sampler(ddim.Seeded(seeds.tolist()).start(self.shape)))


@dataclass(frozen=True)
class Rival:
    """A scheduler of diffusers with a spacing: the FD at each number of steps that was tried."""

    kind: str
    spacing: str
    tried: dict[int, float]
    reached: bool

    @property
    def steps(self) -> int:
        """The last that were tried."""
        return max(self.tried)

    @property
    def made(self) -> Any:
        """The scheduler."""
        library = diffusers()
        usual = {**library.DDIMScheduler(**LINEAR).config, "timestep_spacing": self.spacing}
        return getattr(library, self.kind).from_config(usual, **SCHEDULERS[self.kind])

    @property
    def calls(self) -> int:
        """Network calls of its steps."""
        scheduler = self.made
        scheduler.set_timesteps(self.steps)
        return len(scheduler.timesteps)


@dataclass(frozen=True)
class Ours:
    """How to sample in some numbers of calls, the FD of each, and what it should be."""

    name: str
    model: ddim.Model
    made: Mapping[int, tuple[ddim.Plan, ddim.Solver]]
    tried: Mapping[int, float]
    goal: float

    @property
    def calls(self) -> int | None:
        """The fewest that are as good."""
        return next((n for n, fd in sorted(self.tried.items()) if fd <= self.goal), None)

    def draw(self, x: Tensor) -> Tensor:
        """Samples by those."""
        return _by(self.model, *self.made[self.calls or max(self.tried)])(x)


def quality(asked: argparse.Namespace) -> str:
    """Seconds per 1000 images to the FD of 50 steps of DDIM."""
    model = opened("mnist", asked)
    plain, fast = model.optimize("fp32", "eager"), model.optimize(batch_size=BATCH)
    judge = Judge(_reference(asked), asked.num, model.shape)
    told(f"quality: DDIM in {GOAL} steps")
    ddim50 = judge.figure(_by(plain, plain.plan(GOAL), ddim.DDIM()))
    goal = ddim50.value + (0 if asked.strict else judge.real.floors["fd"].spread)
    fits = _fitted(plain, asked)
    recipes = {n: recipe for n, (recipe, _) in fits.items()}
    nets = {"fp32 eager": plain, f"auto, {_way(fast)}": fast}
    ours = []
    for way, net in nets.items():
        told(f"quality: the recipes by {way}")
        made = {n: recipe.made(net) for n, recipe in recipes.items()}
        tried = {n: judge.figure(_by(net, *how)).value for n, how in made.items()}
        ours.append(Ours(f"ddim tune, {way}", net, made, tried, goal))
    for spacing in asked.spacings:
        made = {n: (fast.plan(n, spacing), ddim.UniPC()) for n in asked.calls}
        tried = _until(made, fast, judge, goal)
        name = f"ddim unipc, {spacing}, auto, {_way(fast)}"
        ours.append(Ours(name, fast, made, tried, goal))
    rivals: list[Rival] = []
    for kind in SCHEDULERS:
        for spacing in asked.spacings:
            best = min((rival.calls for rival in rivals if rival.reached), default=None)
            wanted = goal, asked.scheduler_steps, best
            rivals.append(_tried(kind, spacing, plain, judge, wanted))
    return "\n\n".join(
        [
            _aim(judge, ddim50, goal),
            _times(model, ours, rivals, asked),
            f"FD of ours; the fit is not in the seconds above:\n\n{_ours(fits, ours)}",
            "FD of diffusers' schedulers by steps, until as good, or past the calls of the best:"
            f"\n\n{_theirs(rivals)}",
            _paired(model, judge),
        ]
    )


def _reference(asked: argparse.Namespace) -> Reference:
    """As many real digits, padded to 32×32, and their floor."""
    read = ddim.read(asked.data)
    digits = ddim.Images(F.pad(read.pixels, (2, 2, 2, 2)), read.labels)
    told("quality: the features and the floor of real digits")
    return reference(digits, asked.num, extractor("cnn", digits, cache_folder()), cache_folder())


def _fitted(
    model: ddim.Model, asked: argparse.Namespace
) -> dict[int, tuple[ddim.Recipe, float | None]]:
    """Each recipe and the seconds of its fit; None for one of the folder, where it stands."""
    found: dict[int, tuple[ddim.Recipe, float | None]] = {}
    options, folder = Tuning(), None if asked.recipes is None else Path(asked.recipes)
    for n in asked.calls:
        path = None if folder is None else folder / "recipes" / recipe_name(n)
        if path and path.is_file() and stands(recipe := ddim.load_recipe(path), model, options):
            found[n] = recipe, None
    missing = [n for n in asked.calls if n not in found]
    told(f"quality: fitting {missing}")
    begin = time.perf_counter()
    for recipe in one_by_one(model, missing, options, lambda images: None) if missing else ():
        found[recipe.calls] = recipe, time.perf_counter() - begin
        told(f"quality: {recipe.calls} calls in {time.perf_counter() - begin:.0f} s")
        if folder is not None:
            ddim.save_recipe(recipe, folder)
        begin = time.perf_counter()
    return dict(sorted(found.items()))


def _until(
    made: Mapping[int, tuple[ddim.Plan, ddim.Solver]], net: ddim.Model, judge: Judge, goal: float
) -> dict[int, float]:
    """FD in more and more calls, until it is as good as wanted."""
    tried: dict[int, float] = {}
    for calls, how in sorted(made.items()):
        told(f"quality: unipc in {calls} calls")
        tried[calls] = judge.figure(_by(net, *how)).value
        if tried[calls] <= goal:
            break
    return tried


def _tried(
    kind: str,
    spacing: str,
    plain: ddim.Model,
    judge: Judge,
    wanted: tuple[float, list[int], int | None],
) -> Rival:
    """A scheduler in more and more steps, until it is as good as wanted, or takes more calls than
    another that is.
    """
    (goal, every, most), tried = wanted, dict[int, float]()
    for steps in sorted(every):
        rival = Rival(kind, spacing, {steps: goal}, reached=False)
        if tried and most is not None and rival.calls > most:
            break
        scheduler = rival.made
        tried[steps] = judge.figure(partial(driven, scheduler, steps, plain.net)).value
        told(f"quality: {kind}, {spacing}, {steps} steps: FD {tried[steps]:.3f}")
        if tried[steps] <= goal:
            break
    return Rival(kind, spacing, tried, reached=tried[max(tried)] <= goal)


@torch.no_grad()
def _times(
    model: ddim.Model, ours: list[Ours], rivals: list[Rival], asked: argparse.Namespace
) -> str:
    """Seconds per 1000 images of all that are as good, and of diffusers' DDIM in 50 steps.

    diffusers' are its network calls, each as long as one is, and a run of its scheduler around a
    network that takes no time.
    """
    told("quality: timing")
    x, clock = ddim.Seeded(range(BATCH)).start(model.shape), torch.full((1,), 500).expand(BATCH)
    first = f"diffusers, DDIMScheduler, {GOAL} steps"
    theirs = {first: Rival("DDIMScheduler", "trailing", {GOAL: 0.0}, reached=True)}
    theirs |= {f"diffusers, {r.kind}, {r.spacing}": r for r in rivals if r.reached}
    own = {each.name: each for each in ours if each.calls is not None}
    runs: dict[str, Run] = {"network": partial(answer, unet_of(model), x, clock)}
    for name, rival in theirs.items():
        runs[name] = partial(driven, rival.made, rival.steps, lambda state, t: state, x)
    runs |= {name: partial(each.draw, x) for name, each in own.items()}
    for run in runs.values():
        run()
    found = in_turns(runs, 3 * asked.rounds, asked.seconds, PAUSE)
    call, scale = found["network"].median, 1000 / BATCH
    spent = {name: scale * (r.calls * call + found[name].median) for name, r in theirs.items()}
    spent |= {name: scale * found[name].median for name in own}
    best = min((name for name in theirs if name != first), key=spent.__getitem__, default=first)
    rows = []
    for name, seconds in sorted(spent.items(), key=lambda each: -each[1]):
        calls = theirs[name].calls if name in theirs else own[name].calls
        mark = f"**{name}**" if name == best else name
        faster = [f"{spent[other] / seconds:.2f}×" for other in (first, best)]
        rows.append([mark, str(calls), f"{seconds:.2f}", *faster])
    head = ["", "calls", "seconds per 1000 images", f"faster than {GOAL} steps", "than their best"]
    lost = [f"{r.kind} ({r.spacing})" for r in rivals if not r.reached]
    lost += [each.name for each in ours if each.calls is None]
    more = f"\n\nNot as good with what was tried: {', '.join(lost)}." if lost else ""
    called = f"One call of diffusers' network takes {1000 * call / BATCH:.2f} ms per image.\n\n"
    return called + table(head, rows) + more


def _aim(judge: Judge, ddim50: Figure, goal: float) -> str:
    floor, (low, high) = judge.real.floors["fd"], ddim50.interval
    return (
        f"FD[cnn] of {judge.num} images. DDIM in {GOAL} steps: {ddim50.value:.3f} (95 % over "
        f"seeds: {low:.3f} to {high:.3f}). Two sets of as many real images: {floor.mean:.3f} on "
        f"average, {floor.worst:.3f} in 1 of 20 exchanges; a spread of {floor.spread:.3f}. "
        f"As good is at most {goal:.3f}."
    )


def _ours(fits: Mapping[int, tuple[ddim.Recipe, float | None]], ours: list[Ours]) -> str:
    rows = []
    for n, (recipe, spent) in fits.items():
        fds = [f"{each.tried[n]:.3f}" if n in each.tried else "" for each in ours]
        seconds = "" if spent is None else f"{spent:.0f}"
        rows.append([str(n), str(recipe.report["kept"]), *fds, seconds])
    return table(["calls", "recipe holds", *(each.name for each in ours), "fit, s"], rows)


def _theirs(rivals: list[Rival]) -> str:
    steps = sorted({count for rival in rivals for count in rival.tried})
    rows = []
    for rival in rivals:
        said = [f"{rival.tried[count]:.3f}" if count in rival.tried else "" for count in steps]
        rows.append([rival.kind, rival.spacing, *said])
    return table(["scheduler", "spacing", *map(str, steps)], rows)


def _paired(model: ddim.Model, judge: Judge) -> str:
    """What bf16 changes, on the same seeds."""
    told("quality: fp32 and bf16")
    found = []
    for precision in ("fp32", "bf16"):
        net = model.optimize(precision, "eager")
        found.append(judge.figure(_by(net, net.plan(PAIRED), ddim.DDIM())))
    apart, low, high = difference(found[1], found[0])
    spread = judge.real.floors["fd"].spread
    return (
        f"DDIM in {PAIRED} steps, the same seeds: FD {found[0].value:.3f} in fp32 and "
        f"{found[1].value:.3f} in bf16, {apart:+.4f} (95 %: {low:+.4f} to {high:+.4f}), which is "
        f"{abs(apart) / spread:.3f} of the floor's spread."
    )


def _by(model: ddim.Model, plan: ddim.Plan, solver: ddim.Solver) -> Sampler:
    """A solver of ours as a sampler."""
    return lambda x: ddim.sample(model.denoiser(), x, plan, solver)


def _way(model: ddim.Model) -> str:
    net: Any = model.net
    return str(net.way)
