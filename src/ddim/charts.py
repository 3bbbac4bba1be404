"""Charts of an evaluation, as SVG: quality against calls and time, time against steps."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from ddim.extras import needed

Document = Mapping[str, Any]
_STYLE = {"svg.hashsalt": "ddim", "font.size": 9, "axes.spines.top": False}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def quality(document: Document, axis: str) -> str:
    """The first space's Fréchet distance of each solver with its 95 % interval, and the floor.

    axis: "calls" or "ms_per_image".
    """
    space = document["spaces"][0]

    def draw(plot: Any) -> None:
        for (solver, spacing), rows in lines(document).items():
            x = [row[axis] for row in rows]
            found = [row["figures"][space["name"]]["fd"] for row in rows]
            y = [entry["value"] for entry in found]
            bars = [
                [max(0.0, e["value"] - e["low"]) for e in found],
                [e["high"] - e["value"] for e in found],
            ]
            plot.errorbar(
                x,
                y,
                bars,
                marker="o",
                ms=3.5,
                capsize=2,
                lw=1.2,
                label=named(document, solver, spacing),
            )
        floor = space["floors"].get("fd")
        if floor is not None:
            plot.axhspan(
                floor["mean"],
                floor["worst"],
                color="#888888",
                alpha=0.25,
                lw=0,
                label="two real sets",
            )
        plot.set_xscale("log")
        plot.set_yscale("log")
        plot.set_xlabel({"calls": "network calls", "ms_per_image": "milliseconds per image"}[axis])
        plot.set_ylabel(space["titles"]["fd"])
        plot.legend(frameon=False)

    return _drawn(draw)


def seconds(document: Document) -> str:
    """Seconds for all images against steps, the paper's Figure 4."""

    def draw(plot: Any) -> None:
        for (solver, spacing), rows in lines(document).items():
            plot.plot(
                [row["steps"] for row in rows],
                [row["seconds"] for row in rows],
                "o-",
                ms=3.5,
                lw=1.2,
                label=named(document, solver, spacing),
            )
        plot.set_xscale("log")
        plot.set_yscale("log")
        plot.set_xlabel("steps")
        plot.set_ylabel(f"seconds for {document['num']} images")
        plot.legend(frameon=False)

    return _drawn(draw)


def lines(document: Document) -> dict[tuple[str, str], list[Document]]:
    """The cells of each solver and spacing, by rising calls."""
    found: dict[tuple[str, str], list[Document]] = {}
    for row in document["cells"]:
        found.setdefault((row["solver"], row["spacing"]), []).append(row)
    return {key: sorted(rows, key=lambda row: row["calls"]) for key, rows in found.items()}


def named(document: Document, solver: str, spacing: str) -> str:
    """A solver, with its spacing where the sweep has several."""
    return (
        solver if len({row["spacing"] for row in document["cells"]}) == 1 else f"{solver} {spacing}"
    )


def _drawn(draw: Callable[[Any], None]) -> str:
    matplotlib = needed("matplotlib", "eval", "the report's charts")
    figure_of = needed("matplotlib.figure", "eval", "the report's charts").Figure
    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": matplotlib.cycler(color=_COLOURS)}):
        figure = figure_of(figsize=(6.4, 4), layout="constrained")
        draw(figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()
