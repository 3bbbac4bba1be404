"""How good samples are: settings against real images, their floor, and the model's fine run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim import __version__
from ddim.cells import Cell, Setting, Subject, reconstructed, sampled
from ddim.data import Images
from ddim.features import small_rows
from ddim.files import read_json, write_json
from ddim.findings import verdict, warnings
from ddim.identity import fingerprint
from ddim.metrics import nearest
from ddim.model import Model
from ddim.references import Published, Reference, Statistics
from ddim.sampling import Tick
from ddim.significance import averaged, turned, written
from ddim.sketches import FEWEST, kept_places, sketch
from ddim.spreading import Spread

_READ = 256
_LOOKED_AT = 500
FORMAT = 1
"""Of results.json."""
Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is evaluated: settings, the fine one first, on the same seeds, against references.

    The first reference is the one that the verdict is about. data: the real images, or None where
    there are statistics alone. out: the folder where images and figures are kept. spans: the
    numbers of steps in which the first `back` real images are encoded and decoded.   spread: who
    samples the settings, in place of this process.
    """

    subject: Subject
    settings: tuple[Setting, ...]
    references: tuple[Reference | Published, ...]
    data: Images | None
    out: Path
    back: int = 0
    spans: tuple[int, ...] = ()
    spread: Spread | None = None

    def __post_init__(self) -> None:
        if self.settings and self.subject.num < FEWEST:
            raise ValueError(
                f"{self.subject.num} images are too few to compare; choose at least {FEWEST}"
            )
        if self.spans and (self.data is None or not 0 < self.back <= len(self.data)):
            have = 0 if self.data is None else len(self.data)
            raise ValueError(
                f"{self.back} real images are to be encoded and decoded, and there are {have}; "
                "choose a number from 1 to that"
            )

    @property
    def total(self) -> int:
        """How many images go through the network, each as often as it does."""
        calls = [setting.calls(self.subject.model) for setting in self.settings]
        return sum(calls) * self.subject.num + 2 * sum(self.spans) * self.back


def evaluate(sweep: Sweep, tick: Tick) -> Document:
    """Sample every setting that the folder lacks, and measure all.

    The document has the settings' `cells`, `spaces` with their floors, the `memorisation` of the
    first setting, `reconstruction`, `warnings`, and the `verdict`.
    """
    data, rows = sweep.data, []
    cells: list[Cell] = []
    for setting in sweep.settings:
        draw = None if sweep.spread is None else sweep.spread.drawn
        cells.append(sampled(sweep.subject, setting, sweep.out / "cells", tick, draw))
        rows.append(_row(sweep, cells[-1], cells[0]))
    document: Document = {
        "num": sweep.subject.num,
        "first_seed": sweep.subject.first_seed,
        "guidance": sweep.subject.guidance,
        "clip": sweep.subject.clip,
        "cells": rows,
        "spaces": [_space(reference) for reference in sweep.references],
        "memorisation": memorisation(cells[0], data) if cells and data is not None else None,
        "reconstruction": [] if data is None else reconstruction(sweep, data, tick),
    }
    trained = sweep.subject.model.notes.get("data")
    seen = (
        isinstance(trained, dict) and data is not None and trained.get("sha256") == data.fingerprint
    )
    said = {"warnings": warnings(document, seen), "verdict": verdict(document) if cells else None}
    return {**document, **said}


def _row(sweep: Sweep, cell: Cell, fine: Cell) -> Document:
    num = sweep.subject.num
    facts = cell.facts
    row: Document = {
        **cell.setting.row,
        "calls": facts["calls"],
        "seconds": facts["seconds"],
        "ms_per_image": 1000 * facts["seconds"] / num,
        **{name: facts[name] for name in ("threads", "machine", "torch", "ddim")},
        "images": f"cells/{cell.path.name}",
        "figures": {},
    }
    for reference in sweep.references:
        row["figures"][reference.space.name] = _figures(sweep, cell, reference)
    if cell is not fine:
        row["paired"] = written("paired", averaged(_apart(cell, fine, num), root=True))
    return row


def _figures(sweep: Sweep, cell: Cell, reference: Reference | Published) -> Document:
    """Figures of a cell, from the folder or put there."""
    data = sweep.data
    against = data.fingerprint if data is not None else ""
    if isinstance(reference, Published):
        against = reference.statistics.content
    key = hashlib.sha256(f"{__version__} {against} {reference.space.digest}".encode()).hexdigest()[
        :12
    ]
    path = sweep.out / "figures" / f"{cell.path.stem}-{reference.space.name}-{key}.json"
    if not path.exists():
        num = sweep.subject.num
        spread, name = sweep.spread, reference.space.name
        drawn = None if spread is None else spread.sketch(cell.setting, name)
        if drawn is None:
            batches = (cell.read(i, min(i + _READ, num)) for i in range(0, num, _READ))
            drawn = sketch(reference.space, batches, num)
        found = reference.figures(drawn)
        labels, classify = sweep.subject.labels, reference.space.classify
        if labels is not None and classify is not None and sweep.data is not None:
            asked = places_of(labels, sweep.data)[kept_places(num)]
            right = classify(torch.cat(drawn.rows)) == asked
            found["agreement"] = averaged(right.double())
        write_json(path, {name: written(name, figure) for name, figure in found.items()})
    return read_json(path)


