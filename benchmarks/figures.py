"""Make the pictures of docs/images again: drawn anew, or copied from the demo's folder.

    python benchmarks/figures.py                     which there are, and how each is made
    python benchmarks/figures.py path inpainted      draws these two

samples and quality are copied from --demo, as `ddim demo` wrote them there; path and inpainted are
drawn from its model. The demo runs first where --demo lacks what is asked for, so that an empty
folder makes all four anew. mnist, mnist-classes and curves are of the runs of docs/recipes.md;
tuned is of --unet, any diffusion model of 32×32 digits in a folder. Pictures of the app are those
of screenshots.py.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import ddim
from ddim.data import digits, to_float

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "app-*.png": "python benchmarks/screenshots.py RUNS",
    "first-ten-minutes.png": "python benchmarks/first_ten_minutes.py cifar10.npz --label 8",
}


@dataclass(frozen=True)
class Sources:
    """What pictures are drawn from: folders of models, the digits of MNIST, a folder for work."""

    demo: Path
    mnist: Path
    classes: Path
    data: Path
    unet: Path | None
    work: Path


def of_demo(sources: Sources, name: str) -> Path:
    """copies from --demo what `ddim demo` wrote, which runs where it is missing"""
    if not (sources.demo / name).exists():
        run("-m", "ddim", "demo", "--out", str(sources.demo))
    return sources.demo / name


def path(sources: Sources, name: str) -> Path:
    """the paths of `ddim interpolate` between four digits of the data, from the demo's model"""
    of_demo(sources, "model_index.json")
    model = ddim.load(sources.demo)
    ends = to_float(digits().pixels[[0, 13, 22, 35]])
    plan = model.plan(50)
    rows = []
    with torch.no_grad():
        pair = ddim.encode(model.denoiser(), ends, plan, exact="lattice")
        for i in range(len(ends) - 1):
            line = ddim.between(pair[[i] * 9], pair[[i + 1] * 9], torch.linspace(0, 1, 9))
            rows.append(ddim.decode(model.denoiser(), line, plan))
    ddim.save_grid(torch.cat(rows), sources.work / name, columns=9)
    return sources.work / name


def of_page(sources: Sources, name: str) -> Path:
    """the program of docs/inversion.md, from the demo's model"""
    of_demo(sources, "model_index.json")
    page = (ROOT / "docs/inversion.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (program,) = (each for each in programs if f'"{name}"' in each)
    program = program.replace('"runs/demo"', repr(str(sources.demo.resolve())))
    run("-c", program.replace(f'"{name}"', repr(str(sources.work / name))))
    return sources.work / name


def solvers(sources: Sources, name: str) -> Path:
    """python benchmarks/solvers.py draws it"""
    run(str(ROOT / "benchmarks/solvers.py"), "--out", str(sources.work))
    return sources.work / name


def tuned(sources: Sources, name: str) -> Path:
    """the tuning.png of `ddim tune --calls 5,10`, from --unet"""
    if sources.unet is None:
        raise ValueError(f"{name} needs --unet FOLDER, a model of 32×32 digits")
    copy = shutil.copytree(sources.unet, sources.work / "unet")
    run("-m", "ddim", "tune", str(copy), "--calls", "5,10")
    return copy / "tuning.png"


def mnist(sources: Sources, name: str) -> Path:
    """python benchmarks/mnist.py --picture, from a run of docs/recipes.md"""
    folder = sources.classes if "classes" in name else sources.mnist
    out = sources.work / name
    run(str(ROOT / "benchmarks/mnist.py"), str(folder), str(sources.data), "--picture", str(out))
    return out


def curves(sources: Sources, name: str) -> Path:
    """ddim info --curves, from the first run of docs/recipes.md"""
    run("-m", "ddim", "info", str(sources.mnist), "--curves", str(sources.work / name))
    return sources.work / name


FIGURES: Mapping[str, Callable[[Sources, str], Path]] = {
    "samples.png": of_demo,
    "quality.png": of_demo,
    "path.png": path,
    "inpainted.png": of_page,
    "solvers.png": solvers,
    "tuned.png": tuned,
    "mnist.png": mnist,
    "mnist-classes.png": mnist,
    "curves.png": curves,
}


def run(*words: str) -> None:
    """Run Python, and end with its status if it fails."""
    status = subprocess.run([sys.executable, *words], check=False).returncode
    if status:
        sys.exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [Path(name).stem for name in FIGURES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--mnist", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--classes", type=Path, default=Path("runs/mnist-classes"))
    parser.add_argument("--data", type=Path, default=Path("mnist_train.npz"))
    parser.add_argument("--unet", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="folder to write")
    options = parser.parse_args()
    if wrong := set(options.names) - set(names):
        parser.error(f"no figure {min(wrong)!r}; there are {', '.join(names)}")
    if not options.names:
        for name, figure in FIGURES.items():
            print(f"{name:<18} {figure.__doc__}")
        for names_like, command in ELSEWHERE.items():
            print(f"{names_like:<18} {command}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        with tempfile.TemporaryDirectory() as work:
            given = (options.demo, options.mnist, options.classes, options.data, options.unet)
            drawn = FIGURES[f"{name}.png"](Sources(*given, Path(work)), f"{name}.png")
            shutil.copyfile(drawn, options.out / f"{name}.png")
            print(options.out / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
