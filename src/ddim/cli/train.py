"""ddim train: a model from data, in a folder that a stopped run goes on in."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli import words
from ddim.cli.console import progress, writable
from ddim.cli.options import Json, Schedule, Size
from ddim.cli.telling import INTERRUPTED, told

if TYPE_CHECKING:
    from ddim.data import Examples
    from ddim.model import Model
    from ddim.trainer import Update
    from ddim.training import Training

SPOKEN = 20


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder, .zip or .tar of images, an .npz, hf:owner/name, or the word digits."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", "--output", help="The folder of the run; a stopped one goes on."
        ),
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
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the network: fp32 (usual), bf16 or fp16.",
            autocompletion=words.of(words.PRECISIONS[:3]),
        ),
    ] = None,
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
        str | None,
        typer.Option(
            help="What the network predicts: eps (usual), x0, v or flow.",
            autocompletion=words.of(words.TARGETS),
        ),
    ] = None,
    schedule: Schedule = None,
    size: Size = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="tiny, small (usual), base, cifar10, or a config.json.",
            autocompletion=words.of(words.SIZES),
        ),
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
        bool,
        typer.Option("--overwrite", help="Begin anew; the run in --out goes once this has saved."),
    ] = False,
    as_json: Json = False,
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
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(
            f"--out {out} is inside {data}, whose images it would add to; choose a place outside"
        )
    processes = engine()
    main = processes.is_main_process
    states = out / keeping.STATES
    state = None if overwrite else checkpoints.said(states)
    begun = overwrite or checkpoints.steps(states) or checkpoints.damaged(states)
    if store.holds_model(out) and not begun:
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
        "precision": "float32" if precision == "fp32" else precision,
        "compile": compile_,
        "held_out": held_out,
        "seed": seed,
        "label_dropout": label_dropout,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    before = training.Training() if state is None else built(training.Training, state["training"])
    options = replace(before, **chosen)
    kept = keeping.Keeping(
        save_every,
        log_every,
        sample_every,
        workers,
        tuple(name for name in log.split(",") if name),
        accept_changes,
    )
    with processes.main_process_first():  # what is kept of it is there for the others
        examples = opened(data, size, out, skip_bad=skip_bad, main=main)
    if state is None and held_out is None:
        options = replace(options, held_out=min(512, len(examples) // 50))
    wanted = {"target": target, "schedule": schedule, "model": model, "init": init}
    fresh = state is None or conditional or any(value is not None for value in wanted.values())
    untrained = made(examples, options, wanted, conditional=conditional) if fresh else None
    if label_dropout and untrained is not None and "null_label" not in untrained.notes:
        raise ValueError(
            "--label-dropout is for models with a null label; add --conditional, or leave it out"
        )
    done = 0 if state is None else state["step"]
    if main:
        weights = f", {untrained.size:,} weights" if untrained else ""
        behind = f", {done} updates done" if done else ""
        print(f"{len(examples)} images of {examples.shape}{weights}{behind}", file=sys.stderr)
    updates = fitting.fit(untrained, examples, out, options, kept, overwrite=overwrite)
    try:
        update = followed(updates, options, done, main=main)
    except RuntimeError:
        if main:
            raise
        raise typer.Exit(1) from None  # the first process has said why
    if main:
        facts = {
            "out": out,
            "images": len(examples),
            "updates": options.steps if update is None else update.step,
            "steps": options.steps,
            "loss": None if update is None else float(update.loss),
        }
        told(ending(update, options, out, overwrite=overwrite), facts, as_json=as_json)
    if update is not None and update.stop and update.step < options.steps:
        raise typer.Exit(INTERRUPTED)


def followed(
    updates: Iterator[Update], options: Training, done: int, *, main: bool
) -> Update | None:
    """Follow a run under a bar, to its last update."""
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
    return update


def ending(update: Update | None, options: Training, out: Path, *, overwrite: bool) -> str:
    """How a run ended, and what to do next."""
    if update is None:
        return f"{out}: has its {options.steps} updates; more with --steps"
    if update.step == options.steps:
        return f"{out}: trained. Next: ddim sample {out} -o grid.png"
    again = "the same command without --overwrite" if overwrite else "the same command"
    return (
        f"{out}: stopped and saved after {update.step} of {options.steps} updates; {again} goes on"
    )


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
    from ddim import files, identity, lessons, nets, schedules, spec

    if wanted["init"] is not None:
        others = [f"--{name}" for name in ("target", "schedule", "model") if wanted[name]]
        if others:
            raise ValueError(f"--init brings its own {', '.join(others)}; leave them out")
        old = ddim.load(wanted["init"])
        if conditional and old.labels is None:
            raise ValueError(
                f"{wanted['init']} has no classes, so --conditional cannot teach it any; train a "
                "new model, or leave --conditional out"
            )
        return replace(old, notes={**old.notes, "init": identity.fingerprint(old)})
    classes = len(lessons.class_names(examples)) if conditional else None
    name = wanted["model"] or "small"
    if name in nets.SIZES:
        config = nets.sized(name, examples.shape, classes)
    elif not Path(name).exists():
        raise ValueError(
            f"--model {name} is neither a file nor a size; choose one of {', '.join(nets.SIZES)}, "
            "or a config.json"
        )
    else:
        config = nets.configured(files.read_json(Path(name)))
    table = spec.choose(wanted["schedule"] or "linear", schedules.SCHEDULES)
    target = wanted["target"] or "eps"
    return ddim.Model.new(examples.shape, table, target, config, options.seed, classes)
