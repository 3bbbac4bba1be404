"""What a solver is: a coroutine that asks for predictions and never sees the network.

    run = solver(x, plan, noise)
    x, level = next(run)                            # the first question
    x, level = run.send(denoiser(x, level))         # the answer, and the next question
    ...                                             # StopIteration.value is the final state

After a `yield` the state is `p.x`, not the x that was asked, for the driver may have edited it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, TypeVar

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level, Prediction

R = TypeVar("R")
Run = Generator[tuple[Tensor, Level], Prediction, R]
"""Asks (x, level), is sent a Prediction, returns R."""


class Solver(Protocol):
    """A frozen dataclass; its fields are its options.

    x: (B, ...) at plan[0], float32 or wider. Returns x at plan[-1].
    """

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run."""
        ...
