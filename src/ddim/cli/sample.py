"""ddim sample: images from a trained model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ddim.cli.console import counted, device as find_device, integers, laid, progress, writable


def sample(
    model: Annotated[Path, typer.Argument(help="A folder that ddim train or diffusers wrote.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="grid.png, images.npz, or a folder for one PNG per seed."
        ),
    ] = Path("grid.png"),
    steps: Annotated[
        int | None,
        typer.Option("--steps", "--num-inference-steps", help="Intervals, 1 to T; usually 20."),
    ] = None,
    solver: Annotated[
        str,
        typer.Option(
            help="ddim, ddpm, heun, ipndm, deis, dpmpp, dpmpp2s or unipc, with options such as "
            "ddim:eta=0.5, unipc:order=3, dpmpp:order=2,eta=1."
        ),
    ] = "ddim:eta=0",
    spacing: Annotated[
        str | None,
        typer.Option(help="trailing (usual), leading, uniform, quadratic, log_snr or rho."),
    ] = None,
    times: Annotated[
        str | None, typer.Option(help="The levels themselves instead, such as 1000,600,250,80,0.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One image per seed, such as 0-15,20.")] = "0-15",
    label: Annotated[
        int | None, typer.Option(help="The class, for a model trained with classes.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Keep the predicted image within [-CLIP, CLIP].")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per network call; does not change them.")
    ] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Sample images: each is a function of the model, the options and its seed alone."""
    import torch

    import ddim
    from ddim import pictures

    chosen = integers(seeds)
    kind = output.suffix.lower()
    if kind not in (".png", ".npz", "") or (kind and output.is_dir()):
        raise ValueError(f"{output} is no place for images; name a .png, an .npz, or a folder")
    writable(output.parent if kind else output)
    method, opened = ddim.build(solver), ddim.load(model, find_device(device))
    plan = laid(opened.schedule, steps, spacing, times)
    if plan[-1].noise or len(plan) < 2:
        raise ValueError(f"--times {times} does not fall to 0, so it ends in noise; end it with 0")
    denoiser = opened.denoiser(label, clip)
    batches = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    calls = ddim.calls(method, plan, len(batches[0]))
    images, begin = [], time.perf_counter()
    with progress() as bar, torch.no_grad():
        task = bar.add_task("sampling", total=calls * len(batches))
        for batch in batches:
            noise = ddim.Seeded(batch)
            x = noise.start(opened.shape, next(opened.net.parameters()).device)
            images.append(ddim.sample(counted(denoiser, bar, task), x, plan, method, noise).cpu())
    spent = time.perf_counter() - begin
    if kind == ".png":
        pictures.save_grid(torch.cat(images), output)
    elif kind == ".npz":
        pictures.save_arrays(torch.cat(images), chosen, output)
    else:
        pictures.save_each(torch.cat(images), chosen, output)
    print(
        f"{output}: {len(chosen)} images, {calls} network calls each, "
        f"{1000 * spent / len(chosen):.1f} ms per image",
        file=sys.stderr,
    )
