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

from ddim.belm import moved, triples
from ddim.plans import Plan, descending
from ddim.process import Denoiser, Level, Prediction, floating
from ddim.sampling import step


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
    run: Any = _Reversible.apply  # which torch leaves untyped
    end: Tensor = run(denoiser, plan, floating(x).double(), *once)
    return end.to(x.dtype)


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, denoiser: Denoiser, plan: Plan, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.denoiser, ctx.plan = denoiser, plan
        above, t = x, step(denoiser, x, plan[0], plan[1])
        for levels in triples(plan):
            a, move = moved(denoiser, t, levels)
            above, t = t, a * above + move
        ctx.save_for_backward(x, above, t, *weights)
        return t.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("O-BELM run backwards has no second derivatives; use ddim.recompute")
        (start, t, below, *weights), (slope,) = ctx.saved_tensors, slopes
        wanted = [w for w, needs in zip(weights, ctx.needs_input_grad[3:], strict=True) if needs]
        sums: list[Tensor] = [torch.zeros_like(w) for w in wanted]

        def pulled(move: Tensor, x: Tensor, slope: Tensor) -> Tensor:
            """The slope at x; adds to the sums."""
            found = torch.autograd.grad(move, [x, *wanted], slope, allow_unused=True)
            for i, part in enumerate(found[1:]):
                sums[i] += 0 if part is None else part
            return torch.zeros_like(x) if found[0] is None else found[0]

        later = torch.zeros_like(slope)  # the slope at t so far
        for levels in reversed(triples(ctx.plan)):
            with torch.enable_grad():
                leaf = t.detach().requires_grad_()
                a, move = moved(ctx.denoiser, leaf, levels)
            below, t = t, (below - move.detach()) / a
            slope, later = later + pulled(move, leaf, slope), a * slope
        with torch.enable_grad():
            leaf = start.detach().requires_grad_()
            move = step(ctx.denoiser, leaf, ctx.plan[0], ctx.plan[1])
        later = later + pulled(move, leaf, slope)
        remaining = iter(sums)
        given = [next(remaining) if needs else None for needs in ctx.needs_input_grad[3:]]
        return None, None, later, *given
