"""A few-step solver fitted to one model, by what the model itself does in many steps.

The flow of a model carries noise to images, so a fine solution of it teaches a coarse one: no data
and no gradients are needed. Whatever is fitted has to beat the best built-in solver on seeds that
neither has seen, or the built-in is what the recipe holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ddim.data import shrunk
from ddim.families import Family, greedy, refined
from ddim.latents import fingerprint
from ddim.metrics import Moments, frechet, sliced_w2
from ddim.model import Model
from ddim.plans import SPACINGS, Plan
from ddim.recipes import Recipe
from ddim.rows import Fitted
from ddim.sampling import Tick
from ddim.solvers import Solver
from ddim.spec import build, describe
from ddim.teacher import SOLVER, Taught, Teacher, bound

T = TypeVar("T")

BUILT_IN = (
    *("ddim:eta=0", "ipndm:order=2", "ipndm:order=3", "ipndm:order=4", "deis:order=2"),
    *("deis:order=3", "dpmpp:order=2", "dpmpp:order=3", "unipc:order=2", "unipc:order=3"),
)
BASES = ("unipc:order=2", "ipndm:order=3")
POWERS = (1.0, 1.5, 2.0, 3.0)
_SCREENS = (4, 12)
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

    def counts(self, model: Model) -> tuple[int, int]:
        """How many seeds fit, and how many choose and judge."""
        seeds = self.seeds or min(1024, max(32, 16_384 // math.prod(model.shape)))
        return seeds, self.held_out or max(64, seeds // 2)


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

    bind = bound(model, options.guidance, options.clip, options.batch_size, told)
    teacher = Teacher.of(model, bind, options.first_seed, options.tolerance)
    first, seeds, held = options.first_seed, *options.counts(model)
    fit = teacher.taught(range(first, first + seeds))
    choose, judge = (
        teacher.taught(range(begin, begin + held), whole=False)
        for begin in (first + seeds, first + seeds + held)
    )
    shared = {
        "teacher": {
            "solver": describe(SOLVER),
            "calls": len(teacher.plan) - 1,
            "change": teacher.change,
        },
        "seeds": {"first": first, "fit": seeds, "choose": held, "judge": held},
        "teaching_calls": spent[0],
    }
    curve = _Curve(model, judge.first(max(16, held // 4)))
    for n in calls:
        before = spent[0]
        recipe = _tuned(teacher, n, (fit, choose, judge), options)
        ddim = curve.calls_for(n, curve.error(*recipe.made(model)))
        report = {**recipe.report, **shared, "ddim_calls": ddim, "network_calls": spent[0] - before}
        yield replace(recipe, report=report)


def _tuned(
    teacher: Teacher, calls: int, taught: tuple[Taught, Taught, Taught], options: Tuning
) -> Recipe:
    """The best fit if the guard lets it pass, or the best built-in."""
    model, (fit, choose, judge) = teacher.model, taught
    name, spacing = _best(
        [(name, spacing) for name in BUILT_IN for spacing in SPACINGS],
        lambda one, count: choose.first(count).error(model.plan(calls, one[1]), build(one[0])),
        [*_SCREENS, len(choose)],
    )
    plan = model.plan(calls, spacing)
    fitted_plan, fitted = _fitted(teacher, calls, (fit, choose), options)
    ends = judge.reached(plan, build(name)), judge.reached(fitted_plan, fitted)
    figures = [_figures(end, judge.end) for end in ends]
    kept = all(figures[1][key] <= figures[0][key] for key in figures[0])
    return Recipe(
        calls,
        tuple(float(level.t) for level in (fitted_plan if kept else plan)),
        fitted if kept else name,
        fingerprint(model),
        options.guidance,
        options.clip,
        {
            "built_in": {"solver": name, "spacing": spacing, **figures[0]},
            "fit": figures[1],
            "kept": "fit" if kept else "built-in",
        },
    )


def _fitted(
    teacher: Teacher, calls: int, taught: tuple[Taught, Taught], options: Tuning
) -> tuple[Plan, Fitted]:
    """The best base and laid levels, fitted step by step, and then to the end."""
    (fit, choose), schedule = taught, teacher.model.schedule
    families = [
        Family(schedule, teacher.plan, build(base), calls, ridge=options.ridge) for base in BASES
    ]
    tries = [(family, plan) for family in families for plan in _laid(teacher.model, calls)]

    def learnt(one: tuple[Family, Plan], count: int) -> tuple[Tensor, float]:
        return greedy(one[0], one[0].member(one[1]), fit.first(count))

    def error(one: tuple[Family, Tensor], count: int) -> float:
        return choose.first(count).error(*one[0].made(one[1]))

    few = min(_SCREENS[-1], len(fit))
    near = _nearest(tries, lambda one, count: learnt(one, count)[1], few)
    begun = [(one[0], learnt(one, len(fit))[0]) for one in near]
    family, member = _best(begun, error, [len(choose)])
    joint = fit.first(max(32, 4096 // math.prod(fit.end.shape[1:])))
    better = [(family, each) for each in refined(family, member, joint)]
    family, member = _best([(family, member), *better], error, [_SCREENS[-1], len(choose)])
    return family.made(member)


def _best(candidates: Sequence[T], error: Callable[[T, int], float], counts: Sequence[int]) -> T:
    """By successive halving: all are tried on a few images, the best quarter on more of them."""
    for count in counts[:-1]:
        candidates = _nearest(candidates, error, count)
    return min(candidates, key=lambda one: error(one, counts[-1]))


def _nearest(candidates: Sequence[T], error: Callable[[T, int], float], count: int) -> list[T]:
    """The quarter of the least error on so many images, three at least."""
    kept = max(3, len(candidates) // 4)
    return sorted(candidates, key=lambda one: error(one, count))[:kept]


def _laid(model: Model, calls: int) -> list[Plan]:
    """Levels from T: at powers of even steps in t, and those of the built-in spacings."""
    top = model.schedule.T
    plans = []
    for power in POWERS:
        times = [top * ((calls - i) / calls) ** power for i in range(calls)]
        if times[-1] >= 1:
            plans.append(model.plan([*times, 0]))
    return plans + [model.plan(calls, spacing) for spacing in ("log_snr", "rho")]


class _Curve:
    """DDIM's error at more and more calls, taken when it is asked for."""

    def __init__(self, model: Model, judge: Taught) -> None:
        self.model, self.judge = model, judge
        self.known: dict[int, float] = {}

    def error(self, plan: Plan, solver: Solver) -> float:
        """The mean of the images' own root mean square distances from the teacher's."""
        far = (self.judge.reached(plan, solver) - self.judge.end).flatten(1).square().mean(1)
        return float(far.sqrt().mean())

    def calls_for(self, calls: int, error: float) -> int | None:
        """About how many DDIM needs for an error; None beyond 512 or T. Even in both logs."""
        before = calls
        while calls <= min(512, self.model.schedule.T):
            if calls not in self.known:
                self.known[calls] = self.error(self.model.plan(calls), build("ddim"))
            if self.known[calls] <= error:
                if calls == before:
                    return calls
                high, goal, low = (
                    math.log(max(each, 1e-30))
                    for each in (self.known[before], error, self.known[calls])
                )
                share = (high - goal) / max(high - low, 1e-30)
                return round(before * (calls / before) ** share)
            before, calls = calls, 2 * calls
        return None


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
