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
from ddim.app.handlers import QUICK, one_of, shown, told
from ddim.app.home import REPORT, Home
from ddim.keeping import SAMPLES

_EVERY = 4.0  # seconds
_LONGEST = 32 << 20  # bytes of a report


def runs_tab(home: Home) -> None:
    """Draw it, and bind its events."""
    seen = gr.State("")
    with gr.Row():
        run = gr.Dropdown(home.runs(), label="Run", elem_id="run", min_width=200)
        report = gr.Dropdown(
            home.reports(),
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

    @told
    def watch(name: Any, before: str) -> tuple[Any, ...]:
        if name is None:
            return "No run is here yet: ddim train makes one.", None, None, before
        folder = home.folder(name, home.runs())
        now = f"{name} {(folder / curves.METRICS).stat().st_mtime_ns}"
        if now == before:
            return gr.skip(), gr.skip(), gr.skip(), before
        return (*looked(folder), now)

    def refresh(now: Any, other: Any) -> tuple[Any, Any]:
        reports = home.reports()
        kept = other if other in reports else None
        return one_of(home.runs(), now), gr.Dropdown(choices=reports, value=kept)

    outputs = [status, plot, samples, seen]
    quick = {**QUICK, "queue": True, "concurrency_limit": 2}
    gr.Timer(_EVERY).tick(watch, [run, seen], outputs, **quick)
    run.change(watch, [run, seen], outputs, **quick)
    gr.on([run.focus, report.focus], refresh, [run, report], [run, report], **QUICK)
    opened = told(lambda name: read(home, name))
    report.change(opened, report, page, **QUICK)


def looked(folder: Path) -> tuple[str, Image.Image | None, Image.Image | None]:
    """What a run says, its curves and its last samples."""
    rows = curves.rows(folder / curves.METRICS)
    if not rows:
        return "Nothing is logged yet.", None, None
    with TemporaryDirectory() as place:
        curves.picture(rows, Path(place) / "curves.png")
        drawn = _opened(Path(place) / "curves.png")
    last = rows[-1]
    grids = sorted((folder / SAMPLES).glob("step-*.png"))
    speed = last.get("examples_per_s")
    age = time.time() - (folder / curves.METRICS).stat().st_mtime
    told = f"Update {last['step']:,}"
    told += f", loss {last['loss']:.4g}" if isinstance(last.get("loss"), float) else ""
    told += f", {speed:g} examples/s" if speed else ""
    told += f"; logged {age:.0f} s ago" if age < 3600 else ""
    told += f". The samples are of update {int(grids[-1].stem[5:]):,}." if grids else "."
    return told, drawn, _opened(grids[-1]) if grids else None


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


def read(home: Home, name: Any) -> str:
    """A report in a frame of its own, which can run nothing and load nothing."""
    if name is None:
        return ""
    path = home.folder(name, home.reports()) / REPORT
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path.name} is larger than {_LONGEST >> 20} MB; open it by itself")
    content = html.escape(path.read_text("utf-8"), quote=True)
    return f'<iframe class="report" sandbox="" title="report" srcdoc="{content}"></iframe>'
