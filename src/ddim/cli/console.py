"""What the commands share: progress, the device, lists of numbers, a look at the output."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from rich.progress import Progress, TaskID

    from ddim.data import Images
    from ddim.model import Model
    from ddim.plans import Plan
    from ddim.process import Denoiser, Level, Prediction
    from ddim.recipes import Recipe
    from ddim.schedules import Schedule
    from ddim.solvers import Solver


def progress(*, shown: bool = True) -> Progress:
    """A bar on stderr; nothing where stderr is not a terminal, or it is not to be shown."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))


def counted(denoiser: Denoiser, bar: Progress, task: TaskID) -> Denoiser:
    """The denoiser, moving a bar by one at every call."""

    def count(x: torch.Tensor, level: Level) -> Prediction:
        answer = denoiser(x, level)
        bar.advance(task)
        return answer

    return count


def from_seeds(
    model: Model,
    denoiser: Denoiser,
    plan: Plan,
    solver: Solver,
    seeds: list[int],
    batch_size: int,
    image: torch.Tensor | None = None,
) -> torch.Tensor:
    """One image per seed, on the CPU, in batches and under a bar: from noise alone, or from an
    image (1, ...) with the noise of the plan's first level.
    """
    import torch

    import ddim
    from ddim.drawing import at_hand

    batches = [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
    total = ddim.calls(solver, plan, len(batches[0])) * len(batches)
    images = []
    with progress() as bar, torch.no_grad():
        watched = counted(denoiser, bar, bar.add_task("sampling", total=total))
        for batch in batches:
            noise = ddim.Seeded(batch)
            x = noise.start(model.shape, next(model.net.parameters()).device)
            if image is not None:
                x = ddim.diffuse(image.expand(x.shape), plan[0], x)
            with at_hand(noise, x.device) as drawn:
                images.append(ddim.sample(watched, x, plan, solver, drawn).cpu())
    return torch.cat(images)


def run_by(model: Model, precision: str | None, backend: str | None, batch_size: int) -> Model:
    """The model with its network run as --precision and --backend say; tells what auto took."""
    fast = model.optimize(precision or "fp32", backend or "eager", batch_size)
    if "auto" in (precision, backend):
        print(f"network: {fast.net.way}", file=sys.stderr)
    return fast


def recipe_for(
    folder: Path,
    model: Model,
    calls: int | None,
    steps: int,
    guidance: float,
    clip: float | None,
) -> Recipe | None:
    """The recipe for so many calls; without calls, one for as many steps, if it fits."""
    import ddim
    from ddim.recipes import recipe_name

    path = folder / "recipes" / recipe_name(calls or steps, guidance, clip)
    if calls is None and not path.is_file():
        return None
    try:
        recipe = ddim.find_recipe(folder, calls or steps, guidance, clip)
        recipe.made(model)
    except ValueError as error:
        if calls is not None:
            raise
        print(f"ddim: without {path}: {error}", file=sys.stderr)
        return None
    print(f"by {path}", file=sys.stderr)
    return recipe


def device(name: str) -> str:
    """The device that a name asks for; auto is CUDA, then MPS, then the CPU."""
    import torch

    have = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
    }
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if have[kind])
    if not have.get(name.split(":", maxsplit=1)[0], False):
        raise ValueError(
            f"device={name!r} is not here; "
            f"choose auto or one of {', '.join(k for k, v in have.items() if v)}"
        )
    return name


def integers(text: str) -> list[int]:
    """The numbers of a list such as 0-15,20."""
    from ddim import spec

    return spec.integers(text)


