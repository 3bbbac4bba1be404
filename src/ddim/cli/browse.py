"""ddim app: the page to look at models in a browser."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ddim.app import LOCAL
from ddim.cli.console import device as find_device
from ddim.cli.options import Device

if TYPE_CHECKING:
    from ddim.app.home import Home


def app(
    folder: Annotated[
        Path, typer.Argument(help="A model's folder, or one of many runs; usually runs.")
    ] = Path("runs"),
    host: Annotated[
        str, typer.Option(help="The address to listen at; another than 127.0.0.1 needs a password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Usually the first free one from 7860 on.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open the page in the browser too.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Sample, compare steps, edit images and watch runs on a page in the browser.

    Nothing outside the folder is read, nothing outside this machine is asked. A password for
    --host is taken from DDIM_APP_PASSWORD; the user's name is ddim. Ctrl-C ends it.
    """
    from ddim.extras import needed

    password = os.environ.get("DDIM_APP_PASSWORD") or None
    if ":" in host:
        raise ValueError(f"--host {host}: give a name or an address such as 127.0.0.1, and --port")
    if host not in LOCAL and password is None:
        raise ValueError(
            f"--host {host} lets other machines in; set DDIM_APP_PASSWORD to a password, or leave "
            "--host out"
        )
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder; give one that ddim train wrote, or one of runs, or begin with "
            "ddim demo"
        )
    with TemporaryDirectory(prefix="ddim-app-", ignore_cleanup_errors=True) as place:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(place) / "gradio")  # which it reads when imported
        needed("gradio", "ui", "the page")
        from ddim.app.home import Home
        from ddim.app.page import serve

        home = Home(folder, str(folder), Path(place), find_device(device))
        _refuse_empty(home)
        blocks, address = serve(home, host, port, password, browser=browser)
        print(f"{address} shows {folder}; Ctrl-C ends it", file=sys.stderr, flush=True)
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        with suppress(KeyboardInterrupt):
            ended.wait()
        blocks.close(verbose=False)


def _refuse_empty(home: Home) -> None:
    """Raise ValueError if there is nothing to show."""
    if not any(home.names(kind) for kind in ("model", "run", "report")):
        raise ValueError(
            f"{home.shown} holds no model, no run and no report; give another folder, or begin "
            "with ddim demo"
        )
