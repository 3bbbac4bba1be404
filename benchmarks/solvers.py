"""Every solver with every spacing at few network calls: the error to the true flow, and sliced W2.

On Gaussian mixtures in 2, 32 and 256 dimensions, whose denoiser is known exactly, or with --model
on a trained network against its own fine trajectory. Prints the tables of docs/solvers.md and
writes its plot. The error is the root mean square over points and dimensions, in units of the
data's standard deviation (mixtures) or of the images' range half (models). Sliced W2 compares with
fresh data, beside its floor: what as many fresh data score.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import ddim
from ddim.exact import Mixture
from ddim.metrics import sliced_w2 as sliced_w2_of
from ddim.plans import SPACINGS

CALLS = (4, 5, 6, 8, 10, 15, 20)
SOLVERS = (
    "ddim",
    "ddpm",
    "dpmpp:order=2,eta=1",
    "heun",
    "dpmpp2s",
    "ipndm:order=2",
    "ipndm:order=4",
    "deis:order=2",
    "deis:order=3",
    "deis:order=4",
    "dpmpp:order=2",
    "dpmpp:order=3",
    "dpmpp:order=3,compat=True",
    "unipc:order=2",
    "unipc:order=3",
)
DRAWING = ("ddpm", "dpmpp:order=2,eta=1")  # no flow to be near: judged by sliced W2 alone
ANALYTIC = "ddpm, analytic σ"

sliced_w2 = partial(sliced_w2_of, projections=128)


@dataclass(frozen=True)
class Problem:
    """What is sampled, and what it is held against."""

    name: str
    denoiser: ddim.Denoiser
    schedule: ddim.Schedule
    seeds: int
    shape: tuple[int, ...]
    scale: float
    data: Tensor | None = None
    more: Tensor | None = None  # other data, to estimate from

    @property
    def noise(self) -> ddim.Seeded:
        """One stream per seed from 0."""
        return ddim.Seeded(range(self.seeds))

    @cached_property
    def start(self) -> Tensor:
        """x_T of all seeds."""
        return self.noise.start(self.shape)

    def run(self, plan: ddim.Plan, solver: ddim.Solver) -> Tensor:
        """The samples of all seeds, float64."""
        with torch.no_grad():
            return ddim.sample(self.denoiser, self.start, plan, solver, self.noise).double()

    def reference(self, calls: int) -> tuple[Tensor, float]:
        """The fine solution, and how far it moves from half as many calls."""
        halves, whole = (self.run(self.fine(count), ddim.UniPC(3)) for count in (calls // 2, calls))
        return whole, self.distance(halves, whole)

    def fine(self, calls: int) -> ddim.Plan:
        """Many levels: those that a network was trained at, or even in log-ratio for a mixture."""
        schedule = self.schedule
        if self.data is None:
            return ddim.plan(schedule, calls, "quadratic")
        top, low = (math.log(float(schedule.level(t).ratio)) for t in (schedule.top, 1))
        ratios = [math.exp(top + (low - top) * k / (calls - 1)) for k in range(1, calls - 1)]
        return ddim.plan(schedule, (schedule.top, *(schedule.time(r) for r in ratios), 1, 0))

    def distance(self, a: Tensor, b: Tensor) -> float:
        """Root mean square, in units of the scale."""
        return float((a - b).square().mean().sqrt()) / self.scale


@dataclass(frozen=True)
class Row:
    """One run. error is None for solvers that draw, sw2 for models."""

    problem: str
    solver: str
    spacing: str
    calls: int
    error: float | None
    sw2: float | None


def mixture(dimensions: int, seeds: int) -> tuple[Problem, float]:
    """Twelve bumps of unequal width and weight, centred, in units where a pixel's std is near 0.5;
    and the sliced W2 that fresh data score, the mean of eight draws.
    """
    generator = torch.Generator().manual_seed(dimensions)
    means = torch.randn(12, dimensions, generator=generator, dtype=torch.float64) * 0.45
    std = 0.08 + 0.12 * torch.rand(12, generator=generator, dtype=torch.float64)
    weights = 0.5 + torch.rand(12, generator=generator, dtype=torch.float64)
    data = Mixture(means - (weights @ means) / weights.sum(), std, weights)
    real = data.draw(seeds, generator)
    floor = sum(sliced_w2(data.draw(seeds, generator), real) for _ in range(8)) / 8
    scale = float(real.square().mean().sqrt())
    name = f"{dimensions} dimensions"
    schedule = ddim.schedules.linear()
    more = data.draw(seeds, generator)
    return Problem(name, data, schedule, seeds, (dimensions,), scale, real, more), floor


def largest(schedule: ddim.Schedule, solver: ddim.Solver, spacing: str, calls: int) -> ddim.Plan:
    """The finest plan that costs at most this many calls."""
    plans = (ddim.plan(schedule, steps, spacing) for steps in range(calls, 0, -1))
    return next(plan for plan in plans if ddim.calls(solver, plan) <= calls)


def rows(problem: Problem, reference: Tensor, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Every solver, spacing and number of calls."""
    names = (*SOLVERS, ANALYTIC) if problem.data is not None else SOLVERS
    cells = [(name, spacing, calls) for name in names for spacing in SPACINGS for calls in budgets]
    console = Console(stderr=True)
    for name, spacing, calls in track(
        cells, problem.name, console=console, disable=not console.is_terminal
    ):
        solver = ddim.DDPM() if name == ANALYTIC else ddim.build(name)
        plan = largest(problem.schedule, solver, spacing, calls)
        if name == ANALYTIC and problem.more is not None:
            added = ddim.analytic_sigmas(problem.denoiser, problem.more, plan, problem.noise)
            solver = ddim.DDIM(eta=1, added=added)
        end = problem.run(plan, solver)
        drawn = name in (*DRAWING, ANALYTIC)
        error = None if drawn else problem.distance(end, reference)
        sw2 = None if problem.data is None else sliced_w2(end, problem.data)
        yield Row(problem.name, name, spacing, calls, error, sw2)


