"""Gradients through a whole run, in the memory of one network call.

Plain autograd keeps the activations of every call. `recompute` keeps the state alone, for any
solver; `sample_reversibly` keeps nothing per step, because O-BELM can be run backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ddim.belm import Triple, coefficients, triples
from ddim.plans import Plan, descending
from ddim.process import Denoiser, Level, Prediction, floating


def recompute(denoiser: Denoiser) -> Denoiser:
    """The denoiser, called again in the backward pass instead of keeping its activations.

    A run keeps one state per call and costs one more call each. Chen et al. 2016, 1604.06174.
    """

    def split(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        p = denoiser(x, level)
        return p.x0, p.eps

    def lean(x: Tensor, level: Level) -> Prediction:
        x0, eps = checkpoint(split, x, level, use_reentrant=False)
        return Prediction(x, x0, eps)

    return lean


def sample_reversibly(
    denoiser: Denoiser, x: Tensor, plan: Plan, weights: Sequence[Tensor] = ()
) -> Tensor:
    """Sample by O-BELM, second order, differentiably in memory that does not grow with the steps.

    x: (B, ...) at plan[0]; the first step is DDIM's. Gradients reach x and `weights`, the tensors
    inside the denoiser that want them; there are no second derivatives. The backward pass calls the
    denoiser again, which must answer as before (eval mode, no autocast), and rebuilds every state
    from the last two, in float64.
    """
    descending(plan, 2)
    once = {id(weight): weight for weight in weights}.values()
    end: Tensor = _Reversible.apply(denoiser, plan, floating(x).double(), *once)  # type: ignore[no-untyped-call]
    return end.to(x.dtype)


def _move(denoiser: Denoiser, x: Tensor, levels: Triple) -> Tensor:
    _, b, c = coefficients(*levels)
    p = denoiser(x, levels[1])
    return b * p.x + c * p.eps


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, denoiser: Denoiser, plan: Plan, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.denoiser, ctx.plan = denoiser, plan
        above, t = x, _first(ctx, x)
        for levels in triples(plan):
            above, t = t, coefficients(*levels)[0] * above + _move(denoiser, t, levels)
        ctx.save_for_backward(x, above, t, *weights)
        return t.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("O-BELM run backwards has no second derivatives; use ddim.recompute")
        (start, t, below, *weights), (slope,) = ctx.saved_tensors, slopes
        wanted = [w for w, needs in zip(weights, ctx.needs_input_grad[3:], strict=True) if needs]
        sums: list[Tensor] = [torch.zeros_like(w) for w in wanted]

        def pulled(x: Tensor, slope: Tensor, levels: Triple | None) -> tuple[Tensor, Tensor]:
            """What the network moved x by, and the slope there; adds to the sums."""
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                moved = _move(ctx.denoiser, leaf, levels) if levels else _first(ctx, leaf)
            found = torch.autograd.grad(moved, [leaf, *wanted], slope, allow_unused=True)
            for i, part in enumerate(found[1:]):
                sums[i] += 0 if part is None else part
            return moved.detach(), torch.zeros_like(x) if found[0] is None else found[0]

        later = torch.zeros_like(slope)  # the slope at t so far
        for levels in reversed(triples(ctx.plan)):
            a = coefficients(*levels)[0]
            moved, through = pulled(t, slope, levels)
            below, t = t, (below - moved) / a
            slope, later = later + through, a * slope
        later = later + pulled(start, slope, None)[1]
        remaining = iter(sums)
        given = [next(remaining) if needs else None for needs in ctx.needs_input_grad[3:]]
        return None, None, later, *given


def _first(ctx: Any, x: Tensor) -> Tensor:
    """DDIM's step."""
    p, s = ctx.denoiser(x, ctx.plan[0]), ctx.plan[1]
    first: Tensor = s.signal * p.x0 + s.noise * p.eps
    return first
