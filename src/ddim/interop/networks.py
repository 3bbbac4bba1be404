"""Anybody's network as a Denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddim.convert import from_scheduler_config
from ddim.model import Model, without_variance
from ddim.process import Denoiser, Level, Prediction, split
from ddim.schedules import Schedule


def denoiser_from(
    network: Callable[..., Any],
    schedule: Any = None,
    target: str | None = None,
    *,
    takes: str = "t",
    **condition: Any,
) -> Denoiser:
    """A network that is not ours as a Denoiser.

    network: network(x, t, **condition), x (B, ...) and t (B,) whole numbers from 0 (level − 1): any
        function or module, a network of diffusers too. Its answer is a tensor like x, or an object
        with `.sample`, or a tuple that begins with one; of twice the channels (a learned variance)
        the first half counts.
    schedule: a `Schedule`, or a scheduler of diffusers, which also says the target.
    target: what it answers: eps (the default), x0, v or flow.
    takes: "t", or "sigma" for networks as of k-diffusion and EDM, network(y, sigma) → x0, with
        y = x/signal and sigma (B,) = noise/signal. They need no schedule but to encode.
    condition: keyword arguments for every call, such as encoder_hidden_states=… or class_labels=….
    Raises ValueError if these do not go together.
    """
    if takes not in ("t", "sigma"):
        raise ValueError(f"takes={takes!r}; choose 't' or 'sigma'")
    if schedule is not None and not isinstance(schedule, Schedule):
        schedule, its_target = _read(schedule)
        if target not in (None, its_target):
            raise ValueError(f"target={target!r}, but the scheduler says {its_target!r}; leave it")
        target = its_target
    if takes == "sigma":
        if target not in (None, "x0"):
            raise ValueError(f"target={target!r}: a network that takes sigma answers x0; leave it")
        return _of_sigma(network, schedule, condition)
    if schedule is None:
        raise ValueError("a network that takes t needs the schedule it was trained on; give it")
    return Model(_Called(network, condition), schedule, target or "eps", ()).denoiser()


def answer(given: Any) -> Tensor:
    """The tensor of what a network returned. Raises ValueError if there is none."""
    out = given[0] if isinstance(given, tuple) else getattr(given, "sample", given)
    if not isinstance(out, Tensor):
        raise ValueError(f"the network answered a {type(given).__name__}; it must give a tensor")
    return out


class _Called(nn.Module):
    """A function as a network of `Model`."""

    def __init__(self, function: Callable[..., Any], condition: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.condition = function, condition

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return answer(self.function(x, t, **self.condition))


def _read(scheduler: Any) -> tuple[Schedule, str]:
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"schedule is a {type(scheduler).__name__}; give a ddim Schedule or a scheduler of "
            "diffusers"
        )
    return from_scheduler_config({"_class_name": type(scheduler).__name__, **config})[:2]


def _of_sigma(
    network: Callable[..., Any], schedule: Schedule | None, condition: Mapping[str, Any]
) -> Denoiser:
    def asked(x: Tensor, level: Level) -> Prediction:
        if not level.signal:
            raise ValueError(
                "this network takes sigma, which is infinite where the signal is 0; begin lower"
            )
        weight = next(network.parameters(), x) if isinstance(network, nn.Module) else x
        wide = torch.promote_types(weight.dtype, torch.float32)  # 65504 is the end of float16
        sigma = torch.full((1,), float(level.ratio), dtype=wide, device=weight.device)
        out = network((x / level.signal).to(weight), sigma.expand(len(x)), **condition)
        return split(without_variance(answer(out).to(x), x), x, level, "x0")

    def denoise(x: Tensor, level: Level) -> Prediction:
        if level.noise:
            return asked(x, level)
        if schedule is None:
            raise ValueError("a level without noise has no sigma; give schedule= to encode")
        return Prediction(x, x, asked(x, schedule.level(1)).eps)

    return denoise
