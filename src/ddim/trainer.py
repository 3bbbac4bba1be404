"""Training as a generator: one update at a time, the caller decides when to look, save or stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from ddim import __version__
from ddim.checkpoints import State
from ddim.data import Examples
from ddim.items import examples, same_draws
from ddim.lessons import (
    HELD,
    MASK,
    Batch,
    Shares,
    deaf,
    lessons,
    notes_of_classes,
    seed_of,
)
from ddim.losses import errors, min_snr_gamma
from ddim.model import Model
from ddim.noise import stream
from ddim.training import PRECISIONS, Training, ema, emas_of, notes, rate

Data = Examples | Tensor | Dataset[Any]
"""`Images`, `Arrays`, a tensor, or a map-style data set of torch."""

PATIENCE = 10
"""Updates in a row whose loss or gradient may be other than finite."""


@dataclass(frozen=True)
class Update:
    """After update `step` (from 1): its loss, and the model with averaged weights.

    The next update changes that model.
    lr and grad_norm: of this update, the norm before clipping.   skipped: whether the loss or the
    gradient was not finite, so that nothing was learned.
    quarters: (2, 4), the sum of squared errors and their count, by quarter of t, least noise first.
    stop: whether a process of the run was asked to stop.
    """

    step: int
    loss: Tensor
    model: Model
    lr: float
    grad_norm: float
    quarters: Tensor
    skipped: bool = False
    stop: bool = False


def train(
    model: Model, data: Data, options: Training = Training(), *, workers: int = 0
) -> Iterator[Update]:
    """Train a copy of the model's network on data, yielding after each update.

    data: `Images`, `Arrays`, or what `examples` makes of a tensor or a torch Dataset.
    Order, times, noise, dropout and augmentation are functions of (seed, step), so the number of
    worker processes that prepare batches changes nothing.
    Raises ValueError if data and model do not fit, and FloatingPointError after ten updates in a
    row whose loss or gradient is not finite; such an update is skipped.
    """
    yield from Trainer(model, data, options, workers=workers).updates()


def engine(log: Sequence[str] = (), folder: Path | None = None) -> Accelerator:
    """Accelerate's, over the processes that torchrun or accelerate launch started; log: trackers,
    which write into a folder."""
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # or it would take several processes for one
        mixed_precision="no",  # autocast is the trainer's
        log_with=list(log) or None,
        project_dir=folder,
    )


class Trainer:
    """A run in progress: the network, its averages and the optimiser after `step` updates.

    stopped: asked in every update; its answer, of any process, is in `Update.stop`.
    accelerator: `engine()` where None.
    """

    def __init__(
        self,
        model: Model,
        source: Data,
        options: Training = Training(),
        *,
        workers: int = 0,
        stopped: Callable[[], bool] = lambda: False,
        accelerator: Accelerator | None = None,
    ) -> None:
        data = examples(source)
        _refuse(model, data, options)
        self.accelerator = accelerator or engine()
        options.share(self.accelerator.num_processes)
        self.options, self.workers, self.stopped = options, workers, stopped
        self.lesson, self.held = lessons(model, data, options)
        self.gamma = (
            None
            if options.min_snr is None
            else min_snr_gamma(model.schedule, model.target, options.min_snr)
        )
        self.averages = [AveragedModel(model.net, multi_avg_fn=ema(d)) for d in options.emas]
        self.plain = copy.deepcopy(model.net).train().requires_grad_(True)
        if options.compile:
            self.plain.compile()
        self.net: nn.Module = self.accelerator.prepare(self.plain)
        self.optimizer = torch.optim.Adam(self.plain.parameters(), lr=options.lr, fused=True)
        for averaged in self.averages:
            averaged.to(self.accelerator.device).eval().requires_grad_(False)
        self.scaler = torch.amp.GradScaler(
            self.accelerator.device.type, enabled=options.precision == "fp16"
        )
        self.step = self.learned = self.skipped = self.in_row = 0
        self.about = {**model.notes, **notes(data, options), **notes_of_classes(data, model)}
        self._shown = replace(model, net=self.averages[0].module)

    @property
    def model(self) -> Model:
        """The model with averaged weights, which the next update changes."""
        return replace(self._shown, notes={**self.about, "updates": self.step})

    def updates(self) -> Iterator[Update]:
        """The updates from here to the end of the run."""
        accelerator = self.accelerator
        batches = DataLoader(
            Shares(self.lesson, accelerator.process_index, accelerator.num_processes),
            batch_size=None,
            sampler=range(self.step, self.options.steps),
            num_workers=self.workers,
            worker_init_fn=deaf,
            generator=torch.Generator(),  # or it would draw from the caller's
        )
        for batch in batches:
            yield self._update(batch)

    def held_out_loss(self) -> float | None:
        """The squared error of the averaged weights on what is held out, at fixed t and noise."""
        if self.held is None:
            return None
        count, T, total = len(self.held), self.held.T, 0.0
        random = stream(self.options.seed, 1, HELD)
        levels = (2 * torch.from_numpy(random.permutation(count)) + 1) * T // (2 * count) + 1
        for chosen in torch.split(torch.arange(count), self.options.batch_size):
            with same_draws():
                x0, label = self.held.taken(chosen)
            eps = torch.from_numpy(random.standard_normal(tuple(x0.shape), dtype="float32"))
            batch = Batch(x0, levels[chosen], eps, label).to(self.accelerator.device)
            with torch.no_grad():
                total += float(self._errors(self.averages[0].module, batch).cpu().double().sum())
        return total / count

    def state(self, held_out_loss: float | None = None) -> State:
        """All that the rest of the run depends on; its tensors are those of the run."""
        names = [name for name, _ in self.plain.named_parameters()]
        document = {
            "step": self.step,
            "learned": self.learned,
            "skipped": self.skipped,
            "in_row": self.in_row,
            "held_out_loss": held_out_loss,
            "scaler": self.scaler.state_dict(),
            "training": self.about["training"],
            "data": {**self.about["data"], "labels_sha256": self.about.get("labels_sha256")},
            "versions": versions(),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "device": str(self.accelerator.device),
        }
        further = zip(self.options.emas[1:], self.averages[1:], strict=True)
        return State(
            self.step,
            self.model,
            self.plain.state_dict(),
            {str(decay): averaged.module.state_dict() for decay, averaged in further},
            {
                f"{names[index]}.{moment}": value
                for index, moments in self.optimizer.state_dict()["state"].items()
                for moment, value in moments.items()
            },
            document,
        )

    def restore(self, state: State) -> None:
        """Go on from a state; a decay that it lacks starts with its model.

        Raises ValueError if it is of another network.
        """
        places = {name: i for i, (name, _) in enumerate(self.plain.named_parameters())}
        moments: dict[int, dict[str, Tensor]] = {place: {} for place in places.values()}
        try:
            for key, value in state.optimizer.items():
                name, _, moment = key.rpartition(".")
                moments[places[name]][moment] = value
            first = state.model.net.state_dict()
            held = {**state.averages, str(emas_of(state.document["training"]["ema"])[0]): first}
            for decay, averaged in zip(self.options.emas, self.averages, strict=True):
                averaged.module.load_state_dict(dict(held.get(str(decay), first)))
                averaged.n_averaged.fill_(state.document["learned"])
            self.plain.load_state_dict(dict(state.raw))
        except (RuntimeError, KeyError) as error:
            words = " ".join(str(error).split())[:160]
            raise ValueError(f"step {state.step} is of another network ({words})") from error
        if state.optimizer:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.scaler.is_enabled() and state.document["scaler"]:
            self.scaler.load_state_dict(dict(state.document["scaler"]))
        self.step, self.learned, self.skipped, self.in_row = (
            state.document[key] for key in ("step", "learned", "skipped", "in_row")
        )

    def _update(self, batch: Batch) -> Update:
        lr = self.options.lr * rate(self.step, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        device = self.accelerator.device
        seed = seed_of(self.options, self.step, self.accelerator.process_index, MASK)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            told = self._backward(batch.to(device))
        self.scaler.unscale_(self.optimizer)
        limit = self.options.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(self.plain.parameters(), limit))
        loss = told[0] / self.accelerator.num_processes
        sound = bool(torch.isfinite(loss))
        finite = sound and norm < math.inf
        if finite:
            self.scaler.step(self.optimizer)
            for averaged in self.averages:
                averaged.update_parameters(self.plain)
        scale = self.scaler.get_scale()
        self.scaler.update()
        searching = sound and scale > self.scaler.get_scale() >= 1  # of float16, and not lost
        self.optimizer.zero_grad()
        self.step += 1
        self.learned, self.skipped = self.learned + finite, self.skipped + (not finite)
        self.in_row = 0 if finite else self.in_row + (not searching)
        if self.in_row == PATIENCE:
            raise FloatingPointError(
                f"the loss or its gradient was not finite in {PATIENCE} updates in a row, up to "
                f"update {self.step}; lower lr={self.options.lr:g}"
            )
        quarters = told[2:].reshape(2, 4)
        return Update(self.step, loss, self.model, lr, norm, quarters, not finite, bool(told[1]))

    def _backward(self, batch: Batch) -> Tensor:
        """Add up the gradient of a batch. Returns (10,), summed over the processes: the loss,
        whether to stop, the squared errors by quarter of t, and their counts."""
        told = torch.zeros(10, device=batch.t.device)
        told[1] = float(self.stopped())
        parts = self.options.accumulate
        for i, part in enumerate(batch.parts(parts)):
            with nullcontext() if i + 1 == parts else self.accelerator.no_sync(self.net):
                error = self._errors(self.net, part)
                weight = 1.0 if self.gamma is None else self.gamma[part.t.cpu()].to(error)
                objective = (weight * error).mean() / parts
                torch.autograd.backward(self.scaler.scale(objective))
            quarter = (part.t - 1) * 4 // self.lesson.T
            told[0] += objective.detach()
            told[2:6].index_add_(0, quarter, error.detach())
            told[6:].index_add_(0, quarter, torch.ones_like(error))
        summed: Tensor = self.accelerator.reduce(told, "sum")
        return summed

    def _errors(self, net: nn.Module, batch: Batch) -> Tensor:
        kind = PRECISIONS[self.options.precision]
        with torch.autocast(batch.t.device.type, kind, enabled=kind is not None):
            schedule, target = self._shown.schedule, self._shown.target
            return errors(net, schedule, target, (batch.x0, batch.t, batch.eps), batch.label)


def versions() -> dict[str, str]:
    """Of what computes the updates."""
    return {"ddim": __version__, "torch": torch.__version__, "numpy": np.__version__}


def _refuse(model: Model, data: Examples, options: Training) -> None:
    """Raise ValueError if they do not go together."""
    if data.shape != model.shape:
        raise ValueError(
            f"examples of {data.shape} for a model of {model.shape}; make the model for the data"
        )
    if options.flip and len(data.shape) != 3:
        raise ValueError(f"flip is for images, and the examples are {data.shape}; leave it out")
