"""How a training run went: its metrics.jsonl, as rows, as lines of text and as a picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim.extras import needed
from ddim.files import write

METRICS = "metrics.jsonl"
BARS = "▁▂▃▄▅▆▇█"
NAMES = ("loss", "held_out_loss", "grad_norm", "lr", "examples_per_s")


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last one that is torn is left out. [] where there is none.

    Raises ValueError for any other line that is no JSON object with a step.
    """
    lines = _lines(path)
    found = [_row(line) for line in lines]
    if found and found[-1] is None:
        found.pop()  # a kill came between
    for number, row in enumerate(found, 1):
        if row is None:
            raise ValueError(f"{path}, line {number}, is no line of metrics; take it out")
    return [row for row in found if row is not None]


def cut(path: Path, step: int) -> None:
    """Drop the lines after a step, which a run that goes on from there writes again, and what the
    loss of power made of others."""
    kept = [row for row in map(_row, _lines(path)) if row is not None and row["step"] <= step]
    write(path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return {**row, "step": int(row["step"])}
    except (ValueError, TypeError, KeyError):
        return None


def series(found: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps and the finite values of one entry of the rows."""
    pairs = [
        (row["step"], float(row[name]))
        for row in found
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def drawn(values: Sequence[float], width: int = 60) -> str:
    """Values as a line of bars, the means of `width` equal parts, from the least to the most."""
    count = min(width, len(values))
    parts = [
        values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)
    ]
    means = [sum(part) / len(part) for part in parts]
    least, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(
        BARS[min(int((mean - least) / span * len(BARS)), len(BARS) - 1)] for mean in means
    )


def text(found: Sequence[dict[str, Any]], width: int = 60) -> list[str]:
    """A line of bars for each entry that the rows have: first, least, and last value beside it."""
    lines = []
    for name in NAMES:
        _, values = series(found, name)
        if values:
            told = f"{values[0]:.4g} … {values[-1]:.4g}, least {min(values):.4g}"
            lines.append(f"{name:>15}  {drawn(values, width)}  {told}")
    return lines


def picture(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the curves as a PNG. Raises ImportError with the command that installs matplotlib."""
    figure = needed("matplotlib.figure", "viz", "the picture of the curves").Figure(
        figsize=(9, 6), layout="constrained"
    )
    loss, quarters, norm, lr = figure.subplots(2, 2).flat
    for name in ("loss", "held_out_loss"):
        loss.plot(*series(found, name), label=name.replace("_", " "))
    for i in range(4):
        split = [
            {"step": row["step"], "value": row["loss_by_quarter"][i]}
            for row in found
            if isinstance(row.get("loss_by_quarter"), list) and len(row["loss_by_quarter"]) == 4
        ]
        quarters.plot(*series(split, "value"), label=f"t in quarter {i + 1} of 4")
    norm.plot(*series(found, "grad_norm"), label="gradient norm")
    lr.plot(*series(found, "lr"), label="learning rate")
    for axes in (loss, quarters, norm, lr):
        axes.set(xlabel="update", yscale="linear" if axes is lr else "log")
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write(path, buffer.getvalue())
