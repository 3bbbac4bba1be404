"""An evaluation as tables of text, for a terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddim.charts import lines, named

Document = Mapping[str, Any]
_TITLES = {
    "kd": "KD × 1000",
    "sw2": "SW2",
    "energy": "energy",
    "balance": "class imbalance",
    "agreement": "label agreement",
}
_SCALE = {"kd": 1000}


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, the first column naming the row."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def text(self) -> str:
        """For a terminal: aligned columns."""
        every = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in every) for i in range(len(self.header))]
        lined = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in every
        ]
        return "\n".join([self.caption, *lined])


def tables(document: Document) -> list[Table]:
    """Every table of an evaluation: the paper's layout first, then all figures of each space."""
    found = []
    if document["cells"]:
        found += [paper(document, place) for place in range(len(document["spaces"]))]
        if any("paired" in row for row in document["cells"]):
            found.append(consistency(document))
        found.append(times(document))
        found += [details(document, space) for space in document["spaces"]]
    if document["reconstruction"]:
        found.append(reconstruction(document))
    return found


def paper(document: Document, place: int = 0) -> Table:
    """A space's Fréchet distance, solvers down and calls across, as the paper's Table 1."""
    space = document["spaces"][place]
    title, floor = space["titles"]["fd"], space["floors"].get("fd")
    caption = f"{title}, N = {document['num']}; columns are network calls"
    if floor:
        mean, worst = _short(floor["mean"]), _short(floor["worst"])
        caption += f". Two real sets of N: {mean} on average, {worst} in 1 of 20 exchanges"
    return _across(
        document,
        f"quality-{place + 1}",
        caption,
        lambda row: _short(row["figures"][space["name"]]["fd"]["value"]),
    )


def consistency(document: Document) -> Table:
    """How far the images of each setting are from the fine run's of the same seeds, Figure 5."""
    fine = document["cells"][0]
    return _across(
        document,
        "consistency",
        f"Root mean square difference from {fine['solver']} in {fine['steps']} steps, same seeds; "
        "pixels from 0 to 1, columns are network calls",
        lambda row: _short(row["paired"]["value"]) if "paired" in row else "0",
    )


def times(document: Document) -> Table:
    """Seconds against calls, as the paper's Figure 4."""
    return _across(
        document,
        "seconds",
        f"Seconds for {document['num']} images; columns are network calls",
        lambda row: _short(row["seconds"]),
    )


def _across(document: Document, name: str, caption: str, say: Any) -> Table:
    columns = sorted({row["calls"] for row in document["cells"]})
    rows = []
    for (solver, spacing), cells in lines(document).items():
        said = {row["calls"]: say(row) for row in cells}
        rows.append([named(document, solver, spacing), *(said.get(c, "") for c in columns)])
    return Table(name, caption, ["solver", *map(str, columns)], rows)


def details(document: Document, space: Document) -> Table:
    """Every figure of a space with its interval, and the floor's row."""
    first = document["cells"][0]["figures"][space["name"]]
    names = list(first)
    rows = []
    for (solver, spacing), cells in lines(document).items():
        for row in cells:
            found = row["figures"][space["name"]]
            rows.append(
                [
                    named(document, solver, spacing),
                    str(row["calls"]),
                    _short(row["ms_per_image"]),
                    *(_with_interval(name, found[name]) for name in names),
                ]
            )
    for word, said in (("mean", "two real sets, on average"), ("worst", "… in 1 of 20 exchanges")):
        if space["floors"]:
            known = [
                _short(space["floors"][name][word] * _SCALE.get(name, 1))
                if name in space["floors"]
                else ""
                for name in names
            ]
            rows.append([said, "", "", *known])
    titles = [space["titles"]["fd"] if n == "fd" else _title(space, n) for n in names]
    sizes = [f"{title}, n = {first[n]['n']}" for title, n in zip(titles, names, strict=True)]
    return Table(
        f"space-{space['name']}",
        f"All figures in {space['name']}: {space['about']}. In brackets 95 % over seeds",
        ["solver", "calls", "ms per image", *sizes],
        rows,
    )


def reconstruction(document: Document) -> Table:
    """The paper's Table 2."""
    rows = document["reconstruction"]
    return Table(
        "reconstruction",
        f"Reconstruction by DDIM, mean square error per dimension, pixels from 0 to 1; "
        f"{rows[0]['n']} real images encoded and decoded; columns are steps S",
        ["", *(str(row["steps"]) for row in rows)],
        [
            ["mean square error", *(f"{row['mse']:.2g}" for row in rows)],
            ["standard error", *(f"{row['standard_error']:.1g}" for row in rows)],
        ],
    )


def _title(space: Document, name: str) -> str:
    if name == "kd" and space["titles"]["kd"] == "KID":
        return "KID × 1000"
    return _TITLES.get(name, name)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _with_interval(name: str, found: Document) -> str:
    scale = _SCALE.get(name, 1)
    value, low, high = (_short(found[key] * scale) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
