"""How a command ends that does not go well: one sentence, and an exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from itertools import pairwise

from ddim.cli.telling import BROKEN_OFF, INTERRUPTED

GOES_ON = ("train", "generate", "evaluate", "tune")
"""The commands that go on where they were stopped."""
_WANTED = {
    "Input should be a valid integer": "a whole number",
    "Input should be a valid number": "a number",
    r"Input should be greater than or equal to (\S+)": "at least ",
    r"Input should be less than or equal to (\S+)": "at most ",
}
"""Typer's words, which do not say what it got, and ours."""
_UNDRAWN = "a solver that draws noise cannot be used here; choose one that draws none"
_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENOMEM)


def sentence(error: BaseException) -> tuple[str, int] | None:
    """What to say of an error, and the exit status; None where it is a fault of ours."""
    said = getattr(error, "format_message", None)
    if said is not None:  # of the command line
        return _usage(error, said()), 2
    if _memory(error):
        return "it does not fit in memory; lower the batch size", 1
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, OSError):
        return _of_files(error), getattr(error, "status", 1 if error.errno in _FAILURES else 2)
    if isinstance(error, ValueError | ImportError):
        undrawn = type(error).__name__ == "UndrawnError"  # whose module imports torch
        return _UNDRAWN if undrawn else str(error), getattr(error, "status", 2)
    return None


def interrupted(command: str | None) -> tuple[str, int]:
    """What to say after Ctrl-C, and the exit status."""
    if command in GOES_ON:
        return "stopped; the same command goes on from what is saved", INTERRUPTED
    return "broken off; the same command begins anew", BROKEN_OFF


def say(text: str) -> None:
    """Say it on stderr, in one line, if anybody still listens."""
    with suppress(OSError):
        print(f"ddim: {' '.join(text.split())}", file=sys.stderr, flush=True)


def hushed() -> None:
    """Let what is left in the buffer of a closed stdout go nowhere, and not to an error at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: BaseException, text: str) -> str:
    """What is wrong with the command line: the flag, what it got, and what it takes."""
    context, flags = getattr(error, "ctx", None), getattr(getattr(error, "param", None), "opts", [])
    path = "ddim" if context is None else context.command_path
    given = [f"{flag} {word}" for flag, word in pairwise(sys.argv) if flag in flags]
    named = [flag for flag in flags if flag.startswith("--")]
    for pattern, wanted in _WANTED.items():
        if found := re.search(pattern, text):
            got = next(iter(given or named or flags), "an argument")
            text = f"{got}: give {wanted}{''.join(found.groups())}"
    return f"{text.rstrip('.')}; see {path} --help"


def _of_files(error: OSError) -> str:
    """An OSError, in words if it is one of the system's about a file."""
    what = {
        errno.ENOSPC: "no space is left on the device; free some, or choose another output",
        errno.EDQUOT: "your quota of the device is used up; free some, or choose another output",
        errno.EACCES: "you may not read or write it; choose another, or ask who owns it",
        errno.EROFS: "it is on a read-only file system; choose another output",
        errno.EISDIR: "it is a folder; name a file",
        errno.ENOTDIR: "what is above it is a file and not a folder; choose another path",
        errno.ENOENT: "it does not exist; check the path",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }.get(error.errno or 0)
    if what is None:
        return str(error)
    return f"{error.filename}: {what}" if error.filename else what


def _memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out: numpy's, a GPU's, or the CPU's."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
