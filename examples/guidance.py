"""Classes and guidance: train with labels, then ask for a class ever more strongly.

    python examples/guidance.py                  # the bundled digits
    python examples/guidance.py photos/          # a folder with a sub-folder per class, of one size

The digits take under two minutes on two cores. Writes guidance.png: a column per class, and a row
per guidance scale, with the same seeds in each row.

Prints for each scale, of 30 images per class in 20 calls of DDIM: how many have their nearest real
picture in the class that was asked for, and how much images of one class differ (root mean square
around their mean). At scale 0 the class is not asked for at all, at 1 it is, and above there is
guidance: it makes the class plainer and the images more alike. Real pictures, each held against
all the others, show what is right; and more alike than those are is the price.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import ddim
from ddim.data import Images, to_float
from ddim.metrics import nearest

SCALES = (0.0, 1.0, 2.0, 4.0)
EACH = 30


def main() -> None:
    """Train with labels, sample at every scale, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="digits", help="a labelled source of ddim.read")
    parser.add_argument("--out", type=Path, default=Path("guidance.png"))
    parser.add_argument("--updates", type=int, default=1200)
    chosen = parser.parse_args()
    images = ddim.read(chosen.data)
    if images.labels is None:
        parser.error(f"{chosen.data} has no labels; put each class into a sub-folder")
    classes = int(images.labels.max()) + 1
    model = trained(images, classes, chosen.updates)

    right, spread = judged(to_float(images.pixels), images.labels, images, own=True)
    print(f"real pictures: {right:.1%} nearest to their class, spread {spread:.3f}")
    labels = torch.arange(classes).repeat(EACH)
    noise, rows = ddim.Seeded(range(len(labels))), []
    for scale in SCALES:
        asked = model.denoiser(labels.tolist(), guidance=scale)
        drawn = ddim.sample(asked, noise.start(model.shape), model.plan(20)).clamp(-1, 1)
        right, spread = judged(drawn, labels, images)
        print(
            f"guidance {scale:g}: {right:.1%} nearest to the class asked for, spread {spread:.3f}"
        )
        rows.append(drawn[:classes])
    ddim.save_grid(torch.cat(rows), chosen.out, columns=classes)
    print(f"wrote {chosen.out}")


def trained(images: Images, classes: int, updates: int) -> ddim.Model:
    """A model that knows the classes, and none of them: a tenth of the labels is left out."""
    config = ddim.nets.sized("small", images.shape, classes)
    model = ddim.Model.new(images.shape, ddim.schedules.cosine(), "v", config, classes=classes)
    options = ddim.Training(steps=updates, batch_size=64, lr=4e-3, label_dropout=0.1)
    console = Console(stderr=True)
    for update in track(ddim.train(model, images, options), "training", updates, console=console):
        model = update.model
    return model


def judged(x: Tensor, labels: Tensor, real: Images, *, own: bool = False) -> tuple[float, float]:
    """The share whose nearest real picture has their label, and the spread within a label.

    own: x are the real pictures, and none of them is its own nearest.
    """
    _, where = nearest(x, [to_float(real.pixels)], torch.arange(len(x)) if own else None)
    right = (real.labels[where] == labels).double().mean()
    groups = [x[labels == label] for label in labels.unique()]
    spread = torch.stack([group.var(0).mean() for group in groups]).mean().sqrt()
    return float(right), float(spread)


if __name__ == "__main__":
    main()
