"""Charts as SVG: of an evaluation, quality and time against calls; of tuning, its errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from ddim.extras import needed

Document = Mapping[str, Any]
_STYLE = {"svg.hashsalt": "ddim", "font.size": 9, "axes.spines.top": False}
_LINE = {"marker": "o", "ms": 3.5, "capsize": 2, "lw": 1.2}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def quality(document: Document, axis: str) -> str:
    """The first space's Fréchet distance of each solver with its 95 % interval, and the floor.

    axis: "calls" or "ms_per_image".
    """
    space = document["spaces"][0]
    floor = space["floors"].get("fd")

    def draw(plot: Any) -> None:
        seen = [] if floor is None else [floor["mean"]]
        for (solver, spacing), rows in lines(document).items():
            found = [row["figures"][space["name"]]["fd"] for row in rows]
            y = [entry["value"] for entry in found]
            bars = [
                [max(0.0, entry["value"] - entry["low"]) for entry in found],
                [entry["high"] - entry["value"] for entry in found],
            ]
            x = [row[axis] for row in rows]
            plot.errorbar(x, y, bars, label=named(document, solver, spacing), **_LINE)
            seen += y
        if floor is not None:
            worse = {"color": "#888888", "alpha": 0.25, "lw": 0, "label": "two real sets"}
            plot.axhspan(floor["mean"], floor["worst"], **worse)
        low, high = max(min(seen), 1e-12), max(seen)
        if high > 10 * low:
            plot.set_yscale("log")
            plot.set_ylim(0.7 * low, 1.4 * high)
        else:
            plot.set_ylim(0, 1.15 * max(high, 0.0 if floor is None else floor["worst"]))
        plot.set_ylabel(space["titles"]["fd"])
        _across(plot, axis, [row[axis] for row in document["cells"]])

    return _drawn(draw)


def seconds(document: Document) -> str:
    """Seconds for all images against network calls, the paper's Figure 4."""

    def draw(plot: Any) -> None:
        for (solver, spacing), rows in lines(document).items():
            x, y = ([row[name] for row in rows] for name in ("calls", "seconds"))
            plot.plot(x, y, label=named(document, solver, spacing), marker="o", ms=3.5, lw=1.2)
        plot.set_yscale("log")
        plot.set_ylabel(f"seconds for {document['num']} images")
        _across(plot, "calls", [row["calls"] for row in document["cells"]])

    return _drawn(draw)


def errors(reports: Mapping[int, Document]) -> str:
    """Of the reports of recipes by calls: the error of DDIM, the best built-in and the fit."""

    def draw(plot: Any) -> None:
        calls = sorted(reports)
        names = {"ddim": "DDIM", "built_in": "the best built-in", "fit": "fitted"}
        for key, name in names.items():
            y = [reports[n][key]["rmse"] for n in calls]
            plot.plot(calls, y, label=name, marker="o", ms=3.5, lw=1.2)
        plot.set_yscale("log")
        plot.set_ylabel("RMSE to the teacher's images")
        _across(plot, "calls", [float(n) for n in calls])

    return _drawn(draw)


def _across(plot: Any, axis: str, values: list[float]) -> None:
    plot.set_xscale("log")
    if axis == "calls":
        marks = sorted(set(values))
        plot.set_xticks(marks, [f"{mark:g}" for mark in marks])
        plot.minorticks_off()
    plot.set_xlabel({"calls": "network calls", "ms_per_image": "milliseconds per image"}[axis])
    plot.legend(frameon=False)


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
