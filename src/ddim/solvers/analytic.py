"""Analytic-DPM: the noise that suits a model, estimated from data."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan, checked
from ddim.process import Denoiser, diffuse
from ddim.solvers.base import fall, falling
from ddim.solvers.ddim import kept_share, sigma


@torch.no_grad()
def analytic_sigmas(
    denoiser: Denoiser, x0: Tensor, plan: Plan, noise: Noise, eta: float = 1.0
) -> tuple[float, ...]:
    """The stds for `DDIM(eta, added=...)` that bring each step nearest to q in KL divergence.

    A step whose mean uses x̂_0 has the best variance σ(η)² + c² E|x_0 − x̂_0|²/D, where c is the
    weight of x_0 in Eq. (7). Bao et al. 2022 (arXiv:2201.06503), in the form that holds for
    imperfect networks too (arXiv:2206.07309).
    x0: (B, ...), images like those the model was trained on; a few hundred settle it.
    noise: `Seeded(range(B))`, which makes the x_t of the estimate.   eta: 0 to 1.
    Returns one std per step, 0 where a step ends at clean data. Costs one call per step.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}; choose 0 (Analytic-DDIM) to 1 (Analytic-DDPM)")
    if not x0.is_floating_point():
        raise ValueError(f"x0 holds {x0.dtype}; give floating-point numbers, images in [-1, 1]")
    x0 = x0.to(torch.promote_types(x0.dtype, torch.float32))
    stds = []
    for k, (t, s) in enumerate(pairwise(falling(checked(plan)))):
        if not s.noise:
            stds.append(0.0)
            continue
        p = denoiser(diffuse(x0, t, noise(x0, k)), t)
        std = sigma(t, s, eta)
        on_x0 = s.signal - s.noise * kept_share(fall(t, s), eta) * t.signal / t.noise
        error = float((x0 - p.x0).double().square().mean())
        stds.append(math.sqrt(std**2 + float(on_x0) ** 2 * error))
    return tuple(stds)
