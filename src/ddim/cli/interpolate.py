"""ddim interpolate: the path between two latents."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli.console import (
    counted,
    device as find_device,
    integers,
    laid,
    pictures_of,
    progress,
    writable,
)
from ddim.cli.invert import method_of
from ddim.cli.options import Device, Folder, Label, OfNoNoise, Size, Spacing, Steps, Times

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
        Path, typer.Option("-o", "--output", help="The picture: one row per two neighbours.")
    ] = Path("interpolate.png"),
    seeds: Annotated[
        str | None, typer.Option(help="Seeds to go between instead, such as 3,7.")
    ] = None,
    num: Annotated[int, typer.Option(min=2, help="Images in a row, both ends included.")] = 9,
    steps: Steps = None,
    solver: OfNoNoise = None,
    exact: Annotated[
        str | None, typer.Option(help="How images are encoded: lattice (usual), belm, fixed_point.")
    ] = None,
    spacing: Spacing = None,
    times: Times = None,
    size: Size = None,
    label: Label = None,
    device: Device = "auto",
) -> None:
    """Slerp between the latents of seeds, or of real images, and decode the path (Eq. 67)."""
    import torch

    import ddim
    from ddim.pictures import save_grid

    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} is no place for a picture; name a .png")
    if (seeds is None) == (not images):
        raise ValueError("give either two images or more, or --seeds such as 3,7")
    writable(output.parent)
    if exact is None and images and solver is None:
        exact = "lattice"
    opened, method = ddim.load(model, find_device(device)), method_of(solver, exact)
    plan = laid(opened.schedule, steps, spacing, times)
    with progress() as bar, torch.no_grad():
        denoiser = counted(opened.denoiser(label), bar, bar.add_task("decoding", total=None))
        ends = _ends(opened, denoiser, (images, size, seeds), (plan, method, exact))
        weight = torch.linspace(0, 1, num)
        rows = []
        for a, b in pairwise(ends):
            path = ddim.between(_repeated(a, num), _repeated(b, num), weight)
            rows.append(ddim.decode(denoiser, path, plan, method).cpu())
    save_grid(torch.cat(rows), output, num)
    print(f"{output}: {len(rows)} rows of {num} images", file=sys.stderr)


def _ends(
    model: Model,
    denoiser: Denoiser,
    given: tuple[list[str] | None, int | None, str | None],
    how: tuple[Plan, Solver, str | None],
) -> list[torch.Tensor | Pair]:
    """The latents to go between, a batch of one each."""
    import torch

    import ddim

    (images, size, seeds), (plan, method, exact) = given, how
    if images:
        x = torch.cat([pictures_of(model, source, size, None) for source in images])
        latent = ddim.encode(denoiser, x, plan, method, exact)
    else:
        if exact is not None:
            raise ValueError("--exact is for images; seeds are latents already")
        noise = ddim.Seeded(integers(seeds or ""))
        latent = noise.start(model.shape, next(model.net.parameters()).device)
    ends: list[torch.Tensor | Pair] = (
        [
            ddim.Pair(*parts)
            for parts in zip(torch.split(latent.x, 1), torch.split(latent.previous, 1), strict=True)
        ]
        if isinstance(latent, ddim.Pair)
        else list(torch.split(latent, 1))
    )
    if not 2 <= len(ends) <= _MOST:
        raise ValueError(
            f"{len(ends)} images or seeds to go between; give at least 2, at most {_MOST}"
        )
    return ends


def _repeated(latent: torch.Tensor | Pair, num: int) -> torch.Tensor | Pair:
    import ddim

    if isinstance(latent, ddim.Pair):
        states = (latent.x, latent.previous)
        return ddim.Pair(*(state.expand(num, *state.shape[1:]) for state in states))
    return latent.expand(num, *latent.shape[1:])
