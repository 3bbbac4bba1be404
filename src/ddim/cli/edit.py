"""ddim edit: an image repainted, enlarged, deblurred or varied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli import words
from ddim.cli.console import (
    device as find_device,
    for_images,
    from_seeds,
    image_output,
    integers,
    laid,
    pictures_of,
    put_images,
    run_by,
    to_clean,
)
from ddim.cli.options import (
    Backend,
    BatchSize,
    Device,
    Folder,
    ImageOutput,
    Json,
    Label,
    Precision,
    Size,
    Spacing,
    Steps,
)
from ddim.cli.telling import told

if TYPE_CHECKING:
    import torch

    from ddim.measurements import Measurement
    from ddim.model import Model


def edit(
    model: Folder,
    image: Annotated[str, typer.Argument(help="A picture; or a folder, an .npz, the word digits.")],
    output: ImageOutput = Path("edited.png"),
    mask: Annotated[
        str | None, typer.Option(help="A picture, white where to paint anew, black to keep.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="How IMAGE was measured: downsample:factor=2, or blur:std=1.5.",
            autocompletion=words.of(words.MEASUREMENTS),
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="From which share of the noise to start, above 0 to 1; usually 1."),
    ] = None,
    index: Annotated[int, typer.Option(min=0, help="Which image, where IMAGE holds many.")] = 0,
    steps: Steps = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Usually resample:repeats=5 for a mask, else ddpm. See ddim sample.",
            autocompletion=words.of(words.SOLVERS),
        ),
    ] = None,
    spacing: Spacing = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", help="One edit per seed, such as 0-6.")
    ] = "0-6",
    size: Size = None,
    label: Label = None,
    clip: Annotated[
        float,
        typer.Option(help="Keep the predicted image within [-CLIP, CLIP]; usually 1, 0 for not."),
    ] = 1.0,
    batch_size: BatchSize = 64,
    precision: Precision = None,
    backend: Backend = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Edit an image with a model: paint what --mask shows white anew, undo what --measure did, or
    vary it all from a --strength of noise.

    The grid begins with the image, then what was kept of it.
    """
    import torch

    import ddim

    image_output(output)
    chosen = integers(seeds)
    if mask is not None and measure is not None:
        raise ValueError("--mask and --measure exclude each other; give one of them")
    if mask is None and measure is None and strength is None:
        raise ValueError("nothing to edit by; give --mask, --measure or --strength")
    if strength is not None and not 0 < strength <= 1:
        raise ValueError(f"--strength {strength:g}; choose a number above 0, up to 1")
    opened = ddim.load(model, find_device(device))
    for_images(opened)
    plan = to_clean(laid(opened.schedule, steps, spacing, None))
    if strength is not None:
        below = [k for k, level in enumerate(plan) if level.t <= strength * opened.schedule.T]
        if len(plan) - below[0] < 2:
            raise ValueError(
                f"--strength {strength:g} leaves no step of this plan; choose more, or more --steps"
            )
        plan = plan[below[0] :]
    opened = run_by(opened, precision, backend, min(batch_size, len(chosen)))
    denoiser, shown, known = opened.denoiser(label, clip or None), [], None
    if measure is None:
        known = _one(pictures_of(opened, image, size, None), index)
        shown.append(known)
    if mask is not None or measure is not None:
        measurement, y = _measured(opened, (image, mask, measure), (size, index), known)
        shown.append(measurement.inverse(y))
        denoiser = ddim.project(denoiser, measurement, y)
    usual = "resample:repeats=5" if mask is not None else "ddpm"
    method = ddim.build(solver or usual)
    base = None if strength is None else shown[0]
    images = from_seeds(opened, denoiser, plan, method, chosen, batch_size, base)
    if output.suffix.lower() == ".png":
        images = torch.cat([*(each.cpu() for each in shown), images])
    put_images(images, chosen, output)
    made = {"out": output, "images": len(chosen), "seeds": chosen, "solver": ddim.describe(method)}
    told(f"{output}: {len(chosen)} edits by {made['solver']}", made, as_json=as_json)


def _one(images: torch.Tensor, index: int) -> torch.Tensor:
    if index >= len(images):
        raise ValueError(f"--index {index}; there are {len(images)} images, counted from 0")
    return images[index : index + 1]


def _measured(
    model: Model,
    given: tuple[str, str | None, str | None],
    which: tuple[int | None, int],
    known: torch.Tensor | None,
) -> tuple[Measurement, torch.Tensor]:
    """The measurement, and what it gave."""
    import torch

    import ddim
    from ddim.measurements import MEASUREMENTS
    from ddim.spec import choose

    (image, mask, measure), (size, index) = given, which
    place = next(model.net.parameters()).device
    if known is not None and mask is not None:
        painted = ddim.read(mask, size).pixels[0].float().mean(0) >= 128
        if painted.shape != known.shape[-2:]:
            raise ValueError(
                f"{mask} is {painted.shape[1]}×{painted.shape[0]}, the image "
                f"{known.shape[3]}×{known.shape[2]}; give a mask of that size, or --size"
            )
        by_mask = ddim.Mask(~painted.to(place))
        return by_mask, by_mask(known)
    measurement = choose(measure or "", MEASUREMENTS)
    pixels = ddim.read(image, size).pixels
    y = _one(ddim.data.to_float(pixels), index).to(place)
    wanted = measurement(torch.zeros(1, *model.shape)).shape
    if y.shape != wanted:
        raise ValueError(
            f"{image} is {tuple(y.shape[1:])}, but {measure} of this model's images "
            f"{model.shape} is {tuple(wanted[1:])}; give an image of that shape"
        )
    return measurement, y
