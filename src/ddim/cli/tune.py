"""ddim tune: fit solvers of few network calls to a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli.console import device as find_device, progress, writable
from ddim.cli.options import Clip, Device, Folder

if TYPE_CHECKING:
    from pathlib import Path

    from ddim.model import Model
    from ddim.recipes import Recipe
    from ddim.tuning import Tuning


def tune(
    model: Folder,
    calls: Annotated[str, typer.Option(help="Network calls per image, such as 5,10,20.")] = "5,10",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Images to fit to; usually 32 to 2048, by their size.")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(min=4, help="Unseen images that choose, and as many more that judge."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Scale of guidance to fit for, where the model has classes.")
    ] = 1.0,
    clip: Clip = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per network call; usually 64 to 2048.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fit what has been fitted already, too.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Fit a solver to the model for each number of network calls, without data or gradients.

    Writes recipes/calls-N.json into the model's folder, which ddim sample --calls N takes. What is
    fitted with these options already is kept, so that an interrupted command goes on.
    """
    import ddim
    from ddim.cells import numbers

    counts = list(dict.fromkeys(numbers(calls)))
    opened = ddim.load(model, find_device(device))
    if not model.is_dir():
        raise ValueError(f"{model} is no folder, so recipes have no place; ddim import makes one")
    writable(model / "recipes")
    options = ddim.tuning.Tuning(
        seeds=seeds, held_out=held_out, guidance=guidance, clip=clip, batch_size=batch_size
    )
    for n in [] if again else counts[:]:
        if (kept := _kept(opened, model, n, options)) is not None:
            print(f"{model / 'recipes' / kept.name}: {_told(kept)} (as it was)", flush=True)
            counts.remove(n)
    if not counts:
        return
    made = []
    with progress() as bar:
        task = bar.add_task("tuning, images through the network", total=None)
        for recipe in ddim.tuning.one_by_one(
            opened, counts, options, lambda images: bar.advance(task, images)
        ):
            path = ddim.save_recipe(recipe, model)
            made.append(recipe)
            print(f"{path}: {_told(recipe)}", flush=True)
    teacher = recipe.report["teacher"]
    print(
        f"taught by {teacher['calls']} calls of {teacher['solver']}, "
        f"{recipe.report['teaching_calls']} images through the network",
        file=sys.stderr,
    )
    if teacher["change"] is None or teacher["change"] > options.tolerance:
        print(
            f"ddim: more calls of the teacher may still change its images by more than "
            f"{options.tolerance:g}; errors below that mean little",
            file=sys.stderr,
        )
    _look(opened, model / "recipes", made)


def _look(opened: Model, folder: Path, made: list[Recipe]) -> None:
    """Write the picture, and the chart where it can be drawn."""
    from importlib.util import find_spec

    from ddim import charts, gains, pictures
    from ddim.files import write

    if find_spec("matplotlib") is not None:
        chart = charts.errors({recipe.calls: recipe.report for recipe in made})
        write(folder / "tuning.svg", chart.encode())
        print(f"{folder / 'tuning.svg'}: error against calls", file=sys.stderr)
    if len(opened.shape) == 3 and opened.shape[0] in (1, 3):
        image, rows = gains.compared(opened, made)
        pictures.write_png(image, folder / "tuning.png")
        print(f"{folder / 'tuning.png'}, rows from the top: {rows}", file=sys.stderr)


def _kept(opened: Model, folder: Path, calls: int, options: Tuning) -> Recipe | None:
    """The recipe in the folder, if it is what would be fitted now."""
    import ddim

    try:
        recipe = ddim.find_recipe(folder, calls, options.guidance, options.clip)
    except ValueError:
        return None
    return recipe if ddim.tuning.stands(recipe, opened, options) else None


def _told(recipe: Recipe) -> str:
    """Its error, its rival's, and how many calls of DDIM are as good."""
    report = recipe.report
    base, fit, rival = report["built_in"], report["fit"], report["ddim_calls"]
    named = f"{base['solver']} on {base['spacing']}"
    as_good = f"{recipe.calls} calls ≈ " + (
        f"DDIM's {rival}" if rival else f"more of DDIM's than {report['ddim_most']}"
    )
    spent = f"{report['network_calls']} images through the network"
    if recipe.fitted:
        gain = 100 * (1 - fit["rmse"] / base["rmse"]) if base["rmse"] else 0.0
        said = f"fitted, error {fit['rmse']:.4f}, {gain:.0f} % less than {named}"
        return f"{said} ({base['rmse']:.4f}); {as_good}; {spent}"
    said = f"{named}, error {base['rmse']:.4f}, for the fit is not better on unseen seeds"
    return f"{said} ({fit['rmse']:.4f}); {as_good}; {spent}"
