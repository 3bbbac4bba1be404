"""ddim sample: images from a trained model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli import words
from ddim.cli.console import (
    counted,
    device as find_device,
    file_output,
    for_images,
    from_seeds,
    image_output,
    integers,
    laid,
    only_one,
    progress,
    put_images,
    recipe_for,
    run_by,
    to_clean,
    with_eta,
)
from ddim.cli.options import (
    Backend,
    Calls,
    Clip,
    Device,
    Eta,
    Folder,
    Guidance,
    ImageOutput,
    Json,
    Label,
    Precision,
    Seeds,
    Solver,
    Spacing,
    Steps,
    Times,
)
from ddim.cli.telling import told

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from PIL.Image import Image

    from ddim.model import Model
    from ddim.process import Denoiser, Level, Prediction


def sample(
    model: Folder,
    output: ImageOutput = Path("grid.png"),
    steps: Steps = None,
    calls: Calls = None,
    solver: Solver = None,
    eta: Eta = None,
    spacing: Spacing = None,
    times: Times = None,
    seeds: Seeds = None,
    latents: Annotated[
        Path | None,
        typer.Option("--from", help="Decode the latents of ddim encode, as they were encoded."),
    ] = None,
    label: Label = None,
    guidance: Guidance = 1.0,
    negative: Annotated[
        int | None, typer.Option(help="The class to lead away from; usually the null label.")
    ] = None,
    clip: Clip = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Sample as a reference does: ermongroup-ddim, ermongroup-ddpm, guided-diffusion, "
            "diffusers or sd1; takes :eta=0.5, and those of ermongroup skip=quad.",
            autocompletion=words.of(words.PRESETS),
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per network call, usually 64; does not change them."),
    ] = None,
    precision: Precision = None,
    backend: Backend = None,
    like: Annotated[
        str | None,
        typer.Option(help="Images of a set of ddim generate, to the bit; choose them by --seeds."),
    ] = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(help="A .gif besides, of the image that each network call foresees."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Sample images: each is a function of the model, the options and its seed alone.

    Of a model of vectors or signals, -o names an .npz, which gets them as float32 `samples`.
    """
    import ddim
    from ddim.cells import fitting

    image_output(output)
    film = _Film(trajectory)
    opened = ddim.load(model, find_device(device))
    if output.suffix.lower() != ".npz":
        for_images(opened, "name an .npz by -o")
    if like is not None or latents is not None:
        given: list[object] = [steps, calls, solver, eta, spacing, times, label, clip, preset]
        given += [negative, batch_size, precision, backend, trajectory]
        given += [None if guidance == 1 else guidance]
        _instead(model, opened, (output, as_json), seeds, (like, latents), given)
        return
    solver = with_eta(solver, eta)
    chosen, size = integers(seeds or "0-15"), batch_size or 64
    opened = run_by(opened, precision, backend, min(size, len(chosen)))
    if negative is not None and guidance == 1:
        raise ValueError("--negative needs --guidance above 1, such as --guidance 2")
    if preset is not None:
        if any(value is not None for value in (calls, solver, spacing, times, clip)):
            raise ValueError(
                "--preset chooses the solver, the levels and the clip; leave --solver, --eta, "
                "--calls, --spacing, --times and --clip out"
            )
        reference = ddim.preset(preset)(opened, 20 if steps is None else steps)
        denoiser = reference.denoiser(label, guidance, negative)
        plan, method = reference.plan, reference.solver
    else:
        denoiser = opened.denoiser(label, clip, guidance, negative)
        only_one(calls=calls, steps=steps, times=times)
        tuned = None
        if all(value is None for value in (solver, spacing, times, negative)):
            tuned = recipe_for(model, opened, calls, 20 if steps is None else steps, guidance, clip)
        elif calls is not None and solver is None:
            raise ValueError(
                "--calls takes the recipe of ddim tune; leave --spacing and --negative out, or "
                "name a --solver"
            )
        if tuned is not None:
            plan, method = tuned.made(opened)
        else:
            method = ddim.build(solver or "ddim")
            if calls is not None:
                steps = fitting(opened, method, calls, spacing or "trailing")
            plan = to_clean(laid(opened.schedule, steps, spacing, times))
    denoiser = film.of(denoiser, opened, len(chosen), size)
    begin = time.perf_counter()
    images = from_seeds(opened, denoiser, plan, method, chosen, size)
    film.save(images)
    calls = ddim.calls(method, plan, min(size, len(chosen)))
    _put(opened, images, chosen, (output, as_json), (calls, begin))


