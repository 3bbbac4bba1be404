"""Between our schedules, targets and sampling settings and diffusers' scheduler_config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ddim import schedules
from ddim.model import Sampling
from ddim.schedules import Schedule

LAYOUT_VERSION = "0.42.1"  # of diffusers, whose folder layout this is
MODEL_INDEX = {
    "_class_name": "DDIMPipeline",
    "_diffusers_version": LAYOUT_VERSION,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SPACINGS = {"trailing": "trailing", "leading": "leading", "uniform": "linspace"}
BETA_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "squaredcos_cap_v2": lambda T, start, end: schedules.cosine(T),
}
DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
"""Every field of diffusers' DDIMScheduler and its default."""


def expressible(schedule: Schedule, target: str, sampling: Sampling) -> bool:
    """Whether diffusers' DDIMScheduler has words for these."""
    return (
        target in PREDICTION_TYPES and schedule.variance_preserving and sampling.spacing in SPACINGS
    )


def scheduler_config(schedule: Schedule, target: str, sampling: Sampling) -> dict[str, Any]:
    """scheduler_config.json with every field written out; they must be expressible."""
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": LAYOUT_VERSION,
        **DEFAULTS,
        "num_train_timesteps": schedule.T,
        **_betas(schedule),
        "clip_sample": sampling.clip is not None,
        "clip_sample_range": 1.0 if sampling.clip is None else sampling.clip,
        "set_alpha_to_one": sampling.final == 0,
        "prediction_type": PREDICTION_TYPES[target],
        "timestep_spacing": SPACINGS[sampling.spacing],
    }


def _betas(schedule: Schedule) -> dict[str, Any]:
    """The named schedule that gives the table, or the betas themselves."""
    alpha = schedule.alpha_bar
    betas = 1 - alpha[1:] / alpha[:-1]
    start, end = (float(f"{beta:.12g}") for beta in (betas[0], betas[-1]))
    named = {"beta_start": start, "beta_end": end}
    for name, make in BETA_SCHEDULES.items():
        if torch.allclose(make(schedule.T, start, end).alpha_bar, alpha, rtol=1e-9, atol=1e-15):
            return {"beta_schedule": name, **named}
    return {"beta_schedule": "linear", **named, "trained_betas": betas.tolist()}


def from_scheduler_config(config: Mapping[str, Any]) -> tuple[Schedule, str, Sampling]:
    """What a scheduler configuration of diffusers says; absent fields have its defaults.

    Raises ValueError for a value that is not known here.
    """
    entries = {**DEFAULTS, **config}
    targets = {name: target for target, name in PREDICTION_TYPES.items()}
    spacings = {name: spacing for spacing, name in SPACINGS.items()}
    for key, known in (
        ("prediction_type", targets),
        ("timestep_spacing", spacings),
        ("beta_schedule", BETA_SCHEDULES),
    ):
        if entries[key] not in known:
            raise ValueError(f"{key}={entries[key]!r} is unknown; known are {', '.join(known)}")
    if entries["trained_betas"] is not None:
        schedule = schedules.from_betas(entries["trained_betas"])
    else:
        shape = [entries[key] for key in ("num_train_timesteps", "beta_start", "beta_end")]
        schedule = BETA_SCHEDULES[entries["beta_schedule"]](*shape)
    if entries["rescale_betas_zero_snr"]:
        schedule = schedules.zero_terminal(schedule)
    clip = entries["clip_sample_range"] if entries["clip_sample"] else None
    final = 0 if entries["set_alpha_to_one"] else 1
    sampling = Sampling(spacings[entries["timestep_spacing"]], clip, final)
    return schedule, targets[entries["prediction_type"]], sampling
