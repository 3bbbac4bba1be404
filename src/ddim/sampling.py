"""The only loop: it puts a solver's questions to a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from ddim.noise import Noise, undrawn
from ddim.plans import Plan, checked
from ddim.process import Denoiser, Level, Prediction, floating
from ddim.solvers import DDIM, Solver

Tick = Callable[[int], None]
"""Told how many images have gone through the network once more, for a progress bar."""


def sample(
    denoiser: Denoiser, x: Tensor, plan: Plan, solver: Solver = DDIM(), noise: Noise | None = None
) -> Tensor:
    """Carry x from plan[0] to plan[-1].

    x: (B, ...), any float dtype and shape; from N(0, I) at T. The state is float32 or wider; the
    result has x's dtype.
    noise: needed only by solvers that draw, such as DDIM(eta=1); ValueError if it is missing then.
    Differentiates through every step where x or the network asks for gradients; use torch.no_grad()
    otherwise.
    """
    run = trace(denoiser, x, plan, solver, noise)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def trace(
    denoiser: Denoiser, x: Tensor, plan: Plan, solver: Solver = DDIM(), noise: Noise | None = None
) -> Generator[tuple[Level, Prediction], Prediction | None, Tensor]:
    """As `sample`, but yields (level, prediction) at every network call; returns the end.

    For previews, progress and early stops. A Prediction sent back replaces the one yielded;
    its x, x0 and eps must belong together.
    """
    if isinstance(solver, str | type):
        raise ValueError(
            f"solver={solver!r} is no solver; give an object such as DDIM(), or ddim.build('ddim')"
        )
    wide = torch.promote_types(x.dtype, torch.float32)
    run = solver(floating(x).to(wide), checked(plan), noise or undrawn)
    answer: Prediction | None = None
    while True:
        try:
            asked, level = next(run) if answer is None else run.send(answer)
        except StopIteration as end:
            final: Tensor = end.value
            return final.to(x.dtype)
        answer = None  # the last one does not live through the call
        prediction = denoiser(asked, level)
        answer = (yield level, prediction) or prediction
        del asked, prediction


def step(denoiser: Denoiser, x: Tensor, t: Level, s: Level) -> Tensor:
    """One step of DDIM from t to s, down or up, Eq. (13)."""
    return denoiser(x, t).mixed(s.signal, s.noise)


def visited(solver: Solver, plan: Plan, batch: int = 1) -> list[Level]:
    """The level of each network call of a solver on a plan, in their order.

    batch matters only to a solver with one eta per image.
    """

    def blank(x: Tensor, level: Level) -> Prediction:
        return Prediction(x, x, x)

    def still(like: Tensor, k: int) -> Tensor:
        return torch.zeros_like(like)

    return [level for level, _ in trace(blank, torch.zeros(batch, 1), plan, solver, still)]


def calls(solver: Solver, plan: Plan, batch: int = 1) -> int:
    """How often a solver calls the network on a plan; batch as in `visited`."""
    return len(visited(solver, plan, batch))


def ticking(denoiser: Denoiser, tick: Tick) -> Denoiser:
    """The denoiser, telling of every call how many images went through."""

    def tell(x: Tensor, level: Level) -> Prediction:
        answer = denoiser(x, level)
        tick(len(x))
        return answer

    return tell
