"""The tab that compares: the same seeds in many steps and in few."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr
import torch
from PIL.Image import Image
from torch import Tensor

from ddim.app.asked import TUNED, asked, number
from ddim.app.handlers import NETWORK, PAUSE, Refresh, told_each
from ddim.app.home import Home
from ddim.app.sampling import follow, labelled, solver_field
from ddim.cells import fitting
from ddim.data import to_pixels
from ddim.noise import Noise, Seeded
from ddim.pictures import grid
from ddim.plans import Plan
from ddim.process import Denoiser
from ddim.sampling import trace
from ddim.solvers import Solver
from ddim.spec import build
from ddim.teacher import FINEST, SOLVER, Teacher

COUNTS = (5, 10, 20, 50, 1000)
_MOST = 16
V = TypeVar("V")


@dataclass(frozen=True)
class Cell:
    """Images, or why there are none.

    word: what is shown instead of a distance.   why: more of it.
    """

    images: Tensor | None
    word: str = ""
    why: str = ""


Table = dict[tuple[str, int], Cell]
"""A solver and a number of calls to what it made."""


def steps_tab(home: Home) -> Refresh:
    """Draw it, and bind its events."""
    with gr.Row():
        model = gr.Dropdown(
            home.names("model"), label="Model", elem_id="steps-model", min_width=200
        )
        seeds = gr.Textbox("0-3", label=f"Seeds, at most {_MOST}", elem_id="steps-seeds")
        other = solver_field("Against DDIM", "unipc", "against")
        label = gr.Dropdown(["none"], value="none", label="Label", min_width=90)
        guidance = gr.Slider(1, 10, 1, label="Guidance: 1 is none", min_width=160)
    with gr.Row():
        go = gr.Button("Compare", variant="primary", elem_id="compare")
        stop = gr.Button("Stop")
    table = gr.HTML("", elem_id="steps-table")
    gr.Markdown(
        "Under each: the root mean square distance from the fine solution of the same seeds, in "
        f"grey levels of 255. The fine solution is iPNDM's of order 4 in {FINEST} steps, or as "
        "many as the schedule has. A solver that draws noise does not go there."
    )

    @told_each
    def compare(
        name: Any, seeds: Any, other: Any, label: Any, guidance: Any
    ) -> Iterator[tuple[Any]]:
        given = {"seeds": seeds, "label": labelled(label), "guidance": guidance}
        before = -1
        for done, fine in compared(home, name, other, given):
            now = len(done) + (fine is not None)
            yield (drawn(done, fine) if now > before else gr.skip(),)
            before = now

    inputs = [model, seeds, other, label, guidance]
    running = go.click(compare, inputs, [table], show_progress="minimal", **NETWORK)
    stop.click(None, cancels=[running])
    return follow(home, model, label)


def compared(
    home: Home, name: Any, other: Any, given: dict[str, Any]
) -> Iterator[tuple[Table, Tensor | None]]:
    """The table as it grows, few calls first, and the fine solution once it is there."""
    first = asked(home, name, {**given, "steps": 1})
    number("the count of seeds", len(first.seeds), 1, _MOST)
    opened = home.model(name)
    model = opened.optimize("fp32", "eager", len(first.seeds))
    denoiser, noise = first.denoiser(model), Seeded(list(first.seeds))
    start = noise.start(model.shape, next(model.net.parameters()).device)
    rows = list(dict.fromkeys(("ddim", str(other or "unipc"), TUNED)))
    for row in rows[:-1]:
        asked(home, name, {**given, "steps": 1, "solver": row})  # which says what is wrong with it
    counts = sorted({min(count, model.schedule.T) for count in COUNTS})
    done: Table = {}
    fine: Tensor | None = None
    for calls in counts:
        if calls == counts[-1]:
            plan = Teacher(model, lambda _: denoiser, min(FINEST, model.schedule.T)).plan
            fine = yield from stepped(denoiser, start, plan, SOLVER, noise, (done, None))
            yield done, fine
        for row in rows:
            try:
                steps = calls if row == TUNED else fitting(model, build(row), calls, "trailing")
                wanted = asked(home, name, {**given, "steps": steps, "solver": row})
                plan, solver = wanted.made(home, model)
            except ValueError as error:
                word = "none fitted" if row == TUNED else "too few"
                done[row, calls] = Cell(None, word, str(error))
                yield done, fine
                continue
            drawn = list[int]()

            def counted(like: Tensor, k: int, drawn: list[int] = drawn) -> Tensor:
                drawn.append(k)
                return noise(like, k)

            now = done, fine
            images = yield from stepped(denoiser, start, plan, solver, counted, now)
            done[row, calls] = Cell(images, "drew noise" if drawn else "")
            yield done, fine


def stepped(
    denoiser: Denoiser, start: Tensor, plan: Plan, solver: Solver, noise: Noise, now: V
) -> Generator[V, None, Tensor]:
    """The images of a run, which yields `now` again and again, so that it can be stopped."""
    run, last = trace(denoiser, start, plan, solver, noise), time.monotonic()
    while True:
        try:
            with torch.no_grad():  # here, for each step may run in another thread
                next(run)
        except StopIteration as end:
            images: Tensor = end.value.cpu()
            return images
        if time.monotonic() - last > PAUSE:
            last = time.monotonic()
            yield now


def distance(images: Tensor, fine: Tensor) -> float:
    """Root mean square of the differences of their pixels, in grey levels of 255."""
    return float((to_pixels(images).float() - to_pixels(fine).float()).square().mean().sqrt())


def drawn(done: Table, fine: Tensor | None) -> str:
    """The table as HTML: a row for each solver, a column for each number of calls."""
    counts = sorted({calls for _, calls in done}, reverse=True)
    rows = list(dict.fromkeys(name for name, _ in done))
    head = "".join(f"<th>{count} calls</th>" for count in counts)
    if fine is not None:
        head = f"<th>fine solution</th>{head}"
    body = ""
    for place, name in enumerate(rows):
        cells = "".join(_cell(done.get((name, count)), fine) for count in counts)
        if fine is not None:
            whole = f'<td rowspan="{len(rows)}">{_picture(fine)}</td>'
            cells = (whole if place == 0 else "") + cells
        body += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
    return f'<div class="steps"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _cell(cell: Cell | None, fine: Tensor | None) -> str:
    if cell is None:
        return "<td></td>"
    if cell.images is None:
        return f'<td class="none" title="{html.escape(cell.why)}">{cell.word}</td>'
    far = "" if fine is None else f"{distance(cell.images, fine):.1f}"
    return f"<td>{_picture(cell.images)}<br>{cell.word or far}</td>"


def _picture(images: Tensor) -> str:
    return f'<img class="pixels" alt="images" src="{_inline(grid(images, 2))}">'


def _inline(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
