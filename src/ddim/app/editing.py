"""The tab that edits: there and back, the path between two images, and a mask to paint anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from ddim.app.asked import number
from ddim.app.handlers import NETWORK, QUICK, Refresh, beside, shown, told_each
from ddim.app.home import Home
from ddim.app.painting import on_canvas, repainted
from ddim.app.sampling import follow
from ddim.app.there_and_back import PLAIN, Encoded, along, encoded_ends, errors
from ddim.inversion import EXACT
from ddim.pictures import grid
from ddim.sampling import Tick

_ENDS = ("first", "second")


def editing_tab(home: Home) -> Refresh:
    """Draw it, and bind its events."""
    kept = gr.State(None, time_to_live=3600)
    with gr.Row():
        model = gr.Dropdown(home.names("model"), label="Model", elem_id="edit-model", min_width=200)
        steps = gr.Number(20, label="Steps", elem_id="edit-steps", min_width=90)
        exact = gr.Dropdown(
            [PLAIN, *EXACT], value="lattice", label="Inversion", elem_id="exact", min_width=110
        )
        label = gr.Dropdown(["none"], value="none", label="Label", min_width=90)
    with gr.Row():
        with gr.Column(min_width=280):
            first = _upload("First image", "first")
            seed = gr.Textbox("0", label="or its seed", elem_id="first-seed")
        with gr.Column(min_width=280):
            second = _upload("Second image", "second")
            other = gr.Textbox("1", label="or its seed", elem_id="second-seed")
        with gr.Column(min_width=280):
            back = shown("Each above what comes back", "back", 340)
    with gr.Row():
        go = gr.Button("Encode and decode", variant="primary", elem_id="encode")
        stop = gr.Button("Stop", elem_id="edit-stop")
    error = gr.Markdown("", elem_id="error")
    weight, middle = _path()
    editor, seeds, paint, painted = _canvas()

    @told_each
    def there(weight: Any, name: Any, *given: Any) -> Iterator[tuple[Any, ...]]:
        place, (steps, exact, label, *ends) = number("the place", weight, 0, 1), given

        def work(tick: Tick) -> tuple[Encoded, Tensor, Tensor]:
            encoded, images = encoded_ends(home, name, (steps, exact, label), tuple(ends), tick)
            return encoded, images, along(home, encoded, place, tick)

        def said(count: int) -> tuple[Any, ...]:
            return gr.skip(), gr.skip(), f"network call {count}", gr.skip(), gr.skip()

        encoded, images, between = yield from beside(work, said)
        pairs = zip(encoded.images, images, strict=True)
        told = [f"**{end}**: {errors(x, y)}" for end, (x, y) in zip(_ENDS, pairs, strict=True)]
        rows = grid(torch.cat([encoded.images, images]), 2)
        yield encoded, rows, "<br>".join(told), on_canvas(encoded.images[0]), grid(between)

    @told_each
    def on_path(encoded: Encoded | None, weight: Any) -> Iterator[Any]:
        if encoded is None:
            raise ValueError("there are no latents yet; press Encode and decode first")
        place = number("the place", weight, 0, 1)
        images = yield from beside(
            lambda tick: along(home, encoded, place, tick), lambda _: gr.skip()
        )
        yield grid(images)

    @told_each
    def anew(encoded: Encoded | None, drawing: Any, seeds: Any) -> Iterator[Any]:
        if encoded is None:
            raise ValueError("there is no image yet; press Encode and decode first")
        yield from map(grid, repainted(home, encoded, drawing, seeds))

    ends = [first, seed, second, other]
    inputs = [weight, model, steps, exact, label, *ends]
    outputs = [kept, back, error, editor, middle]
    hidden, minimal = ({"show_progress": word, **NETWORK} for word in ("hidden", "minimal"))
    running: list[dict[str, Any]] = [
        go.click(there, inputs, outputs, **minimal),
        weight.release(on_path, [kept, weight], middle, **hidden),
        paint.click(anew, [kept, editor, seeds], painted, **minimal),
    ]
    stop.click(lambda: "stopped", None, error, cancels=running, **QUICK)
    return follow(home, model, label)


def _path() -> tuple[gr.Slider, gr.Image]:
    gr.Markdown("### The path between them")
    with gr.Row():
        weight = gr.Slider(
            0, 1, 0.5, step=0.01, label="0 is the first, 1 the second", elem_id="weight"
        )
        middle = shown("On the path", "middle", 220)
    return weight, middle


def _canvas() -> tuple[gr.ImageEditor, gr.Textbox, gr.Button, gr.Image]:
    gr.Markdown("### Paint what shall be made anew in the first image")
    with gr.Row():
        editor = gr.ImageEditor(
            label="Paint with the brush",
            type="pil",
            format="png",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=48, colors=["#e8590c"], color_mode="fixed"),
            elem_id="editor",
        )
        with gr.Column(min_width=280):
            seeds = gr.Textbox("0-7", label="Seeds", elem_id="paint-seeds")
            paint = gr.Button("Paint anew", variant="primary", elem_id="paint")
            painted = shown("Made anew", "painted", 400)
    return editor, seeds, paint, painted


def _upload(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        elem_id=name,
        height=220,
    )
