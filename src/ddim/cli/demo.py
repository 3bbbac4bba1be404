"""ddim demo: the whole of it on the bundled digits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.cli.console import progress, writable
from ddim.cli.options import Json
from ddim.cli.telling import document

if TYPE_CHECKING:
    from ddim.demo import Results


def demo(
    out: Annotated[
        Path, typer.Option("-o", "--out", "--output", help="The folder to make.")
    ] = Path("runs/demo"),
    num: Annotated[
        int, typer.Option("-n", "--num", min=2, max=100_000, help="Images per setting.")
    ] = 256,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train even if the folder holds the demo's model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on 1,797 handwritten digits, then sample the same seeds in 1000 steps and in fewer.

    Five to eight minutes on two cores. Writes a model folder, samples.png, quality.png and
    results.json.
    """
    from ddim import demo as work

    writable(out)
    work.plotting()
    with progress() as bar:
        tasks = {
            "training": bar.add_task("training", total=work.TRAINING.steps),
            "sampling": bar.add_task("sampling", total=sum(steps for _, steps in work.SETTINGS)),
        }

        def tick(name: str, units: int) -> None:
            bar.advance(tasks[name], units)

        model = work.trained(out, tick, retrain=retrain)
        bar.update(tasks["training"], completed=work.TRAINING.steps)
        results = work.measured(model, num, tick)
    work.written(out, results)
    if as_json:
        document({"out": out, **results.document()})
        return
    show(results)
    print(
        f"{out}: a model, samples.png, quality.png, results.json. Next: ddim sample {out}",
        file=sys.stderr,
    )


def show(results: Results) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("solver", title=f"{results.num} digits, the same seeds")
    for name in ("steps", "calls", "ms/image", "FD (pixels)", "sliced W2", "speed-up"):
        table.add_column(name, justify="right")
    slowest = results.rows[0].ms_per_image
    for row in results.rows:
        table.add_row(
            row.solver,
            str(row.steps),
            str(row.calls),
            f"{row.ms_per_image:.2f}",
            f"{row.fd_pixels:.3f}",
            f"{row.sliced_w2:.4f}",
            f"{slowest / row.ms_per_image:.0f}×",
        )
    table.add_section()
    floor = results.floor
    table.add_row(
        "digits", "", "", "", f"{floor['fd_pixels']:.3f}", f"{floor['sliced_w2']:.4f}", ""
    )
    Console().print(table)
