"""An evaluation for people: tables, a CSV, and one HTML file that needs no other."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
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
from ddim.tables import tables

if TYPE_CHECKING:
    from PIL.Image import Image

Document = Mapping[str, Any]
SHOWN = 10
"""Seeds that the pictures show."""
_CALLS = 12


def write_report(document: Document, sweep: Sweep, figure: int | None = None) -> None:
    """Write results.json, results.csv and report.html into the sweep's folder.

    figure: the paper's 4 or 5, written too, as seconds.svg or consistency.png.
    """
    pictures: list[tuple[str, Image]] = []
    cells = [Cell.of(sweep.out / row["images"]) for row in document["cells"]]
    if cells:
        pictures += down_the_calls(document, cells)
        pictures.append(trajectory(sweep.subject, shown(document, cells)))
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


def shown(document: Document, cells: Sequence[Cell]) -> Setting:
    """The setting whose trajectory is shown: the verdict's, or that of most calls up to 12."""
    rows = document["cells"]
    best = document["verdict"].get("best")
    few = [row for row in rows if row["calls"] <= _CALLS] or rows
    row = max(few, key=lambda row: row["calls"]) if best is None else best
    return _found(cells, row).setting


def _found(cells: Sequence[Cell], row: Document) -> Cell:
    """The cell of a row."""
    return next(c for c in cells if all(row[k] == said for k, said in c.setting.row.items()))


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
    found = []
    for (solver, spacing), rows in lines(document).items():
        images = [_found(cells, row).read(0, SHOWN) for row in reversed(rows)]
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


def _svg(text: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def _png(image: Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(_bytes(image)).decode()}"


def _bytes(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
