"""ddim train: a model from data, in a folder that a stopped run goes on in."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli.console import progress, writable
from ddim.cli.options import Size

if TYPE_CHECKING:
    from ddim.data import Examples
    from ddim.model import Model
    from ddim.trainer import Update
    from ddim.training import Training

INTERRUPTED, SPOKEN = 75, 20


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder, .zip or .tar of images, an .npz, hf:owner/name, or the word digits."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of the run; a stopped one goes on.")
    ],
    steps: Annotated[
        int | None,
        typer.Option("--steps", "--max-steps", help="Updates of the weights; usually 20000."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images per update, over all processes; usually 64."),
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts of a batch, one after the other; usually 1.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; usually 2e-3.")] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Updates until it is reached; usually 200.")
    ] = None,
    decay: Annotated[
        str | None, typer.Option(help="How it falls: cosine (usual) or constant.")
    ] = None,
    ema: Annotated[
        str | None,
        typer.Option(help="Decay of the averaged weights, or several: 0.999,0.9999."),
    ] = None,
    max_grad_norm: Annotated[
        float | None, typer.Option(help="Norm to which gradients are clipped; usually 1.")
    ] = None,
    min_snr: Annotated[
        float | None, typer.Option(help="Weigh the loss by min-SNR with this cap, usually 5.")
    ] = None,
    antithetic: Annotated[
        bool | None, typer.Option("--antithetic/--no-antithetic", help="Draw t in mirrored pairs.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 (usual), bf16 or fp16.")] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the network first.")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(help="Images kept for a loss of their own; usually 2 %, at most 512."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order, times and noise; usually 0.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What the network predicts: eps (usual), x0, v or flow.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="linear (usual), scaled_linear, cosine:s=0.008, sigmoid, rectified_flow, …"
        ),
    ] = None,
    size: Size = None,
    model: Annotated[
        str | None, typer.Option(help="tiny, small (usual), base, cifar10, or a config.json.")
    ] = None,
    conditional: Annotated[
        bool, typer.Option("--conditional", help="Learn the classes of labelled data.")
    ] = False,
    label_dropout: Annotated[
        float | None,
        typer.Option(help="How often a label is left out, for guidance; usually 0.1."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Begin with the weights of this model: fine-tune it.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between saves.")] = 1000,
    log_every: Annotated[
        int, typer.Option(min=1, help="Updates between lines of metrics.jsonl.")
    ] = 50,
    sample_every: Annotated[
        int | None,
        typer.Option(min=0, help="Updates between pictures; usually as saves, 0 for none."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that prepare batches beside the training.")
    ] = 0,
    log: Annotated[str, typer.Option(help="Trackers of Accelerate: tensorboard, wandb, …")] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Go on with other data, options or versions than before."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew: delete what --out holds of a run.")
    ] = False,
) -> None:
    """Train on data and write a model folder with the averaged weights.

    The same command goes on with a run that was stopped, or killed; it ends with the same bits.
    Ctrl-C finishes the update, saves, and ends with status 75. Several processes: torchrun
    --nproc-per-node 2 -m ddim train …, or accelerate launch -m ddim train ….
    """
    from ddim import checkpoints, fitting, keeping, store, training
    from ddim.kinds import built
    from ddim.trainer import engine

    writable(out)
    main = engine().is_main_process
    state = None if overwrite else checkpoints.said(out / keeping.STATES)
    if state is None and store.holds_model(out) and not overwrite:
        raise ValueError(
            f"{out} holds a model already; choose another --out, or --overwrite to replace it"
        )
    given: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "lr": lr,
        "warmup": warmup,
        "decay": decay,
        "ema": decays(ema),
        "max_grad_norm": max_grad_norm,
        "min_snr": min_snr,
        "antithetic": antithetic,
        "flip": flip,
        "precision": precision,
        "compile": compile_,
        "held_out": held_out,
        "seed": seed,
        "label_dropout": label_dropout,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    examples = opened(data, size, out, skip_bad=skip_bad, main=main)
    if state is None:
        options = training.Training(**{"held_out": min(512, len(examples) // 50), **chosen})
    else:
        options = replace(built(training.Training, state["training"]), **chosen)
    wanted = {"target": target, "schedule": schedule, "model": model, "init": init}
    fresh = state is None or conditional or any(value is not None for value in wanted.values())
    untrained = made(examples, options, wanted, conditional=conditional) if fresh else None
    kept = keeping.Keeping(
        save_every,
        log_every,
        sample_every,
        workers,
        tuple(name for name in log.split(",") if name),
        accept_changes,
    )
    done = 0 if state is None else state["step"]
    if main:
        weights = f", {untrained.size:,} weights" if untrained else ""
        before = f", {done} updates done" if done else ""
        print(f"{len(examples)} images of {examples.shape}{weights}{before}", file=sys.stderr)
    updates = fitting.fit(untrained, examples, out, options, kept, overwrite=overwrite)
    run(updates, options, out, done, main=main)


def run(updates: Iterator[Update], options: Training, out: Path, done: int, *, main: bool) -> None:
    """Follow a run under a bar, and say how it ended."""
    update, since = None, time.monotonic()
    with progress(shown=main) as bar:
        task = bar.add_task("training", total=options.steps, completed=done)
        for update in updates:
            bar.advance(task)
            if update.step % SPOKEN == 0:
                now = time.monotonic()
                speed = SPOKEN * options.batch_size / (now - since)
                told = f"loss {float(update.loss):.4f}, {speed:.0f} images/s"
                bar.update(task, description=f"training, {told}")
                since = now
    if update is not None and update.stop:
        if main:
            print(
                f"{out}: stopped and saved after {update.step} of {options.steps} updates; the "
                "same command goes on",
                file=sys.stderr,
            )
        raise typer.Exit(INTERRUPTED)
    if main and update is None:
        print(f"{out}: has its {options.steps} updates; more with --steps", file=sys.stderr)
    elif main:
        print(f"{out}: trained. Next: ddim sample {out} -o grid.png", file=sys.stderr)


def decays(text: str | None) -> float | tuple[float, ...] | None:
    """The decays of a list such as 0.999,0.9999; one of them alone is no tuple."""
    if text is None:
        return None
    try:
        each = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"ema={text!r} is no list of decays; write 0.999,0.9999") from error
    return each[0] if len(each) == 1 else each


def opened(
    source: str, size: int | tuple[int, int] | None, out: Path, *, skip_bad: bool, main: bool
) -> Examples:
    """The data; what of it cannot be read is in skipped.txt of the run."""
    from ddim.files import write
    from ddim.reading import read

    with progress(shown=main) as bar:
        task = bar.add_task("reading", total=None)
        images = read(source, size, skip_bad=skip_bad, tick=lambda n: bar.advance(task, n))
    if images.skipped and main:
        write(out / "skipped.txt", "".join(f"{each}\n" for each in images.skipped).encode())
        print(
            f"{len(images.skipped)} images left out, named in {out / 'skipped.txt'}",
            file=sys.stderr,
        )
    return images


def made(
    examples: Examples, options: Training, wanted: dict[str, str | None], *, conditional: bool
) -> Model:
    """The model to train: new, or one to fine-tune."""
    import ddim
    from ddim import files, lessons, nets, schedules, spec

    if wanted["init"] is not None:
        others = [f"--{name}" for name in ("target", "schedule", "model") if wanted[name]]
        if others:
            raise ValueError(f"--init brings its own {', '.join(others)}; leave them out")
        old = ddim.load(wanted["init"])
        return replace(old, notes={**old.notes, "init": wanted["init"]})
    classes = len(lessons.class_names(examples)) if conditional else None
    name = wanted["model"] or "small"
    if name in nets.SIZES:
        config = nets.sized(name, examples.shape, classes)
    else:
        config = nets.configured(files.read_json(Path(name)))
    table = spec.choose(wanted["schedule"] or "linear", schedules.SCHEDULES)
    target = wanted["target"] or "eps"
    return ddim.Model.new(examples.shape, table, target, config, options.seed, classes)
