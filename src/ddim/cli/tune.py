"""ddim tune: fit solvers of few network calls to a model."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ddim.cli.console import device as find_device, progress, run_by, writable
from ddim.cli.options import Clip, Device, Folder, Json
from ddim.cli.telling import document

if TYPE_CHECKING:
    from pathlib import Path

    from ddim.model import Model
    from ddim.recipes import Recipe
    from ddim.tuning import Tuning


def tune(
    model: Folder,
    calls: Annotated[str, typer.Option(help="Network calls per image, such as 5,10,20.")] = "5,10",
    num: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--num",
            min=1,
            help="Images to fit to, which the model makes; usually 32 to 2048, by their size.",
        ),
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
        bool, typer.Option("--again", help="Fit anew what has been fitted already.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit a solver to the model for each number of network calls, without data or gradients.

    Writes recipes/calls-N.json into the model's folder, which ddim sample --calls N takes. What is
    fitted with these options already is kept, so that an interrupted command goes on; what was
    fitted with others is replaced with --again only.
    """
    import ddim
    from ddim.cells import numbers

    counts, folder = list(dict.fromkeys(numbers(calls))), model / "recipes"
    if not model.is_dir():
        raise ValueError(f"{model} is no folder, so recipes have no place; ddim import makes one")
    opened = ddim.load(model, find_device(device))
    opened = run_by(opened, None, None, batch_size or 64)
    writable(folder)
    options = ddim.tuning.Tuning(
        seeds=num, held_out=held_out, guidance=guidance, clip=clip, batch_size=batch_size
    )
    kept = [] if again else [_kept(opened, model, n, options) for n in counts]
    made = [recipe for recipe in kept if recipe is not None]
    out = sys.stderr if as_json else sys.stdout
    for recipe in made:
        print(f"{folder / recipe.name}: {_told(recipe)} (as it was)", file=out, flush=True)
    if left := [n for n in counts if n not in {recipe.calls for recipe in made}]:
        made += _fitted(opened, model, left, (options, out))
    made.sort(key=lambda recipe: recipe.calls)
    _look(opened, folder, made, renewed=bool(left))
    if as_json:
        document({"recipes": [_facts(recipe, folder, left) for recipe in made]})


def _facts(recipe: Recipe, folder: Path, fitted_now: Collection[int]) -> dict[str, Any]:
    return {
        "out": folder / recipe.name,
        "calls": recipe.calls,
        "fitted": recipe.fitted,
        "kept": recipe.calls not in fitted_now,
        "times": recipe.times,
        "report": recipe.report,
    }


def _fitted(
    opened: Model, model: Path, counts: list[int], how: tuple[Tuning, TextIO]
) -> list[Recipe]:
    """The recipes, each written, and told of, as soon as it is found."""
    import ddim

    options, out = how
    fit, held = options.counts(opened)
    said, made = f"fitting to {fit} images; {held} more choose, and {held} judge", []
    with progress() as bar:
        task = bar.add_task("tuning, images through the network", total=None)

        def tick(images: int) -> None:
            if not bar.tasks[0].completed:  # what was asked for stands
                print(said, file=sys.stderr)
            bar.advance(task, images)

        for recipe in ddim.tuning.one_by_one(opened, counts, options, tick):
            path = ddim.save_recipe(recipe, model)
            made.append(recipe)
            print(f"{path}: {_told(recipe)}", file=out, flush=True)
    teacher = recipe.report["teacher"]
    print(
        f"taught by {teacher['calls']} calls of {teacher['solver']}, "
        f"{recipe.report['teaching_calls']} images through the network",
        file=sys.stderr,
    )
    if teacher["change"] > options.tolerance:
        print(
            f"ddim: more calls of the teacher may still change its images by more than "
            f"{options.tolerance:g}; errors below that mean little",
            file=sys.stderr,
        )
    return made


def _look(opened: Model, folder: Path, made: list[Recipe], *, renewed: bool) -> None:
    """Write the picture and, where it can be drawn, the chart, if there is news or none is there.

    Their names have the scale of guidance and the clip of the recipes'.
    """
    from importlib.util import find_spec

    from ddim import charts, gains, pictures
    from ddim.files import write

    suffix = made[0].name.removeprefix(f"calls-{made[0].calls}").removesuffix(".json")
    drawn, picture = (folder / f"tuning{suffix}{kind}" for kind in (".svg", ".png"))
    if find_spec("matplotlib") is not None and (renewed or not drawn.exists()):
        chart = charts.errors({recipe.calls: recipe.report for recipe in made})
        write(drawn, chart.encode())
        print(f"{drawn}: error against calls", file=sys.stderr)
    if opened.of_images and (renewed or not picture.exists()):
        image, rows = gains.compared(opened, made)
        pictures.write_png(image, picture)
        print(f"{picture}, rows from the top: {rows}", file=sys.stderr)


def _kept(opened: Model, model: Path, calls: int, options: Tuning) -> Recipe | None:
    """The recipe in the folder, if it is what would be fitted now; None if it is of no use.

    Raises ValueError for a good one that was fitted in another way.
    """
    import ddim

    try:
        recipe = ddim.find_recipe(model, calls, options.guidance, options.clip)
        recipe.made(opened)
    except ValueError:
        return None
    if not ddim.tuning.stands(recipe, opened, options):
        raise ValueError(
            f"{model / 'recipes' / recipe.name} was fitted with other options or another ddim; "
            "give --again to replace it"
        )
    return recipe


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
    farther = [key.upper() for key in ("rmse", "sw2", "fd") if fit[key] > base[key]]
    why = f"the fit is farther in {', '.join(farther)}" if farther else "no fit is wanted"
    said = f"{named}, error {base['rmse']:.4f}; {why} ({fit['rmse']:.4f})"
    return f"{said}; {as_good}; {spent}"
