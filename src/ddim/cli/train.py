"""ddim train: a model from images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli.console import progress, writable


def train(
    data: Annotated[str, typer.Argument(help="A folder of images, an .npz, or the word digits.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    steps: Annotated[
        int | None,
        typer.Option("--steps", "--max-steps", help="Updates of the weights; usually 20000."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per update; usually 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; usually 2e-3.")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of the averaged weights; usually 0.999.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, times and noise.")] = 0,
    target: Annotated[
        str, typer.Option(help="What the network predicts: eps, x0, v or flow.")
    ] = "eps",
    schedule: Annotated[
        str, typer.Option(help="linear, scaled_linear, cosine:s=0.008, sigmoid, rectified_flow, …")
    ] = "linear",
    size: Annotated[
        int | None, typer.Option(help="Crop and resize the images of a folder to SIZE×SIZE.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A U-Net's config.json; by default one that suits the size.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between saves.")] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that --out holds.")
    ] = False,
) -> None:
    """Train on images and write a model folder with the averaged weights. Ctrl-C saves what is."""
    import ddim
    from ddim import files, schedules, spec, store
    from ddim.nets import UNetConfig

    given: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "ema": ema}
    chosen = {name: value for name, value in given.items() if value is not None}
    options = ddim.Training(**chosen, seed=seed)
    table = spec.choose(schedule, schedules.SCHEDULES)
    writable(out)
    if store.holds_model(out) and not overwrite:
        raise ValueError(
            f"{out} holds a model already; choose another --out, or --overwrite to replace it"
        )
    images = ddim.read(data, size)
    config = UNetConfig.read(files.read_json(model)) if model else None
    untrained = ddim.Model.new(images.shape, table, target, config, seed)
    print(f"{len(images)} images of {images.shape}, {untrained.size:,} weights", file=sys.stderr)
    update = None
    with progress() as bar:
        task = bar.add_task("training", total=options.steps)
        try:
            for update in ddim.train(untrained, images, options):
                bar.advance(task)
                if update.step % 50 == 0:
                    bar.update(task, description=f"training, loss {float(update.loss):.4f}")
                if update.step % save_every == 0 or update.step == options.steps:
                    ddim.save(update.model, out)
        except KeyboardInterrupt:
            if update is None:
                raise
            ddim.save(update.model, out)
            print(
                f"{out}: stopped and saved after {update.step} of {options.steps} updates",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    print(f"{out}: trained. Next: ddim sample {out} -o grid.png", file=sys.stderr)
