"""Your own images: train a small model on a folder of pictures, then draw new ones in few calls.

    python examples/own_images.py                     # the bundled digits, as a folder of PNGs
    python examples/own_images.py photos --size 16    # yours; larger ones take longer

The digits take under two minutes on two cores. Writes a model folder, which every `ddim` command
takes, and samples.png: pictures of the folder in the first row, then the same seeds by DDIM in 20
and in 5 network calls. After so short a training most digits can be read, and some cannot.

Prints, for 256 images each, the sliced Wasserstein distance to the folder, beside what as many
pictures drawn from the folder score, and how far an image is from the folder's nearest picture,
where 1 is how far the pictures are from each other's nearest. Far below 1 is learnt by heart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import ddim
from ddim.data import to_float
from ddim.metrics import nearest, sliced_w2
from ddim.pictures import save_each

DRAWN, SHOWN = 256, 12


def main() -> None:
    """Read, train, sample, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="a folder of pictures")
    parser.add_argument("--size", type=int, help="crop and resize them to SIZE×SIZE")
    parser.add_argument("--out", type=Path, default=Path("runs/own-images"))
    parser.add_argument("--updates", type=int, default=1200)
    chosen = parser.parse_args()
    folder = chosen.data or folder_of_digits(chosen.out / "pictures")
    images = ddim.read(folder, chosen.size)
    real = to_float(images.pixels)

    model = trained(images, chosen.updates)
    ddim.save(model, chosen.out / "model")

    noise = ddim.Seeded(range(DRAWN))
    start, rows = noise.start(model.shape), [real[:SHOWN]]
    own, _ = nearest(real, [real], torch.arange(len(real)))
    few = real[torch.randint(len(real), (DRAWN,), generator=torch.Generator().manual_seed(0))]
    print(f"{len(images)} pictures of {images.shape}: {sliced_w2(few, real):.4f} from themselves")
    for calls in (20, 5):
        drawn = ddim.sample(model.denoiser(), start, model.plan(calls), ddim.DDIM()).clamp(-1, 1)
        apart = nearest(drawn, [real])[0].mean() / own.mean()
        print(f"{calls:2} calls: {sliced_w2(drawn, real):.4f} from the folder, nearest {apart:.2f}")
        rows.append(drawn[:SHOWN])
    ddim.save_grid(torch.cat(rows), chosen.out / "samples.png", columns=len(rows[0]))
    print(f"wrote {chosen.out / 'samples.png'} and {chosen.out / 'model'}")


def trained(images: ddim.Images, updates: int) -> ddim.Model:
    """A new model of these images, with averaged weights."""
    model = ddim.Model.new(images.shape, ddim.schedules.cosine(), target="v")
    options = ddim.Training(steps=updates, batch_size=64, lr=4e-3)
    console = Console(stderr=True)
    for update in track(ddim.train(model, images, options), "training", updates, console=console):
        model = update.model
    return model


def folder_of_digits(folder: Path) -> Path:
    """The bundled digits as PNGs, so that this runs without pictures of your own."""
    pixels: Tensor = ddim.digits().pixels
    save_each(to_float(pixels), range(len(pixels)), folder)
    return folder


if __name__ == "__main__":
    main()
