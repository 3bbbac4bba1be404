"""Wrappers, Denoiser to Denoiser, that change what the network believes the clean image to be.

Each re-derives eps, so that x = signal·x0 + noise·eps stays true, and each leaves a state at noise
0 alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddim.process import Denoiser, Level, Prediction


def clip(denoiser: Denoiser, limit: float = 1.0, *, keep_eps: bool = False) -> Denoiser:
    """Keep x0 within [-limit, limit].

    keep_eps: leave eps as it was, as diffusers' clip_sample does. This breaks x = signal·x0 +
        noise·eps, on which every other solver relies: for DDIM alone, to agree with a reference.
    """
    if not limit > 0:
        raise ValueError(f"limit={limit}; choose a number above 0, 1 for images in [-1, 1]")

    def clipped(x: Tensor, level: Level) -> Prediction:
        p = denoiser(x, level)
        x0 = p.x0.clamp(-limit, limit)
        if keep_eps and level.noise:
            return Prediction(p.x, x0, p.eps)
        return p.with_x0(x0, level)

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


def guide(
    asked: Denoiser,
    both: Denoiser,
    scale: float,
    interval: tuple[float, float] = (0.0, math.inf),
    rescale: float = 0.0,
) -> Denoiser:
    """Classifier-free guidance: null + scale·(asked − null). Ho and Salimans 2022, 2207.12598.

    asked: bound to the B conditions; it answers alone, at half the cost, where scale is 1.
    both: bound to 2B conditions, the asked ones first, then the null or negative ones.
    interval: the noise/signal within which to guide, ends included (Kynkäänniemi et al. 2024,
        2404.07724); asked answers alone outside.
    rescale: how far, 0 to 1, to bring the std of each x0 back to that of the asked one (Lin et al.
        2023, 2305.08891, section 3.4).
    """
    low, high = interval
    if not math.isfinite(scale) or not 0 <= low <= high or not 0 <= rescale <= 1:
        raise ValueError(
            f"scale={scale}, interval={interval}, rescale={rescale}; choose a finite scale, "
            "0 <= low <= high, and a rescale from 0 to 1"
        )

    def away(both: Tensor) -> Tensor:
        toward, null = both.chunk(2)
        return null.lerp(toward, scale)

    def guided(x: Tensor, level: Level) -> Prediction:
        if scale == 1 or not low <= level.ratio <= high:
            return asked(x, level)
        p = both(torch.cat([x, x]), level)
        led = p.blended(x, away)
        if not rescale:
            return led
        factor = _std(p.x0[: len(x)]) / _std(led.x0).clamp(min=1e-12)
        return led.with_x0((1 - rescale + rescale * factor) * led.x0, level)

    return guided


def _std(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).std(1).reshape(-1, *[1] * (x.ndim - 1))


def classifier_guide(
    denoiser: Denoiser, log_probability: Callable[[Tensor, Level], Tensor], scale: float = 1.0
) -> Denoiser:
    """Classifier guidance: eps − scale·noise·∇ log p(y | x_t). Dhariwal and Nichol 2021, Alg. 2.

    log_probability: (x, level) to (B,), differentiable, of a classifier of noisy images. Levels
    without signal or noise are left alone.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale}; choose a finite number")

    def guided(x: Tensor, level: Level) -> Prediction:
        p = denoiser(x, level)
        if not level.signal or not level.noise:
            return p
        with torch.enable_grad():
            state = x if x.requires_grad else x.detach().requires_grad_()
            value = log_probability(state, level)
            if value.shape != x.shape[:1] or not value.requires_grad:
                raise ValueError(
                    f"log_probability answered {tuple(value.shape)} to {tuple(x.shape)}; it must "
                    "give one differentiable number per image"
                )
            (slope,) = torch.autograd.grad(value.sum(), state, create_graph=x.requires_grad)
        return p.with_x0(p.x0 + scale * level.noise**2 / level.signal * slope, level)

    return guided
