"""Two images, read or sampled, encoded, decoded again, and the path between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.app.asked import Asked, asked
from ddim.app.home import Home, Stamp
from ddim.app.sampling import labelled
from ddim.belm import Pair
from ddim.data import to_float, to_pixels
from ddim.decoding import decode, quiet
from ddim.inversion import EXACT, between, decode as decoded, encode
from ddim.model import Model
from ddim.noise import Seeded
from ddim.plans import Plan
from ddim.process import Denoiser
from ddim.sampling import Tick, sample, ticking

PLAIN = "ddim"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Two images, as they were read or sampled, and their latents."""

    wanted: Asked
    stamp: Stamp
    images: Tensor
    latent: Tensor | Pair

    def bound(self, home: Home) -> tuple[Model, Denoiser, Plan]:
        """The model, its denoiser and the plan of there and back.

        Raises ValueError if the model is another by now.
        """
        if home.stamp(self.wanted.name) != self.stamp:
            raise ValueError("the model has changed since; press Encode and decode again")
        model = home.model(self.wanted.name)
        return model, self.wanted.denoiser(model), self.wanted.made(home, model)[0]


def encoded_ends(
    home: Home, name: Any, how: tuple[Any, Any, Any], ends: tuple[Any, ...], tick: Tick
) -> tuple[Encoded, Tensor]:
    """Two images and their latents, and what comes back (2, C, H, W).

    how: steps, exact, label.   ends: a file, or None and a seed, for each.   tick: called after
    every network call.
    """
    steps, exact, label = how
    if exact not in (PLAIN, *EXACT):
        raise ValueError(f"{exact!r} is no inversion; choose one of {', '.join((PLAIN, *EXACT))}")
    least = 2 if exact in ("belm", "lattice") else 1
    fields = {"steps": steps, "label": labelled(label), "seeds": "0"}
    wanted = asked(home, name, fields)
    if wanted.steps < least:
        raise ValueError(f"steps is {wanted.steps}; {exact} needs at least {least}")
    stamp, model = home.stamp(name), home.model(name)
    denoiser, plan = ticking(wanted.denoiser(model), tick), wanted.made(home, model)[0]
    device = next(model.net.parameters()).device
    images = []
    with torch.no_grad():
        for path, seed in (ends[:2], ends[2:]):
            if path is not None:
                images.append(uploaded(path, model.shape))
                continue
            chosen = asked(home, name, {**fields, "seeds": seed}).seeds
            if len(chosen) > 1:
                raise ValueError(f"{seed} are {len(chosen)} seeds; give one")
            made = sample(denoiser, Seeded(chosen).start(model.shape, device), plan)
            images.append(to_float(to_pixels(made)).cpu())
        x = torch.cat(images)
        latent = encode(denoiser, x.to(device), plan, exact=None if exact == PLAIN else exact)
        back = decoded(denoiser, latent, plan).cpu()
    return Encoded(wanted, stamp, x, latent), back


def uploaded(path: str, shape: tuple[int, ...]) -> Tensor:
    """A picture (1, C, H, W) in [-1, 1], cropped to a model's shape, grey where the model is."""
    channels, height, width = shape
    with quiet():
        try:
            pixels = torch.from_numpy(decode(Path(path), (height, width)))
        except ValueError as error:
            raise ValueError(f"the picture cannot be read: {error}; choose another") from error
    if channels == 1 and len(pixels) == 3:
        weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)  # of ITU-R BT.601
        pixels = (pixels.float() * weights).sum(0, keepdim=True).round().to(torch.uint8)
    return to_float(pixels.expand(channels, height, width)[None])


def errors(x: Tensor, back: Tensor) -> str:
    """How far an image that came back is from the one that was encoded."""
    square = float(((back - x) / 2).square().mean())
    worst = int((to_pixels(back).int() - to_pixels(x).int()).abs().max())
    return f"mean square error {square:.3e} of pixels in [0, 1], the worst {worst} of 255"


def along(home: Home, encoded: Encoded, weight: float, tick: Tick) -> Tensor:
    """The image (1, C, H, W) at a place of the path, from 0, the first, to 1."""
    _, denoiser, plan = encoded.bound(home)
    latent = encoded.latent
    with torch.no_grad():
        return decoded(ticking(denoiser, tick), between(latent[:1], latent[1:], weight), plan).cpu()
