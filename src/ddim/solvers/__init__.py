"""Solvers, one method family a file."""

from collections.abc import Callable

from ddim.solvers.analytic import analytic_sigmas
from ddim.solvers.base import Run, Solver
from ddim.solvers.ddim import DDIM, DDPM
from ddim.solvers.deis import DEIS
from ddim.solvers.dpmpp import DPMpp, DPMpp2S
from ddim.solvers.heun import Heun
from ddim.solvers.ipndm import IPNDM
from ddim.solvers.resample import Resample
from ddim.solvers.unipc import UniPC

SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "heun": Heun,
    "ipndm": IPNDM,
    "deis": DEIS,
    "dpmpp": DPMpp,
    "dpmpp2s": DPMpp2S,
    "unipc": UniPC,
    "resample": Resample,
}

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "IPNDM",
    "SOLVERS",
    "DPMpp",
    "DPMpp2S",
    "Heun",
    "Resample",
    "Run",
    "Solver",
    "UniPC",
    "analytic_sigmas",
]
