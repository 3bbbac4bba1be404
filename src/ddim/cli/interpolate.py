"""ddim interpolate: the path between two latents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli import words
from ddim.cli.console import (
    counted,
    device as find_device,
    file_output,
    for_images,
    integers,
    laid,
    pictures_of,
    progress,
    run_by,
    to_clean,
)
from ddim.cli.invert import method_of
from ddim.cli.options import (
    Backend,
    Device,
    Folder,
    Json,
    Label,
    OfNoNoise,
    Precision,
    Size,
    Spacing,
    Steps,
    Times,
)
from ddim.cli.telling import told

if TYPE_CHECKING:
    import torch

    from ddim.belm import Pair
    from ddim.model import Model
    from ddim.plans import Plan
    from ddim.process import Denoiser
    from ddim.solvers import Solver


_MOST = 64


def interpolate(
    model: Folder,
    images: Annotated[
        list[str] | None, typer.Argument(help="Images to go between; or give --seeds.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--out", "--output", help="The picture: one row per two neighbours."),
    ] = Path("interpolate.png"),
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", "--seed", help="Seeds to go between instead, such as 3,7."),
    ] = None,
    num: Annotated[
        int, typer.Option("-n", "--num", min=2, help="Images in a row, both ends included.")
    ] = 9,
    steps: Steps = None,
    solver: OfNoNoise = None,
    exact: Annotated[
        str | None,
        typer.Option(
            help="How images are encoded: lattice (usual), belm, fixed_point.",
            autocompletion=words.of(words.EXACT),
        ),
    ] = None,
    spacing: Spacing = None,
    times: Times = None,
    size: Size = None,
    label: Label = None,
    precision: Precision = None,
    backend: Backend = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Go from one image to another: decode the path between two latents, of seeds or of images.

    The path is the slerp of Eq. (67).
    """
    import torch

    import ddim
    from ddim.pictures import save_grid

    file_output(output, ".png")
    if (seeds is None) == (not images):
        raise ValueError("give either two images or more, or --seeds such as 3,7")
    if seeds is not None and size is not None:
        raise ValueError("--size is for images; leave it out beside --seeds")
    if exact is None and images and solver is None:
        exact = "lattice"
    opened, method = ddim.load(model, find_device(device)), method_of(solver, exact)
    for_images(opened)
    opened = run_by(opened, precision, backend, num)
    plan = to_clean(laid(opened.schedule, steps, spacing, times))
    with progress() as bar, torch.no_grad():
        denoiser = counted(opened.denoiser(label), bar, bar.add_task("decoding", total=None))
        latent, count = _latent(opened, denoiser, (images, size, seeds), (plan, method, exact))
        rows = []
        for a, b in pairwise(range(count)):
            ends = latent[[a] * num], latent[[b] * num]
            path = ddim.between(*ends, torch.linspace(0, 1, num))
            rows.append(ddim.decode(denoiser, path, plan, method).cpu())
    save_grid(torch.cat(rows), output, num)
    made = {"out": output, "rows": len(rows), "images_in_a_row": num}
    told(f"{output}: {len(rows)} rows of {num} images", made, as_json=as_json)


def _latent(
    model: Model,
    denoiser: Denoiser,
    given: tuple[list[str] | None, int | None, str | None],
    how: tuple[Plan, Solver, str | None],
) -> tuple[torch.Tensor | Pair, int]:
    """The latents to go between, and how many there are."""
    import torch

    import ddim

    (images, size, seeds), (plan, method, exact) = given, how
    if not images and exact is not None:
        raise ValueError("--exact is for images; seeds are latents already")
    chosen = integers(seeds) if seeds else []
    parts = [pictures_of(model, source, size, None) for source in images or []]
    count = len(chosen) + sum(map(len, parts))
    if not 2 <= count <= _MOST:
        raise ValueError(f"{count} images or seeds to go between; give at least 2, at most {_MOST}")
    if images:
        return ddim.encode(denoiser, torch.cat(parts), plan, method, exact), count
    place = next(model.net.parameters()).device
    return ddim.Seeded(chosen).start(model.shape, place), count
