"""A few-step solver fitted to one model, by what the model itself does in many steps.

The flow of a model carries noise to images, so a fine solution of it teaches a coarse one: no data
and no gradients are needed. Whatever is fitted has to beat the best built-in solver on seeds that
neither has seen, or the built-in is what the recipe holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ddim.cells import Tick, ticking
from ddim.data import shrunk
from ddim.families import Family, greedy, refined
from ddim.latents import fingerprint
from ddim.metrics import Moments, frechet, sliced_w2
from ddim.model import Model
from ddim.noise import Seeded
from ddim.plans import SPACINGS, Plan
from ddim.process import Denoiser, Level, Prediction
from ddim.recipes import Recipe
from ddim.rows import Fitted
from ddim.sampling import sample, trace
from ddim.solvers import Solver, UniPC
from ddim.spec import build, describe

BUILT_IN = (
    *("ddim:eta=0", "ipndm:order=2", "ipndm:order=3", "ipndm:order=4", "deis:order=2"),
    *("deis:order=3", "dpmpp:order=2", "dpmpp:order=3", "unipc:order=2", "unipc:order=3"),
)
BASES = ("unipc:order=2", "ipndm:order=3")
POWERS = (1.0, 1.5, 2.0, 3.0)
TEACHER = UniPC(order=3)
FINEST = 512
_SCREEN = 16
_COMPONENTS = 16


@dataclass(frozen=True)
class Tuning:
    """What to fit to, and on how many seeds.

    seeds: images that the fit sees; None: 32 to 1024, by their size.   held_out: unseen images that
    choose among fits, and as many again that judge the choice; None: half as many, 64 or more.
    first_seed: of the first.   tolerance: what the teacher may change, by the median image's root
    mean square, when its steps are doubled.
    guidance, clip: of the denoiser; a model with classes sees them all in turn.
    """

    seeds: int | None = None
    held_out: int | None = None
    first_seed: int = 1_000_000
    tolerance: float = 0.005
    guidance: float = 1.0
    clip: float | None = None
    batch_size: int = 64
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        if not (
            (self.seeds is None or self.seeds >= 1)
            and (self.held_out is None or self.held_out >= 2)
            and self.batch_size >= 1
            and self.tolerance > 0
            and self.ridge >= 0
            and self.first_seed >= 0
        ):
            raise ValueError(
                f"{self}: choose seeds and batch_size from 1, held_out from 2, a tolerance above 0"
            )


Bind = Callable[[int], Denoiser]
"""A denoiser for so many images."""


@dataclass(frozen=True, eq=False)
class _Taught:
    """Some seeds: the denoiser for them, their noise, and where the teacher carries it."""

    bind: Bind
    start: Tensor
    states: Tensor

    @property
    def denoiser(self) -> Denoiser:
        """For all of them at once."""
        return self.bind(len(self.start))

    @property
    def end(self) -> Tensor:
        """(B, ...) the teacher's images."""
        return self.states[-1]

    def first(self, count: int) -> _Taught:
        """Some of them."""
        return _Taught(self.bind, self.start[:count], self.states[:, :count])

    def reached(self, plan: Plan, solver: Solver) -> Tensor:
        """What a solver makes of the same noise."""
        return sample(self.denoiser, self.start, plan, solver)

    def error(self, plan: Plan, solver: Solver) -> float:
        """The root mean square distance from the teacher."""
        return _rms(self.reached(plan, solver) - self.end)


def tune(
    model: Model,
    calls: Sequence[int],
    options: Tuning = Tuning(),
    tick: Tick = lambda images: None,
) -> list[Recipe]:
    """A recipe for each number of network calls.

    Raises ValueError for a number below 2 or above T.
    """
    return list(one_by_one(model, calls, options, tick))