def _apart(a: Cell, b: Cell, num: int) -> Tensor:
    """The mean squared difference of each pair of images, in units where one spans [0, 1]."""
    parts = []
    for i in range(0, num, _READ):
        one, other = (cell.read(i, min(i + _READ, num)).double() / 255 for cell in (a, b))
        parts.append((one - other).square().flatten(1).mean(1))
    return torch.cat(parts)


def _space(reference: Reference | Published) -> Document:
    space = reference.space
    return {
        "name": space.name,
        "about": space.about,
        "dimension": space.dimension,
        "digest": space.digest,
        "titles": {name: space.title(name) for name in ("fd", "kd", "sw2", "energy")},
        **space.facts,
        "floors": {
            name: {
                "n": floor.n,
                "mean": turned(name, floor.mean),
                "worst": turned(name, floor.worst),
                "spread": floor.spread,
                "repeats": len(floor.values),
            }
            for name, floor in reference.floors.items()
        },
    }


def places_of(labels: Sequence[int], data: Images) -> Tensor:
    """The place of each label among the data's sorted labels, (N,)."""
    if data.labels is None:
        raise ValueError("the data has no labels; give an .npz with `labels`")
    known = np.unique(data.labels.numpy())
    return torch.from_numpy(np.searchsorted(known, np.asarray(labels)))


def memorisation(cell: Cell, data: Images) -> Document:
    """How near samples lie to their nearest real image, beside how near real ones do to another.

    In pixels from 0 to 1, as a root mean square. `share` is that of samples nearer than the
    nearest 5 % of real images; about 0.05 for samples that are as new as those.
    """
    n = min(_LOOKED_AT, cell.facts["num"], len(data))
    own = torch.linspace(0, len(data) - 1, n, dtype=torch.float64).round().long()
    drawn = small_rows(cell.read(0, n))
    unit = drawn.shape[1] ** 0.5
    real, _ = nearest(small_rows(data.pixels[own]), _all_rows(data), own)
    found, where = nearest(drawn, _all_rows(data))
    threshold = real.quantile(0.05)
    closest = found.argsort()[:8]
    return {
        "n": n,
        "data": len(data),
        "samples": float(found.median()) / unit,
        "real": float(real.median()) / unit,
        "threshold": float(threshold) / unit,
        "share": float((found < threshold).double().mean()),
        "copies": int((found < 1 / 255).sum()),
        "pairs": [
            {"sample": int(i), "image": int(where[i]), "distance": float(found[i]) / unit}
            for i in closest
        ],
    }


def _all_rows(data: Images) -> Iterator[Tensor]:
    return (small_rows(part) for part in torch.split(data.pixels, 4 * _READ))


def reconstruction(sweep: Sweep, data: Images, tick: Tick) -> list[Document]:
    """The error of encoding and decoding real images by DDIM, per number of steps; Table 2."""
    model, labels = sweep.subject.model, None
    if sweep.spans and model.classes is not None:
        labels = checked_labels(model, data, torch.arange(sweep.back))
    rows = []
    for count in sweep.spans:
        subject = Subject(model, sweep.back, labels=labels, batch_size=sweep.subject.batch_size)
        facts = reconstructed(subject, data, count, sweep.out / "cells", tick)
        errors = torch.tensor(facts["mse"], dtype=torch.float64)
        deviation = float(errors.std()) if len(errors) > 1 else 0.0
        rows.append(
            {
                "steps": count,
                "mse": float(errors.mean()),
                "standard_error": deviation / len(errors) ** 0.5,
                "n": len(errors),
                "seconds": facts["seconds"],
            }
        )
    return rows


def checked_labels(model: Model, data: Images | None, places: Tensor | None) -> tuple[int, ...]:
    """The labels of some real images, for a model trained with labels.

    Raises ValueError where the data has none, or others than the model.
    """
    if data is None or data.labels is None or places is None:
        raise ValueError(
            "the model was trained with labels and the data has none; give an .npz with `labels`"
        )
    labels, known = data.labels[places], model.labels
    if known is not None and not ((labels >= 0) & (labels < known)).all():
        raise ValueError(
            f"the data's labels run from {int(labels.min())} to {int(labels.max())}, the model's "
            f"from 0 to {known - 1}; give the data that it was trained on"
        )
    return tuple(labels.tolist())


def facts(model: Model, source: str, against: Images | Statistics) -> Document:
    """Of what and by what an evaluation was made."""
    if isinstance(against, Statistics):
        count, digest = against.count, against.content
    else:
        count, digest = len(against), against.fingerprint
    return {
        "format": FORMAT,
        "model": {
            "fingerprint": fingerprint(model),
            "shape": list(model.shape),
            "T": model.schedule.T,
            "target": model.target,
        },
        "data": {"source": source, "fingerprint": digest, "count": count},
        "ddim": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
