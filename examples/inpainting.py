"""Inpainting: paint the hidden half of pictures anew, and leave what is known as it was.

    python examples/inpainting.py
    python examples/inpainting.py photos/ --hide 0.3      # the right 30 %; pictures of one size

The digits take under two minutes on two cores. Trains on all but the last hundred, of which it
then hides the right half. Writes inpainting.png with a picture a column: as it was, what is known
of it, painted by DDIM in 20 network calls, and by `Resample` in 20 steps of 5, which goes back and
forth so that what is new comes to agree with what is known.

Prints how far a known pixel ends from what it was, in steps of 8 bits: 0; and how far a picture is
from the nearest one trained on: as it was, with the hidden part of another picture, and painted. Of
labelled data it also prints how many hidden parts, seen alone, are nearest to one of their own
class. Projecting on what is known, in few calls, is not a draw from the parts that fit: DDIM hardly
heeds what is known, and Resample does much more.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import ddim
from ddim.data import Images, to_float, to_pixels
from ddim.metrics import nearest

UNSEEN, SHOWN = 100, 12


def main() -> None:
    """Train, hide, paint, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="digits", help="what ddim.read takes")
    parser.add_argument("--hide", type=float, default=0.5, help="share that is hidden")
    parser.add_argument("--out", type=Path, default=Path("inpainting.png"))
    parser.add_argument("--updates", type=int, default=1200)
    chosen = parser.parse_args()
    images = ddim.read(chosen.data)
    seen, unseen = part(images, slice(None, -UNSEEN)), part(images, slice(-UNSEEN, None))
    model = trained(seen, chosen.updates)

    picture = to_float(unseen.pixels)
    known = torch.ones(picture.shape[-2:], dtype=torch.bool)
    known[:, round((1 - chosen.hide) * known.shape[1]) :] = False
    mask, noise = ddim.Mask(known), ddim.Seeded(range(len(picture)))
    denoiser = ddim.project(model.denoiser(clip=1.0), mask, mask(picture))
    rows = {"as they were": picture, "another's": torch.where(known, picture, picture.roll(1, 0))}
    for name, solver in (("DDIM", ddim.DDIM()), ("Resample", ddim.Resample(repeats=5))):
        start, plan = noise.start(model.shape), model.plan(20)
        painted = rows[name] = ddim.sample(denoiser, start, plan, solver, noise)
        change = (to_pixels(painted).int() - unseen.pixels.int())[..., known].abs().max()
        calls = ddim.calls(solver, plan)
        print(f"{name}, {calls} calls: a known pixel changed by {change} of 255 at most")
    for name, row in rows.items():
        told = f"{name:12}  {nearest(row, [to_float(seen.pixels)])[0].mean():.2f} from the nearest"
        if seen.labels is not None:
            told += f"   {right(row, seen, unseen, ~known):4.0%} of the hidden parts of their class"
        print(told)
    shown = [picture, mask(picture), rows["DDIM"], rows["Resample"]]
    ddim.save_grid(torch.cat([row[:SHOWN] for row in shown]), chosen.out, columns=SHOWN)
    print(f"wrote {chosen.out}")


def part(images: Images, chosen: slice) -> Images:
    """Some of the images, with their labels."""
    labels = None if images.labels is None else images.labels[chosen]
    return replace(images, pixels=images.pixels[chosen], labels=labels)


def trained(images: Images, updates: int) -> ddim.Model:
    """A new model of these images, with averaged weights."""
    model = ddim.Model.new(images.shape, ddim.schedules.cosine(), target="v")
    options = ddim.Training(steps=updates, batch_size=64, lr=4e-3)
    console = Console(stderr=True)
    for update in track(ddim.train(model, images, options), "training", updates, console=console):
        model = update.model
    return model


def right(painted: Tensor, seen: Images, unseen: Images, hidden: Tensor) -> float:
    """The share whose hidden part is nearest to that of a picture of their class."""
    _, where = nearest(painted[..., hidden], [to_float(seen.pixels)[..., hidden]])
    return float((seen.labels[where] == unseen.labels).double().mean())


if __name__ == "__main__":
    main()
