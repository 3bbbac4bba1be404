"""Run the commands of docs/first-ten-minutes.md one after the other, as a beginner would.

    python benchmarks/first_ten_minutes.py photos/
    python benchmarks/first_ten_minutes.py cifar10.npz --label 8    # 200 of class 8, as a folder

The commands are read out of the page. They run in --out, a new folder, in a copy of the project
beside the pictures. `run.py` takes the environment that this runs in, or with --from-nothing makes
its own, which needs a package index. Prints for each command the seconds, those of the processor
(of all cores together), and what it left behind; then how near the generated images are to the
pictures, and writes first-ten-minutes.png: pictures in the first row, generated images in two, and
those that are nearest to a picture above it. The status is 1 where a command failed or left
nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

import ddim
from ddim.data import to_float
from ddim.files import read_json
from ddim.metrics import nearest
from ddim.pictures import save_each

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/first-ten-minutes.md"
PICTURES, SHOWN = 200, 12


@dataclass(frozen=True)
class Done:
    """A command, its exit status, how long it took, and what it left behind."""

    command: str
    status: int
    seconds: float
    processor: float
    left: str


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a folder of pictures, or an .npz of them")
    parser.add_argument("--label", type=int, help="of an .npz, the class to take")
    parser.add_argument("--out", type=Path, default=Path("runs/first-ten-minutes"))
    parser.add_argument("--from-nothing", action="store_true", help="make the environment too")
    parser.add_argument("--without-demo", action="store_true", help="leave run.py out")
    parser.add_argument("--more", default="", help="options that ddim train gets besides")
    chosen = parser.parse_args()
    lines = [
        f"{each} {chosen.more}".strip() if " train " in each else each
        for each in commands()
        if not (chosen.without_demo and "run.py" in each)
    ]
    prepared(chosen.out)
    pictures(chosen.source, chosen.label, chosen.out / named("train", 2))
    results = list(walked(lines, chosen.out, environment(chosen.out, new=chosen.from_nothing)))
    print("| command | seconds | processor seconds | left behind |\n|---|---|---|---|")
    for done in results:
        print(f"| `{done.command}` | {done.seconds:.0f} | {done.processor:.0f} | {done.left} |")
    whole = sum(done.seconds for done in results)
    print(f"| all | {whole:.0f} | {sum(done.processor for done in results):.0f} | |")
    if results[-1].status:
        return 1
    size = next(after(shlex.split(each), "--size") for each in lines if " train " in each)
    print(likeness(chosen.out, int(size)))
    return 0


def commands(page: Path = PAGE) -> list[str]:
    """What the page's bash blocks say, a command a line, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in lines) if line]


def named(name: str, place: int) -> str:
    """A word of the page's `ddim` command of that name."""
    return next(
        words[place] for words in map(shlex.split, commands()) if words[:2] == ["ddim", name]
    )


def after(words: Sequence[str], *options: str) -> str:
    """The value of one of these options."""
    return next(
        value for word, value in zip(words, [*words[1:], ""], strict=True) if word in options
    )


def prepared(folder: Path) -> None:
    """A copy of the project, as it is after it was fetched. Raises ValueError unless new."""
    if folder.exists():
        raise ValueError(f"{folder} is there already; choose a new --out, or remove it")
    leave = shutil.ignore_patterns(".*", "runs", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=leave)


def pictures(source: Path, label: int | None, folder: Path) -> None:
    """The beginner's folder: a copy of another, or 200 of an .npz as PNGs."""
    if source.is_dir():
        shutil.copytree(source, folder)
        return
    images = ddim.read(source)
    pixels = images.pixels
    if label is not None:
        if images.labels is None:
            raise ValueError(f"{source} has no labels; leave --label out")
        pixels = pixels[images.labels == label]
    chosen = pixels[:PICTURES]
    save_each(to_float(chosen), range(len(chosen)), folder)


