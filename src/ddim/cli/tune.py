"""ddim tune: fit solvers of few network calls to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli.console import device as find_device, progress, writable
from ddim.cli.options import Clip, Device, Folder

if TYPE_CHECKING:
    from ddim.recipes import Recipe


def tune(
    model: Folder,
    calls: Annotated[str, typer.Option(help="Network calls per image, such as 5,10,20.")] = "5,10",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Images to fit to; usually 32 to 1024, by their size.")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(min=2, help="Unseen images that choose, and as many more that judge."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Scale of guidance to fit for, where the model has classes.")
    ] = 1.0,
    clip: Clip = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per network call.")] = 64,
    device: Device = "auto",
) -> None:
    """Fit a solver to the model for each number of network calls, without data or gradients.

    Writes recipes/calls-N.json into the model's folder, which ddim sample --calls N takes.
    """
    import ddim
    from ddim.cells import numbers
    from ddim.recipes import save_recipe

    counts = numbers(calls)
    opened = ddim.load(model, find_device(device))
    if not model.is_dir():
        raise ValueError(f"{model} is no folder, so recipes have no place; ddim import makes one")
    writable(model / "recipes")
    options = ddim.tuning.Tuning(
        seeds=seeds, held_out=held_out, guidance=guidance, clip=clip, batch_size=batch_size
    )
    with progress() as bar:
        task = bar.add_task("tuning, images through the network", total=None)
        for recipe in ddim.tuning.one_by_one(
            opened, counts, options, lambda images: bar.advance(task, images)
        ):
            path = save_recipe(recipe, model)
            print(f"{path}: {_told(recipe)}")


def _told(recipe: Recipe) -> str:
    report = recipe.report
    base, fit = report["built_in"], report["fit"]
    gain = 100 * (1 - fit["rmse"] / base["rmse"]) if base["rmse"] else 0.0
    rival = f"{base['solver']} on {base['spacing']}"
    spent = f"{report['network_calls']} images through the network"
    if recipe.fitted:
        return (
            f"fitted, error {fit['rmse']:.4f}, {gain:.0f} % less than {rival} "
            f"({base['rmse']:.4f}); {spent}"
        )
    return (
        f"{rival}, error {base['rmse']:.4f}, for the fit is not better on unseen seeds "
        f"({fit['rmse']:.4f}); {spent}"
    )
