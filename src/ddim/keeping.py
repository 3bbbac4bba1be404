"""The files of a training run in its folder: states, metrics, pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.checkpoints import State, keep, steps, sweep, write_state
from ddim.curves import METRICS, cut
from ddim.files import sweep_temporary
from ddim.noise import Seeded
from ddim.pictures import save_grid
from ddim.sampling import sample
from ddim.store import save
from ddim.trainer import Trainer, Update

STATES, SAMPLES = "training", "samples"
SHOWN, STEPS = 16, 20


class UnsavedError(OSError):
    """A run could not write; what it had saved before is whole."""

    status = 1


@dataclass(frozen=True)
class Keeping:
    """How a run in a folder keeps and shows itself; none of it changes the weights.

    save_every, log_every, sample_every: updates between them; sample_every is save_every where
    None, and 0 is never.   workers: processes that prepare batches.   log: trackers of Accelerate,
    such as tensorboard and wandb.   accept_changes: whether to go on with data, options or
    versions other than those that the run has had so far.
    """

    save_every: int = 1000
    log_every: int = 50
    sample_every: int | None = None
    workers: int = 0
    log: tuple[str, ...] = ()
    accept_changes: bool = False

    def __post_init__(self) -> None:
        for name, least in (("save_every", 1), ("log_every", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; choose at least {least}")
        if (self.sample_every or 0) < 0:
            raise ValueError(f"sample_every={self.sample_every}; choose 0 for never, or more")


@dataclass
class Files:
    """What a run writes, and what was tallied since the last line of its metrics.

    anew: the folder holds an older run, which goes once this one has saved; until then the lines
    of its metrics wait.
    """

    folder: Path
    trainer: Trainer
    keeping: Keeping
    main: bool
    changes: list[dict[str, Any]]
    anew: bool = False
    saved: int = 0
    tally: list[Update] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def begin(self, state: State | None) -> None:
        """Open the metrics and trackers; write the model that the state holds."""
        self.saved = 0 if state is None else state.step
        if self.keeping.log:
            told = flat(self.trainer.about["training"])
            self.trainer.accelerator.init_trackers("ddim", config=told)
        if not self.main:
            return
        for place in (".", "unet", "net", "scheduler", SAMPLES):
            sweep_temporary(self.folder / place)
        with self._writing("at its start"):
            if not self.anew:
                cut(self.folder / METRICS, self.saved)
            if state is not None:
                save(self.trainer.model, self.folder)

    def note(self, update: Update) -> None:
        """Save, log and show what is due after an update."""
        options, keeping = self.trainer.options, self.keeping
        if self.main:
            self.tally.append(replace(update, quarters=update.quarters.clone()))
        last = update.step == options.steps or update.stop
        saving = last or (update.step % keeping.save_every == 0 and not self.trainer.in_row)
        shown = keeping.save_every if keeping.sample_every is None else keeping.sample_every
        if self.main and (saving or update.step % keeping.log_every == 0):
            held_out = self.trainer.held_out_loss() if saving and not update.stop else None
            if held_out is not None and not math.isfinite(held_out):
                held_out = None
            self._log(update.step, held_out)
            if saving:
                self._save(update.step, held_out)
        if self.main and not self.anew and shown and (update.step % shown == 0 or last):
            self._show(update.step)
        if saving:
            self.trainer.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Close the trackers."""
        if self.keeping.log:
            self.trainer.accelerator.end_training()

    def _log(self, step: int, held_out: float | None) -> None:
        line = {"step": step, **told(self.tally), "skipped": self.trainer.skipped}
        if held_out is not None:
            line["held_out_loss"] = held_out
        now = time.monotonic()
        examples = len(self.tally) * self.trainer.options.batch_size
        line["examples_per_s"] = round(examples / max(now - self.since, 1e-9), 2)
        self.since, self.tally = now, []
        self.lines.append(json.dumps(line) + "\n")
        if not self.anew:
            self._write_lines(step)
        if self.keeping.log:
            known = {name: value for name, value in flat(line).items() if value is not None}
            self.trainer.accelerator.log(known, step=step)

    def _save(self, step: int, held_out: float | None) -> None:
        state = self.trainer.state(held_out)
        refuse_unsound(state)
        state = replace(state, document={**state.document, "changes": self.changes})
        with self._writing(f"at update {step}"):
            write_state(state, self.folder / STATES)
            self.saved = step
            if self.anew:
                _forget(self.folder, step)
                self.anew = False
                self._write_lines(step)
            save(state.model, self.folder)
            keep(self.folder / STATES)

    def _write_lines(self, step: int) -> None:
        with self._writing(f"at update {step}"), (self.folder / METRICS).open("a") as file:
            file.write("".join(self.lines))
        self.lines = []

    def _show(self, step: int) -> None:
        model = self.trainer.model
        if not model.of_images:
            return
        label = None if not model.labels else [i % model.labels for i in range(SHOWN)]
        start = Seeded(range(SHOWN)).start(model.shape, self.trainer.accelerator.device)
        with torch.no_grad():
            images = sample(model.denoiser(label), start, model.plan(min(STEPS, model.schedule.T)))
        if torch.isfinite(images).all():
            with self._writing(f"at update {step}"):
                save_grid(images, self.folder / SAMPLES / f"step-{step:08d}.png")

    @contextmanager
    def _writing(self, when: str) -> Iterator[None]:
        try:
            yield
        except UnsavedError:
            raise
        except OSError as error:
            whole = (
                f"the state of update {self.saved} is whole" if self.saved else "no state was yet"
            )
            raise UnsavedError(
                f"the run in {self.folder} could not be saved {when} "
                f"({error.strerror or error}); {whole}: mend that and run the same command again"
            ) from error


def _forget(folder: Path, step: int) -> None:
    """Delete what a folder holds of an older run than that which has saved a step."""
    older = [place for saved, place in steps(folder / STATES).items() if saved != step]
    for place in (*older, *(folder / STATES).glob("damaged-*")):
        place.rename(place.with_name(f".old-{place.name}"))
    sweep(folder / STATES)
    for picture in (folder / SAMPLES).glob("step-*.png"):
        picture.unlink()
    (folder / METRICS).unlink(missing_ok=True)


def told(tally: list[Update]) -> dict[str, Any]:
    """The line of metrics of some updates: means over those that were not skipped, or None."""
    learned = [update for update in tally if not update.skipped]
    count = max(len(learned), 1)
    sums = torch.stack([update.quarters for update in learned] or [torch.zeros(2, 4)]).sum(0)
    quarters = [None if not n else float(total / n) for total, n in sums.T]
    return {
        "loss": sum(float(update.loss) for update in learned) / count if learned else None,
        "loss_by_quarter": quarters,
        "grad_norm": sum(update.grad_norm for update in learned) / count if learned else None,
        "lr": tally[-1].lr,
    }


def refuse_unsound(state: State) -> None:
    """Raise FloatingPointError if a tensor of the state holds a nan or an infinity."""
    sets: list[Mapping[str, Tensor]] = [state.raw, state.optimizer, state.model.net.state_dict()]
    for tensors in (*sets, *state.averages.values()):
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(
                    f"{name} is not finite at update {state.step}, so it is not saved; lower the "
                    "learning rate"
                )


def flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that trackers take: a list becomes one entry for each of its values."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, list | tuple):
            flat |= {f"{key}_{i + 1}": each for i, each in enumerate(value)}
        else:
            flat[key] = value
    return flat