@torch.no_grad()
def one_by_one(model: Model, calls: Sequence[int], options: Tuning, tick: Tick) -> Iterator[Recipe]:
    """As `tune`, each recipe as soon as it is found."""
    if bad := [n for n in calls if not 2 <= n <= model.schedule.T]:
        raise ValueError(f"calls={bad[0]}; choose 2..{model.schedule.T}")
    if not calls:
        raise ValueError("no number of network calls is given; give such as 5, 10, 20")
    if options.guidance != 1 and not model.classes:
        raise ValueError(f"guidance={options.guidance:g}, but the model has no classes; leave it 1")
    spent = [0]

    def told(images: int) -> None:
        spent[0] += images
        tick(images)

    bind = _bound(model, options, told)
    first = options.first_seed
    seeds = options.seeds or min(1024, max(32, 16_384 // math.prod(model.shape)))
    held = options.held_out or max(64, seeds // 2)
    fine, change = _fine(model, options, bind)
    fit = _taught(model, bind, range(first, first + seeds), fine)
    choose, judge = (
        _taught(model, bind, range(begin, begin + held), fine, whole=False)
        for begin in (first + seeds, first + seeds + held)
    )
    shared = {
        "teacher": {"solver": describe(TEACHER), "calls": len(fine) - 1, "change": change},
        "seeds": {"first": first, "fit": seeds, "choose": held, "judge": held},
        "teaching_calls": spent[0],
    }
    for n in calls:
        before = spent[0]
        recipe = _tuned(model, n, fine, (fit, choose, judge), options)
        report = {**recipe.report, **shared, "network_calls": spent[0] - before}
        yield replace(recipe, report=report)


def _tuned(
    model: Model,
    calls: int,
    fine: Plan,
    taught: tuple[_Taught, _Taught, _Taught],
    options: Tuning,
) -> Recipe:
    """The best fit if the guard lets it pass, or the best built-in."""
    fit, choose, judge = taught
    name, spacing = _best_built_in(model, calls, choose)
    plan = model.plan(calls, spacing)
    candidates = _fits(model, calls, fine, fit, options)
    fitted_plan, fitted = min(candidates, key=lambda made: choose.error(*made))
    ends = judge.reached(plan, build(name)), judge.reached(fitted_plan, fitted)
    figures = [_figures(end, judge.end) for end in ends]
    kept = all(figures[1][key] <= figures[0][key] for key in figures[0])
    ddim = min(judge.error(model.plan(calls, s), build("ddim")) for s in ("trailing", "uniform"))
    report = {
        "built_in": {"solver": name, "spacing": spacing, **figures[0]},
        "fit": figures[1],
        "ddim": ddim,
        "kept": "fit" if kept else "built-in",
    }
    times = tuple(float(level.t) for level in (fitted_plan if kept else plan))
    return Recipe(
        calls,
        times,
        fitted if kept else name,
        fingerprint(model),
        options.guidance,
        options.clip,
        report,
    )


def _best_built_in(model: Model, calls: int, choose: _Taught) -> tuple[str, str]:
    """The solver and spacing of the least error: screened on a few images, then on all of them."""
    few = choose.first(_SCREEN)
    settings = [(name, spacing) for name in BUILT_IN for spacing in SPACINGS]

    def error(setting: tuple[str, str], images: _Taught) -> float:
        return images.error(model.plan(calls, setting[1]), build(setting[0]))

    nearest = sorted(settings, key=lambda setting: error(setting, few))[:3]
    return min(nearest, key=lambda setting: error(setting, choose))


def _fits(
    model: Model, calls: int, fine: Plan, fit: _Taught, options: Tuning
) -> list[tuple[Plan, Fitted]]:
    """Candidates: the best laid levels with each base, fitted step by step and then to the end."""
    found: list[tuple[Plan, Fitted]] = []
    for base in BASES:
        family = Family(model.schedule, fine, build(base), calls, ridge=options.ridge)
        begun = []
        for plan in _laid(model, calls):
            member = family.member(plan)
            member = greedy(family, member, fit.denoiser, fit.states)
            begun.append((fit.error(*family.made(member)), member))
        member = min(begun, key=lambda pair: pair[0])[1]
        better = refined(family, member, fit.denoiser, fit.start, fit.end)
        found += [family.made(each) for each in (member, *better)]
    return found


def _laid(model: Model, calls: int) -> list[Plan]:
    """Levels at powers of even steps in t."""
    top = model.schedule.T
    plans = []
    for power in POWERS:
        times = [top * ((calls - i) / calls) ** power for i in range(calls)]
        if times[-1] >= 1:
            plans.append(model.plan([*times, 0]))
    return plans


def _fine(model: Model, options: Tuning, bind: Bind) -> tuple[Plan, float | None]:
    """The teacher's levels, and what doubling their number changes, where T leaves room for it."""
    some = range(options.first_seed, options.first_seed + 8)
    plan, change = _mixed(model, 32), None
    ends = _taught(model, bind, some, plan, whole=False).end
    while len(plan) < min(FINEST, model.schedule.T):
        finer = _mixed(model, 2 * (len(plan) - 1))
        if len(finer) <= len(plan):
            break
        now = _taught(model, bind, some, finer, whole=False).end
        change = float((now - ends).flatten(1).square().mean(1).sqrt().median())
        if change <= options.tolerance:
            break
        plan, ends = finer, now
    return plan, change


def _mixed(model: Model, steps: int) -> Plan:
    """Levels even in t and levels even in log-ratio, about as many of each."""
    half = min(max(2, steps // 2), model.schedule.T)
    times = {
        float(level.t) for spacing in ("uniform", "log_snr") for level in model.plan(half, spacing)
    }
    return model.plan(sorted(times, reverse=True))


def _taught(model: Model, bind: Bind, seeds: range, plan: Plan, *, whole: bool = True) -> _Taught:
    """Seeds, and the states of the teacher at all levels of its plan, or its images alone."""
    weight = next(model.net.parameters(), torch.zeros(()))
    start = Seeded(list(seeds)).start(model.shape, weight.device)
    states = []
    run = trace(bind(len(start)), start, plan, TEACHER)
    while True:
        try:
            state = next(run)[1].x
            states += [state] if whole else []
        except StopIteration as end:
            return _Taught(bind, start, torch.stack([*states, end.value]))


def _bound(model: Model, options: Tuning, tick: Tick) -> Bind:
    """The model's denoiser a batch at a time, with its classes in turn."""
    null = model.notes.get("null_label")
    classes = [c for c in range(model.classes or 0) if c != null]

    def bind(count: int) -> Denoiser:
        edges = [*range(0, count, options.batch_size), count]
        parts = [
            model.denoiser(
                [classes[i % len(classes)] for i in range(a, b)] if classes else None,
                options.clip,
                options.guidance,
            )
            for a, b in pairwise(edges)
        ]

        def denoise(x: Tensor, level: Level) -> Prediction:
            each = [
                part(x[a:b], level) for part, (a, b) in zip(parts, pairwise(edges), strict=True)
            ]
            return Prediction(x, torch.cat([p.x0 for p in each]), torch.cat([p.eps for p in each]))

        return ticking(denoise, tick)

    return bind


def _figures(end: Tensor, teacher: Tensor) -> dict[str, float]:
    """How far images are from the teacher's: each from its own, and as a set.

    rmse: over all images.   mean: of the images' own root mean squares, on which a few that went
    to another mode weigh less.   sw2: sliced W2.   fd: Fréchet distance in the first principal
    components of the teacher's images.
    """
    scatter = Moments.of(_small(teacher)).scatter
    axes = torch.linalg.eigh(scatter).eigenvectors[
        :, -min(_COMPONENTS, max(1, len(teacher) // 4)) :
    ]
    rows = [_small(images) @ axes for images in (end, teacher)]
    far = (end - teacher).flatten(1).square().mean(1)
    return {
        "rmse": float(far.mean().sqrt()),
        "mean": float(far.sqrt().mean()),
        "sw2": sliced_w2(end, teacher),
        "fd": frechet(*rows),
    }


def _small(images: Tensor) -> Tensor:
    """Rows, float64; of images, at 32×32 at most."""
    return (shrunk(images, 32) if images.ndim == 4 else images).flatten(1).cpu().double()


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
