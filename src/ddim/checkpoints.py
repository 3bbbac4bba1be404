"""The state of a training run on disk: all of it or none, and every bit of it accounted for."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ddim.files import read_json, read_tensors, sync, to_json, write
from ddim.kinds import listed
from ddim.model import Model
from ddim.store import load, save

FORMAT, SUMS = 1, "SHA256SUMS"
KEPT = 2
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, eq=False)
class State:
    """A run after `step` updates.

    model: with the averaged weights of the first decay.   raw: the weights that are trained.
    averages: those of further decays, by decay.   optimizer: its tensors, by weight and moment.
    document: options, data, counts, versions: everything that is no tensor.
    There are no generators in it: order, noise, dropout and augmentation follow from (seed, step).
    """

    step: int
    model: Model
    raw: Mapping[str, Tensor]
    averages: Mapping[str, Mapping[str, Tensor]]
    optimizer: Mapping[str, Tensor]
    document: Mapping[str, Any]


def write_state(state: State, folder: Path) -> Path:
    """Write folder/step-N: into a temporary folder, synced, then renamed. Returns its path.

    A kill at any moment leaves either all of it or nothing that `newest` looks at.
    """
    place, temporary = folder / f"step-{state.step:08d}", folder / f".step-{state.step:08d}.tmp"
    sweep(folder)
    try:
        _written(state, temporary)
        if place.exists():  # damaged, or it would have been read
            place.rename(folder / f".old-{place.name}")
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk it takes the room
    sync(folder)
    return place


def _written(state: State, place: Path) -> None:
    """Write all of a state into a folder, synced."""
    save(state.model, place / "model")
    tensors = {"raw": state.raw, "optimizer": state.optimizer}
    tensors |= {f"ema-{decay}": weights for decay, weights in state.averages.items()}
    for name, each in tensors.items():
        kept = {key: tensor.detach().cpu().contiguous() for key, tensor in each.items()}
        write(place / f"{name}.safetensors", safetensors.torch.save(kept))
    write(place / "state.json", to_json({"format": FORMAT, **state.document}))
    write(place / SUMS, sums(place))
    for inside in (place, *place.rglob("*")):
        if inside.is_dir():
            sync(inside)


def newest(folder: Path) -> State | None:
    """The newest whole state of a run, checked to the last bit before a tensor of it is read.

    None where there never was one. A damaged one is named in the log and renamed, and the one
    before is taken; raises ValueError where all of them are damaged, or one is of another ddim, and
    OSError where one cannot be read.
    """
    for step, place in sorted(steps(folder).items(), reverse=True):
        try:
            verify(place)
        except FileNotFoundError:  # another process of the run has put it aside
            continue
        except ValueError as error:
            logging.getLogger("ddim").warning("%s; taking the state before it", error)
            _put_aside(place)
        else:
            return _opened(step, place)
    if harmed := damaged(folder):
        raise ValueError(
            f"no state in {folder} is whole ({listed(harmed)}); restore one of them, "
            "or --overwrite to begin anew"
        )
    return None


def said(folder: Path) -> dict[str, Any] | None:
    """The document of the newest whole state, without its tensors; None where there is none."""
    for _, place in sorted(steps(folder).items(), reverse=True):
        with suppress(ValueError, FileNotFoundError):
            verify(place)
            return read_json(place / "state.json")
    return None


def damaged(folder: Path) -> list[str]:
    """The names of the damaged states of a run."""
    return sorted(path.name for path in folder.glob("damaged-step-*"))


def _put_aside(place: Path) -> None:
    ends = ("", *(f"-{count}" for count in range(2, 100)))
    names = (place.with_name(f"damaged-{place.name}{end}") for end in ends)
    with suppress(OSError):  # of several processes one renames it
        place.rename(next(name for name in names if not name.exists()))


def verify(place: Path) -> None:
    """Raise ValueError unless the files of a state are those it was written with, bit for bit."""
    if place.is_dir() and not (place / SUMS).is_file():
        raise ValueError(f"{place} is damaged: {SUMS} is missing")
    if (place / SUMS).read_bytes() != sums(place):
        raise ValueError(f"{place} is damaged: its files are not those of {SUMS}")


def keep(folder: Path) -> None:
    """Delete all states but the newest two and the one with the least held-out loss."""
    found = sorted(steps(folder).items())
    losses: dict[int, float] = {}
    for step, place in found:
        with suppress(ValueError):  # of a damaged one
            loss = read_json(place / "state.json").get("held_out_loss")
            if isinstance(loss, float) and math.isfinite(loss):
                losses[step] = loss
    kept = {step for step, _ in found[-KEPT:]} | {min(losses, key=losses.__getitem__, default=-1)}
    for step, place in found:
        if step not in kept:
            place.rename(folder / f".old-{place.name}")
    sweep(folder)


def steps(folder: Path) -> dict[int, Path]:
    """The states in a folder by their step, whole or not."""
    matches = [(_STEP.fullmatch(path.name), path) for path in sorted(folder.glob("step-*"))]
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def sweep(folder: Path) -> None:
    """Delete what an interrupted writing or deleting left."""
    for left in (*folder.glob(".step-*.tmp"), *folder.glob(".old-*")):
        shutil.rmtree(left, ignore_errors=True)


def sums(place: Path) -> bytes:
    """A SHA-256 for each file, as sha256sum writes them, and one of those lines, as a comment."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path != place / SUMS)
    lines = "".join(f"{_sha256(path)}  {path.relative_to(place).as_posix()}\n" for path in files)
    return f"{lines}# {hashlib.sha256(lines.encode()).hexdigest()}\n".encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(step: int, place: Path) -> State:
    document = read_json(place / "state.json")
    if document.get("format") != FORMAT or document.get("step") != step:
        raise ValueError(
            f"{place} is of format {document.get('format')!r} and step {document.get('step')!r}; "
            f"this ddim reads format {FORMAT}, step {step}"
        )
    averages = {
        path.stem.removeprefix("ema-"): read_tensors(path)
        for path in sorted(place.glob("ema-*.safetensors"))
    }
    return State(
        step,
        load(place / "model"),
        read_tensors(place / "raw.safetensors"),
        averages,
        read_tensors(place / "optimizer.safetensors"),
        document,
    )
