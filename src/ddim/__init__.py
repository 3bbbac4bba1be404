"""Few-step diffusion sampling.

The public names load lazily: importing ddim does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim.belm import Pair as Pair
    from ddim.data import (
        Arrays as Arrays,
        Examples as Examples,
        Images as Images,
        digits as digits,
    )
    from ddim.fitting import fit as fit
    from ddim.fixed_point import Inverse as Inverse, invert as invert
    from ddim.gradients import recompute as recompute, sample_reversibly as sample_reversibly
    from ddim.guidance import (
        classifier_guide as classifier_guide,
        clip as clip,
        guide as guide,
        threshold as threshold,
    )
    from ddim.interop import denoiser_from as denoiser_from
    from ddim.inversion import (
        between as between,
        decode as decode,
        encode as encode,
        reconstruct as reconstruct,
        slerp as slerp,
    )
    from ddim.items import Items as Items, examples as examples
    from ddim.keeping import Keeping as Keeping
    from ddim.likelihood import (
        bits_per_dim as bits_per_dim,
        fine_plan as fine_plan,
        variational_bound as variational_bound,
    )
    from ddim.measurements import (
        Blur as Blur,
        Downsample as Downsample,
        Mask as Mask,
        project as project,
    )
    from ddim.model import Model as Model, Sampling as Sampling
    from ddim.noise import Noise as Noise, Seeded as Seeded
    from ddim.pictures import save_grid as save_grid
    from ddim.plans import Plan as Plan, plan as plan
    from ddim.presets import preset as preset
    from ddim.process import (
        Denoiser as Denoiser,
        Level as Level,
        Prediction as Prediction,
        diffuse as diffuse,
        split as split,
    )
    from ddim.reading import read as read
    from ddim.recipes import (
        Recipe as Recipe,
        find_recipe as find_recipe,
        load_recipe as load_recipe,
        save_recipe as save_recipe,
    )
    from ddim.rows import Fitted as Fitted, rows_of as rows_of
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
        Resample as Resample,
        Solver as Solver,
        UniPC as UniPC,
        analytic_sigmas as analytic_sigmas,
    )
    from ddim.spec import build as build, describe as describe
    from ddim.store import load as load, save as save
    from ddim.trainer import Update as Update, train as train
    from ddim.training import Training as Training
    from ddim.tuning import Tuning as Tuning, tune as tune

__version__ = "0.1.0"

_HOME = {
    "belm": ("Pair",),
    "data": ("Arrays", "Examples", "Images", "digits"),
    "fitting": ("fit",),
    "fixed_point": ("Inverse", "invert"),
    "gradients": ("recompute", "sample_reversibly"),
    "guidance": ("classifier_guide", "clip", "guide", "threshold"),
    "interop": ("denoiser_from",),
    "inversion": ("between", "decode", "encode", "reconstruct", "slerp"),
    "items": ("Items", "examples"),
    "keeping": ("Keeping",),
    "likelihood": ("bits_per_dim", "fine_plan", "variational_bound"),
    "measurements": ("Blur", "Downsample", "Mask", "project"),
    "model": ("Model", "Sampling"),
    "noise": ("Noise", "Seeded"),
    "pictures": ("save_grid",),
    "plans": ("Plan", "plan"),
    "presets": ("preset",),
    "process": ("Denoiser", "Level", "Prediction", "diffuse", "split"),
    "reading": ("read",),
    "recipes": ("Recipe", "find_recipe", "load_recipe", "save_recipe"),
    "rows": ("Fitted", "rows_of"),
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
        "Resample",
        "Solver",
        "UniPC",
        "analytic_sigmas",
    ),
    "spec": ("build", "describe"),
    "store": ("load", "save"),
    "trainer": ("Update", "train"),
    "training": ("Training",),
    "tuning": ("Tuning", "tune"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
_MODULES = (
    *_HOME,
    "backends",
    "bulk",
    "cells",
    "checkpoints",
    "comparison",
    "curves",
    "dispatch",
    "drawing",
    "engines",
    "evaluation",
    "exact",
    "export",
    "extractors",
    "families",
    "features",
    "generation",
    "identity",
    "latents",
    "lessons",
    "losses",
    "metrics",
    "nets",
    "packing",
    "places",
    "programs",
    "references",
    "report",
    "significance",
    "sketches",
    "speed",
    "spreading",
    "tracing",
    "ways",
)


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(importlib.import_module(f"ddim.{_MODULE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"ddim.{name}")
    raise AttributeError(f"module 'ddim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_MODULE, *_MODULES})
