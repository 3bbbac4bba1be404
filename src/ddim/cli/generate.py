"""ddim generate and verify: many samples, on any number of machines."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli.console import device as find_device, integers, progress, recipe_for, writable
from ddim.cli.options import Backend, Calls, Clip, Device, Folder, Json, Precision, Spacing, Steps

if TYPE_CHECKING:
    from ddim.bulk import Job
    from ddim.dispatch import Crew
    from ddim.evaluation import Sweep
    from ddim.generation import Progress
    from ddim.model import Model
    from ddim.places import Place
    from ddim.spreading import Opened, Spread

INTERRUPTED = 75
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


def generate(
    model: Folder,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="How many.")],
    out: Annotated[
        str,
        typer.Option(
            "-o", "--out", "--output", help="A folder, or an address such as s3://bucket/folder."
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="That of image 0; image i has SEED + i.")] = 0,
    steps: Steps = None,
    calls: Calls = None,
    solver: Annotated[str | None, typer.Option(help="As in ddim sample; usually ddim.")] = None,
    spacing: Spacing = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Classes, in turns, such as 0-9 or 3; or an .npy with one per image."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Scale of guidance towards the label; 1 is none.")
    ] = 1.0,
    clip: Clip = None,
    kind: Annotated[str, typer.Option("--format", help="npz, png, webdataset or parquet.")] = "npz",
    shard_size: Annotated[int, typer.Option(min=1, help="Images per file.")] = 1024,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per network call, usually 16, on a GPU 256; kept in the manifest."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of a worker; kept in the manifest.")] = 1,
    workers: Workers = None,
    over_ray: OverRay = False,
    ray_address: Address = None,
    precision: Precision = None,
    backend: Backend = None,
    device: Device = "auto",
) -> None:
    """Make many images, in files that training and evaluation tools read.

    Image i is that of ddim sample --seeds SEED+i. Killed or stopped (status 75), the same command
    goes on, and ends with the same bytes, whatever the workers. The ranks of
    torchrun -m ddim generate … -n N share the work.
    """
    import ddim
    from ddim.bulk import Job, configured
    from ddim.extras import needed
    from ddim.identity import fingerprint
    from ddim.places import place

    with _stopped(out):
        place_of, rank = place(out), _rank()
        if "://" not in out:
            writable(Path(out))
        if rank[1] > 1 and (over_ray or ray_address or workers):
            raise ValueError("torchrun starts the workers; leave --workers and --ray out")
        if over_ray or ray_address:
            needed("ray", "scale", "--ray")
        if kind == "parquet":
            needed("pyarrow", "parquet", "--format parquet")
        where = find_device(device)
        size = batch_size or (256 if where.startswith("cuda") else 16)
        opened = ddim.load(model)
        way = _way(opened, place_of, (precision or "fp32", backend or "eager"), where, size)
        if opened.classes is not None and labels is None and "null_label" not in opened.notes:
            raise ValueError("the model was trained with classes; give --labels, such as 0-9")
        job = Job(
            str(model.absolute() if model.exists() else model),
            fingerprint(opened),
            num,
            _setting(model, opened, (calls, steps, solver, spacing), guidance, clip),
            seed,
            _labels(labels, opened, num, guidance),
            guidance,
            clip,
            way,
            where.partition(":")[0],
            size,
            threads,
            kind,
            shard_size,
            opened.of_images,
            configured(opened),
        )
        _carry_out(job, place_of, rank, workers, (over_ray, ray_address))


def verify(
    out: Annotated[str, typer.Argument(help="What ddim generate wrote.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what is missing or damaged.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="Where the model is now; usually where it was.")
    ] = None,
    workers: Workers = None,
    over_ray: OverRay = False,
    ray_address: Address = None,
    as_json: Json = False,
) -> None:
    """Check every file of ddim generate against its hash; status 1 where one is wrong."""
    from ddim.bulk import Job
    from ddim.generation import strangers, verify as check
    from ddim.places import place

    where = place(out)
    job = Job.of(where)
    with progress() as bar:
        task = bar.add_task("checking", total=job.shards)
        found = check(job, where, lambda shard: bar.advance(task))
    others = strangers(job, where.names())
    spans = {shard: job.span(shard) for shard in found}
    wrong = [{"begin": b, "end": e, "why": found[shard]} for shard, (b, e) in spans.items()]
    if as_json:
        print(json.dumps({"images": job.num, "wrong": wrong, "not_of_this_set": others}))
    else:
        for shard, (begin, end) in spans.items():
            print(f"images {begin} to {end - 1}: {found[shard]}")
        for name in others:
            print(f"{name}: not of this set")
    if repair and (found or others):
        with _stopped(out):
            find_device(job.device)
            again = replace(job, model=str(model or job.model))
            _carry_out(again, where, (0, 1), workers, (over_ray, ray_address))
        others = strangers(job, where.names())
    elif not found and not others:
        print(f"{out}: {job.num} images, all as they should be", file=sys.stderr)
    if others or (found and not repair):
        raise typer.Exit(1)


def _carry_out(
    job: Job,
    out: Place,
    rank: tuple[int, int],
    workers: int | None,
    over: tuple[bool, str | None],
) -> None:
    """Run a job under a bar, and tell how it ended."""
    from ddim import engines
    from ddim.generation import generate as carry_out

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

        state = carry_out(job, out, hire, watch, rank)
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
    if state.failed:
        raise typer.Exit(1)


def _way(
    model: Model, out: Place, asked: tuple[str, str], device: str, batch_size: int
) -> tuple[str, str]:
    """The precision and the backend; auto is what the set has that is there, else the fastest."""
    from ddim.bulk import MANIFEST, Job

    if "auto" in asked and MANIFEST in out.names():
        way = Job.of(out).way
    else:
        on_device = copy.deepcopy(model.net).to(device) if device != "cpu" else model.net
        fast = replace(model, net=on_device).optimize(*asked, batch_size)
        net: Any = fast.net
        precision, backend = str(net.way).split()
        way = precision, backend
    if "auto" in asked:
        print(f"network: {' '.join(way)}", file=sys.stderr)
    return way


def _rank() -> tuple[int, int]:
    """Which process of how many torchrun, or whoever sets its names, says that this is."""
    said = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if said == [None, None]:
        return 0, 1
    numbers = [int(each) if each and each.isdecimal() else -1 for each in said]
    if not 0 <= numbers[0] < numbers[1]:
        raise ValueError(
            f"RANK={said[0]} and WORLD_SIZE={said[1]} in the environment; set both, RANK from 0 "
            "to WORLD_SIZE − 1, as torchrun does, or neither"
        )
    return numbers[0], numbers[1]


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


@contextmanager
def _stopped(place: str) -> Iterator[None]:
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


def _setting(
    folder: Path,
    model: Model,
    asked: tuple[int | None, int | None, str | None, str | None],
    guidance: float,
    clip: float | None,
) -> Any:
    """How ddim sample would sample with the same options."""
    import ddim
    from ddim.cells import Setting, fitting
    from ddim.cli.console import only_one

    calls, steps, solver, spacing = asked
    only_one(calls=calls, steps=steps)
    if solver is None and spacing is None:
        recipe = recipe_for(folder, model, calls, 20 if steps is None else steps, guidance, clip)
        if recipe is not None:
            return Setting.tuned(recipe)
    elif calls is not None and solver is None:
        raise ValueError(
            "--calls takes the recipe of ddim tune; leave --spacing out, or name a --solver"
        )
    method, laid = ddim.build(solver or "ddim"), spacing or "trailing"
    if calls is not None:
        steps = fitting(model, method, calls, laid)
    setting = Setting(
        ddim.describe(method), laid, min(20, model.schedule.T) if steps is None else steps
    )
    setting.made(model)
    return setting


def _labels(text: str | None, model: Model, num: int, guidance: float) -> tuple[int, ...] | None:
    import numpy as np

    if text is None:
        if guidance != 1:
            raise ValueError("--guidance leads to a label; give --labels")
        return None
    if model.classes is None:
        raise ValueError("the model was trained without classes; leave --labels out")
    if text.endswith(".npy"):
        try:
            found = np.load(text, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{text} cannot be read as an .npy ({error})") from error
        if found.shape != (num,) or found.dtype.kind not in "iu":
            raise ValueError(f"{text} holds {found.dtype} {found.shape}; give {num} whole numbers")
        labels = tuple(int(label) for label in found)
    else:
        labels = tuple(label for part in text.split(",") for label in integers(part))
    model.denoiser(sorted(set(labels)), guidance=guidance)  # which refuses what it has not
    return labels
