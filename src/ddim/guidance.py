"""Wrappers, Denoiser to Denoiser, that change what the network believes the clean image to be.

Each re-derives eps, so that x = signal·x0 + noise·eps stays true, and each leaves a state at noise
0 alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddim.process import Denoiser, Level, Prediction


def clip(denoiser: Denoiser, limit: float = 1.0) -> Denoiser:
    """Keep x0 within [-limit, limit]."""
    if not limit > 0:
        raise ValueError(f"limit={limit}; choose a number above 0, 1 for images in [-1, 1]")

    def clipped(x: Tensor, level: Level) -> Prediction:
        p = denoiser(x, level)
        return p.with_x0(p.x0.clamp(-limit, limit), level)

    return clipped


def threshold(denoiser: Denoiser, quantile: float = 0.995, maximum: float = math.inf) -> Denoiser:
    """Dynamic thresholding: clip x0 to ±s and divide it by s, where s is the quantile of |x0|.

    One s per image, 1 <= s <= maximum. Saharia et al. 2022 (arXiv:2205.11487), section 2.3.
    """
    if not 0 < quantile <= 1 or not maximum >= 1:
        raise ValueError(
            f"quantile={quantile}, maximum={maximum}; "
            "choose a quantile in (0, 1] and a maximum of at least 1"
        )

    def thresholded(x: Tensor, level: Level) -> Prediction:
        p = denoiser(x, level)
        size = p.x0.abs().reshape(len(x), -1).to(torch.promote_types(x.dtype, torch.float32))
        s = torch.quantile(size, quantile, dim=1).clamp(1, maximum)
        s = s.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return p.with_x0(p.x0.clamp(-s, s) / s, level)

    return thresholded