def environment(folder: Path, *, new: bool) -> dict[str, str]:
    """The variables to run in: those of a beginner, or of one whose .venv is that of this run."""
    ours = str(Path(sys.executable).parent)
    paths = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each != ours]
    names = ("VIRTUAL_ENV", "DDIM_VENV", "DDIM_USE_CURRENT_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in names}
    if new:
        return {**variables, "PATH": os.pathsep.join(paths)}
    (folder / ".venv").symlink_to(sys.prefix)
    return {
        **variables,
        "PATH": os.pathsep.join([ours, *paths]),
        "DDIM_USE_CURRENT_ENV": "1",
    }


def walked(lines: Sequence[str], folder: Path, variables: dict[str, str]) -> Iterator[Done]:
    """Run the commands in turn, up to the first that fails."""
    activated: list[str] = []
    for command in lines:
        print(f"$ {command}", file=sys.stderr, flush=True)
        begin, before = time.perf_counter(), processor()
        script = "\n".join(["set -e", *activated, command])
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=variables, check=False)
        spent, used = time.perf_counter() - begin, processor() - before
        status, left = done.returncode, "nothing"
        try:
            left = left_by(shlex.split(command), folder) if not status else f"status {status}"
        except (OSError, ValueError, StopIteration) as error:
            status, left = 1, f"not what was promised: {error}"
        yield Done(command, status, spent, used, left)
        if status:
            return
        if command.startswith("."):
            activated.append(command)


def processor() -> float:
    """Processor seconds of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def left_by(words: Sequence[str], folder: Path) -> str:
    """What a command left behind. Raises OSError or ValueError if it is not what it should be."""
    if words[0] != "ddim":
        return picture(folder / "runs/demo/samples.png") if "demo" in words else ""
    if words[1] == "tune":
        recipe = read_json(folder / words[2] / f"recipes/calls-{after(words, '--calls')}.json")
        report = recipe["report"]
        rival = report["ddim_calls"] or f"more than {report['ddim_most']}"
        return f"a recipe ({report['kept']}), as near as {rival} calls of DDIM"
    out = folder / after(words, "--out", "-o")
    if words[1] == "train":
        return f"a model of {ddim.load(out).size:,} weights"
    if words[1] == "generate":
        wanted, images = int(after(words, "--num", "-n")), ddim.read(out)
        if len(images) != wanted:
            raise ValueError(f"{len(images)} images of {wanted}")
        return f"{wanted} images"
    return picture(out)


def picture(path: Path) -> str:
    """A picture's name and size. Raises OSError if it cannot be read."""
    with Image.open(path) as image:
        image.load()
        return f"{path.name}, {image.width}×{image.height}"


def likeness(folder: Path, size: int) -> str:
    """How near the generated images are to the pictures, mirrored or not, in a sentence."""
    generate = next(shlex.split(each) for each in commands() if " generate " in each)
    photos = to_float(ddim.read(folder / named("train", 2), size).pixels)
    drawn = to_float(ddim.read(folder / after(generate, "--out", "-o")).pixels)
    both, places = torch.cat([photos, photos.flip(-1)]), torch.arange(len(photos))
    others, _ = nearest(photos, [photos], places)
    mirrored, _ = nearest(photos, [photos.flip(-1)], places)
    apart, where = nearest(drawn, [both])
    ratio = apart / torch.minimum(others, mirrored).mean()
    close = ratio.argsort()[:SHOWN]
    rows = [photos[:SHOWN], drawn[: 2 * SHOWN], drawn[close], both[where[close]]]
    ddim.save_grid(torch.cat(rows), folder / "first-ten-minutes.png", SHOWN)
    return (
        f"A generated image is {ratio.mean():.2f} times as far from its nearest picture as a "
        f"picture is from another, the nearest of {len(drawn)} {ratio.min():.2f} times."
    )


if __name__ == "__main__":
    sys.exit(main())
