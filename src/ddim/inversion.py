"""Reading the sampler backwards: images to latents and back, and the path between latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ddim.plans import Plan
from ddim.process import Denoiser
from ddim.sampling import sample
from ddim.solvers import DDIM, Solver


def encode(denoiser: Denoiser, x: Tensor, plan: Plan, solver: Solver = DDIM()) -> Tensor:
    """Carry images x (B, ...) at plan[-1] up to latents at plan[0], section 5.4.

    plan: the one that sampling uses, falling. Do not clip in the denoiser: the map would not be
    one-to-one. With DDIM the round trip errs by O(1/steps).
    Raises ValueError for a rising plan or a solver that draws.
    """
    if float(plan[0].ratio) < float(plan[-1].ratio):
        raise ValueError(
            "encode takes the falling plan that sampling uses and reverses it; pass plan[::-1]"
        )
    return sample(denoiser, x, plan[::-1], solver)


def reconstruct(denoiser: Denoiser, x: Tensor, plan: Plan, solver: Solver = DDIM()) -> Tensor:
    """Encode images x (B, ...) and decode the latents on the same plan (the paper's Table 2)."""
    return sample(denoiser, encode(denoiser, x, plan, solver), plan, solver)


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation, per image, from a (weight 0) to b (weight 1), Eq. (67).

    a, b: (B, ...).   weight: a number, or one per image (B,). Each image has its own angle;
    parallel ones are mixed evenly.
    """
    if a.shape != b.shape:
        raise ValueError(f"a is {tuple(a.shape)} and b {tuple(b.shape)}; they must have one shape")
    dtype, ones = a.dtype, (-1, *[1] * (a.ndim - 1))
    a, b = (end.to(torch.promote_types(dtype, torch.float32)) for end in (a, b))
    w = torch.as_tensor(weight, dtype=a.dtype, device=a.device).reshape(ones)
    cosine = torch.cosine_similarity(a.reshape(len(a), -1), b.reshape(len(b), -1), dim=1).reshape(
        ones
    )
    parallel = cosine.abs() > 1 - 1e-7
    angle = torch.where(parallel, torch.zeros_like(cosine), cosine).acos()
    arc = (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
    return torch.where(parallel, (1 - w) * a + w * b, arc).to(dtype)
