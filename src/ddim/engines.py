"""Who makes the shards of a job: this process, others of this machine, or Ray's; each a `Crew`."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ddim.bulk import Job, Worker
from ddim.dispatch import Report, Rest
from ddim.extras import UnansweredError, needed
from ddim.places import Place, place

_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_SMALL = 1 << 16  # bytes; Ray itself keeps so few with an actor
_SECOND = 1.0
Make = Callable[[int], object]
"""What makes a task."""
Opened = Callable[[], Make]
"""Opens what a worker needs, there."""


def tried(make: Make, task: int, where: str) -> Report:
    """The report of a task that is done here."""
    try:
        return Report(task, result=make(task))
    except Exception as error:  # of whatever kind: the other tasks go on
        if isinstance(error, OSError) and error.errno in _FATAL:
            return Report(task, f"{where}: {error.strerror}; what is there stays", fatal=True)
        return Report(task, said(error), fatal=isinstance(error, ImportError))


def said(error: BaseException) -> str:
    """An error on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


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
        self._job, self._out, self._rest = job, out, Rest()
        self._context = get_context("spawn")
        self._busy = dict[Connection, int]()
        self._members = dict[Connection, tuple[Any, int]]()
        for j in range(count):
            self._join(j)

    @property
    def size(self) -> int:
        """See `Crew`."""
        resting = self._rest.resting(time.monotonic())
        busy = {self._members[each][1] for each in self._busy}
        return len(self._members) - len(resting - busy)

    def _join(self, j: int) -> None:
        ours, theirs = self._context.Pipe()
        given = (theirs, self._job, self._out.name, device_of(self._job, j))
        member = self._context.Process(target=_serve, args=given, daemon=True, name=f"ddim-{j}")
        with _deaf():  # Ctrl-C is its parent's, from its first moment on
            member.start()
        theirs.close()
        self._members[ours] = member, j

    def submit(self, task: int) -> None:
        """See `Crew`."""
        resting = self._rest.resting(time.monotonic())
        free = [each for each in self._members if each not in self._busy]
        chosen = min(free, key=lambda each: self._members[each][1] in resting)
        self._busy[chosen] = task
        with suppress(OSError):  # it has died: `wait` finds that
            chosen.send(task)

    def wait(self) -> list[Report]:
        """See `Crew`."""
        found = []
        if not self._busy:
            time.sleep(_SECOND)
        for each in wait(list(self._busy), _SECOND) if self._busy else ():
            assert isinstance(each, Connection)
            task, (member, j) = self._busy.pop(each), self._members[each]
            try:
                report: Report = each.recv()
            except (EOFError, OSError):
                del self._members[each]
                each.close()
                member.join()
                why = f"its worker died ({_died(member.exitcode)})"
                report = Report(task, why, lost=True)
                self._join(j)
            failed = report.error is not None
            self._rest.ended(j, failed=failed, now=time.monotonic())
            found.append(report)
        return found

    def close(self) -> None:
        """See `Crew`."""
        for member, _ in self._members.values():
            member.kill()
        for connection, (member, _) in self._members.items():
            member.join()
            connection.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignoring Ctrl-C, which what is started now goes on to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(parent: Connection, job: Job, out: str, device: str) -> None:
    """A worker of `Pool`. It dies with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    make: Make | None = None
    with suppress(EOFError, OSError):
        while True:
            shard = parent.recv()
            try:
                make = make or Worker(job, place(out), device).make
            except Exception as error:  # of whatever kind; for all shards, since nothing else is
                parent.send(Report(shard, said(error), fatal=True))
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
        opened: Opened | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = ray = needed("ray", "scale", "--ray")
        self._own = not ray.is_initialized()
        if self._own:
            _begun(ray, address or os.environ.get("RAY_ADDRESS"))
        kind = "GPU" if job.device == "cuda" else "CPU"
        have = int(ray.cluster_resources().get(kind, 0))
        if not have:
            raise ValueError(f"the Ray cluster has no {kind}; choose another --device")
        actor = ray.remote(_Actor).options(
            num_cpus=0 if kind == "GPU" else 1,
            num_gpus=1 if kind == "GPU" else 0,
            max_restarts=-1,
        )
        out = out if "://" in out else os.path.abspath(out)
        opened = opened or partial(_maker, job, out)
        try:
            sent = ray.cloudpickle.dumps(opened)
            # Kept, or Ray lets it go before an actor that died asks for it again.
            self._given = sent if len(sent) < _SMALL else ray.put(sent)
        except Exception as error:  # of whatever kind what is to be sent raises
            raise ValueError(f"it cannot be sent to Ray's workers ({said(error)})") from error
        self._actors = [actor.remote(self._given, out) for _ in range(min(count or have, have))]
        self._busy, self._rest = dict[Any, tuple[int, int]](), Rest()

    @property
    def size(self) -> int:
        """See `Crew`."""
        busy = {j for _, j in self._busy.values()}
        return len(self._actors) - len(self._rest.resting(time.monotonic()) - busy)

    def submit(self, task: int) -> None:
        """See `Crew`."""
        resting, busy = self._rest.resting(time.monotonic()), {j for _, j in self._busy.values()}
        free = [j for j in range(len(self._actors)) if j not in busy]
        j = min(free, key=lambda j: j in resting)
        self._busy[self._actors[j].make.remote(task)] = task, j

    def wait(self) -> list[Report]:
        """See `Crew`."""
        if not self._busy:
            time.sleep(_SECOND)
            return []
        ended, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_SECOND)
        found = []
        for each in ended:
            task, j = self._busy.pop(each)
            try:
                report: Report = self._ray.get(each)
            except self._ray.exceptions.RayError as error:
                why = next(iter(str(error).strip().splitlines()), "")[:160]
                name = type(error).__name__
                report = Report(task, f"its worker was lost ({name}: {why})", lost=True)
            self._rest.ended(j, failed=report.error is not None, now=time.monotonic())
            found.append(report)
        return found

    def close(self) -> None:
        """See `Crew`."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()


def _begun(ray: Any, where: str | None) -> None:
    """Join a cluster, or begin one of this machine."""
    host, _, port = (where or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:  # Ray itself would go on trying for many minutes
            socket.create_connection((host, int(port)), 5).close()
        except OSError as error:
            raise UnansweredError(f"no Ray cluster at {where} ({said(error)})") from error
    heard = signal.getsignal(signal.SIGTERM)
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if not where:
        options["include_dashboard"] = False
    try:
        ray.init(address=where or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else UnansweredError
        raise kind(f"no Ray cluster at {where or 'this machine'} ({said(error)})") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, heard)  # which Ray takes


class _Actor:
    """A worker of `OnRay`."""

    def __init__(self, opened: bytes, out: str) -> None:
        self._given, self._out = opened, out
        self._make: Make | None = None

    def make(self, task: int) -> Report:
        """Do a task, by what the driver sent, and no file."""
        try:
            self._make = (
                self._make or needed("ray", "scale", "--ray").cloudpickle.loads(self._given)()
            )
        except Exception as error:  # of whatever kind
            return Report(task, said(error), lost=True)  # another machine may have what it lacks
        return tried(self._make, task, self._out)


def _maker(job: Job, out: str) -> Make:
    return Worker(job, place(out)).make
