"""ddim import, export and push: models from elsewhere, and for elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli.console import writable
from ddim.cli.options import Folder


def bring(
    source: Folder,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    config: Annotated[
        Path | None,
        typer.Option(help="The YAML of a ckpt.pth, or the scheduler_config.json of a bare U-Net."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The weights of the last update, not the averaged ones.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option(help="Of diffusers' weights, such as fp16.")
    ] = None,
) -> None:
    """Convert a model of diffusers, of ermongroup/ddim or of the hub into a folder of ours.

    Averaged (EMA) weights are taken where there are both.
    """
    import ddim
    from ddim import store

    writable(out)
    if store.holds_model(out):
        raise ValueError(f"{out} holds a model already; choose another folder")
    model = ddim.load(source, config=config, raw=raw, variant=variant)
    ddim.save(model, out)
    taken = _taken(model.notes)
    print(
        f"{out}: {model.size:,} weights for {model.shape}, target {model.target}, "
        f"T={model.schedule.T}{taken}. Next: ddim sample {out}",
        file=sys.stderr,
    )


def _taken(notes: Any) -> str:
    weights = notes.get("source", {}).get("weights")
    words = {
        "ema": "; the averaged (EMA) weights (--raw for the others)",
        "raw": "; the raw weights, not the averaged ones",
    }
    return words.get(weights, "")
