"""What a training run is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ddim.data import Examples

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_RISES = ("cosine", "constant")


@dataclass(frozen=True)
class Training:
    """Options of a run; with the data and the model they fix every update.

    batch_size: examples of an update, over all processes and all `accumulate` parts of it.
    lr rises over `warmup` updates; then decay "cosine" lets it fall to 0 along half a cosine.
    ema: decay of the averaged weights after its warm-up, or several; the first is the model's.
    min_snr: the cap of min-SNR weights, usually 5, or None for the plain loss.
    antithetic: half of the t are T + 1 minus the other half.   flip: mirror half of the images.
    label_dropout: how often a model with a null label is given that one.
    held_out: examples kept out of training for a loss of their own.
    precision: float32, bf16 or fp16, by autocast.   compile: torch.compile.
    """

    steps: int = 20_000
    batch_size: int = 64
    lr: float = 2e-3
    warmup: int = 200
    ema: float | tuple[float, ...] = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0
    decay: str = "cosine"
    accumulate: int = 1
    min_snr: float | None = None
    antithetic: bool = False
    flip: bool = False
    label_dropout: float = 0.1
    held_out: int = 0
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "max_grad_norm", "accumulate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}; choose a number above 0")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}; choose 0 to 2^63 - 1")
        if self.warmup < 0 or not self.emas or not all(0 <= each < 1 for each in self.emas):
            raise ValueError(
                f"warmup={self.warmup}, ema={self.ema}; "
                "choose warmup of at least 0 and ema in [0, 1)"
            )
        if len(set(self.emas)) < len(self.emas):
            raise ValueError(f"ema={self.ema} names a decay twice; name each once")
        if self.min_snr is not None and not self.min_snr > 0:
            raise ValueError(f"min_snr={self.min_snr}; choose a number above 0, usually 5")
        if self.held_out < 0 or not 0 <= self.label_dropout < 1:
            raise ValueError(
                f"held_out={self.held_out}, label_dropout={self.label_dropout}; "
                "choose held_out of at least 0 and label_dropout in [0, 1)"
            )
        for name, allowed in (("decay", _RISES), ("precision", tuple(PRECISIONS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; choose {' or '.join(allowed)}")

    @property
    def emas(self) -> tuple[float, ...]:
        """The decays, the model's first."""
        return emas_of(self.ema)

    def share(self, processes: int) -> int:
        """Examples of an update for each process. Raises ValueError if they do not divide."""
        if self.batch_size % (processes * self.accumulate):
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into {processes} processes of "
                f"{self.accumulate} parts; choose a multiple of {processes * self.accumulate}"
            )
        return self.batch_size // processes


def emas_of(ema: float | Sequence[float]) -> tuple[float, ...]:
    """The decays of an option that is one or several."""
    return tuple(ema) if isinstance(ema, Sequence) else (ema,)


def rate(n: int, options: Training) -> float:
    """The learning rate of update n, from 0, as a fraction of lr."""
    risen = min(1.0, (n + 1) / (options.warmup + 1))
    if options.decay == "constant":
        return risen
    return risen * (1 + math.cos(math.pi * n / options.steps)) / 2


Weights = tuple[Tensor, ...] | list[Tensor]


def ema(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """The averaging of weights for AveragedModel; decay rises as (1 + n)/(10 + n) to its value."""

    def average(averaged: Weights, current: Weights, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average


def notes(data: Examples, options: Training) -> dict[str, Any]:
    """What a model's folder says of its training."""
    return {
        "training": asdict(options),
        "data": {"images": len(data), "sha256": data.fingerprint},
    }
