"""What the sections of speed.py share: runs in turns, two networks, and diffusers with the same."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import ddim
from ddim.nets import network, sized
from ddim.ways import synchronise

Run = Callable[[], Tensor]
Draw = Callable[[int, int], Tensor]
"""(batch, steps) to images in [0, 1]."""
LINEAR = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
}
PAUSE = 0.2
"""Seconds between runs of different libraries, whose threads go on spinning for a while."""
_ZERO_AT_FIRST = {"conv2", "to_out", "conv_out"}


@dataclass(frozen=True)
class Timed:
    """The seconds of a run in each round, and what it answered in the last."""

    seconds: tuple[float, ...]
    last: Tensor

    @property
    def median(self) -> float:
        """Of its rounds."""
        return median(self.seconds)

    def times(self, other: Timed) -> float:
        """How many times as long the other takes: the median over rounds."""
        return median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def in_turns(
    runs: Mapping[str, Run], rounds: int, limit: float, pause: float = 0.0
) -> dict[str, Timed]:
    """Every run once a round, one after another; no more rounds once `limit` seconds have gone.

    pause: seconds before each run, such as PAUSE.
    """
    spent: dict[str, list[float]] = {name: [] for name in runs}
    last: dict[str, Tensor] = {}
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(pause)
            start = time.perf_counter()
            last[name] = run()
            synchronise(last[name].device)
            spent[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > limit:
            break
    return {name: Timed(tuple(each), last[name]) for name, each in spent.items()}


def told(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def diffusers() -> Any:
    """The library, without its advice."""
    library = import_module("diffusers")
    library.utils.logging.set_verbosity_error()
    return library


def opened(name: str, asked: argparse.Namespace) -> ddim.Model:
    """The network called cifar, or mnist."""
    return cifar() if name == "cifar" else ddim.load(Path(asked.models) / "mnist-unet")


def cifar() -> ddim.Model:
    """The U-Net of the paper's CIFAR-10 models with random weights, none of them zero."""
    config = sized("cifar10", (3, 32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network(config.written()).eval().requires_grad_(False)
        for name, layer in net.named_modules():
            weight = getattr(layer, "weight", None)
            if weight is not None and _ZERO_AT_FIRST & set(name.split(".")):
                nn.init.kaiming_uniform_(weight, a=5**0.5)
    return ddim.Model(net, ddim.schedules.linear(), "eps", (3, 32, 32))


def unet_of(model: ddim.Model) -> Any:
    """diffusers' UNet2DModel with the weights of a model."""
    config: Any = model.net.config
    fields = {key: value for key, value in config.written().items() if key[0] != "_"}
    unet = diffusers().UNet2DModel.from_config(fields)
    unet.load_state_dict(model.net.state_dict())
    return unet.eval().requires_grad_(False)


def of_diffusers(unet: Any) -> Draw:
    """DDIMPipeline with a network, its x_T drawn in float32 whatever the network's dtype."""
    library = diffusers()
    pipe = library.DDIMPipeline(unet, library.DDIMScheduler(**LINEAR))
    pipe.set_progress_bar_config(disable=True)

    def draw(batch: int, steps: int) -> Tensor:
        with patch("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", _drawn):
            options = {"num_inference_steps": steps, "output_type": "pt"}
            images: Tensor = pipe(batch, torch.Generator().manual_seed(0), **options).images
        return images.float()

    return draw


def of_ours(model: ddim.Model) -> Draw:
    """ddim.sample at the pipeline's levels, from its x_T."""
    place = next(model.net.parameters()).device

    @torch.no_grad()
    def draw(batch: int, steps: int) -> Tensor:
        x = _drawn((batch, *model.shape), torch.Generator().manual_seed(0), place)
        end = ddim.sample(model.denoiser(), x, model.plan(steps, "leading"))
        return (end / 2 + 0.5).clamp(0, 1)

    return draw


def of_k_diffusion(unet: Any, model: ddim.Model) -> Draw:
    """k-diffusion's sample_euler, which is DDIM in its coordinate, x/signal."""
    external, sampling = (import_module(f"k_diffusion.{name}") for name in ("external", "sampling"))
    table = model.schedule.alpha_bar[1:].float()
    denoiser = external.DiscreteEpsDDPMDenoiser(partial(answer, unet), table, quantize=True)

    @torch.no_grad()
    def draw(batch: int, steps: int) -> Tensor:
        plan = model.plan(steps, "leading")
        sigmas = torch.tensor([float(level.ratio) for level in plan])
        x = _drawn((batch, *model.shape), torch.Generator().manual_seed(0))
        end: Tensor = sampling.sample_euler(
            denoiser, x / float(plan[0].signal), sigmas, disable=True
        )
        return (end / 2 + 0.5).clamp(0, 1)

    return draw


def answer(unet: Any, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """What diffusers' network predicts, as a program."""
    return unet(x.to(unet.dtype), t).sample.to(x.dtype)


@torch.no_grad()
def driven(
    scheduler: Any, steps: int, net: Callable[[Tensor, Tensor], Tensor], x: Tensor
) -> Tensor:
    """The loop of a pipeline around a scheduler of diffusers, without the pipeline."""
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = net(scheduler.scale_model_input(x, t), t.expand(len(x)))
        x = scheduler.step(out, t, x).prev_sample
    return x


def _drawn(
    shape: Sequence[int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    return torch.randn(tuple(shape), generator=generator).to(device, dtype)
