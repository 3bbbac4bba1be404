"""ddim verify: whether the files of a bulk set are as they were made."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli.console import device as find_device, progress
from ddim.cli.options import Json
from ddim.cli.spread import Address, OverRay, Workers, carry_out, stopped
from ddim.cli.telling import document


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
    wrong, failed = (
        [{"begin": b, "end": e, "why": found[shard]} for shard, (b, e) in spans.items()],
        False,
    )
    facts: dict[str, Any] = {"images": job.num, "wrong": wrong, "not_of_this_set": others}
    if not as_json:
        for shard, (begin, end) in spans.items():
            print(f"images {begin} to {end - 1}: {found[shard]}")
        for name in others:
            print(f"{name}: not of this set")
    if repair and (found or others):
        with stopped(out):
            find_device(job.device)
            again = replace(job, model=str(model or job.model))
            state, told = carry_out(again, where, (0, 1), workers, (over_ray, ray_address))
        others, facts["repair"] = strangers(job, where.names()), told
        failed = bool(state.failed)
    elif not found and not others:
        print(f"{out}: {job.num} images, all as they should be", file=sys.stderr)
    if as_json:
        document(facts)
    if others or failed or (found and not repair):
        raise typer.Exit(1)
