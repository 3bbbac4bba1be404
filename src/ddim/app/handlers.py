"""What stands between a page's events and the work: one sentence for what goes wrong."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, wait
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from ddim.sampling import Tick

P = ParamSpec("P")
V = TypeVar("V")
W = TypeVar("W")
PAUSE = 0.2
"""Seconds between what the browser is sent of work that goes on."""
NETWORK: dict[str, Any] = {
    "concurrency_id": "network",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
"""Of events that call the network: one at a time, the others wait."""
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of events that are answered at once."""
Refresh = tuple[Callable[..., Any], list[Any], list[Any]]
"""What brings a tab up to date when the page is opened: a function, its inputs and outputs."""
_TOLD = (ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError)


def told(function: Callable[P, V]) -> Callable[P, V]:
    """The function, whose errors are a message in the page."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> V:
        try:
            return function(*args, **kwargs)
        except _TOLD as error:
            raise sentence(error) from error

    return call


def told_each(function: Callable[P, Iterator[V]]) -> Callable[P, Iterator[V]]:
    """As `told`, for what answers several times."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[V]:
        try:
            yield from function(*args, **kwargs)
        except _TOLD as error:
            raise sentence(error) from error

    return call


def beside(work: Callable[[Tick], V], said: Callable[[int], W]) -> Generator[W, None, V]:
    """What `work` returns, done in another thread; meanwhile, what is said of its network calls.

    work: calls its argument at every network call, which ends it if the generator was closed.
    """
    done, made, closed = Future[V](), 0, threading.Event()

    def tick(_: int) -> None:
        nonlocal made
        made += 1
        if closed.is_set():
            raise CancelledError

    def run() -> None:
        try:
            done.set_result(work(tick))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not wait([done], PAUSE).done:
            yield said(made)
    finally:
        closed.set()
    return done.result()


def sentence(error: BaseException) -> gr.Error:
    """What went wrong, as text of the page."""
    if isinstance(error, gr.Error):
        return error
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "can't allocate memory" in words:
        words = "it does not fit in memory; choose fewer seeds"
    short = words[:400] + ("…" if len(words) > 400 else "")
    return gr.Error(html.escape(short or type(error).__name__), print_exception=False)


def shown(label: str, name: str, height: int | None = None) -> gr.Image:
    """A place for a picture that the page makes."""
    return gr.Image(
        label=label,
        elem_id=name,
        height=height,
        interactive=False,
        format="png",
        elem_classes="pixels",
        buttons=["download", "fullscreen"],
    )


def one_of(names: list[str], now: Any = None) -> Any:
    """A dropdown's new choices; the value stays where it is still one of them."""
    first = names[0] if names else None
    return gr.Dropdown(choices=names, value=now if now in names else first)