class _Film:
    """The images that each network call foresees, as a GIF at a path; nothing where it is None."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._frames = path, list["Image"]()
        if path is not None:
            file_output(path, ".gif")

    def of(self, denoiser: Denoiser, model: Model, count: int, batch_size: int) -> Denoiser:
        """The denoiser, which keeps pictures now."""
        if self._path is None:
            return denoiser
        from ddim.pictures import grid

        for_images(model, "leave --trajectory out")
        if count > batch_size:
            raise ValueError(
                f"--trajectory shows images of one batch, and {count} are asked for with a batch "
                f"size of {batch_size}; choose fewer --seeds or a larger --batch-size"
            )

        def keep(x: torch.Tensor, level: Level) -> Prediction:
            answer = denoiser(x, level)
            self._frames.append(grid(answer.x0.clamp(-1, 1)))
            return answer

        return keep

    def save(self, images: torch.Tensor) -> None:
        """Write it, with the images themselves at the end."""
        if self._path is not None:
            from ddim.pictures import grid, save_gif

            save_gif([*self._frames, grid(images)], self._path)


def _instead(
    folder: Path,
    model: Model,
    out: tuple[Path, bool],
    seeds: str | None,
    source: tuple[str | None, Path | None],
    given: Sequence[object],
) -> None:
    """Images that were decided before: of a bulk set, or of latents."""
    like, latents = source
    asked = any(value is not None for value in given)
    if like is not None:
        if latents is not None or asked:
            raise ValueError(
                "--like samples as the set was made; leave all but --seeds, --output and --device "
                "out"
            )
        _as_in(like, folder, model, seeds, out)
    elif latents is not None:
        if asked or seeds is not None:
            raise ValueError(
                "--from decodes the way that the latents were encoded; leave all but --output and "
                "--device out"
            )
        _decode(model, latents, out)


def _as_in(
    place: str, folder: Path, model: Model, seeds: str | None, out: tuple[Path, bool]
) -> None:
    """Images of a bulk set as numbers."""
    import torch

    from ddim import bulk
    from ddim.data import to_float
    from ddim.places import place as opened

    job = bulk.Job.of(opened(place))
    last = job.seed + job.num - 1
    chosen = integers(seeds or f"{job.seed}-{min(job.seed + 15, last)}")
    if not all(job.seed <= seed <= last for seed in chosen):
        raise ValueError(f"{place} has the seeds {job.seed} to {last}; choose --seeds of these")
    where = str(next(model.net.parameters()).device)
    if where.partition(":")[0] != job.device:
        raise ValueError(f"{place} was made on {job.device}; choose it by --device")
    begin, size = time.perf_counter(), job.batch_size
    worker = bulk.Worker(replace(job, model=str(folder)), device=where)
    whole: dict[int, torch.Tensor] = {}
    for i in sorted({(seed - job.seed) // size * size for seed in chosen}):
        whole[i] = worker.samples(i, min(i + size, job.num))
    places = [seed - job.seed for seed in chosen]
    samples = torch.stack([whole[i // size * size][i % size] for i in places])
    found = to_float(samples) if job.images else samples
    _put(model, found, chosen, out, (job.setting.calls(model), begin))


def _decode(model: Model, latents: Path, out: tuple[Path, bool]) -> None:
    import torch

    import ddim
    from ddim.latents import load_latents

    latent, encoding = load_latents(latents)
    encoding.refuse(model, latents)
    plan, solver = to_clean(model.plan(encoding.times)), ddim.build(encoding.solver)
    denoiser, place = model.denoiser(encoding.label), next(model.net.parameters()).device
    size = encoding.batch_size
    batches = [latent[i : i + size] for i in range(0, len(latent), size)]
    calls = len(plan) - 2 if isinstance(latent, ddim.Pair) else ddim.calls(solver, plan)
    images: list[torch.Tensor] = []
    begin = time.perf_counter()
    with progress() as bar, torch.no_grad():
        task = bar.add_task("decoding", total=calls * len(batches))
        for batch in batches:
            images.append(
                ddim.decode(counted(denoiser, bar, task), batch.to(place), plan, solver).cpu()
            )
    _put(model, torch.cat(images), range(len(latent)), out, (calls, begin))


def _put(
    model: Model,
    samples: torch.Tensor,
    seeds: Sequence[int],
    out: tuple[Path, bool],
    spent: tuple[int, float],
) -> None:
    """Write them and tell of it, as JSON if `out` says so; spent: calls each, and since when."""
    from ddim.pictures import save_samples

    (output, as_json), (calls, begin), count = out, spent, len(samples)
    seconds = time.perf_counter() - begin
    (put_images if model.of_images else save_samples)(samples, seeds, output)
    name = "image" if model.of_images else "sample"
    told(
        f"{output}: {count} {name}s, {calls} network calls each, "
        f"{1000 * seconds / count:.1f} ms per {name}",
        {
            "out": output,
            "samples": count,
            "shape": model.shape,
            "seeds": seeds,
            "calls": calls,
            "seconds": seconds,
        },
        as_json=as_json,
    )
