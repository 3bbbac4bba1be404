"""What bulk.py and bulk_kills.py share: a run's processes, which make images, how soon they end."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from speed_rivals import told

SOON = 10.0
"""Seconds after which nothing of a killed run may be left."""
OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "default_worker.py")
"""In the command lines of Ray's agents and of a worker that has not joined yet: they touch nothing,
and notice within a minute that the daemons they serve, or wait for, are gone."""
psutil: Any = import_module("psutil")


def session(leader: int) -> list[Any]:
    """The processes of the session that one leads: all that it has started, as far as they live."""
    found = []
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(pid) == leader and lives(process := psutil.Process(pid)):
                found.append(process)
    return found


def workers(leader: int) -> list[Any]:
    """Those of a session that make images: the pool's, or Ray's actors."""
    return [process for process in session(leader) if _makes(process)]


def _makes(process: Any) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        words = " ".join(process.cmdline())
        return "spawn_main" in words or words.startswith("ray::_Actor")
    return False


def lives(process: Any) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def left(processes: Sequence[Any]) -> float | None:
    """Seconds until none of them lives, but Ray's OWN, which it kills; None after SOON."""
    begin = time.monotonic()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if any(name in " ".join(process.cmdline()) for name in OWN):
                process.kill()
    while alive := list(filter(lives, processes)):
        if time.monotonic() - begin > SOON:
            told(f"left behind: {alive}")
            return None
        time.sleep(0.02)
    return time.monotonic() - begin
