"""Between our schedules, targets and sampling settings and diffusers' scheduler_config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from ddim import schedules
from ddim.kinds import built, listed, short
from ddim.model import Sampling
from ddim.plans import SPACINGS as OURS
from ddim.schedules import Schedule

V = TypeVar("V")

LAYOUT_VERSION = "0.42.1"  # of diffusers, whose folder layout this is
MODEL_INDEX = {
    "_class_name": "DDIMPipeline",
    "_diffusers_version": LAYOUT_VERSION,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SPACINGS = {"trailing": "trailing", "leading": "leading", "uniform": "linspace"}


def _sigmoid(T: int, start: float, end: float) -> Schedule:
    """β rises as a sigmoid over [−6, 6]; not our `sigmoid`, where α falls as one."""
    linear = schedules.linear(T, start, end)  # refuses what T and the ends may not be
    rise = torch.linspace(-6, 6, linear.T, dtype=torch.float64).sigmoid()
    return schedules.from_betas(rise * (end - start) + start)


BETA_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "squaredcos_cap_v2": lambda T, start, end: schedules.cosine(T),
    "sigmoid": _sigmoid,
}
DEFAULTS: dict[str, Any] = {
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
_THRESHOLD = (0.995, 1.0)
_SIGMAS = {"timestep_spacing": "linspace", "clip_sample": False}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_NOT_ITS = ("set_alpha_to_one", "clip_sample")
_ALIKE: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("DDIM DDIMParallel", {}, ()),
    ("DDPM DDPMParallel", {}, ("set_alpha_to_one",)),
    ("PNDM", {"set_alpha_to_one": False, "clip_sample": False}, ("clip_sample",)),
    ("DPMSolverMultistep DPMSolverSinglestep UniPCMultistep", _SIGMAS, _NOT_ITS),
    ("EulerDiscrete EulerAncestralDiscrete LMSDiscrete", _SIGMAS, _NOT_ITS),
    ("DEISMultistep SASolver", {**_SIGMAS, "set_alpha_to_one": False}, _NOT_ITS),
    ("HeunDiscrete", {**_SIGMAS, **_LATENT}, ("set_alpha_to_one",)),
    ("KDPM2Discrete KDPM2AncestralDiscrete", {**_SIGMAS, **_LATENT}, _NOT_ITS),
    ("LCM TCD", {**_LATENT, "beta_schedule": "scaled_linear", "clip_sample": False}, ()),
    ("Solver", {"clip_sample": False}, ()),
)
SCHEDULERS = {f"{name}Scheduler": own for names, own, _ in _ALIKE for name in names.split()}
"""The schedulers of diffusers that run the process of this library, and where the defaults of each
differ from DEFAULTS."""
CARRIED = {f"{name}Scheduler": keys for names, _, keys in _ALIKE for name in names.split()}
"""What a configuration of each may hold of another scheduler's and it does not read."""


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
        "steps_offset": sampling.offset,
        "thresholding": sampling.threshold is not None,
        "dynamic_thresholding_ratio": (sampling.threshold or _THRESHOLD)[0],
        "sample_max_value": (sampling.threshold or _THRESHOLD)[1],
        "prediction_type": PREDICTION_TYPES[target],
        "timestep_spacing": SPACINGS[sampling.spacing],
    }


def _betas(schedule: Schedule) -> dict[str, Any]:
    """The named schedule that gives the table, or the betas themselves."""
    alpha = schedule.alpha_bar
    betas = 1 - alpha[1:] / alpha[:-1]
    start, end = (float(f"{beta:.12g}") for beta in (betas[0], betas[-1]))
    named = {"beta_start": start, "beta_end": end}
    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):  # sigmoid's ends are not its β
        try:
            table = BETA_SCHEDULES[name](schedule.T, start, end).alpha_bar
        except ValueError:  # between these ends it is no schedule
            continue
        if torch.allclose(table, alpha, rtol=1e-9, atol=1e-15):
            return {"beta_schedule": name, **named}
    return {"beta_schedule": "linear", **named, "trained_betas": betas.tolist()}


