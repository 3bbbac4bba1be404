"""Who makes the shards of a job: this process, others of this machine, or Ray's; each a `Crew`."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ddim.bulk import Job, Worker
from ddim.dispatch import Report
from ddim.extras import needed
from ddim.places import Place, place

_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_SECOND = 1.0
Make = Callable[[int], object]


def tried(make: Make, shard: int, where: str) -> Report:
    """The report of a shard that is made here."""
    try:
        return Report(shard, result=make(shard))
    except Exception as error:  # of whatever kind: the other shards go on
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno in _FATAL:
            return Report(shard, f"{where}: {error.strerror}; what is there stays", fatal=True)
        return Report(shard, text[:300])


class Here:
    """This process."""

    size = 1

    def __init__(self, job: Job, out: Place, device: str | None = None) -> None:
        self._worker, self._out = Worker(job, out, device), out
        self._task: int | None = None

    def submit(self, task: int) -> None:
        """See `Crew`."""
        self._task = task

    def wait(self) -> list[Report]:
        """See `Crew`."""
        assert self._task is not None
        return [tried(self._worker.make, self._task, self._out.name)]

    def close(self) -> None:
        """See `Crew`."""


class Pool:
    """Processes of this machine, each with a model of its own; on CUDA one device after another."""

    def __init__(self, job: Job, out: Place, count: int) -> None:
        self.size, self._job, self._out = count, job, out
        self._context = get_context("spawn")
        self._busy = dict[Connection, int]()
        self._members = dict[Connection, Any]()
        for j in range(count):
            self._join(j)

    def _join(self, j: int) -> None:
        ours, theirs = self._context.Pipe()
        given = (theirs, self._job, self._out.name, device_of(self._job, j))
        member = self._context.Process(target=_serve, args=given, daemon=True, name=f"ddim-{j}")
        member.start()
        theirs.close()
        self._members[ours] = member, j

    def submit(self, task: int) -> None:
        """See `Crew`."""
        free = next(each for each in self._members if each not in self._busy)
        self._busy[free] = task
        with suppress(OSError):  # it has died: `wait` finds that
            free.send(task)

    def wait(self) -> list[Report]:
        """See `Crew`."""
        found = []
        for each in wait(list(self._busy), _SECOND):
            assert isinstance(each, Connection)
            task = self._busy.pop(each)
            try:
                found.append(each.recv())
            except (EOFError, OSError):
                member, j = self._members.pop(each)
                each.close()
                member.join()
                found.append(Report(task, f"its worker died ({_died(member.exitcode)})"))
                self._join(j)
        return found

    def close(self) -> None:
        """See `Crew`."""
        for member, _ in self._members.values():
            member.kill()
        for connection, (member, _) in self._members.items():
            member.join()
            connection.close()


def _serve(parent: Connection, job: Job, out: str, device: str) -> None:
    """A worker of `Pool`. It dies with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    make: Make | None = None
    with suppress(EOFError, OSError):
        while True:
            shard = parent.recv()
            try:
                make = make or Worker(job, place(out), device).make
            except Exception as error:  # of whatever kind
                parent.send(Report(shard, " ".join(str(error).split())[:300]))
                continue
            parent.send(tried(make, shard, out))


def _end_with_parent() -> None:
    above = parent_process()
    if above is not None:
        wait([above.sentinel])
    os._exit(1)


def _died(status: int | None) -> str:
    """How, in words."""
    if status is None or status >= 0:
        return f"status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def usual(job: Job) -> int:
    """The number of workers of this machine: one for each GPU, or for each core."""
    if job.device == "cuda":
        return max(1, torch.cuda.device_count())
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // job.threads) if job.device == "cpu" else 1


def device_of(job: Job, j: int) -> str:
    """The device of worker j."""
    count = torch.cuda.device_count() if job.device == "cuda" else 0
    return f"cuda:{j % count}" if count > 1 else job.device


class OnRay:
    """Actors of a Ray cluster, one CPU or GPU each: of an address, of RAY_ADDRESS, or a new one.

    count: their number; None for one on each CPU, or GPU, of the cluster. The place and the model
    must mean the same on all its machines.   opened: what a worker opens there, in place of what
    makes shards.
    """

    def __init__(
        self,
        job: Job,
        out: str,
        count: int | None,
        address: str | None = None,
        opened: Callable[[], Make] | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = ray = needed("ray", "scale", "--ray")
        self._own = not ray.is_initialized()
        heard = signal.getsignal(signal.SIGTERM)
        if self._own:
            where = address or os.environ.get("RAY_ADDRESS")
            options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            if where:
                del options["include_dashboard"]
            try:
                ray.init(address=where, **options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                said = " ".join(str(error).split())[:200]
                raise ValueError(f"no Ray cluster at {where or 'this machine'} ({said})") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, heard)  # which Ray takes
        kind = "GPU" if job.device == "cuda" else "CPU"
        have = int(ray.cluster_resources().get(kind, 0))
        if not have:
            raise ValueError(f"the Ray cluster has no {kind}; choose another --device")
        self.size = min(count or have, have)
        actor = ray.remote(_Actor).options(
            num_cpus=0 if kind == "GPU" else 1,
            num_gpus=1 if kind == "GPU" else 0,
            max_restarts=-1,
        )
        out = out if "://" in out else os.path.abspath(out)
        opened = opened or partial(_maker, job, out)
        self._free = [actor.remote(opened, out) for _ in range(self.size)]
        self._actors = list(self._free)
        self._busy = dict[Any, tuple[int, Any]]()

    def submit(self, task: int) -> None:
        """See `Crew`."""
        actor = self._free.pop()
        self._busy[actor.make.remote(task)] = task, actor

    def wait(self) -> list[Report]:
        """See `Crew`."""
        ended, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_SECOND)
        found = []
        for each in ended:
            task, actor = self._busy.pop(each)
            self._free.insert(0, actor)
            try:
                found.append(self._ray.get(each))
            except self._ray.exceptions.RayError as error:
                kind = type(error).__name__
                found.append(Report(task, f"its worker was lost ({kind}: {_first(error)})"))
        return found

    def close(self) -> None:
        """See `Crew`."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()


class _Actor:
    """A worker of `OnRay`."""

    def __init__(self, opened: Callable[[], Make], out: str) -> None:
        self._opened, self._out = opened, out
        self._make: Make | None = None

    def make(self, shard: int) -> Report:
        """Make a shard."""
        try:
            self._make = self._make or self._opened()
        except Exception as error:  # of whatever kind
            return Report(shard, " ".join(str(error).split())[:300])
        return tried(self._make, shard, self._out)


def _maker(job: Job, out: str) -> Make:
    return Worker(job, place(out)).make


def _first(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:160]
