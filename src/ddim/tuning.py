"""A few-step solver fitted to one model, by what the model itself does in many steps.

The flow of a model carries noise to images, so a fine solution of it teaches a coarse one: no data
and no gradients are needed. Whatever is fitted has to beat the best built-in solver on seeds that
neither has seen, or the built-in is what the recipe holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddim import __version__
from ddim.families import Family, greedy, refined
from ddim.gains import Curve, figures
from ddim.identity import fingerprint
from ddim.model import Model
from ddim.plans import SPACINGS, Plan
from ddim.recipes import Recipe
from ddim.rows import Fitted
from ddim.sampling import Tick
from ddim.spec import build, describe
from ddim.teacher import SOLVER, Taught, Teacher, bound

T = TypeVar("T")
Errors = Callable[[Sequence[T], int], Sequence[float]]
"""Those of some candidates on so many images."""

BUILT_IN = (
    *("ddim:eta=0", "ipndm:order=2", "ipndm:order=3", "ipndm:order=4", "deis:order=2"),
    *("deis:order=3", "dpmpp:order=2", "dpmpp:order=3", "unipc:order=2", "unipc:order=3"),
)
BASES = ("unipc:order=2", "ipndm:order=3")
POWERS = (1.0, 1.5, 2.0, 3.0)
_SCREENS = (4, 12, 64)
_SMALL = 64
_EXACT = 0.01 * 2 / 255


@dataclass(frozen=True)
class Tuning:
    """What to fit to, and on how many seeds.

    seeds: images that the fit sees; None: 32 to 2048, by their size.   held_out: unseen images that
    choose among fits, and as many again that judge the choice; None: 64 to 2048.
    first_seed: of the first.   tolerance: what the teacher may change, by the median image's root
    mean square, when its steps are doubled.
    guidance, clip: of the denoiser; a seed says the class, where the model has some.
    batch_size: images a network call; None: 64 to 2048, by their size.
    """

    seeds: int | None = None
    held_out: int | None = None
    first_seed: int = 1_000_000
    tolerance: float = 0.003
    guidance: float = 1.0
    clip: float | None = None
    batch_size: int | None = None
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        if not (
            (self.seeds is None or self.seeds >= 1)
            and (self.held_out is None or self.held_out >= 4)
            and (self.batch_size is None or self.batch_size >= 1)
            and self.tolerance > 0
            and self.ridge >= 0
            and self.first_seed >= 0
        ):
            raise ValueError(
                f"{self}: choose seeds and batch_size from 1, held_out from 4, a tolerance above 0"
            )

    def counts(self, model: Model) -> tuple[int, int]:
        """How many seeds fit, and how many choose and judge."""
        size = math.prod(model.shape)
        usual = min(2048, 16_384 // size)
        fit = usual if size < _SMALL else max(32, 4096 // size)
        return self.seeds or fit, self.held_out or max(64, usual)

    def batch(self, model: Model) -> int:
        """Images in a network call."""
        return self.batch_size or min(2048, max(64, 16_384 // math.prod(model.shape)))

    def said(self, model: Model) -> dict[str, Any]:
        """All that a recipe depends on beside the model and the number of calls."""
        seeds, held = self.counts(model)
        return {
            "first_seed": self.first_seed,
            "fit": seeds,
            "choose": held,
            "judge": held,
            "tolerance": self.tolerance,
            "ridge": self.ridge,
            "ddim": __version__,
        }


def stands(recipe: Recipe, model: Model, options: Tuning) -> bool:
    """Whether a recipe is of this model and these options, so that `tune` would make it again."""
    return (
        recipe.model == fingerprint(model)
        and (recipe.guidance, recipe.clip) == (options.guidance, options.clip)
        and recipe.report.get("options") == options.said(model)
    )


def tune(
    model: Model,
    calls: Sequence[int],
    options: Tuning = Tuning(),
    tick: Tick = lambda images: None,
) -> list[Recipe]:
    """A recipe for each number of network calls.

    Raises ValueError for a number below 2 or above T, and where the network's answers are not
    finite.
    """
    return list(one_by_one(model, calls, options, tick))


@torch.no_grad()
def one_by_one(model: Model, calls: Sequence[int], options: Tuning, tick: Tick) -> Iterator[Recipe]:
    """As `tune`, each recipe as soon as it is found."""
    if bad := [n for n in calls if not 2 <= n <= model.schedule.T]:
        raise ValueError(f"calls={bad[0]}; choose 2..{model.schedule.T}")
    if model.schedule.top < 2:
        raise ValueError(f"T={model.schedule.T} leaves no levels to choose; train with a larger T")
    if not calls:
        raise ValueError("no number of network calls is given; give such as 5, 10, 20")
    if options.guidance != 1 and not model.classes:
        raise ValueError(f"guidance={options.guidance:g}, but the model has no classes; leave it 1")
    spent = [0]

    def told(images: int) -> None:
        spent[0] += images
        tick(images)

    bind = bound(model, options.guidance, options.clip, options.batch(model), told)
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
            "steps": teacher.steps,
            "calls": len(teacher.plan) - 1,
            "change": teacher.change,
        },
        "options": options.said(model),
        "teaching_calls": spent[0],
    }
    curve = Curve(model, judge.first(max(32, held // 16)))
    for n in calls:
        before = spent[0]
        recipe = _tuned(teacher, n, (fit, choose, judge), options)
        fitting = spent[0] - before
        ddim = curve.calls_for(n, curve.typical(*recipe.made(model)))
        report = {
            **recipe.report,
            **shared,
            "ddim_calls": ddim,
            "ddim_most": curve.most,
            "network_calls": fitting,
        }
        yield replace(recipe, report=report)


def _tuned(
    teacher: Teacher, calls: int, taught: tuple[Taught, Taught, Taught], options: Tuning
) -> Recipe:
    """The best fit if the guard lets it pass, or the best built-in."""
    model, (fit, choose, judge) = teacher.model, taught

    def errors(ones: Sequence[tuple[str, str]], count: int) -> list[float]:
        few, found = choose.first(count), dict[tuple[str, str], float]()
        for spacing in dict.fromkeys(spacing for _, spacing in ones):
            same = [one for one in ones if one[1] == spacing]
            ends = few.abreast(model.plan(calls, spacing), [build(name) for name, _ in same])
            found |= {one: few.error(end) for one, end in zip(same, ends, strict=True)}
        return [found[one] for one in ones]

    name, spacing = _best(
        [(name, spacing) for name in BUILT_IN for spacing in SPACINGS],
        errors,
        _SCREENS,
        len(choose),
    )
    plan = model.plan(calls, spacing)
    bases = [
        Family(model.schedule, teacher.plan, build(base), calls, ridge=options.ridge)
        for base in dict.fromkeys((name, *BASES))
    ]
    fitted_plan, fitted = _fitted(bases, [plan, *_laid(model, calls)], fit, choose)
    rivals = [(plan, build(name)), (fitted_plan, fitted), (model.plan(calls), build("ddim"))]
    measured = [figures(judge.reached(*each), judge.end) for each in rivals]
    kept = _passes(measured[1], measured[0], judge.end, teacher.change)
    return Recipe(
        calls,
        tuple(float(level.t) for level in (fitted_plan if kept else plan)),
        fitted if kept else name,
        fingerprint(model),
        options.guidance,
        options.clip,
        {
            "built_in": {"solver": name, "spacing": spacing, **measured[0]},
            "fit": measured[1],
            "ddim": measured[2],
            "kept": "fit" if kept else "built-in",
        },
    )


def _passes(
    fit: dict[str, float], built_in: dict[str, float], teacher: Tensor, change: float
) -> bool:
    """Whether a fit is as near as the built-in, image by image and as a set.

    Where the built-in is exact to a hundredth of a step of 8 bits, or typically to twice what
    a finer teacher would change, no fit is wanted. Sets nearer than a hundredth of what two halves
    of the teacher's images differ by are alike.
    """
    if built_in["mean"] < 2 * change:
        return False
    half = len(teacher) // 2
    alike = figures(teacher[:half], teacher[half : 2 * half])
    return max(fit["rmse"], _EXACT) <= built_in["rmse"] and all(
        fit[key] <= max(built_in[key], alike[key] / 100) for key in ("sw2", "fd")
    )


def _fitted(
    bases: Sequence[Family], plans: Sequence[Plan], fit: Taught, choose: Taught
) -> tuple[Plan, Fitted]:
    """The best base and plan, fitted step by step, and then to the end.

    The first of both, which are the best built-in's, may begin the last fit as they are. Data of
    few dimensions have few numbers an image and quick networks: all images and three starts.
    """
    tries = [(family, plan) for family in bases for plan in plans]

    def learnt(one: tuple[Family, Plan], count: int) -> tuple[Tensor, float]:
        return greedy(one[0], one[0].member(one[1]), fit.first(count))

    def errors(ones: Sequence[tuple[Family, Tensor]], count: int) -> list[float]:
        few = choose.first(count)
        return [few.typical(few.reached(*family.made(member))) for family, member in ones]

    near = _nearest(tries, lambda ones, count: [learnt(one, count)[1] for one in ones], _SCREENS[1])
    begun = [(bases[0], bases[0].member(plans[0]))]
    begun += [(one[0], learnt(one, len(fit))[0]) for one in near]
    begun = _ranked(begun, errors(begun, _SCREENS[-1]))
    starts = 3 if math.prod(fit.end.shape[1:]) < _SMALL else 1
    better = [
        (family, each) for family, member in begun[:starts] for each in refined(family, member, fit)
    ]
    family, member = _best([begun[0], *better], errors, _SCREENS[1:], len(choose))
    return family.made(member)


def _best(
    candidates: Sequence[T], errors: Errors[T], screens: Sequence[int], all_of_them: int
) -> T:
    """By successive halving: all are tried on a few images, the best quarter on more of them."""
    for count in screens:
        if count < all_of_them:
            candidates = _nearest(candidates, errors, count)
    return _ranked(candidates, errors(candidates, all_of_them))[0]


def _nearest(candidates: Sequence[T], errors: Errors[T], count: int) -> list[T]:
    """The quarter of the least error on so many images, two at least."""
    return _ranked(candidates, errors(candidates, count))[: max(2, len(candidates) // 4)]


def _ranked(candidates: Sequence[T], errors: Sequence[float]) -> list[T]:
    """From the least error on; what is not finite comes last."""
    known = [error if math.isfinite(error) else math.inf for error in errors]
    return [candidates[i] for i in sorted(range(len(candidates)), key=known.__getitem__)]


def _laid(model: Model, calls: int) -> list[Plan]:
    """Levels from T: at powers of even steps in t, and those of the built-in spacings."""
    top = model.schedule.T
    plans = []
    for power in POWERS:
        times = [top * ((calls - i) / calls) ** power for i in range(calls)]
        if times[-1] >= 1:
            plans.append(model.plan([*times, 0]))
    return plans + [model.plan(calls, spacing) for spacing in ("log_snr", "rho")]
