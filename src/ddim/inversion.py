"""Reading the sampler backwards: images to latents and back, and the path between latents."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ddim.belm import Pair, ascend, ascend_lattice, descend, descend_lattice
from ddim.fixed_point import invert
from ddim.plans import Plan, descending
from ddim.process import Denoiser, floating
from ddim.sampling import sample
from ddim.solvers import DDIM, Solver

_BEYOND = 16

EXACT = ("belm", "lattice", "fixed_point")


@overload
def encode(
    denoiser: Denoiser,
    x: Tensor,
    plan: Plan,
    solver: Solver = ...,
    exact: Literal["fixed_point"] | None = None,
) -> Tensor: ...


@overload
def encode(
    denoiser: Denoiser,
    x: Tensor,
    plan: Plan,
    solver: Solver = ...,
    *,
    exact: Literal["belm", "lattice"],
) -> Pair: ...


@overload
def encode(
    denoiser: Denoiser, x: Tensor, plan: Plan, solver: Solver = ..., exact: str | None = None
) -> Tensor | Pair: ...


def encode(
    denoiser: Denoiser,
    x: Tensor,
    plan: Plan,
    solver: Solver = DDIM(),
    exact: str | None = None,
) -> Tensor | Pair:
    """Carry images x (B, ...) at plan[-1] up to latents at plan[0], section 5.4.

    plan: the one that sampling uses, falling. Do not clip in the denoiser: the map would not be
    one-to-one.
    exact: None runs the solver upwards; with DDIM the round trip errs by O(1/steps). "belm" and
    "lattice" are two-step solvers of their own that return a Pair; `decode` undoes the first up to
    rounding, the second to the last bit, for float32 images made of 8-bit pixels, and others to
    2^-25. "fixed_point" solves each step of DDIM to 1e-5; `invert` says how near the whole run
    comes. States and their images are float32 or wider.
    Raises ValueError for a rising plan, or one of a single step beside "belm" and "lattice", a
    solver that draws, a solver beside `exact`, and clean images with values beyond 16, which cannot
    be from [-1, 1]; FloatingPointError where "fixed_point" does not converge.
    """
    descending(plan, 2 if exact in ("belm", "lattice") else 0)
    if not plan[-1].noise and x.numel() and not x.abs().max() <= _BEYOND:  # a nan too
        raise ValueError(
            f"x reaches {x.abs().max():g}; images lie in [-1, 1]: scale 8-bit ones, x/127.5 - 1"
        )
    if exact is None:
        return sample(denoiser, x, plan[::-1], solver)
    if exact not in EXACT:
        raise ValueError(f"exact={exact!r} is unknown; choose None or one of {', '.join(EXACT)}")
    if solver != DDIM():
        raise ValueError(f"exact={exact!r} is a method of its own; leave the solver out, or exact")
    if exact == "fixed_point":
        return invert(denoiser, x, plan).certified()
    state = floating(x).to(torch.promote_types(x.dtype, torch.float32))
    return (ascend if exact == "belm" else ascend_lattice)(denoiser, state, plan)


def decode(
    denoiser: Denoiser, latent: Tensor | Pair, plan: Plan, solver: Solver = DDIM()
) -> Tensor:
    """Latents at plan[0], of `encode` with the same arguments, down to images at plan[-1].

    A Pair is decoded by the method that made it. For the bits of the lattice the batch must be the
    one encoded: the network rounds differently in another.
    """
    if not isinstance(latent, Pair):
        return sample(denoiser, latent, plan, solver)
    if solver != DDIM():
        raise ValueError("a Pair is decoded by the method that made it; leave the solver out")
    back = descend_lattice if latent.lattice else descend
    return back(denoiser, latent, descending(plan, 2))


def reconstruct(
    denoiser: Denoiser,
    x: Tensor,
    plan: Plan,
    solver: Solver = DDIM(),
    exact: str | None = None,
) -> Tensor:
    """Encode images x (B, ...) and decode the latents on the same plan (the paper's Table 2).

    Raises ValueError if the plan does not end at clean data, and as `encode` does.
    """
    if plan[-1].noise:
        raise ValueError(
            f"the plan ends at t={plan[-1].t:g}, where images are noisy, and these are clean; "
            "let it end at 0"
        )
    return decode(denoiser, encode(denoiser, x, plan, solver, exact), plan, solver)


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


def between(a: Tensor | Pair, b: Tensor | Pair, weight: float | Tensor) -> Tensor | Pair:
    """`slerp` of latents of `encode`, of both states of a Pair; on the lattice, rounded to it.

    Raises ValueError if a and b are of different methods.
    """
    if isinstance(a, Pair) and isinstance(b, Pair) and a.lattice == b.lattice:
        ends = ((a.x, b.x), (a.previous, b.previous))
        if a.lattice:
            return Pair(*(slerp(p.double(), q.double(), weight).round().long() for p, q in ends))
        return Pair(*(slerp(p, q, weight) for p, q in ends))
    if isinstance(a, Pair) or isinstance(b, Pair):
        raise ValueError("latents of different methods; encode both ends alike")
    return slerp(a, b, weight)
