"""Solvers, one method family a file."""

from collections.abc import Callable

from ddim.solvers.base import Run, Solver
from ddim.solvers.ddim import DDIM, DDPM

SOLVERS: dict[str, Callable[..., Solver]] = {"ddim": DDIM, "ddpm": DDPM}

__all__ = ["DDIM", "DDPM", "SOLVERS", "Run", "Solver"]
