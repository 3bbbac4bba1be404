"""Screenshots of every tab of `ddim app`, as wide as a desk's and as a telephone's.

python benchmarks/screenshots.py RUNS [--out docs/images]      needs Chromium; about a minute

RUNS holds the model of `ddim demo` as `demo`, with recipes for 5 and 10 calls, a run of
`ddim train` and a report of `ddim evaluate`. Writes app-TAB-WIDTH.png.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from playwright.sync_api import Page, sync_playwright

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {1280: 900, 390: 844}
LONG = 180_000.0  # milliseconds

GUARD = """
import socket, sys
def guarded(wanted, ask):
    def call(*args):
        address = args[1] if isinstance(args[0], socket.socket) else args
        host = address[0] if isinstance(address, tuple) else None
        if host not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
            open(LOG, "a").write(f"{wanted} {host}\\n")
        return ask(*args)
    return call
LOG = sys.argv.pop(1)
socket.socket.connect = guarded("connect", socket.socket.connect)
socket.getaddrinfo = (lambda ask: lambda host, *args, **more: (
    guarded("name", lambda *_: ask(host, *args, **more))(host)))(socket.getaddrinfo)
from ddim.cli import main
main()
"""
"""The command, which notes every machine that it asks beside this one."""


@contextmanager
def served(
    folder: Path, log: Path, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a page of a folder, and its process; log: what it asked of other machines."""
    log.touch()
    command = [sys.executable, "-c", GUARD, str(log), "app", folder.name, *words]
    with subprocess.Popen(
        command, cwd=folder.absolute().parent, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _address(process.stderr), process
        finally:
            process.terminate()


def _address(lines: IO[str] | None) -> str:
    for line in lines or ():
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise RuntimeError("the page was not served")


def sample(page: Page) -> None:
    """Press the button and wait for the images."""
    page.click("#sample")
    told(page, "#status", "ms an image")


def compare(page: Page) -> None:
    """The table with all of its columns."""
    page.click("#compare")
    page.wait_for_function(
        "document.querySelector('#steps-table').innerText.includes('1000 calls') && "
        "[...document.querySelectorAll('#steps-table tr')].slice(1).every("
        "(row, k) => row.cells[k ? 1 : 2].innerText.trim())",
        timeout=LONG,
    )


def edit(page: Page) -> None:
    """Two seeds there and back, and a mask painted."""
    page.click("#encode")
    told(page, "#error", "mean square error")
    page.wait_for_selector("#middle img", timeout=LONG)
    stroke(page)
    page.click("#paint")
    page.wait_for_selector("#painted img", timeout=LONG)
    page.wait_for_timeout(3000)


def stroke(page: Page) -> None:
    """A stroke of the brush down the middle of the editor."""
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # until the editor has drawn its background
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y - 60)
    page.mouse.down()
    page.mouse.move(x, y + 60, steps=12)
    page.mouse.up()
    page.wait_for_timeout(500)


def watch(page: Page) -> None:
    """A run's curves and a report."""
    page.wait_for_selector("#curves img", timeout=LONG)
    page.click("#report input")
    page.get_by_role("option").first.click()
    page.wait_for_selector("iframe.report", timeout=LONG)


TABS = {"Sample": sample, "Steps": compare, "Edit": edit, "Runs": watch}


def told(page: Page, where: str, text: str) -> None:
    """Wait until an element says a text."""
    page.wait_for_function(
        f"document.querySelector({where!r}).innerText.includes({text!r})", timeout=LONG
    )


def taken(page: Page, out: Path, width: int) -> None:
    """A picture of each tab at one width, after it was used."""
    page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    for name, use in TABS.items():
        page.get_by_role("tab", name=name).click()
        use(page)
        page.wait_for_timeout(800)  # until what appears has faded in
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=out / f"app-{name.lower()}-{width}.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    log = asked.out / "asked.txt"
    with served(asked.runs, log) as (address, _), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for width in WIDTHS:
            page = browser.new_page()
            page.goto(address)
            taken(page, asked.out, width)
            page.close()
        browser.close()
    log.unlink()


if __name__ == "__main__":
    main()
