"""Updates per second beside the loop of diffusers' unconditional example, and where ours go.

Both train the same U-Net (diffusers' class for the one, ours for the other) on the same images in
memory, with equal batch, precision, clipping, Adam and an average of the weights; ten updates of
each in turn, and the median of the ratios. Then the share of our time outside convolutions and
matrix products, by torch's profiler.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

import ddim
from ddim.data import Images, to_float
from ddim.nets import sized
from ddim.training import PRECISIONS, Training

SETTINGS = (("float32", False), ("bf16", False), ("bf16", True))
PRODUCTS = ("conv", "mm", "linear", "attention", "matmul", "baddbmm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny", help="of SIZES")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10, help="of each loop in a round")
    parser.add_argument("--compile", action="store_true", help="ours compiled too: a minute more")
    chosen = parser.parse_args()
    shape = (1, chosen.side, chosen.side)
    pixels = torch.randint(256, (32 * chosen.batch_size, *shape), dtype=torch.uint8)
    print(f"{chosen.size}, {chosen.side}×{chosen.side}, batch {chosen.batch_size}, ", end="")
    print(f"{torch.get_num_threads()} threads")
    plain = 0.0  # their images a second as the example comes, in float32
    for precision, compiled in SETTINGS[: 3 if chosen.compile else 2]:
        config = sized(chosen.size, shape)
        theirs = example(config.written(), pixels, chosen.batch_size, precision)
        model = ddim.Model.new(shape, ddim.schedules.linear(), "eps", config)
        options = Training(batch_size=chosen.batch_size, precision=precision, compile=compiled)
        ours = ddim.train(model, Images(pixels), options)
        spent = [
            (seconds(ours, chosen.updates), seconds(theirs, chosen.updates))
            for _ in range(chosen.rounds + 1)
        ][1:]  # the first warms up
        ratio = statistics.median(other / own for own, other in spent)
        images = chosen.batch_size * chosen.updates
        mine, other = (images / statistics.median(each) for each in zip(*spent, strict=True))
        plain = plain or other
        name = f"{precision}, compiled" if compiled else precision
        print(f"{name:>14}  ddim {mine:6.1f} images/s, diffusers' example {other:6.1f}, ", end="")
        print(f"ratio {ratio:.2f}; {mine / plain:.2f} of the example in float32")
        outside, most = elsewhere(partial(next, ours))
        named = ", ".join(f"{name} {share:.0%}" for name, share in most)
        print(f"{'':>14}  outside convolutions and matrix products {outside:.0%}: {named}")


def example(
    config: dict[str, Any], pixels: Tensor, batch_size: int, precision: str
) -> Iterator[float]:
    """The loop of diffusers' train_unconditional.py with --use_ema, one loss at a time."""
    library, training = import_module("diffusers"), import_module("diffusers.training_utils")
    net = library.UNet2DModel(**{key: value for key, value in config.items() if key[0] != "_"})
    scheduler = library.DDPMScheduler()
    average = training.EMAModel(net.parameters(), use_ema_warmup=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = import_module("diffusers.optimization").get_cosine_schedule_with_warmup(
        optimizer, 500, 100_000
    )
    kind, images = PRECISIONS[precision], TensorDataset(to_float(pixels))
    while True:
        loader = DataLoader(images, batch_size, shuffle=True)
        for (clean,) in loader:
            noise = torch.randn_like(clean)
            times = torch.randint(0, 1000, (len(clean),))
            noisy = scheduler.add_noise(clean, noise, times)
            with torch.autocast("cpu", kind, enabled=kind is not None):
                answer = net(noisy, times).sample
            objective = F.mse_loss(answer.float(), noise)
            torch.autograd.backward(objective)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            average.step(net.parameters())
            yield objective.item()


def seconds(run: Iterator[Any], updates: int) -> float:
    """The time of some updates."""
    begin = time.perf_counter()
    for _ in range(updates):
        next(run)
    return time.perf_counter() - begin


def elsewhere(update: Callable[[], Any]) -> tuple[float, list[tuple[str, float]]]:
    """The share of an update's time outside products, and the four that take most of it."""
    with profile(activities=[ProfilerActivity.CPU]) as told:
        for _ in range(3):
            update()
    spent = {event.key: event.self_cpu_time_total for event in told.key_averages()}
    total = sum(spent.values())
    other = {
        key.removeprefix("aten::"): time / total
        for key, time in spent.items()
        if not any(word in key.lower() for word in PRODUCTS)
    }
    return sum(other.values()), sorted(other.items(), key=lambda item: -item[1])[:4]


if __name__ == "__main__":
    main()
