"""The sections start and memory of speed.py: fresh processes, as a user runs them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import ddim
from ddim.extras import present
from speed_rivals import opened, table, told

START = """
import sys
import torch
from diffusers import DDIMPipeline
from diffusers.utils import make_image_grid

pipe = DDIMPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
images = pipe(batch_size=4, generator=generator, num_inference_steps=20).images
make_image_grid(images, 2, 2).save(sys.argv[2])
"""
READ = """
lines = open("/proc/self/status").read().splitlines()
print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""
OURS = """
import sys
import torch
import ddim

folder, precision, images, steps = *sys.argv[1:3], *map(int, sys.argv[3:])
model, made = ddim.load(folder).optimize(precision, "eager"), []
for begin in range(0, images, 64):
    x = ddim.Seeded(range(begin, min(begin + 64, images))).start(model.shape)
    with torch.no_grad():
        made.append(ddim.sample(model.denoiser(), x, model.plan(steps)))
"""
THEIRS = """
import sys
import torch
from diffusers import DDIMPipeline

folder, precision, images, steps = *sys.argv[1:3], *map(int, sys.argv[3:])
kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
pipe, made = DDIMPipeline.from_pretrained(folder, torch_dtype=kind), []
pipe.set_progress_bar_config(disable=True)
for begin in range(0, images, 64):
    generator = torch.Generator().manual_seed(begin)
    options = {"num_inference_steps": steps, "output_type": "pt"}
    made.append(pipe(min(64, images - begin), generator, **options).images)
"""
WHO = {"ddim": OURS, "DDIMPipeline": THEIRS}


def start(asked: argparse.Namespace) -> str:
    """Seconds from the shell to a picture, with nothing kept and once more."""
    model = str(Path(asked.models) / "mnist-unet")
    backends = ["eager", *(["openvino"] if present("openvino") else [])]
    names = [f"ddim sample, {backend}" for backend in backends]
    first: dict[str, list[float]] = {name: [] for name in names}
    again: dict[str, list[float]] = {name: [] for name in [*names, "diffusers' script"]}
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "x.png")
        theirs = [sys.executable, "-c", START, model, picture]
        told("start: once before, so that the libraries are in the system's cache")
        _seconds(theirs, folder)
        for turn in range(asked.rounds):
            told(f"start: round {turn + 1}")
            for name, backend in zip(names, backends, strict=True):
                cache = f"{folder}/{backend}-{turn}"
                ours = [_command(), "sample", model, "-o", picture, "--backend", backend]
                ours += ["--steps", "20", "--seeds", "0-3"]
                first[name].append(_seconds(ours, cache))
                again[name].append(_seconds(ours, cache))
            again["diffusers' script"].append(_seconds(theirs, folder))
    rows = []
    for name, spent in again.items():
        ratio = median(b / a for a, b in zip(spent, again["diffusers' script"], strict=True))
        before = f"{median(first[name]):.2f}" if name in first else ""
        rows.append([name, before, f"{median(spent):.2f}", f"{ratio:.2f}×"])
    head = ["", "empty cache, s", "again, s", "faster than diffusers"]
    return f"`mnist`, 4 images in 20 steps, from the shell to the PNG:\n\n{table(head, rows)}"


def _seconds(command: Sequence[str], cache: str) -> float:
    """How long a command takes, with DDIM_CACHE there."""
    begin = time.perf_counter()
    _output(command, {**os.environ, "DDIM_CACHE": cache})
    return time.perf_counter() - begin


def _output(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints; where it fails, its last words and the end."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout


def _command() -> str:
    """`ddim` of this environment."""
    return str(Path(sys.executable).with_name("ddim"))


def memory(asked: argparse.Namespace) -> str:
    """The most memory that a process held which generates many images."""
    parts = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.networks:
            folder, count, steps = f"{asked.models}/mnist-unet", asked.mnist_images, 5
            if name == "cifar":
                folder, count, steps = f"{temporary}/cifar", asked.cifar_images, 2
                ddim.save(opened(name, asked), folder)
            told(f"memory: {name}")
            parts.append(_peaks(name, folder, count, steps))
    return "\n\n".join(parts)


def _peaks(name: str, folder: str, count: int, steps: int) -> str:
    """A table of one network; the first row is of libraries, weights and one image."""
    found = {
        (who, precision): [
            _peak(WHO[who], folder, precision, images, steps) for images in (1, count)
        ]
        for who in WHO
        for precision in ("fp32", "bf16")
    }
    rival = found["DDIMPipeline", "fp32"][1]
    rows = [
        [f"{who}, {precision}", f"{one:.0f}", f"{most:.0f}", f"{most / rival:.2f}×"]
        for (who, precision), (one, most) in found.items()
    ]
    head = ["", "1 image, MB", f"{count} images, MB", "of the pipeline's in fp32"]
    return f"`{name}`, {count} images at batch 64 in {steps} steps:\n\n{table(head, rows)}"


def _peak(script: str, folder: str, precision: str, images: int, steps: int) -> float:
    """The most resident memory of a script, MB."""
    words = [sys.executable, "-c", script + READ, folder, precision, str(images), str(steps)]
    return float(_output(words)) * 1024 / 1e6
