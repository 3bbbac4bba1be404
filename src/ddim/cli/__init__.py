"""The `ddim` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import ddim
from ddim.cli import (
    bench,
    browse,
    compare,
    demo,
    doctor,
    edit,
    ending,
    evaluate,
    exchange,
    generate,
    interpolate,
    invert,
    likelihood,
    look,
    sample,
    train,
    tune,
    verify,
)
from ddim.cli.tour import Tour

_COMMANDS: Mapping[str, Sequence[tuple[str, Callable[..., None], str]]] = {
    "Begin": [
        ("demo", demo.demo, "ddim demo"),
        ("app", browse.app, "ddim app runs"),
        ("doctor", doctor.doctor, "ddim doctor --json"),
    ],
    "A model of your images": [
        ("train", train.train, "ddim train photos/ --size 64 --out runs/mine"),
        ("info", look.info, "ddim info runs/mine"),
        ("tune", tune.tune, "ddim tune runs/mine --calls 5,10"),
    ],
    "Images of a model": [
        ("sample", sample.sample, "ddim sample runs/mine --steps 20 --seeds 0-15 -o grid.png"),
        ("generate", generate.generate, "ddim generate runs/mine --num 50000 --out big"),
        ("verify", verify.verify, "ddim verify big --repair"),
        ("edit", edit.edit, "ddim edit runs/mine photo.png --mask mask.png"),
        ("interpolate", interpolate.interpolate, "ddim interpolate runs/mine --seeds 3,7"),
    ],
    "From images to noise and back": [
        ("encode", invert.encode, "ddim encode runs/mine photos/ -o latents.safetensors"),
        ("reconstruct", invert.reconstruct, "ddim reconstruct runs/mine photos/ --steps 20"),
        ("likelihood", likelihood.likelihood, "ddim likelihood runs/mine photos/ --num 16"),
    ],
    "How good, how fast": [
        ("evaluate", evaluate.evaluate, "ddim evaluate runs/mine photos/ --calls 5,10,20"),
        ("compare", compare.compare, "ddim compare report/ other/"),
        ("statistics", compare.statistics, "ddim statistics photos/ --features pixels"),
        ("bench", bench.bench, "ddim bench runs/mine --batch-sizes 1,16"),
        ("plan", look.plan, "ddim plan --steps 10 --spacing log_snr"),
    ],
    "Other people's models, and yours for them": [
        ("import", exchange.bring, "ddim import hf:google/ddpm-cifar10-32 --out runs/cifar"),
        ("export", exchange.export, "ddim export runs/mine -o network.onnx"),
        ("push", exchange.push, "ddim push runs/mine me/mine --private"),
    ],
}

app = typer.Typer(
    name="ddim",
    cls=Tour,
    help="Few-step diffusion sampling: train, tune, sample, invert, edit, evaluate.",
    epilog="Exit status: 0 done, 1 a failure, 2 wrong input, 75 stopped and to be gone on with by "
    "the same command, 130 broken off. DDIM_TRACEBACK=1 shows where an error arose, NO_COLOR=1 "
    "leaves colours out. ddim COMMAND --help has the options of each.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _heading, _group in _COMMANDS.items():
    for _name, _function, _example in _group:
        app.command(_name, rich_help_panel=_heading, epilog=f"Example: {_example}")(_function)


def _version(asked: bool) -> None:
    if asked:
        print(ddim.__version__)
        raise typer.Exit


def _defaults(context: typer.Context, path: Path | None) -> None:
    """The options of a TOML file, a table for each command, where the command line has none."""
    if path is None:
        return
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as TOML ({error})") from error
    group: Any = context.command
    context.default_map = {}
    for name, table in tables.items():
        if name not in group.commands or not isinstance(table, dict):
            raise ValueError(f"{path} has {name!r}, which is no command; write tables as [sample]")
        params = {flag.strip("-"): p.name for p in group.commands[name].params for flag in p.opts}
        if wrong := [key for key in table if key not in params]:
            raise ValueError(f"{path}: ddim {name} has no --{wrong[0]}; see ddim {name} --help")
        if empty := [key for key, value in table.items() if not value and isinstance(value, str)]:
            raise ValueError(f"{path}: {empty[0]} of [{name}] is empty; give a value, or delete it")
        context.default_map[name] = {params[key]: value for key, value in table.items()}


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options for commands, such as [sample] steps=10."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Few-step diffusion sampling: train, tune, sample, invert, edit, evaluate."""
    _defaults(context, config)


def main() -> None:
    """Run the command, and end with its status. What goes wrong is one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack a letter of ours
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(sys.argv[1:] or ["--help"], "ddim", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        ending.hushed()
        status = 1
    except Exception as error:
        found = ending.sentence(error)
        if found is None or os.environ.get("DDIM_TRACEBACK"):
            raise
        text, status = found
        ending.say(text)
    # A library that is interrupted while Python ends would show its stack.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)
