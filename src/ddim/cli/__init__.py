"""The `ddim` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import ddim
from ddim.cli import (
    bench,
    demo,
    edit,
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
)

app = typer.Typer(
    name="ddim",
    help="Few-step diffusion sampling: train, tune, sample, invert, edit, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("generate")(generate.generate)
app.command("verify")(generate.verify)
app.command("tune")(tune.tune)
app.command("encode")(invert.encode)
app.command("reconstruct")(invert.reconstruct)
app.command("interpolate")(interpolate.interpolate)
app.command("edit")(edit.edit)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(evaluate.compare)
app.command("statistics")(evaluate.statistics)
app.command("bench")(bench.bench)
app.command("likelihood")(likelihood.likelihood)
app.command("import")(exchange.bring)
app.command("export")(exchange.export)
app.command("push")(exchange.push)
app.command("plan")(look.plan)
app.command("info")(look.info)


def _version(asked: bool) -> None:
    if asked:
        print(ddim.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Few-step diffusion sampling: train, tune, sample, invert, edit, evaluate.

    DDIM_TRACEBACK=1 shows where an error arose.
    """


def main() -> None:
    """Run the command. Bad input is one sentence on stderr and exit status 2, divergence 1."""
    try:
        app()
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("DDIM_TRACEBACK") or not _memory(error):
            raise
        print("ddim: it does not fit in memory; lower the batch size", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("DDIM_TRACEBACK"):
            raise
        print(f"ddim: {error}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1 if isinstance(error, FloatingPointError) else 2))


def _memory(error: Exception) -> bool:
    """Whether an error says that memory has run out: numpy's, a GPU's, or the CPU's."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