def listed(text: str) -> list[float]:
    """The levels of a list such as 1000,400,0."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{text!r} is not a list of t; write it as 1000,400,0") from error


def only_one(**given: object) -> None:
    """Raise ValueError if more than one of some options is given."""
    names = [f"--{name}" for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} exclude each other; give one of them")


def with_eta(solver: str | None, eta: float | None) -> str | None:
    """The text of the solver with --eta for its eta; of DDIM, where none is named."""
    if eta is None:
        return solver
    from inspect import signature

    from ddim.solvers import SOLVERS

    name, _, options = (solver or "ddim").partition(":")
    takes = [each for each, kind in SOLVERS.items() if "eta" in signature(kind).parameters]
    if name in SOLVERS and name not in takes:
        raise ValueError(
            f"--eta {eta:g}: the solver {name} has no eta; leave --eta out, or choose "
            f"--solver {' or '.join(takes)}"
        )
    if any(option.strip().startswith("eta=") for option in options.split(",")):
        raise ValueError(f"--eta {eta:g} and --solver {solver} both give eta; leave one out")
    return f"{name}:{','.join(filter(None, (options, f'eta={eta!r}')))}"


def laid(schedule: Schedule, steps: int | None, spacing: str | None, times: str | None) -> Plan:
    """The plan of --steps (20 where nothing is given) and --spacing, or of --times."""
    from ddim import plan

    only_one(steps=steps, times=times)
    only_one(spacing=spacing, times=times)
    if times is not None:
        return plan(schedule, listed(times))
    return plan(schedule, min(20, schedule.T) if steps is None else steps, spacing or "trailing")


def pictures_of(
    model: Model, source: str, size: int | tuple[int, int] | None, num: int | None
) -> torch.Tensor:
    """The first images of a source, float32 in [-1, 1], where the model's weights are.

    Raises ValueError unless they are of the model's shape.
    """
    import ddim

    for_images(model)
    images = fitting(ddim.read(source, size), model, source)
    return ddim.data.to_float(images.pixels[:num]).to(next(model.net.parameters()).device)


def fitting(images: Images, model: Model, source: str) -> Images:
    """The images of a source. Raises ValueError unless they are of the model's shape."""
    if images.shape != model.shape:
        (c, h, w), (mc, mh, mw) = images.shape, model.shape
        side = mh if mh == mw else f"{mw}x{mh}"
        arrays = source == "digits" or source.endswith(".npz")
        how = "resize its arrays" if arrays else f"resize them with --size {side}"
        raise ValueError(
            f"{source} holds images of {w}×{h} and {c} channels, the model is for {mw}×{mh} and "
            f"{mc}; {how}, or take another model"
        )
    return images


def file_output(path: Path, suffix: str) -> None:
    """Raise ValueError or OSError now if a file of this kind could not be written there."""
    if path.suffix.lower() != suffix or path.is_dir():
        raise ValueError(f"{path} is no place for the output; name a {suffix} file")
    writable(path.parent)


def to_clean(plan: Plan) -> Plan:
    """The plan. Raises ValueError unless it falls to clean images."""
    if len(plan) < 2 or plan[-1].noise or not plan[0].noise:
        raise ValueError(
            f"the plan goes from t={plan[0].t:g} to t={plan[-1].t:g}; images are at t=0, so let "
            "--times fall to 0"
        )
    return plan


def image_output(output: Path) -> None:
    """Raise ValueError or OSError now if `put_images` could not write there."""
    kind = output.suffix.lower()
    if kind not in (".png", ".npz", "") or (kind and output.is_dir()):
        raise ValueError(f"{output} is no place for images; name a .png, an .npz, or a folder")
    writable(output.parent if kind else output)


def for_images(model: Model, hint: str = "take a model of images") -> None:
    """Raise ValueError unless the model's samples can be shown as images."""
    if not model.of_images:
        raise ValueError(
            f"samples of this model are {model.shape}, not images (1 or 3, H, W); {hint}"
        )


def put_images(images: torch.Tensor, seeds: Sequence[int], output: Path) -> None:
    """Write a grid.png, an .npz, or a folder of one PNG per seed."""
    from ddim import pictures

    if output.suffix.lower() == ".png":
        pictures.save_grid(images, output)
    elif output.suffix:
        pictures.save_arrays(images, seeds, output)
    else:
        pictures.save_each(images, seeds, output)


def writable(folder: Path) -> None:
    """Raise OSError now if a file could not be written into the folder later; makes no folder."""
    above = folder.absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OSError(
            f"cannot write to {folder}: {above} is not a folder that you may write to; "
            "choose another output"
        )
