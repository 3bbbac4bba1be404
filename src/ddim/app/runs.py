"""The tab that watches: curves and samples of training runs, reports of evaluations."""

from __future__ import annotations

import html
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from PIL import Image

from ddim import curves
from ddim.app.handlers import QUICK, Refresh, one_of, shown, told
from ddim.app.home import REPORT, Home
from ddim.keeping import SAMPLES

_EVERY = 4.0  # seconds
_LONGEST = 32 << 20  # bytes of a report
_POINTS = 2000  # of a curve
_ALONE = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; style-src 'unsafe-inline'; font-src data:\">"
)


def runs_tab(home: Home) -> Refresh:
    """Draw it, and bind its events."""
    seen = gr.State(None)
    with gr.Row():
        run = gr.Dropdown(home.names("run"), label="Run", elem_id="run", min_width=200)
        report = gr.Dropdown(
            home.names("report"),
            value=None,
            label="Report, to be chosen",
            elem_id="report",
            min_width=200,
        )
    status = gr.Markdown("", elem_id="run-status")
    with gr.Row():
        plot = shown("Curves", "curves")
        samples = shown("Samples", "grid", 420)
    page = gr.HTML("", elem_id="report-page")

    def watch(name: Any, before: Any) -> tuple[Any, ...]:
        try:
            if name is None:
                return "No run is here yet: ddim train makes one.", None, None, None
            folder = home.folder(name, "run")
            found = rows_of(home, folder)
            now = [name, found[-1]["step"] if found else 0, len(found)]
            same = now == before
            pictures = (gr.skip(), gr.skip()) if same else pictures_of(home, folder, found)
            return said(home, folder, found), *pictures, now
        except (ValueError, OSError, TypeError, KeyError) as error:  # told once, in its place
            return html.escape(str(error))[:400], None, None, None

    def refresh(now: Any, other: Any) -> tuple[Any, Any]:
        reports = home.names("report")
        kept = other if other in reports else None
        return one_of(home.names("run"), now), gr.Dropdown(choices=reports, value=kept)

    outputs = [status, plot, samples, seen]
    gr.Timer(_EVERY).tick(watch, [run, seen], outputs, **QUICK)
    run.change(watch, [run, seen], outputs, **QUICK)
    gr.on([run.focus, report.focus], refresh, [run, report], [run, report], **QUICK)
    opened = told(lambda name: read(home, name))
    report.change(opened, report, page, **QUICK)
    return refresh, [run, report], [run, report]


def rows_of(home: Home, folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, not too many of them, and the last."""
    found = curves.rows(home.file(folder / curves.METRICS))
    stride = len(found) // _POINTS + 1
    return [*found[:-1][::stride], *found[-1:]]


def said(home: Home, folder: Path, found: list[dict[str, Any]]) -> str:
    """How far a run is, and when it last said so."""
    if not found:
        return "Nothing is logged yet."
    last, grids = found[-1], _grids(home, folder)
    told = f"Update {last['step']:,}"
    for name, words in (("loss", ", loss {:.4g}"), ("examples_per_s", ", {:g} examples/s")):
        if isinstance(value := last.get(name), int | float):
            told += words.format(value)
    age = time.time() - (folder / curves.METRICS).stat().st_mtime
    told += f"; logged {age:.0f} s ago" if age < 3600 else ""
    return told + (f". The samples are of update {int(grids[-1].stem[5:]):,}." if grids else ".")


def pictures_of(
    home: Home, folder: Path, found: list[dict[str, Any]]
) -> tuple[Image.Image | None, Image.Image | None]:
    """The curves of a run, and its last samples."""
    if not found:
        return None, None
    with TemporaryDirectory() as place:
        curves.picture(found, Path(place) / "curves.png")
        drawn = _opened(Path(place) / "curves.png")
    grids = _grids(home, folder)
    return drawn, _opened(grids[-1]) if grids else None


def _grids(home: Home, folder: Path) -> list[Path]:
    """The pictures of its samples, the last at the end."""
    found = (folder / SAMPLES).glob("step-*.png")
    return sorted(p for p in found if p.stem[5:].isdecimal() and home.inside(p))


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


def read(home: Home, name: Any) -> str:
    """A report in a frame of its own, which can run nothing and load nothing."""
    if name is None:
        return ""
    path = home.file(home.folder(name, "report") / REPORT)
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path.name} is larger than {_LONGEST >> 20} MB; open it by itself")
    content = html.escape(_ALONE + path.read_text("utf-8"), quote=True)
    return f'<iframe class="report" sandbox="" title="report" srcdoc="{content}"></iframe>'
