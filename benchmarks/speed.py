"""Speed beside diffusers, in one run: images, overhead, quality, start, memory, auto and gpu.

    python benchmarks/speed.py [SECTION ...] [--write docs/performance.md]

Whatever is compared is run in turns, and figures are medians over rounds. Both sides have the same
weights, levels and x_T. Two networks: `cifar`, the 35.7 million weights of the paper's CIFAR-10
model, drawn at random, and `mnist`, a folder of diffusers with 1.8 million trained ones. Each
section prints tables in markdown; --write puts them between <!-- speed:SECTION --> and
<!-- /speed:SECTION --> of a page. Without sections all run, but gpu only where there is CUDA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ddim
from ddim import speed
from ddim.cells import numbers
from ddim.extras import present
from ddim.ways import Way, error, made
from speed_overhead import overhead
from speed_processes import memory, start
from speed_quality import quality
from speed_rivals import (
    PAUSE,
    Draw,
    Timed,
    answer,
    in_turns,
    of_diffusers,
    of_k_diffusion,
    of_ours,
    opened,
    table,
    told,
    unet_of,
)

RIVAL = "diffusers fp32"
WAITS = ("cudaStreamSync", "cudaDeviceSync", "Memcpy DtoH", "Memcpy HtoD (Pageable")


def images(asked: argparse.Namespace) -> str:
    """Images per second, and how far the images are from the pipeline's."""
    return "\n\n".join(_images_of(name, opened(name, asked), asked) for name in asked.networks)


def _images_of(name: str, model: ddim.Model, asked: argparse.Namespace) -> str:
    unet, ways = unet_of(model), [Way("fp32", "eager"), Way("bf16", "eager")]
    if present("openvino"):
        ways += [Way("fp32", "openvino"), Way("bf16", "openvino")]
    half = deepcopy(unet).to(torch.bfloat16)
    draws = {RIVAL: of_diffusers(unet), "diffusers bf16": of_diffusers(half)}
    apart = {RIVAL: error(model, partial(answer, unet))}
    apart["diffusers bf16"] = error(model, partial(answer, half))
    if present("k_diffusion"):
        draws["k-diffusion"], apart["k-diffusion"] = of_k_diffusion(unet, model), apart[RIVAL]
    for way in ways:
        told(f"{name}: making {way}")
        apart[str(way)] = error(model, made(model, way))  # a program of its own: sizes are kept
        draws[str(way)] = of_ours(model.optimize(way.precision, way.backend))
    rows, far = [], dict[str, list[float]]()
    for batch, steps in sorted(zip(asked.batches, asked.steps, strict=True)):
        fast: Any = model.optimize(batch_size=batch)
        here = {**draws, "auto": of_ours(fast)}
        told(f"{name}: batch {batch}, {steps} steps")
        found = _drawn(here, batch, steps, asked)
        rows.append([str(batch), str(steps), *_rates(found, batch, str(fast.net.way))])
        for each, timed in found.items():
            far.setdefault(each, []).append(_gap(timed.last, found[RIVAL].last))
    head = ["batch", "steps", *draws, "auto"]
    errors = [
        [each, f"{apart[each]:.1e}" if each in apart else "", f"{max(gaps):.1e}"]
        for each, gaps in far.items()
    ]
    missing = "" if present("k_diffusion") else "\n\nk-diffusion: not installed."
    return (
        f"`{name}`: images per second, and how many times the pipeline's in fp32\n\n"
        f"{table(head, rows)}\n\n"
        + table(["", "relative error of a call", "greatest difference of a pixel, 0 to 1"], errors)
        + missing
    )


def _drawn(
    draws: Mapping[str, Draw], batch: int, steps: int, asked: argparse.Namespace
) -> dict[str, Timed]:
    for draw in draws.values():
        draw(batch, 1)  # makes what is made for a size
    runs = {name: partial(draw, batch, steps) for name, draw in draws.items()}
    return in_turns(runs, asked.rounds, asked.seconds, PAUSE)


