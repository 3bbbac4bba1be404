"""The tab that samples: images as they denoise, and how to make them again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL.Image import Image

from ddim.app.asked import MOST_SEEDS, TUNED, Asked, Film, Frame, asked, small
from ddim.app.handlers import NETWORK, PAUSE, QUICK, Refresh, one_of, shown, told, told_each
from ddim.app.home import Home
from ddim.pictures import save_arrays, save_gif, save_grid
from ddim.plans import SPACINGS
from ddim.solvers import SOLVERS

NO_LABEL = "none"
_CODES: tuple[tuple[Any, str, str], ...] = (
    ("shell", "The same by the command", "command"),
    ("python", "The same in Python", "python"),
)


def sampling_tab(home: Home) -> Refresh:
    """Draw it, and bind its events."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(home.names("model"), label="Model", elem_id="model")
            with gr.Row():
                steps = gr.Number(20, label="Steps", precision=None, elem_id="steps", min_width=90)
                solver = solver_field("Solver", "ddim", "solver")
            with gr.Row():
                spacing = gr.Dropdown(
                    list(SPACINGS), value="trailing", label="Spacing", min_width=110
                )
                eta = gr.Slider(0, 1, 0, label="η: 0 is DDIM, 1 is DDPM", min_width=160)
            seeds = gr.Textbox("0-15", label=f"Seeds, at most {MOST_SEEDS}", elem_id="seeds")
            with gr.Row():
                label = gr.Dropdown(
                    [NO_LABEL], value=NO_LABEL, label="Label", min_width=90, elem_id="label"
                )
                guidance = gr.Slider(1, 10, 1, label="Guidance: 1 is none", min_width=160)
            with gr.Row():
                go = gr.Button("Sample", variant="primary", elem_id="sample")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=3, min_width=300):
            picture = shown("Images", "images", 420)
            status = gr.Markdown("", elem_id="status")
            with gr.Row():
                files = [
                    gr.DownloadButton(
                        f"Download {kind}", interactive=False, elem_id=kind.lower(), min_width=90
                    )
                    for kind in ("PNG", "GIF", "npz")
                ]
    command, program = (
        gr.Code(
            "",
            language=language,
            label=label,
            elem_id=name,
            lines=1,
            show_line_numbers=False,
            wrap_lines=True,
            buttons=["copy"],
        )
        for language, label, name in _CODES
    )

    @told_each
    def sample(
        name: Any, steps: Any, solver: Any, spacing: Any, eta: Any, seeds: Any, *more: Any
    ) -> Iterator[tuple[Any, ...]]:
        label, guidance = more
        given = {"steps": steps, "solver": solver, "spacing": spacing, "eta": eta}
        given |= {"seeds": seeds, "label": labelled(label), "guidance": guidance}
        wanted = asked(home, name, given)
        waiting = [gr.DownloadButton(interactive=False)] * 3
        how = wanted.command(home), wanted.python(home)
        film = Film()
        last = 0.0
        for frame in wanted.frames(home):
            if frame.images is not None:
                made = written(home.scratch(), wanted, frame, film.pictures)
                ready = [gr.DownloadButton(value=path, interactive=True) for path in made]
                yield (frame.picture, summary(frame, len(wanted.seeds)), *how, *ready)
                return
            film.add(frame.picture)
            if time.monotonic() - last > PAUSE:
                last = time.monotonic()
                yield (frame.picture, f"call {frame.done} of {frame.of}", *how, *waiting)

    inputs = [model, steps, solver, spacing, eta, seeds, label, guidance]
    outputs = [picture, status, command, program, *files]
    running = go.click(sample, inputs, outputs, show_progress="hidden", **NETWORK)
    stop.click(lambda: "stopped", None, status, cancels=[running], **QUICK)
    return follow(home, model, label)


def follow(home: Home, model: gr.Dropdown, label: gr.Dropdown) -> Refresh:
    """Let the choices be the models that there are, and the labels those of the model."""
    model.focus(lambda now: one_of(home.names("model"), now), model, model, **QUICK)
    model.change(told(lambda name: labels_of(home, name)), model, label, **QUICK)

    @told
    def fresh(now: Any) -> tuple[gr.Dropdown, gr.Dropdown]:
        names = home.names("model")
        first = now if now in names else next(iter(names), None)
        return one_of(names, now), labels_of(home, first)

    return fresh, [model], [model, label]


def solver_field(label: str, value: str, name: str) -> gr.Dropdown:
    """A dropdown of solvers; others, with options, can be typed."""
    return gr.Dropdown(
        [*SOLVERS, TUNED],
        value=value,
        label=label,
        allow_custom_value=True,
        elem_id=name,
        min_width=110,
    )


def labels_of(home: Home, name: Any) -> gr.Dropdown:
    """The labels of a model, as the choices of a dropdown."""
    count = 0 if name is None else home.model(name).labels or 0
    choices = [NO_LABEL, *map(str, range(count))]
    return gr.Dropdown(choices=choices, value=NO_LABEL, interactive=count > 0)


def labelled(value: Any) -> Any:
    """What a dropdown of labels says, None where it says none."""
    return None if value in (None, NO_LABEL) else value


def summary(frame: Frame, count: int) -> str:
    """What a run cost."""
    return (
        f"{frame.of} network calls for each of {count} images, {frame.seconds:.2f} s: "
        f"{1000 * frame.seconds / count:.1f} ms an image"
    )


def written(folder: Path, wanted: Asked, frame: Frame, pictures: list[Image]) -> list[str]:
    """The files to download, as `ddim sample` writes them."""
    assert frame.images is not None
    png, gif, npz = (str(folder / f"grid{suffix}") for suffix in (".png", ".gif", ".npz"))
    save_grid(frame.images, png)
    save_gif([*pictures, small(frame.picture)], gif)
    save_arrays(frame.images, wanted.seeds, npz)
    return [png, gif, npz]
