"""A trained network with all that is needed to sample from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddim.guidance import clip as clipped
from ddim.nets import UNet, UNetConfig, small
from ddim.plans import Plan, Spacing, plan
from ddim.process import Denoiser, Level, Prediction, determinant, split
from ddim.schedules import Schedule, linear


@dataclass(frozen=True)
class Sampling:
    """How a model's folder asks to be sampled: kept, written back, applied only when asked for.

    clip: the limit on x0, or None.   final: t of the last level, 0 or 1.
    """

    spacing: str = "trailing"
    clip: float | None = None
    final: int = 0


@dataclass(frozen=True, eq=False)
class Model:
    """A network, the schedule and target it was trained with, and the shape of one image.

    net: out = net(x, t) or net(x, t, label), x (B, *shape), t (B,) its own clock from 0, that is t
    − 1 here.
    notes: where it came from (data, training options), kept in ddim.json.
    Raises ValueError if the target is singular on the schedule (eps where the signal is 0).
    """

    net: nn.Module
    schedule: Schedule
    target: str
    shape: tuple[int, ...]
    sampling: Sampling = Sampling()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for t in (1, self.schedule.T):
            determinant(self.target, self.schedule.level(t))

    @classmethod
    def new(
        cls,
        shape: tuple[int, int, int],
        schedule: Schedule | None = None,
        target: str = "eps",
        config: UNetConfig | None = None,
        seed: int = 0,
    ) -> Model:
        """An untrained U-Net for images (C, H, W), its weights a function of seed.

        schedule: linear() where None.   config: where None, one that suits the size. Raises
        ValueError if it does not fit.
        """
        config = config or small(shape)
        if config.shape != tuple(shape):
            raise ValueError(
                f"the configuration is for images of {config.shape}, the data has {tuple(shape)}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(UNet(config), schedule or linear(), target, tuple(shape))

    @property
    def size(self) -> int:
        """The number of weights."""
        return sum(weight.numel() for weight in self.net.parameters())

    def plan(self, steps: int | Sequence[float], spacing: str | Spacing = "trailing") -> Plan:
        """The levels of a run on this model's schedule; see `ddim.plan`."""
        return plan(self.schedule, steps, spacing)

    def denoiser(
        self, label: int | Sequence[int] | None = None, clip: float | None = None
    ) -> Denoiser:
        """The network as a Denoiser, with its label bound; clip keeps x0 within [-clip, clip].

        At level 0 it answers x0 = x and the eps of level 1, the lowest it was trained at.
        """

        def denoise(x: Tensor, level: Level) -> Prediction:
            at = level if level.noise else self.schedule.level(1)
            p = split(self._ask(x, at, label), x, at, self.target)
            return p if level.noise else Prediction(x, x, p.eps)

        return denoise if clip is None else clipped(denoise, clip)

    def _ask(self, x: Tensor, level: Level, label: int | Sequence[int] | None) -> Tensor:
        weight = next(self.net.parameters())
        t = float(level.t)
        clock = (self.schedule.time(float(level.ratio)) if math.isnan(t) else t) - 1
        times = torch.full((len(x),), clock, device=weight.device)
        if label is None:
            return self.net(x.to(weight), times).to(x)  # type: ignore[no-any-return]
        labels = torch.as_tensor(label, device=weight.device).expand(len(x))
        return self.net(x.to(weight), times, labels).to(x)  # type: ignore[no-any-return]
