"""ddim bench: how fast a model's network runs here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli.console import device as find_device, progress
from ddim.cli.options import Device, Folder, Json
from ddim.cli.telling import document

if TYPE_CHECKING:
    from collections.abc import Collection

    from ddim.model import Model
    from ddim.speed import Row
    from ddim.ways import Way

_USUAL = ("eager", "openvino", "onnxruntime")
_HEAD = ("way", "batch", "ms", "images/s", "GFLOP/s", "of limit", "MB", "error")


def bench(
    model: Folder,
    batch_sizes: Annotated[str, typer.Option(help="Images per call, such as 1,16,64.")] = "1,16,64",
    precisions: Annotated[
        str | None, typer.Option(help="fp32,bf16,fp16; usually those that the device has.")
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help="eager,compile,openvino,onnxruntime; usually those installed, without compile, "
            "which takes half a minute for each batch size and precision."
        ),
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Time every way to run the network on this machine, and suggest one and a batch size.

    What is compiled here is kept, so that --backend auto can take it at once.
    """
    import dataclasses

    import ddim
    from ddim import speed
    from ddim.tables import Table

    opened = ddim.load(model, find_device(device))
    sizes, ways = _sizes(batch_sizes), _ways(opened, precisions, backends)
    with progress() as bar:
        task = bar.add_task("", total=len(ways) * len(sizes))

        def told(what: str) -> None:
            bar.update(task, description=what, advance=1)

        rows = speed.rows(opened, ways, sizes, told)
    best = speed.suggested(rows)
    measured = {
        **speed.about(),
        "model": str(model),
        "gflop": speed.flops(opened) / 1e9,
        "rows": [dataclasses.asdict(row) for row in rows],
        "suggested": dataclasses.asdict(best),
    }
    if as_json:
        document(measured)
        return
    caption = f"{model}: {measured['gflop']:.3g} GFLOP a call and sample"
    print(Table("speed", caption, _HEAD, [_cells(row) for row in rows]).text)
    print(
        f"suggested: --precision {best.precision} --backend {best.backend} "
        f"--batch-size {best.batch}",
        file=sys.stderr,
    )


def _ways(model: Model, precisions: str | None, backends: str | None) -> list[Way]:
    """What is asked for, or what this machine can; fp32 has the backends that compute in it."""
    from ddim.backends import BACKENDS, computes
    from ddim.extras import present
    from ddim.kinds import listed, short
    from ddim.programs import PRECISIONS
    from ddim.ways import Way, native

    device = next(model.net.parameters()).device
    usual = [name for name in _USUAL if name == "eager" or (device.type == "cpu" and present(name))]
    asked: dict[str, tuple[list[str], Collection[str]]] = {
        "precisions": (precisions.split(",") if precisions else native(device), PRECISIONS),
        "backends": (backends.split(",") if backends else usual, BACKENDS),
    }
    for name, (given, table) in asked.items():
        for each in given:
            if each not in table:
                raise ValueError(f"--{name} {short(each)}; choose of {listed(table)}")
    ways = [Way(p, b) for p in asked["precisions"][0] for b in asked["backends"][0]]
    if not (can := [way for way in ways if computes(way.backend, way.precision)]):
        raise ValueError(f"{listed(ways)} cannot run; onnxruntime computes in fp32 alone")
    return can


def _sizes(text: str) -> list[int]:
    parts = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"{text!r} is not a list of batch sizes; write it as 1,16,64")
    return [int(part) for part in parts]


def _cells(row: Row) -> list[str]:
    return [
        f"{row.precision} {row.backend}",
        str(row.batch),
        f"{row.ms:.1f}",
        f"{row.images:.1f}",
        f"{row.gflops:.0f}",
        f"{100 * row.share:.0f} %",
        "" if row.memory is None else f"{row.memory:.0f}",
        f"{row.error:.1e}",
    ]
