"""An evaluation for people: tables, a CSV, and one HTML file that needs no other."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddim.cells import Cell, Setting, Subject
from ddim.charts import lines, named, quality, seconds
from ddim.data import Images, to_float
from ddim.evaluation import Sweep
from ddim.files import to_json, write_all
from ddim.noise import Seeded
from ddim.pictures import grid
from ddim.sampling import trace

if TYPE_CHECKING:
    from PIL.Image import Image

Document = Mapping[str, Any]
SHOWN = 10
"""Seeds that the pictures show."""
_CALLS = 12
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


def write_report(document: Document, sweep: Sweep, figure: int | None = None) -> None:
    """Write results.json, results.csv and report.html into the sweep's folder.

    figure: the paper's 4 or 5, written too, as seconds.svg or consistency.png.
    """
    pictures: list[tuple[str, Image]] = []
    cells = [Cell.of(sweep.out / row["images"]) for row in document["cells"]]
    if cells:
        pictures += down_the_calls(document, cells)
        pictures.append(trajectory(sweep.subject, shown(document)))
    if cells and sweep.data is not None:
        pictures.append(pairs(cells[0], sweep.data, document["memorisation"]["pairs"]))
    contents = {
        "results.json": to_json(document),
        "results.csv": to_csv(document),
        "report.html": to_html(document, pictures),
    }
    if figure == 4:
        contents["seconds.svg"] = seconds(document).encode()
    if figure == 5:
        contents["consistency.png"] = _bytes(pictures[0][1])
    write_all(sweep.out, contents)


def shown(document: Document) -> Setting:
    """The setting whose trajectory is shown: the verdict's, or that of most calls up to 12."""
    rows = document["cells"]
    best = document["verdict"].get("best")
    few = [row for row in rows if row["calls"] <= _CALLS] or rows
    row = max(few, key=lambda row: row["calls"]) if best is None else best
    return Setting(row["solver"], row["spacing"], row["steps"])


def to_csv(document: Document) -> bytes:
    """One line per setting, space and figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["solver", "spacing", "steps", "calls", "seconds", "ms_per_image"]
    writer.writerow(
        [*head, "space", "figure", "value", "low", "high", "n", "floor_mean", "floor_worst", "p"]
    )
    for row in document["cells"]:
        for space in document["spaces"]:
            for name, found in row["figures"][space["name"]].items():
                floor = space["floors"].get(name, {})
                figures = [found[key] for key in ("value", "low", "high", "n")]
                known = [floor.get("mean"), floor.get("worst"), found.get("p")]
                writer.writerow(
                    [*(row[key] for key in head), space["name"], name, *figures, *known]
                )
        if "paired" in row:
            figures = [row["paired"][key] for key in ("value", "low", "high", "n")]
            writer.writerow([*(row[key] for key in head), "", "paired", *figures, "", "", ""])
    return buffer.getvalue().encode()


def to_html(document: Document, pictures: Iterable[tuple[str, Image]]) -> bytes:
    """The report: tables, charts and pictures, each with a caption, in one file."""
    from jinja2 import Environment, StrictUndefined

    text = (resources.files("ddim") / "bundled" / "report.html").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(text)
    charts = []
    if document["cells"]:
        charts = [
            ("Quality against network calls", _svg(quality(document, "calls"))),
            ("Quality against time", _svg(quality(document, "ms_per_image"))),
            ("Time against network calls", _svg(seconds(document))),
        ]
    shown = [(caption, _png(image), image.size) for caption, image in pictures]
    page = template.render(
        document=document, tables=tables(document), charts=charts, pictures=shown
    )
    return page.encode()


def down_the_calls(document: Document, cells: Sequence[Cell]) -> list[tuple[str, Image]]:
    """For each solver, the same seeds in rows of falling calls, the fine run's first."""
    by_setting = {cell.setting: cell for cell in cells}
    found = []
    for (solver, spacing), rows in lines(document).items():
        settings = [Setting(solver, spacing, row["steps"]) for row in reversed(rows)]
        images = [by_setting[setting].read(0, SHOWN) for setting in settings]
        calls = ", ".join(str(row["calls"]) for row in reversed(rows))
        caption = (
            f"{named(document, solver, spacing)}: seeds in columns; from the top {calls} calls"
        )
        found.append((caption, grid(to_float(torch.cat(images)), len(images[0]))))
    return found


def trajectory(subject: Subject, setting: Setting, most: int = _CALLS) -> tuple[str, Image]:
    """The image predicted at each call, for four seeds in rows; of many calls some."""
    solver, plan = setting.made(subject.model)
    places = range(min(4, subject.num))
    noise = Seeded([subject.first_seed + i for i in places])
    x = noise.start(subject.model.shape, next(subject.model.net.parameters()).device)
    with torch.no_grad():
        seen = [p.x0.cpu() for _, p in trace(subject.denoiser(places), x, plan, solver, noise)]
    chosen = torch.linspace(0, len(seen) - 1, min(most, len(seen))).round().long().tolist()
    images = torch.stack([seen[k] for k in chosen], 1).flatten(0, 1)
    calls = ", ".join(str(k + 1) for k in chosen)
    return f"{setting.solver}: the image predicted at call {calls}", grid(images, len(chosen))


def pairs(cell: Cell, data: Images, found: Sequence[Document]) -> tuple[str, Image]:
    """The samples nearest to real images, above those."""
    drawn = [cell.read(pair["sample"], pair["sample"] + 1) for pair in found]
    real = data.pixels[torch.tensor([pair["image"] for pair in found])]
    images: Tensor = to_float(torch.cat([*drawn, real]))
    return "The samples nearest to real images, and those real images below", grid(
        images, len(found)
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


def _svg(text: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def _png(image: Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(_bytes(image)).decode()}"


def _bytes(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
