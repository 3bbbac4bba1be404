"""What a run looks at in each update: functions of (seed, step), however it is spread."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddim.data import Examples
from ddim.items import same_draws
from ddim.model import Model
from ddim.noise import stream
from ddim.training import Training

ORDER, BATCH, SIDE, HELD, MASK, OWN = range(1, 7)  # uses of a random stream; 0 is sampling


class Batch(NamedTuple):
    """x0 (B, ...); t (B,) in 1..T; eps (B, ...); label (B,), or None."""

    x0: Tensor
    t: Tensor
    eps: Tensor
    label: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        label = None if self.label is None else self.label.to(device)
        return Batch(self.x0.to(device), self.t.to(device), self.eps.to(device), label)

    def parts(self, count: int) -> Iterator[Batch]:
        """Equal parts, in order."""
        size = len(self.t) // count
        for i in range(count):
            part = slice(i * size, (i + 1) * size)
            label = None if self.label is None else self.label[part]
            yield Batch(self.x0[part], self.t[part], self.eps[part], label)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What to learn: the examples, T, the options.

    labels: (N,), as the model counts them.   null: the label that stands for none.
    chosen: the indices of the examples that are learned, all where None.
    """

    data: Examples
    T: int
    options: Training
    labels: Tensor | None = None
    null: int | None = None
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data) if self.chosen is None else len(self.chosen)

    def taken(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """The examples (B, ...) at places (B,) in 0..len − 1, and their labels."""
        at = places if self.chosen is None else self.chosen[places]
        return self.data.batch(at), None if self.labels is None else self.labels[at]

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """The share of one process in update `step`, from 0.

        Every epoch is a fresh permutation. t, eps, flips and dropped labels are drawn for the whole
        batch, so that they do not depend on how many processes share it.
        """
        size, share = self.options.batch_size, self.options.share(processes)
        mine = slice(rank * share, (rank + 1) * share)
        x0, label = self.taken(torch.from_numpy(self._places(step)[mine]))
        random, side = (stream(self.options.seed, step, use) for use in (BATCH, SIDE))
        t = torch.from_numpy(random.integers(1, self.T + 1, size))
        if self.options.antithetic:
            t[size - size // 2 :] = self.T + 1 - t[: size // 2]
        eps = torch.from_numpy(random.standard_normal((size, *x0.shape[1:]), dtype="float32"))
        flipped, dropped = torch.from_numpy(side.random((2, size)))[:, mine]
        if self.options.flip:
            x0 = torch.where((flipped < 0.5).reshape(-1, 1, 1, 1), x0.flip(-1), x0)
        if label is not None and self.null is not None:
            label = label.masked_fill(dropped < self.options.label_dropout, self.null)
        return Batch(x0, t[mine], eps[mine], label)

    def _places(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Which examples, (batch_size,)."""
        count, size = len(self), self.options.batch_size
        places = np.arange(step * size, (step + 1) * size)
        epochs = places // count
        return np.concatenate(
            [
                _order(self.options.seed, int(epoch), count)[places[epochs == epoch] % count]
                for epoch in np.unique(epochs)
            ]
        )


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return stream(seed, epoch, ORDER).permutation(count)


def lessons(model: Model, data: Examples, options: Training) -> tuple[Lesson, Lesson | None]:
    """What to train on, and what is held out, of which examples is a function of the seed.

    Raises ValueError if none would be left to train on, or the data has other classes.
    """
    null = model.notes.get("null_label")
    whole = Lesson(data, model.schedule.T, options, numbered(data, model), null)
    count = options.held_out
    if not count:
        return whole, None
    if count >= len(data):
        raise ValueError(
            f"held_out={count} of {len(data)} examples leaves none to train on; hold out fewer"
        )
    order = torch.from_numpy(stream(options.seed, 0, HELD).permutation(len(data)))
    seen, held = order[count:].sort().values, order[:count].sort().values
    return replace(whole, chosen=seen), replace(whole, chosen=held)


def class_names(data: Examples) -> tuple[str, ...]:
    """The classes of labelled examples, in the order of a new model. ValueError without labels."""
    if data.labels is None:
        raise ValueError(
            "the data has no labels, which a model with classes needs; give an .npz with labels, "
            "or a folder of two sub-folders or more, one per class"
        )
    return data.names or tuple(map(str, sorted(set(data.labels.tolist()))))


def known_names(data: Examples, model: Model) -> tuple[str, ...]:
    """The classes of a model, in its order: its own names, or those of the data.

    Without names on either side, and labels that are all numbers of the model's, those numbers.
    Raises ValueError for classes that the model does not have, and without labels.
    """
    own, count = class_names(data), model.labels or 0
    plain = tuple(map(str, range(count)))
    named = tuple(model.notes.get("labels") or ())
    known = named or (plain if not data.names and set(own) <= set(plain) else own)
    if not set(own) <= set(known) or len(known) > count:
        whose = f": {_listed(named)}" if named else ""
        raise ValueError(
            f"the data has the classes {_listed(own)}, and the model {count}{whose}; "
            "give data of the model's classes"
        )
    return known


def numbered(data: Examples, model: Model) -> Tensor | None:
    """(N,) the labels as the model counts them, or None for one without classes.

    Raises ValueError as `known_names` does.
    """
    if model.labels is None:
        return None
    known, own = known_names(data, model), class_names(data)
    labels: list[int] = [] if data.labels is None else data.labels.tolist()
    values = range(len(own)) if data.names else sorted(set(labels))
    place = {value: known.index(name) for value, name in zip(values, own, strict=True)}
    return torch.tensor([place[value] for value in labels])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", … ({len(names)})" if len(names) > 12 else "")


def notes_of_classes(data: Examples, model: Model) -> dict[str, Any]:
    """What the folder of a model with classes says beyond: their names in order, the labels."""
    labels = numbered(data, model)
    if labels is None:
        return {}
    digest = hashlib.sha256(labels.numpy().tobytes()).hexdigest()
    return {"labels": list(known_names(data, model)), "labels_sha256": digest}


def seed_of(options: Training, step: int, rank: int, use: int) -> int:
    """What global generators start from in an update: MASK for dropout, OWN for a user's data."""
    return int(stream(options.seed, step, use).integers(2**62)) + rank


class Shares(Dataset[Batch]):
    """The share of one process in each update, by its step; the same in any worker process."""

    def __init__(self, learned: Lesson, rank: int, processes: int) -> None:
        self.lesson, self.rank, self.processes = learned, rank, processes

    def __getitem__(self, step: int) -> Batch:
        with same_draws(seed_of(self.lesson.options, step, self.rank, OWN)):
            return self.lesson.batch(step, self.rank, self.processes)


def deaf(worker: int) -> None:
    """Let a worker process finish: the process that it works for decides when to stop."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
