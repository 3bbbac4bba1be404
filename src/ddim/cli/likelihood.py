"""ddim likelihood: bits per dimension of images under a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli.console import counted, device as find_device, pictures_of, progress
from ddim.cli.options import BatchSize, Device, Folder, Json, Label, Num, Size, Source
from ddim.cli.telling import document

if TYPE_CHECKING:
    import torch

_EXACT_UP_TO = 64
_UNSURE = 0.1


def likelihood(
    model: Folder,
    data: Source,
    num: Num = 16,
    steps: Annotated[
        int,
        typer.Option(
            "--steps", "--num-inference-steps", min=4, help="Of the flow and of the bound."
        ),
    ] = 200,
    probes: Annotated[
        int | None,
        typer.Option(
            min=0, help="Hutchinson's, 2 or more; 0 is the exact trace, usual up to 64 dimensions."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of dequantisation, probes and bound.")] = 0,
    size: Size = None,
    label: Label = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Print the bits per dimension that 8-bit images cost: by the flow, and the variational bound.

    Images are dequantised with uniform noise of one pixel value.
    """
    import torch

    import ddim
    from ddim.likelihood import PIXEL, dequantise

    opened = ddim.load(model, find_device(device))
    x = pictures_of(opened, data, size, num)
    if probes is None:
        probes = 0 if math.prod(opened.shape) <= _EXACT_UP_TO else 16
    plan = ddim.fine_plan(opened.schedule, steps)
    falling = (*plan, opened.schedule.level(0))
    flow, bound = [], []
    with progress() as bar:
        each = steps + (steps + 1) // 2 + len(falling) - 1
        task = bar.add_task("likelihood", total=each * math.ceil(len(x) / batch_size))
        denoiser = counted(opened.denoiser(label), bar, task)
        for begin in range(0, len(x), batch_size):
            images = x[begin : begin + batch_size]
            draws = ddim.Seeded(range(seed + begin, seed + begin + len(images)))
            soft = dequantise(images, draws, PIXEL)
            flow.append(ddim.bits_per_dim(denoiser, soft, plan, probes, draws))
            with torch.no_grad():
                bound.append(ddim.variational_bound(denoiser, images, falling, draws))
    bits = torch.cat([part.bits for part in flow])
    margin = torch.cat([part.in_bits(part.margin) for part in flow])
    halving = torch.cat([part.in_bits(part.halving) for part in flow])
    bounds = torch.cat([part.bits for part in bound])
    facts = {
        "images": len(x),
        "bits_per_dim": float(bits.mean()),
        "standard_error": _standard_error(bits),
        "probes": probes,
        "probe_margin_95": float(margin.square().mean().sqrt() / math.sqrt(len(x))),
        "change_from_half_the_steps": float(halving.mean()),
        "variational_bound": float(bounds.mean()),
        "variational_bound_standard_error": _standard_error(bounds),
    }
    if not halving.mean() < _UNSURE:
        raise FloatingPointError(
            f"half of --steps {steps} changes the bits by {halving.mean():.2g}, so that they mean "
            "nothing; take more steps"
        )
    if as_json:
        document(facts)
        return
    for name, value in facts.items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        print(f"{name.replace('_', ' '):>33}  {text}")


def _standard_error(values: torch.Tensor) -> float | None:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
