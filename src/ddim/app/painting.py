"""A mask that was painted by hand, and images made anew where it covers them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddim.app.asked import asked
from ddim.app.home import Home
from ddim.app.there_and_back import Encoded
from ddim.data import to_pixels
from ddim.measurements import Mask, project
from ddim.noise import Seeded
from ddim.pictures import picture
from ddim.sampling import trace
from ddim.solvers import Resample

SHOWN = 512  # pixels of the editor's longer side, about
_REPEATS = 5


def on_canvas(image: Tensor) -> dict[str, Any]:
    """An image (C, H, W) as an editor's background, its pixels enlarged."""
    shown = picture(to_pixels(image)).convert("RGB")
    factor = max(1, SHOWN // max(shown.size))
    size = (shown.width * factor, shown.height * factor)
    large = shown.resize(size, Image.Resampling.NEAREST)
    return {"background": large, "layers": [], "composite": large}


def strokes(drawing: Any, height: int, width: int) -> Tensor:
    """(height, width) of bool: the pixels of which a stroke covers half. Raises ValueError if
    nothing is painted.
    """
    covered = torch.zeros(height, width, dtype=torch.bool)
    for layer in (drawing or {}).get("layers") or []:
        alpha = torch.from_numpy(np.asarray(layer.convert("RGBA"))[..., 3].copy()).float() / 255
        covered |= F.adaptive_avg_pool2d(alpha[None], (height, width))[0] >= 0.5
    if not covered.any():
        raise ValueError("nothing is painted; draw with the brush over what shall be made anew")
    return covered


def repainted(home: Home, encoded: Encoded, drawing: Any, seeds: Any) -> Iterator[Tensor]:
    """The first image with what is painted made anew, once for each seed, as it denoises."""
    fields = {"steps": encoded.wanted.steps, "seeds": seeds, "label": encoded.wanted.label}
    wanted = asked(home, encoded.wanted.name, {**fields, "clip": 1.0})
    encoded.bound(home)  # which says whether the model is still the same
    model = home.model(wanted.name).optimize("fp32", "eager", len(wanted.seeds))
    device = next(model.net.parameters()).device
    x = encoded.images[:1].to(device)
    mask = Mask(~strokes(drawing, *model.shape[1:]).to(device))
    denoiser = project(wanted.denoiser(model), mask, mask(x))
    noise = Seeded(list(wanted.seeds))
    plan = wanted.made(home, model)[0]
    solver = Resample(repeats=_REPEATS)
    run = trace(denoiser, noise.start(model.shape, device), plan, solver, noise)
    for k in range(10**9):
        try:
            with torch.no_grad():
                _, prediction = next(run)
        except StopIteration as end:
            yield end.value.cpu()
            return
        if k % _REPEATS == 0:
            yield prediction.x0.clamp(-1, 1)
