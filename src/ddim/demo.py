"""The demo: train on the bundled digits, sample the same seeds in 1000 steps and in fewer."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddim import __version__
from ddim.data import digits, to_float, to_pixels
from ddim.extras import needed
from ddim.files import write, write_json
from ddim.metrics import frechet, sliced_w2
from ddim.model import Model
from ddim.noise import Seeded, stream
from ddim.pictures import picture, write_png
from ddim.sampling import calls, sample
from ddim.schedules import cosine
from ddim.spec import build
from ddim.store import holds_model, load, save
from ddim.trainer import train
from ddim.training import Training, notes

if TYPE_CHECKING:
    from PIL.Image import Image

Tick = Callable[[str, int], None]
"""Told what is going on and how many of its units are done, for a progress bar."""

SETTINGS = (
    *(("ddpm", steps) for steps in (1000, 30, 20, 10)),
    *(("ddim:eta=0", steps) for steps in (100, 50, 30, 20, 10, 5)),
)
SPACING = "leading"  # the paper's own uniform sub-sequence
FIRST_SEED = 1000  # a block of 256 that resembles the 2,000 of benchmarks/demo_quality.py
TRAINING = Training(steps=6000, batch_size=64, lr=4e-3)
SHOWN = 16


@dataclass(frozen=True)
class Row:
    """One setting: what it cost, and how far its images lie from the digits."""

    solver: str
    steps: int
    calls: int
    ms_per_image: float
    fd_pixels: float
    sliced_w2: float


@dataclass(frozen=True)
class Results:
    """The rows, the distances of digits from digits, and the images of each row."""

    num: int
    rows: list[Row]
    floor: dict[str, float]
    images: list[Tensor]

    def document(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "num": self.num,
            "first_seed": FIRST_SEED,
            "spacing": SPACING,
            "ddim": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "rows": [asdict(row) for row in self.rows],
            "floor": self.floor,
        }


def trained(out: Path, tick: Tick, *, retrain: bool = False) -> Model:
    """The demo's model, from the folder if it was trained in this very way, else new and saved."""
    data = digits()
    model = Model.new(data.shape, cosine(), "v")
    if holds_model(out) and not retrain:
        held = load(out)
        if _trained_alike(held, model, {**notes(data, TRAINING), "updates": TRAINING.steps}):
            return held
        raise ValueError(f"{out} holds another model; choose another --out, or --retrain")
    for update in train(model, data, TRAINING):
        tick("training", 1)
        model = update.model
    save(model, out)
    return load(out)


def _trained_alike(held: Model, fresh: Model, about: dict[str, Any]) -> bool:
    return (
        held.notes == about
        and held.target == fresh.target
        and torch.equal(held.schedule.signal, fresh.schedule.signal)
        and held.net.config == fresh.net.config
    )


def measured(
    model: Model, num: int, tick: Tick, settings: tuple[tuple[str, int], ...] = SETTINGS
) -> Results:
    """Sample the same seeds with every setting; compare with all digits, in pixels."""
    real = to_float(digits().pixels)
    noise = Seeded(range(FIRST_SEED, FIRST_SEED + num))
    x, denoiser = noise.start(model.shape), model.denoiser()
    denoiser(x, model.schedule.level(1))  # the first call warms up
    rows, images = [], []
    for spec, steps in settings:
        solver, plan = build(spec), model.plan(steps, SPACING)
        begin = time.perf_counter()
        end = sample(denoiser, x, plan, solver, noise)
        spent = time.perf_counter() - begin
        tick("sampling", calls(solver, plan))
        seen = to_float(to_pixels(end))
        distances = frechet(seen, real), sliced_w2(seen, real)
        rows.append(Row(spec, steps, calls(solver, plan), 1000 * spent / num, *distances))
        images.append(end)
    return Results(num, rows, floor(real, num), images)


def floor(real: Tensor, num: int, repeats: int = 20) -> dict[str, float]:
    """The mean distances of num digits drawn from the digits, as if known by heart."""
    drawn = [torch.from_numpy(stream(0, k).integers(0, len(real), num)) for k in range(repeats)]
    return {
        "fd_pixels": sum(frechet(real[i], real) for i in drawn) / repeats,
        "sliced_w2": sum(sliced_w2(real[i], real) for i in drawn) / repeats,
    }


def written(out: Path, results: Results) -> None:
    """Write samples.png, quality.png and results.json."""
    write_png(samples_picture(results), out / "samples.png")
    write(out / "quality.png", quality_picture(results))
    write_json(out / "results.json", results.document())


def samples_picture(results: Results) -> Image:
    """A row of digits, then a row of the same seeds per setting; enlarged smoothly, to be read."""
    from PIL import Image, ImageDraw, ImageFont

    side, margin = 56, 130
    names = ["digits", *map(label, results.rows)]
    shown = [digits().pixels[:SHOWN], *(to_pixels(images[:SHOWN]) for images in results.images)]
    canvas = Image.new("L", (margin + SHOWN * (side + 2), len(shown) * (side + 2)), 255)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=18)
    for i, (name, strip) in enumerate(zip(names, shown, strict=True)):
        top = i * (side + 2)
        draw.text((8, top + side // 2), name, fill=0, font=font, anchor="lm")
        for j, pixels in enumerate(strip):
            tile = picture(pixels).resize((side, side), Image.Resampling.BICUBIC)
            canvas.paste(tile, (margin + j * (side + 2), top))
    return canvas


def label(row: Row) -> str:
    """Such as "DDIM 20"."""
    return f"{row.solver.partition(':')[0].upper()} {row.steps}"


def plotting() -> Any:
    """matplotlib's Figure. Raises ImportError with the command that installs it."""
    return needed("matplotlib.figure", "viz", "the picture of the demo").Figure


def quality_picture(results: Results) -> bytes:
    """Fréchet distance against network calls, as a PNG."""
    figure = plotting()(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for solver, mark in (("ddim:eta=0", "o"), ("ddpm", "s")):
        points = sorted((row.calls, row.fd_pixels) for row in results.rows if row.solver == solver)
        axes.plot(*zip(*points, strict=True), marker=mark, label=solver)
    axes.axhline(
        results.floor["fd_pixels"], color="grey", linestyle=":", label="digits against digits"
    )
    axes.set(
        xscale="log",
        xlabel="network calls per image",
        ylabel="Fréchet distance in pixels",
        title=f"Digits, {results.num} samples of the same seeds",
    )
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
