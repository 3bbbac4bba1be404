"""A job of many samples carried out, or on, in a place; checked, and mended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ddim.bulk import MANIFEST, Job, wrong
from ddim.dispatch import Crew, StoppedError, dispatch
from ddim.kinds import short
from ddim.places import Place

Hire = Callable[[int], Crew]
"""A crew for so many shards."""
_WAIT, _OLD = 60.0, 3600.0


@dataclass
class Progress:
    """How far a job is.

    done: samples that are there, of `total`.   made: those that this run has made.
    workers: at work.   failed: why, for each shard that failed three times.
    """

    total: int
    done: int = 0
    made: int = 0
    workers: int = 0
    failed: dict[int, str] = field(default_factory=dict)


Watch = Callable[[Progress], None]


def generate(
    job: Job,
    out: Place,
    hire: Hire,
    watch: Watch = lambda progress: None,
    rank: tuple[int, int] = (0, 1),
) -> Progress:
    """Make all shards of a job that are not in the place already, whole; the same again is nothing.

    rank: of a process of several that were started together, and their number: each makes its
    part, and the first begins.
    Raises ValueError where other settings, or other files, are there; BlockingIOError where another
    run writes there; OSError where nothing more can be written.
    """
    first, alone = rank[0] == 0, rank[1] == 1
    with out.locked(shared=not alone):
        if first:
            _begin(job, out, alone=alone)
        else:
            _follow(job, out)
        shards = range(rank[0], job.shards, rank[1])
        progress = Progress(sum(_count(job, shard) for shard in shards))
        names, missing = out.names(), list[int]()
        for shard in shards:
            if wrong(job, shard, out, names) is None:
                progress.done += _count(job, shard)
                watch(progress)
            else:
                missing.append(shard)
        try:
            if missing:
                _make(job, missing, hire, progress, watch)
                _look(job, out, missing, progress)
        finally:
            if alone:
                out.sweep(Names(job))
    return progress


class Names:
    """The names of all files of a job, without a list of them."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __contains__(self, name: object) -> bool:
        job, numbers = self._job, [int(n) for n in re.findall(r"\d+", str(name))[:1]]
        if name == MANIFEST:
            return True
        if not numbers:
            return False
        png = job.format == "png" and not str(name).startswith("shards/")
        shard = numbers[0] // job.shard_size if png else numbers[0]
        if not 0 <= shard < job.shards:
            return False
        if png:
            return numbers[0] < job.num and name == f"{numbers[0]:0{job.digits}d}.png"
        return name == job.sidecar(shard) or (job.format != "png" and name in job.names(shard))


def verify(
    job: Job, out: Place, watch: Callable[[int], None] = lambda shard: None
) -> dict[int, str]:
    """Why each shard is wrong that is missing, damaged or of other settings; empty if none is."""
    names, found = out.names(), dict[int, str]()
    for shard in range(job.shards):
        if (why := wrong(job, shard, out, names)) is not None:
            found[shard] = why
        watch(shard)
    return found


def strangers(job: Job, names: Iterable[str]) -> list[str]:
    """The files that are not of a job and that a reader of its files might take for some."""
    known, kinds = Names(job), {"tmp", "sidecar", job.names(0)[0].rpartition(".")[2]}
    return sorted(n for n in names if n.rpartition(".")[2] in kinds and n not in known)


def _make(job: Job, missing: list[int], hire: Hire, progress: Progress, watch: Watch) -> None:
    crew = hire(len(missing))
    progress.workers = crew.size
    watch(progress)
    try:
        for report in dispatch(crew, missing):
            if report.error is None:
                progress.done += _count(job, report.task)
                progress.made += _count(job, report.task)
            else:
                progress.failed[report.task] = report.error
            progress.workers = crew.size
            watch(progress)
    finally:
        crew.close()


def _look(job: Job, out: Place, made: list[int], progress: Progress) -> None:
    """See that what was reported is there: workers may have written elsewhere."""
    names = out.names()
    for shard in made:
        files = [MANIFEST, job.sidecar(shard), *job.names(shard)]
        if shard not in progress.failed and (gone := [n for n in files if n not in names]):
            progress.failed[shard] = f"{gone[0]} is not in {out.name} as this process sees it"
            progress.done -= _count(job, shard)
            progress.made -= _count(job, shard)


def _count(job: Job, shard: int) -> int:
    begin, end = job.span(shard)
    return end - begin


def _begin(job: Job, out: Place, *, alone: bool) -> None:
    """Write the manifest, or find that the one that is there is the same."""
    names = out.names()
    if MANIFEST in names:
        agree(Job.of(out), job, out.name)
    elif others := strangers(job, (n for n in names if not n.endswith(".tmp"))):
        raise ValueError(
            f"{out.name} holds {others[0]}, which is not of this set; choose another --out"
        )
    else:
        try:
            out.write({MANIFEST: job.manifest()})
        except OSError as error:
            raise StoppedError(
                f"{out.name}: {error.strerror or error}; nothing is there"
            ) from error
    out.sweep(Names(job), 0.0 if alone else _OLD)


def _follow(job: Job, out: Place) -> None:
    """Wait for the manifest of the first rank."""
    until = time.monotonic() + _WAIT
    while not _has_manifest(out):
        if time.monotonic() > until:
            raise ValueError(f"{out.name} got no manifest from rank 0 in {_WAIT:.0f} s; see there")
        time.sleep(0.2)
    agree(Job.of(out), job, out.name)


def _has_manifest(out: Place) -> bool:
    try:
        return bool(out.read(MANIFEST))
    except FileNotFoundError:
        return False


def agree(there: Job, asked: Job, where: str) -> None:
    """Raise ValueError, naming what differs first, unless two jobs are of the same bytes."""
    old, new = ({**job.content(), **job.content()["setting"]} for job in (there, asked))
    del old["setting"], new["setting"]
    for name in old:
        if old[name] != new[name]:
            raise ValueError(
                f"{where} was made with {name}={short(old[name])}, and this run has "
                f"{short(new[name])}; give the same options, or choose another --out"
            )