def _rates(found: Mapping[str, Timed], batch: int, way: str) -> list[str]:
    said = []
    for name, timed in found.items():
        more = f", {way}" if name == "auto" else ""
        said.append(f"{batch / timed.median:.3g} ({timed.times(found[RIVAL]):.2f}×{more})")
    return said


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def auto(asked: argparse.Namespace) -> str:
    """What choosing a way costs and gains, the choice included."""
    rows = []
    for name in asked.networks:
        model, steps = opened(name, asked), asked.auto_steps
        taken: list[str] = []

        told(f"auto: {name}")
        runs = {
            "auto": partial(_chosen, model, (asked.images, steps), taken),
            "plain": partial(_plain, model, (asked.images, steps)),
        }
        found = in_turns(runs, asked.rounds, asked.seconds, PAUSE)
        seconds = [f"{found[way].median:.2f}" for way in runs]
        ways = " / ".join(dict.fromkeys(taken))
        rows.append(
            [name, str(steps), ways, *seconds, f"{found['auto'].times(found['plain']):.2f}×"]
        )
    head = ["", "steps", "auto took", "auto, s", "fp32 eager, s", "faster"]
    return f"{asked.images} images, the choice of a way included:\n\n{table(head, rows)}"


def _chosen(model: ddim.Model, run: tuple[int, int], taken: list[str]) -> Tensor:
    fast: Any = model.optimize(batch_size=run[0])
    taken.append(fast.net.way)
    return of_ours(fast)(*run)


def _plain(model: ddim.Model, run: tuple[int, int]) -> Tensor:
    return of_ours(model.optimize("fp32", "eager"))(*run)


def gpu(asked: argparse.Namespace) -> str | None:
    """Images per second on a GPU, of its limit, and how often a step waits for it."""
    if not torch.cuda.is_available():
        return None
    return _gpu(asked, "cuda")


def _gpu(asked: argparse.Namespace, device: str) -> str:
    """As `gpu`, on any device."""
    model = opened("cifar", asked)
    model.net.to(device)
    unet = unet_of(model).to(device)
    half = deepcopy(unet).to(torch.bfloat16)
    draws = {RIVAL: of_diffusers(unet), "diffusers bf16": of_diffusers(half)}
    for backend in ("eager", "compile"):
        draws[f"bf16 {backend}"] = of_ours(model.optimize("bf16", backend))
    rows = [row for batch in asked.gpu_batches for row in _on_gpu(model, draws, batch, asked)]
    head = ["", "batch", "images/s", "of diffusers fp32", "of diffusers bf16", "of the limit"]
    return f"`cifar`, {asked.gpu_steps} steps:\n\n" + table([*head, "waits per step"], rows)


def _on_gpu(
    model: ddim.Model, draws: Mapping[str, Draw], batch: int, asked: argparse.Namespace
) -> list[list[str]]:
    told(f"gpu: batch {batch}")
    found, rows = _drawn(draws, batch, asked.gpu_steps, asked), []
    work = batch * asked.gpu_steps * speed.flops(model)
    for name, timed in found.items():
        most = speed.limit(model, "fp32" if "fp32" in name else "bf16", batch)
        told(f"gpu: counting the waits of {name}")
        rows.append(
            [
                name,
                str(batch),
                f"{batch / timed.median:.1f}",
                f"{timed.times(found[RIVAL]):.2f}×",
                f"{timed.times(found['diffusers bf16']):.2f}×",
                f"{100 * work / timed.median / most:.0f} %",
                f"{_waits(draws[name], batch):.2g}",
            ]
        )
    return rows


def _waits(draw: Draw, batch: int, steps: int = 5) -> float:
    """Synchronisations and blocking copies a step: what twice the steps have more."""
    counts = []
    for count in (steps, 2 * steps):
        draw(batch, count)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            draw(batch, count)
        events = seen.key_averages()
        counts.append(sum(event.count for event in events if event.key.startswith(WAITS)))
    return (counts[1] - counts[0]) / steps


