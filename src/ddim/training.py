"""Training as a generator: one update at a time, the caller decides when to look, save or stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ddim.data import Images, to_float
from ddim.losses import loss
from ddim.model import Model
from ddim.noise import stream

ORDER, BATCH = 1, 2  # uses of a random stream; 0 is sampling


@dataclass(frozen=True)
class Training:
    """Options of a run.

    lr rises over `warmup` updates and falls to 0 along a half cosine; ema: decay of the averaged
    weights, after its warm-up.
    """

    steps: int = 20_000
    batch_size: int = 64
    lr: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}; choose a number above 0")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}; choose 0 to 2^63 - 1")
        if self.warmup < 0 or not 0 <= self.ema < 1:
            raise ValueError(
                f"warmup={self.warmup}, ema={self.ema}; "
                "choose warmup of at least 0 and ema in [0, 1)"
            )


@dataclass(frozen=True)
class Update:
    """After update `step` (from 1): its loss, and the model with averaged weights.

    The next update changes that model.
    """

    step: int
    loss: Tensor
    model: Model


def train(model: Model, images: Images, options: Training = Training()) -> Iterator[Update]:
    """Train a copy of the model's network on images, yielding after each update.

    Batches, times and noise are functions of (seed, step); dropout draws from torch's generator.
    Raises ValueError if the shapes differ,
    and FloatingPointError at the first loss that is not finite.
    """
    if images.shape != model.shape:
        raise ValueError(
            f"images of {images.shape} for a model of {model.shape}; make the model for the images"
        )
    if model.classes is not None:
        raise ValueError(
            f"num_class_embeds={model.classes}, but training makes models without classes; "
            "set it to null"
        )
    from accelerate import Accelerator

    accelerator = Accelerator()
    averaged = AveragedModel(model.net, multi_avg_fn=ema(options.ema))
    net = copy.deepcopy(model.net).train().requires_grad_(True)
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rate(n, options))
    net, optimizer = accelerator.prepare(net, optimizer)
    averaged.to(accelerator.device).eval().requires_grad_(False)
    shown = replace(model, net=averaged.module)
    about = {**model.notes, **notes(images, options)}
    for step in range(options.steps):
        batch = [
            part.to(accelerator.device) for part in draw(images, model.schedule.T, options, step)
        ]
        objective = loss(net, model.schedule, model.target, (batch[0], batch[1], batch[2]))
        if not torch.isfinite(objective):
            raise FloatingPointError(
                f"the loss is {objective.item()} at update {step + 1}; lower lr={options.lr}"
            )
        accelerator.backward(objective)
        accelerator.clip_grad_norm_(net.parameters(), options.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        averaged.update_parameters(accelerator.unwrap_model(net))
        done = replace(shown, notes={**about, "updates": step + 1})
        yield Update(step + 1, objective.detach(), done)


def draw(images: Images, T: int, options: Training, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The batch of an update: x0 (B, C, H, W), t (B,) in 1..T, eps.

    Every epoch is a fresh permutation of the images.
    """
    first = step * options.batch_size
    places = range(first, first + options.batch_size)
    orders = {
        e: stream(options.seed, e, ORDER).permutation(len(images))
        for e in {p // len(images) for p in places}
    }
    chosen = torch.tensor(
        [int(orders[place // len(images)][place % len(images)]) for place in places]
    )
    random = stream(options.seed, step, BATCH)
    t = torch.from_numpy(random.integers(1, T + 1, options.batch_size))
    eps = torch.from_numpy(
        random.standard_normal((options.batch_size, *images.shape), dtype="float32")
    )
    return to_float(images.pixels[chosen]), t, eps


def rate(n: int, options: Training) -> float:
    """The learning rate of update n as a fraction of lr."""
    return (
        min(1.0, (n + 1) / (options.warmup + 1)) * (1 + math.cos(math.pi * n / options.steps)) / 2
    )


Weights = tuple[Tensor, ...] | list[Tensor]


def ema(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """The averaging of weights for AveragedModel; decay rises as (1 + n)/(10 + n) to its value."""

    def average(averaged: Weights, current: Weights, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average


def notes(images: Images, options: Training) -> dict[str, Any]:
    """What a model's folder says of its training."""
    return {
        "training": asdict(options),
        "data": {"images": len(images), "sha256": images.fingerprint},
    }