def best(found: list[Row], measure: str, budgets: tuple[int, ...]) -> str:
    """A line per solver: the best spacing's value at each number of calls, and its name."""
    head = ["solver", *map(str, budgets)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(row.solver for row in found):
        mine = [row for row in found if row.solver == name and getattr(row, measure) is not None]
        cells = []
        for calls in budgets:
            at = [row for row in mine if row.calls == calls]
            if at:
                row = min(at, key=lambda row: getattr(row, measure))
                cells.append(f"{getattr(row, measure):.3f} {row.spacing}")
        if cells:
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def all_spacings(found: list[Row], budgets: tuple[int, ...]) -> str:
    """A line per solver and spacing: the error, geometric mean over the problems."""
    head = ["solver", "spacing", *map(str, budgets)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, spacing in dict.fromkeys(
        (row.solver, row.spacing) for row in found if row.error is not None
    ):
        cells = []
        for calls in budgets:
            logs = [
                math.log(row.error)
                for row in found
                if (row.solver, row.spacing, row.calls) == (name, spacing, calls) and row.error
            ]
            cells.append(f"{math.exp(sum(logs) / len(logs)):.3f}")
        lines.append(f"| `{name}` | {spacing} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: list[Row], path: Path) -> None:
    """The error against calls, one panel a problem, each solver with its best spacing."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    problems = list(dict.fromkeys(row.problem for row in found))
    shown = [
        name
        for name in SOLVERS
        if name not in DRAWING and name not in ("dpmpp:order=3,compat=True", "ipndm:order=2")
    ]
    figure, axes = plt.subplots(
        1, len(problems), figsize=(4.4 * len(problems), 4.2), sharey=True, squeeze=False
    )
    styles = [(color, dash) for dash in ("-", "--") for color in map(plt.cm.Dark2, range(7))]
    for axis, problem in zip(axes[0], problems, strict=True):
        for name, (color, dash) in zip(shown, styles, strict=False):
            mine = [row for row in found if (row.problem, row.solver) == (problem, name)]
            calls = sorted({row.calls for row in mine})
            least = [min(r.error or math.inf for r in mine if r.calls == c) for c in calls]
            axis.plot(calls, least, dash, color=color, label=name, linewidth=1.4)
        axis.set(title=problem, xlabel="network calls", xscale="log", yscale="log")
        axis.set_xticks(calls, map(str, calls))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("error to the true flow")
    axes[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model folder, instead of the mixtures")
    parser.add_argument("--num", type=int, help="seeds (2000, or 64 with --model)")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--out", type=Path, default=Path("runs/solvers"), help="folder to write")
    options = parser.parse_args()
    budgets = tuple(options.calls)
    if options.model:
        model = ddim.load(options.model)
        problems = [
            Problem(
                options.model.name,
                model.denoiser(),
                model.schedule,
                options.num or 64,
                model.shape,
                1.0,
            )
        ]
        floors = [math.nan]
    else:
        made = [mixture(dimensions, options.num or 2000) for dimensions in (2, 32, 256)]
        problems, floors = [problem for problem, _ in made], [floor for _, floor in made]
    found: list[Row] = []
    for problem, floor in zip(problems, floors, strict=True):
        reference, moved = problem.reference(400 if options.model else 1000)
        print(f"## {problem.name}\n\nThe reference moves by {moved:.1e} from half its calls.")
        here = list(rows(problem, reference, budgets))
        found += here
        print(f"\nError to the true flow\n\n{best(here, 'error', budgets)}")
        if problem.data is not None:
            flow = sliced_w2(reference, problem.data)
            print(f"\nSliced W2 (floor {floor:.3f}, the true flow {flow:.3f})\n")
            print(best(here, "sw2", budgets))
        print(flush=True)
    print(f"## All spacings, geometric mean of the errors\n\n{all_spacings(found, budgets)}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(
        json.dumps([asdict(row) for row in found], indent=1) + "\n"
    )
    plot(found, options.out / "solvers.png")
    print(f"\n{options.out}/results.json and solvers.png", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