SECTIONS: dict[str, Callable[[argparse.Namespace], str | None]] = {
    "images": images,
    "overhead": overhead,
    "quality": quality,
    "start": start,
    "memory": memory,
    "auto": auto,
    "gpu": gpu,
}


def main() -> None:
    asked = _asked()
    page = None if asked.write is None else Path(asked.write)
    if page is not None:
        text = page.read_text("utf-8") if page.is_file() else ""
        for name in asked.sections:
            _put(text, name, "")  # so that a missing marker is told before the hours of measuring
    about = ", ".join(f"{key} {value}" for key, value in speed.about().items())
    for name in asked.sections:
        told(f"{name}: {about}")
        found = SECTIONS[name](asked)
        print(f"## {name}\n\n{found or 'not measured: no CUDA device here'}\n", flush=True)
        if page is not None and found is not None:
            section = f"{found}\n\n`{_command(name, asked)}` on {about}."
            page.write_text(_put(page.read_text("utf-8"), name, section), "utf-8")


def _asked() -> argparse.Namespace:
    options = _parser()
    asked = options.parse_args()
    if wrong := [name for name in asked.sections if name not in SECTIONS]:
        options.error(f"{wrong[0]} is no section; choose of {', '.join(SECTIONS)}")
    usual = [name for name in SECTIONS if name != "gpu" or torch.cuda.is_available()]
    asked.sections = asked.sections or usual
    return asked


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("sections", nargs="*", metavar="SECTION")
    options.add_argument("--write", metavar="PAGE", help="put the tables between its markers")
    words, defaults = "comma-separated", {"rounds": (3, "of every comparison")}
    options.add_argument("--networks", type=_names, default=["cifar", "mnist"], help=words)
    options.add_argument("--batches", type=numbers, default=[1, 16, 64], help="of images")
    options.add_argument("--steps", type=numbers, default=[50, 10, 5], help="of images")
    options.add_argument("--gpu-batches", type=numbers, default=[16, 256], help="of gpu")
    options.add_argument("--calls", type=numbers, default=[*range(3, 11)], help="of recipes")
    steps = [3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25]
    options.add_argument("--scheduler-steps", type=numbers, default=steps, help="of quality")
    options.add_argument("--spacings", type=_names, default=["trailing", "leading"], help=words)
    options.add_argument("--models", default="../shared/models", help="the folder of mnist-unet")
    options.add_argument("--data", default="../shared/data/mnist_train.npz")
    options.add_argument("--recipes", metavar="FOLDER", help="keep those of quality there")
    words = "as good in quality is at most DDIM's distance, and not within the floor's spread of it"
    options.add_argument("--strict", action="store_true", help=words)
    defaults |= {
        "num": (1000, "images of quality"),
        "seconds": (60, "after which a comparison begins no more rounds"),
        "mnist-images": (1000, "of memory"),
        "cifar-images": (128, "of memory"),
        "images": (64, "of auto"),
        "auto-steps": (20, "of auto"),
        "gpu-steps": (50, "of gpu"),
    }
    for name, (value, about) in defaults.items():
        options.add_argument(f"--{name}", type=int, default=value, help=f"{about}; {value}")
    return options


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _command(name: str, asked: argparse.Namespace) -> str:
    """What makes a section again."""
    words, options = ["python benchmarks/speed.py", name], _parser()
    for key, value in vars(asked).items():
        if key not in ("sections", "write") and value != options.get_default(key):
            said = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{key.replace('_', '-')}" + ("" if value is True else f" {said}"))
    return " ".join(words)


def _put(text: str, name: str, section: str) -> str:
    """The page with what is between two markers replaced. Ends with a sentence without them."""
    begin, end = f"<!-- speed:{name} -->", f"<!-- /speed:{name} -->"
    before, opening, rest = text.partition(begin)
    _, closing, after = rest.partition(end)
    if not opening or not closing:
        sys.exit(f"the page lacks {begin} followed by {end}; write both where the tables are to be")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


if __name__ == "__main__":
    main()
