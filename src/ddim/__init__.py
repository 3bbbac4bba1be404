"""Few-step diffusion sampling.

The public names load lazily: importing ddim does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim.data import Images as Images, digits as digits, read as read
    from ddim.guidance import clip as clip, threshold as threshold
    from ddim.inversion import encode as encode, reconstruct as reconstruct, slerp as slerp
    from ddim.model import Model as Model, Sampling as Sampling
    from ddim.noise import Noise as Noise, Seeded as Seeded
    from ddim.pictures import save_grid as save_grid
    from ddim.plans import Plan as Plan, plan as plan
    from ddim.process import (
        Denoiser as Denoiser,
        Level as Level,
        Prediction as Prediction,
        diffuse as diffuse,
        split as split,
    )
    from ddim.sampling import calls as calls, sample as sample, trace as trace
    from ddim.schedules import Schedule as Schedule
    from ddim.solvers import (
        DDIM as DDIM,
        DDPM as DDPM,
        DEIS as DEIS,
        IPNDM as IPNDM,
        DPMpp as DPMpp,
        DPMpp2S as DPMpp2S,
        Heun as Heun,
        Solver as Solver,
        UniPC as UniPC,
        analytic_sigmas as analytic_sigmas,
    )
    from ddim.spec import build as build, describe as describe
    from ddim.store import load as load, save as save
    from ddim.training import Training as Training, train as train

__version__ = "0.1.0"

_HOME = {
    "data": ("Images", "digits", "read"),
    "guidance": ("clip", "threshold"),
    "inversion": ("encode", "reconstruct", "slerp"),
    "model": ("Model", "Sampling"),
    "noise": ("Noise", "Seeded"),
    "pictures": ("save_grid",),
    "plans": ("Plan", "plan"),
    "process": ("Denoiser", "Level", "Prediction", "diffuse", "split"),
    "sampling": ("calls", "sample", "trace"),
    "schedules": ("Schedule",),
    "solvers": (
        "DDIM",
        "DDPM",
        "DEIS",
        "DPMpp",
        "DPMpp2S",
        "Heun",
        "IPNDM",
        "Solver",
        "UniPC",
        "analytic_sigmas",
    ),
    "spec": ("build", "describe"),
    "store": ("load", "save"),
    "training": ("Training", "train"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
_MODULES = (*_HOME, "exact", "losses", "metrics", "nets")


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(importlib.import_module(f"ddim.{_MODULE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"ddim.{name}")
    raise AttributeError(f"module 'ddim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_MODULE, *_MODULES})
