"""The page, and the server that shows it on this machine."""

from __future__ import annotations

import os
from importlib import resources
from typing import Any

import gradio as gr

from ddim.app.editing import editing_tab
from ddim.app.guard import guards
from ddim.app.handlers import QUICK
from ddim.app.home import Home
from ddim.app.runs import runs_tab
from ddim.app.sampling import sampling_tab
from ddim.app.steps import steps_tab

UPLOAD = 32 << 20  # bytes
_WAITING = 16  # events
_CACHE = (60, 900)  # seconds: how often files of the page are looked at, how old they grow

TABS = {"Sample": sampling_tab, "Steps": steps_tab, "Edit": editing_tab, "Runs": runs_tab}


def page(home: Home) -> gr.Blocks:
    """All tabs of a folder."""
    with gr.Blocks(title="ddim", analytics_enabled=False, delete_cache=_CACHE) as blocks:
        for name, tab in TABS.items():
            with gr.Tab(name):
                function, inputs, outputs = tab(home)
            blocks.load(function, inputs, outputs, **QUICK)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1)
    return blocks


def serve(
    home: Home, host: str, port: int | None, password: str | None, *, browser: bool = False
) -> tuple[gr.Blocks, str]:
    """Start the server; returns at once, with its address.

    port: the first free one from 7860 on where None.   password: of the user `ddim`.
    Raises OSError where the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    style = (resources.files("ddim") / "bundled" / "app.css").read_text("utf-8")
    blocks = page(home)
    fonts: Any = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            auth=None if password is None else ("ddim", password),
            inbrowser=browser,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            quiet=True,
            show_error=True,
            max_file_size=UPLOAD,
            footer_links=[],
            theme=theme,
            css=style,
            app_kwargs={"middleware": guards(host)},
            prevent_thread_lock=True,
        )
    except OSError as error:
        asked = "a port from 7860 to 7959" if port is None else f"port {port}"
        raise OSError(f"{asked} of {host} cannot be had; choose another by --port") from error
    return blocks, address