def from_scheduler_config(config: Mapping[str, Any]) -> tuple[Schedule, str, Sampling]:
    """What a scheduler configuration of diffusers says; absent fields have its class's defaults.

    Raises ValueError for a class or a value that is not known here, and for a wrong kind of value.
    """
    name = config.get("_class_name", "DDIMScheduler")
    if not isinstance(name, str) or name not in SCHEDULERS or config.get("use_flow_sigmas"):
        why = " with use_flow_sigmas" if config.get("use_flow_sigmas") else ""
        raise ValueError(
            f"the scheduler {str(name)[:60]}{why} is not read here; "
            f"those on a table of betas are: {listed(SCHEDULERS)}"
        )
    given = {key: config[key] for key in DEFAULTS.keys() & config.keys() - {*CARRIED[name]}}
    fields = built(SchedulerFields, {**DEFAULTS, **SCHEDULERS[name], **given})
    if fields.trained_betas is not None:
        schedule = schedules.from_betas(fields.trained_betas)
        if config.get("num_train_timesteps", schedule.T) != schedule.T:
            raise ValueError(
                f"trained_betas has {schedule.T} entries and num_train_timesteps is "
                f"{fields.num_train_timesteps}; they must be the same"
            )
    else:
        shape = (fields.num_train_timesteps, fields.beta_start, fields.beta_end)
        schedule = _known("beta_schedule", fields.beta_schedule, BETA_SCHEDULES)(*shape)
    if fields.rescale_betas_zero_snr:
        schedule = schedules.zero_terminal(schedule)
    targets = {name: target for target, name in PREDICTION_TYPES.items()}
    spacings = {name: spacing for spacing, name in SPACINGS.items()}
    if name == "SolverScheduler":  # of ddim.interop, which has our spacings too
        spacings = {**dict(zip(OURS, OURS, strict=True)), **spacings}
    spacing = _known("timestep_spacing", fields.timestep_spacing, spacings)
    clip = fields.clip_sample_range if fields.clip_sample else None
    zero = fields.set_alpha_to_one and config.get("final_sigmas_type", "zero") == "zero"
    ends = (fields.dynamic_thresholding_ratio, fields.sample_max_value)
    threshold = ends if fields.thresholding else None
    sampling = Sampling(spacing, clip, 0 if zero else 1, fields.steps_offset, threshold)
    return schedule, _known("prediction_type", fields.prediction_type, targets), sampling


@dataclass(frozen=True)
class SchedulerFields:
    """What a scheduler configuration may hold, and of what kind."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None
    clip_sample: bool
    clip_sample_range: float
    set_alpha_to_one: bool
    steps_offset: int
    prediction_type: str
    thresholding: bool
    dynamic_thresholding_ratio: float
    sample_max_value: float
    timestep_spacing: str
    rescale_betas_zero_snr: bool

    def __post_init__(self) -> None:
        if not 0 <= self.steps_offset <= self.num_train_timesteps or self.clip_sample_range <= 0:
            raise ValueError(
                f"steps_offset={self.steps_offset}, clip_sample_range={self.clip_sample_range}; "
                "the first is from 0 to T, the second above 0"
            )


def adopted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of another scheduler for SolverScheduler: every value, defaults too.

    Karras sigmas become the spacing rho, Lu's lambdas log_snr. Raises ValueError for what has no
    counterpart.
    """
    entries = {k: v for k, v in config.items() if k != "_use_default_values"}
    kind = entries.get("_class_name", "SolverScheduler")
    if kind != "SolverScheduler" and kind in SCHEDULERS:
        own = {**DEFAULTS, **SCHEDULERS[kind]}
        entries = {**own, **entries, **{key: own[key] for key in CARRIED[kind]}}
    for key in ("use_flow_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        if entries.get(key):
            raise ValueError(f"{key} is not here; set it to False and choose timestep_spacing")
    for key, spacing in (("use_karras_sigmas", "rho"), ("use_lu_lambdas", "log_snr")):
        if entries.get(key):
            entries["timestep_spacing"] = spacing
    if entries.get("final_sigmas_type", "zero") != "zero":
        entries["set_alpha_to_one"] = False
    return entries


def grid(spacing: str, T: int, steps: int, offset: int = 0) -> list[int]:
    """The timesteps of diffusers' DDIMScheduler, 0-based and falling; never below 0.

    spacing: leading, trailing or linspace, whose one step is from T − 1 and not, as there, from 0.
    Its trailing rounds where ours takes the ceiling.
    Raises ValueError for more steps than T or timesteps beyond the table.
    """
    if type(steps) is not int or not 1 <= steps <= T:
        raise ValueError(f"steps={steps}; choose a whole number from 1 to {T}")
    if spacing == "leading":
        chosen = [(steps - 1 - i) * (T // steps) + offset for i in range(steps)]
    elif spacing == "trailing":
        chosen = [int(t) - 1 for t in np.arange(T, 0, -T / steps).round()[:steps]]
    else:
        even = np.linspace(0, T - 1, steps) if steps > 1 else np.array([T - 1])
        chosen = [int(t) for t in even.round()[::-1]]
    if chosen[0] >= T:
        raise ValueError(
            f"steps={steps} with steps_offset={offset} begins at timestep {chosen[0]}, beyond "
            f"{T - 1}, the last; choose fewer steps"
        )
    return chosen


def _known(key: str, value: str, table: Mapping[str, V]) -> V:
    if value not in table:
        raise ValueError(f"{key}={short(value)} is unknown; known are {listed(table)}")
    return table[value]
