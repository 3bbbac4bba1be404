"""What commands that many processes carry out share: their flags, a job under a bar, its end by a
signal.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli.console import progress
from ddim.cli.telling import INTERRUPTED

if TYPE_CHECKING:
    from ddim.bulk import Job
    from ddim.dispatch import Crew
    from ddim.evaluation import Sweep
    from ddim.generation import Progress
    from ddim.places import Place
    from ddim.spreading import Opened, Spread

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes of this machine; usually one per core, or per GPU."),
]
OverRay = Annotated[
    bool, typer.Option("--ray", help="By Ray: on the cluster of RAY_ADDRESS, or a new one here.")
]
Address = Annotated[
    str | None,
    typer.Option("--ray-address", help="A Ray cluster, such as ray://head:10001; implies --ray."),
]


def carry_out(
    job: Job,
    out: Place,
    rank: tuple[int, int],
    workers: int | None,
    over: tuple[bool, str | None],
) -> tuple[Progress, dict[str, Any]]:
    """Run a job under a bar, and tell on stderr how it ended; what it came to, and for --json."""
    from ddim import engines
    from ddim.generation import generate as make

    def hire(shards: int) -> Crew:
        if over[0] or over[1]:
            return engines.OnRay(job, out.name, min(workers or shards, shards), over[1])
        if rank[1] > 1:
            local = os.environ.get("LOCAL_RANK", "0")
            return engines.Here(job, out, engines.device_of(job, int(local)))
        count = min(workers or engines.usual(job), shards)
        return engines.Here(job, out) if count == 1 else engines.Pool(job, out, count)

    begin = time.perf_counter()
    with progress(shown=rank[0] == 0) as bar:
        task = bar.add_task("looking", total=job.num if rank[1] == 1 else None)

        def watch(state: Progress) -> None:
            rate = state.made / (time.perf_counter() - begin)
            said = f"{rate:.3g} images/s, {state.workers} workers" if state.workers else "looking"
            bar.update(task, completed=state.done, total=state.total, description=said)

        state = make(job, out, hire, watch, rank)
    spent = time.perf_counter() - begin
    for shard, why in state.failed.items():
        first, end = job.span(shard)
        print(f"ddim: images {first} to {end - 1} failed: {why}", file=sys.stderr)
    part = "" if rank[1] == 1 else f" of rank {rank[0]} of {rank[1]}"
    print(
        f"{out.name}: {state.done} of {state.total} images{part}, {state.made} of them made in "
        f"{spent:.1f} s",
        file=sys.stderr,
    )
    spans = {shard: job.span(shard) for shard in state.failed}
    return state, {
        "out": out.name,
        "images": state.total,
        "done": state.done,
        "made": state.made,
        "seconds": spent,
        "failed": [{"begin": b, "end": e, "why": state.failed[k]} for k, (b, e) in spans.items()],
    }


@contextmanager
def stopped(place: str) -> Iterator[None]:
    """SIGTERM and Ctrl-C end with status 75, once all is in order; further ones wait."""

    def stop(number: int, frame: Any) -> None:
        for each in both:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    both = signal.SIGINT, signal.SIGTERM
    before = {each: signal.signal(each, stop) for each in both}
    try:
        yield
    except KeyboardInterrupt:
        print(f"ddim: stopped; the same command goes on in {place}", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # nothing is left to do, and a further signal changes no status
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def spread(folder: Path, sweep: Sweep, address: str | None) -> Spread:
    """What samples and measures the settings of an evaluation on Ray."""
    from ddim import engines
    from ddim.bulk import Job, configured
    from ddim.identity import fingerprint
    from ddim.spreading import Spread

    subject = sweep.subject
    net: Any = subject.model.net
    precision, backend = str(net.way).split()
    job = Job(
        str(folder.absolute() if folder.exists() else folder),
        fingerprint(subject.model),
        subject.num,
        sweep.settings[0],
        subject.first_seed,
        subject.labels,
        subject.guidance,
        subject.clip,
        (precision, backend),
        next(net.parameters()).device.type,
        subject.batch_size,
        shard_size=2 * subject.batch_size,
        config=configured(subject.model),
    )
    spaces = [reference.space for reference in sweep.references]

    def hire(opened: Opened) -> Crew:
        return engines.OnRay(job, str(sweep.out), job.shards, address, opened)

    return Spread(job, sweep.settings, spaces, hire)
