"""ddim plan and ddim info: what a run would visit, and what a model folder holds."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli.console import file_output, laid, only_one
from ddim.cli.options import Folder, Json, Schedule, Spacing, Steps, Times
from ddim.cli.telling import document


def plan(
    steps: Steps = None,
    spacing: Spacing = None,
    schedule: Schedule = None,
    model: Annotated[
        Path | None, typer.Option(help="Take the schedule of this model's folder instead.")
    ] = None,
    times: Times = None,
    eta: Annotated[float, typer.Option(help="The η of the column σ(η).")] = 1.0,
    as_json: Json = False,
) -> None:
    """Print the levels a sampler visits: t, α, signal, noise, and the σ(η) of the step to each."""
    from ddim import schedules, spec, store
    from ddim.solvers.ddim import largest_eta, sigma

    only_one(model=model, schedule=schedule)
    named = spec.choose(schedule or "linear", schedules.SCHEDULES)
    levels = laid(store.load(model).schedule if model else named, steps, spacing, times)
    most = largest_eta(levels)
    if not 0 <= eta <= most:
        raise ValueError(
            f"eta={eta:g} is not admissible on this plan; "
            f"choose 0 to {math.floor(1e4 * most) / 1e4:g}"
        )
    sigmas = [None, *(sigma(t, s, eta) for t, s in pairwise(levels))]
    rows = [
        {
            "t": level.t,
            "alpha": level.signal**2,
            "signal": level.signal,
            "noise": level.noise,
            "sigma": value,
        }
        for level, value in zip(levels, sigmas, strict=True)
    ]
    if as_json:
        document({"eta": eta, "levels": rows})
        return
    print(f"{'t':>8} {'α':>12} {'signal':>10} {'noise':>10} {f'σ({eta:g})':>10}")
    for row in rows:
        last = "" if row["sigma"] is None else f"{row['sigma']:10.6f}"
        weights = f"{row['alpha']:12.6g} {row['signal']:10.6f} {row['noise']:10.6f}"
        print(f"{row['t']:8g} {weights} {last:>10}")


def info(
    model: Folder,
    as_json: Json = False,
    picture: Annotated[
        Path | None,
        typer.Option("--curves", help="Write the curves of a training run to this .png too."),
    ] = None,
) -> None:
    """Print what a model folder holds, and the curves of its training where they are there."""
    from ddim import curves
    from ddim.store import holds_model

    if picture is not None:
        file_output(picture, ".png")
    path = Path(model) / curves.METRICS
    found = curves.rows(path)
    if picture is not None and not found:
        raise ValueError(f"{path} holds no curves; give the folder of a run of ddim train")
    facts = {} if found and not holds_model(Path(model)) else described(model)
    if picture is not None:
        curves.picture(found, picture)
    if as_json:
        document({**facts, **({"metrics": found} if found else {})})
        return
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:>15}  {text}")
    for line in curves.text(found):
        print(line)


def described(model: Path) -> dict[str, Any]:
    """What a model's folder holds."""
    from dataclasses import asdict

    import ddim
    from ddim.nets import bare

    opened = ddim.load(model)
    end = opened.schedule.level(opened.schedule.T)
    return {
        "network": type(bare(opened.net)).__name__,
        "weights": opened.size,
        "shape": list(opened.shape),
        **({} if opened.labels is None else {"classes": opened.labels}),
        "target": opened.target,
        "T": opened.schedule.T,
        "signal_T": end.signal,
        "noise_T": end.noise,
        "sampling": asdict(opened.sampling),
        **opened.notes,
    }
