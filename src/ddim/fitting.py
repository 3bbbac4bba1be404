"""A training run in a folder: it saves, shows how it goes, and goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ddim.checkpoints import State, newest, steps
from ddim.curves import METRICS
from ddim.extras import needed
from ddim.keeping import STATES, Files, Keeping
from ddim.kinds import listed
from ddim.model import Model
from ddim.store import refuse_foreign
from ddim.trainer import Data, Trainer, Update, engine, versions
from ddim.training import Training

LOCK = ".lock"


def fit(
    model: Model | None,
    data: Data,
    out: str | Path,
    options: Training = Training(),
    keeping: Keeping = Keeping(),
    *,
    overwrite: bool = False,
) -> Iterator[Update]:
    """Train in a folder, yielding after each update; a run that was stopped goes on.

    out: gets the model with averaged weights, as `save` writes it, training/step-N with all that
        the run depends on, metrics.jsonl, and samples/step-N.png.
    model: untrained, or to be fine-tuned; None where `out` holds a run, whose model is taken.
    overwrite: begin anew; what `out` holds of an older run goes once the new one has saved.
    A killed run, continued, ends with the bits that an unbroken one ends with, on the same machine
    with as many threads and processes. SIGINT and SIGTERM let the update finish and save, and the
    iteration ends early. A finished run goes on with more `steps`.
    Raises ValueError for data, options or versions other than the run has had so far, unless
    keeping.accept_changes; FloatingPointError after ten updates in a row that are not finite, or
    weights that are not; UnsavedError where a file cannot be written. The states on disk stay.
    """
    _refuse_trackers(keeping.log)
    folder, accelerator = Path(out), engine(keeping.log, Path(out))
    main = accelerator.is_main_process
    with _listening() as stopped:
        state = None if overwrite else newest(folder / STATES)
        if model is None and state is None:
            raise ValueError(f"{folder} holds no run to go on with; give a model to train")
        if model is not None and state is not None:
            _refuse_another(model, state, folder)
        start = model if state is None else state.model
        assert start is not None
        refuse_foreign(start)
        trainer = Trainer(
            start,
            data,
            options,
            workers=keeping.workers,
            stopped=stopped,
            accelerator=accelerator,
        )
        changes = [] if state is None else _accepted(state, trainer, keeping, folder)
        if state is not None:
            trainer.restore(state)
        _refuse_apart(trainer)
        if state is None and not overwrite and main:
            _refuse_foreign_metrics(folder)
        held = None if overwrite else trainer.step
        with _alone(folder / STATES, held) if main else nullcontext():
            files = Files(folder, trainer, keeping, main, changes, anew=overwrite)
            yield from _followed(trainer, files, state)


def _refuse_apart(trainer: Trainer) -> None:
    """Raise ValueError if the processes of a run have found different states."""
    here = torch.tensor([trainer.step], device=trainer.accelerator.device)
    found = sorted(set(trainer.accelerator.gather(here).tolist()))
    if len(found) > 1:
        raise ValueError(
            f"the processes have found states of updates {listed(found)}; start them again when "
            "all of them see the same folder"
        )


def _followed(trainer: Trainer, files: Files, state: State | None) -> Iterator[Update]:
    """The updates, each noted before it is yielded, until one is told to stop."""
    files.begin(state)
    try:
        for update in trainer.updates():
            files.note(update)
            yield update
            if update.stop:
                return
    except FloatingPointError as error:
        back = f"{files.folder} is as it was saved at update {files.saved}, and goes on from there"
        raise FloatingPointError(
            f"{error}; {back}, with --accept-changes for another option"
            if files.saved
            else f"{error}; nothing was saved yet"
        ) from error
    finally:
        files.end()


def _refuse_another(model: Model, state: State, folder: Path) -> None:
    """Raise ValueError unless a model's network, target and schedule are those of the run."""
    names = ("network", "target", "schedule", "beginning (--init)")
    for name, ours, theirs in zip(names, _kind(model), _kind(state.model), strict=True):
        if ours != theirs:
            raise ValueError(
                f"the run in {folder} has another {name}; choose another --out, or --overwrite to "
                "begin anew"
            )


def _kind(model: Model) -> tuple[Any, str, Any, Any]:
    config: Any = getattr(model.net, "config", None)
    network = config.written() if config is not None else type(model.net).__name__
    tables = (model.schedule.signal.tolist(), model.schedule.noise.tolist())
    return json.loads(json.dumps(network)), model.target, tables, model.notes.get("init")


def _accepted(
    state: State, trainer: Trainer, keeping: Keeping, folder: Path
) -> list[dict[str, Any]]:
    """The changes of the run so far and those that come now. ValueError if not accepted."""
    options, before = trainer.options, state.document["training"]
    if options.steps < state.step:
        raise ValueError(
            f"steps={options.steps}, and the run in {folder} has done {state.step} updates; "
            "choose more"
        )
    held = {
        "training": before,
        "data": state.document["data"],
        "versions": state.document["versions"],
    }
    now = json.loads(json.dumps({**trainer.state().document, "versions": versions()}))
    found = []
    for part, entries in held.items():
        for key in sorted({*entries, *now[part]}):
            one, other = entries.get(key), now[part].get(key)
            more = key == "steps" and state.step >= before["steps"]
            if one != other and not more:
                found.append(f"{key if part == 'training' else f'{part} {key}'} {one}, now {other}")
    if found and not keeping.accept_changes:
        raise ValueError(
            f"the run in {folder} had {'; '.join(found)}; go on as it was, or with "
            "--accept-changes (accept_changes=True)"
        )
    changes = [{"step": state.step, "changes": found}] if found else []
    if found:
        logging.getLogger("ddim").warning("from update %d on: %s", state.step, "; ".join(found))
    return [*state.document.get("changes", []), *changes]


def _refuse_foreign_metrics(folder: Path) -> None:
    """Raise ValueError for a metrics.jsonl where no run has begun."""
    if (folder / METRICS).exists() and not (folder / STATES / LOCK).exists():
        raise ValueError(
            f"{folder / METRICS} is there already, and not of a run of ddim; choose another --out"
        )


@contextmanager
def _alone(folder: Path, step: int | None) -> Iterator[None]:
    """Hold a run's folder against other processes; a killed one lets go of it.

    step: where the run is believed to be, if that matters.

    Raises ValueError where another process holds it, or has trained since.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
        ours = step is None or max(steps(folder), default=0) == step
    except Timeout:
        ours = False
    try:
        if not ours:
            raise ValueError(
                f"another process trains in {folder.parent}; wait for it, or choose another --out"
            )
        yield
    finally:
        lock.release()


@contextmanager
def _listening() -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM instead of dying of them; a second SIGINT interrupts at once."""
    asked = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {each: signal.signal(each, hear) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_trackers(log: tuple[str, ...]) -> None:
    """Raise ValueError for a tracker that Accelerate lacks, ImportError for one not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in log:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"log={name!r}; choose from {listed(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name == "tensorboard":
            needed(name, "log", "--log tensorboard")
        elif importlib.util.find_spec(name) is None:
            raise ImportError(f"--log {name} needs {name}; install it: pip install {name}")
