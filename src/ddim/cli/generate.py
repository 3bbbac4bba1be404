"""ddim generate: many samples, on any number of machines."""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli import words
from ddim.cli.console import (
    device as find_device,
    integers,
    only_one,
    recipe_for,
    with_eta,
    writable,
)
from ddim.cli.options import (
    Backend,
    Calls,
    Clip,
    Device,
    Eta,
    Folder,
    Guidance,
    Json,
    Precision,
    Solver,
    Spacing,
    Steps,
)
from ddim.cli.spread import Address, OverRay, Workers, carry_out, stopped
from ddim.cli.telling import document

if TYPE_CHECKING:
    from ddim.model import Model
    from ddim.places import Place


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
    solver: Solver = None,
    eta: Eta = None,
    spacing: Spacing = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Classes, in turns, such as 0-9 or 3; or an .npy with one per image."),
    ] = None,
    guidance: Guidance = 1.0,
    clip: Clip = None,
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="npz, png, webdataset or parquet.",
            autocompletion=words.of(words.FORMATS),
        ),
    ] = "npz",
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
    as_json: Json = False,
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

    with stopped(out):
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
            _setting(model, opened, (calls, steps, with_eta(solver, eta), spacing), guidance, clip),
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
        state, facts = carry_out(job, place_of, rank, workers, (over_ray, ray_address))
    if as_json:
        document({**facts, "settings": job.settings, "setting": asdict(job.setting)})
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
