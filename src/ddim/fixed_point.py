"""The inverse of DDIM's own step, solved by Anderson's acceleration, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.plans import Plan, descending
from ddim.process import Denoiser, Level, floating
from ddim.sampling import sample, step


@dataclass(frozen=True)
class Inverse:
    """A latent and what is known of it.

    latent: (B, ...) at plan[0], float32 or wider.   residual: (steps, B), how far from the state
    before, at worst, DDIM's step from the one found ends; rows in order of the visit, upwards.
    returned: (B,), how far from x, at worst, the whole run down from the latent ends: the steps
    below magnify what is left of those above.
    tolerance: what each residual was to come below.   calls: network calls made.
    """

    latent: Tensor
    residual: Tensor
    returned: Tensor
    tolerance: float
    calls: int

    @property
    def converged(self) -> Tensor:
        """(B,): whether every step of an image was solved."""
        return (self.residual <= self.tolerance).all(0)  # false for a nan

    def certified(self) -> Tensor:
        """The latent. Raises FloatingPointError if it is not one for every image."""
        if self.converged.all():
            return self.latent
        step = int((self.residual <= self.tolerance).all(1).logical_not().nonzero()[0])
        raise FloatingPointError(
            f"the fixed point was not found for {int((~self.converged).sum())} of "
            f"{len(self.converged)} images, first at step {step + 1} of {len(self.residual)} "
            f"(residual {float(self.residual[step].nan_to_num(torch.inf).max()):.2g}, "
            f"tolerance {self.tolerance:.2g}); use more steps, the "
            "spacing leading, or the exact methods belm and lattice, which solve nothing"
        )


def invert(
    denoiser: Denoiser,
    x: Tensor,
    plan: Plan,
    tolerance: float = 1e-5,
    iterations: int = 100,
    memory: int = 5,
) -> Inverse:
    """The latent at plan[0] that DDIM carries to x (B, ...) at plan[-1], falling, step by step.

    For an exact denoiser each step is strictly monotone, and so has one inverse, unless it ends at
    clean data. Real images are no x̂_0 of a long step, so take many steps and the spacing leading,
    whose last one is short. Each image has its own search, of at most `iterations` calls a step,
    and depends on the rest of the batch by no more than the tolerance. Nothing is raised where one
    fails: ask `.converged`, or `.certified()` for the latent.
    """
    if tolerance <= 0 or iterations < 1 or memory < 1:
        raise ValueError(
            f"tolerance={tolerance}, iterations={iterations}, memory={memory}; "
            "choose numbers above 0"
        )
    state = floating(x).to(torch.promote_types(x.dtype, torch.float32))
    residuals, calls = [], 0
    rising = descending(plan)[::-1]
    for s, t in pairwise(rising):
        search = _Search(state, step(denoiser, state, s, t), _usual(t, s), memory)
        calls += 1
        for _ in range(iterations):
            calls += 1
            if search.told(step(denoiser, search.x, t, s), tolerance):
                break
        state = search.best
        residuals.append(search.residual)
    back = sample(denoiser, state, plan)
    returned = (back - x).abs().reshape(len(x), -1).amax(1)
    total = calls + len(plan) - 1
    return Inverse(state, torch.stack(residuals), returned, tolerance, total)


def _usual(t: Level, s: Level) -> float:
    """The step along the residual that solves Gaussian data of variance 1 at once."""
    return float((t.signal**2 + t.noise**2) / (s.signal * t.signal + s.noise * t.noise))


class _Search:
    """Anderson's acceleration (Walker and Ni 2011) of F(x) = goal, image by image.

    An image whose residual grows fourfold goes back to its best x, forgets, and halves its step.
    """

    def __init__(self, goal: Tensor, x: Tensor, step: float, memory: int) -> None:
        flat = x.reshape(len(x), -1, 1)
        self.goal, self.x, self.best = goal, x, x
        self.residual = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        self._step = torch.full_like(flat[:, :1], step)
        self._hopeless = self.residual.isnan()
        self._best = (flat, torch.zeros_like(flat))
        self._last: tuple[Tensor, Tensor] | None = None
        self._moves = self._turns = flat[..., :0]
        self._memory = memory

    def told(self, reached: Tensor, tolerance: float) -> bool:
        """Take in F(x) and choose the next x; whether every image is solved, or beyond hope."""
        x = self.x.reshape(len(self.x), -1, 1)
        r = (self.goal - reached).reshape(x.shape)
        size = r.abs().amax((1, 2))
        better = (size < self.residual) & (self.residual > tolerance)
        lost = ~(size <= 4 * torch.where(better, size, self.residual))
        self.residual = torch.where(better, size, self.residual)
        here = better[:, None, None]
        self._best = torch.where(here, x, self._best[0]), torch.where(here, r, self._best[1])
        self.best = self._best[0].reshape(self.x.shape)
        self._hopeless |= ~size.isfinite() & self.residual.isinf()
        if ((self.residual <= tolerance) | self._hopeless).all():
            return True
        fresh = lost[:, None, None]
        if self._last is not None:
            columns = (self._moves, x - self._last[0]), (self._turns, r - self._last[1])
            self._moves, self._turns = (
                torch.where(fresh, 0.0, torch.cat(pair, 2)[..., -self._memory :])
                for pair in columns
            )
        self._step = torch.where(fresh, self._step / 2, self._step)
        x, r = torch.where(fresh, self._best[0], x), torch.where(fresh, self._best[1], r)
        self._last = x, r
        share = _least_squares(self._turns, r)
        forward = x + self._step * r - (self._moves + self._step * self._turns) @ share
        self.x = forward.reshape(self.x.shape)
        return False


def _least_squares(columns: Tensor, r: Tensor) -> Tensor:
    """The shares (B, m, 1) of columns (B, D, m) nearest to r (B, D, 1); 0 for columns of zeros."""
    wide = columns.double()
    scale = wide.norm(dim=1, keepdim=True).clamp(min=1e-300)
    unit = wide / scale
    ridge = 1e-10 * torch.eye(unit.shape[2], dtype=unit.dtype, device=unit.device)
    share = torch.linalg.solve(unit.mT @ unit + ridge, unit.mT @ r.double())
    return (share / scale.mT).to(r)
