"""Room for the pixels of many pictures: memory, or above a limit a mapped file that is kept."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.decoding import Array
from ddim.files import read_json, sweep_temporary, write_json


class Room:
    """`count` pictures of one size, of 1 channel until one of 3 comes.

    Above `limit` bytes they are in a temporary file beside `path`, which `keep` renames to it.
    """

    def __init__(self, count: int, path: Path, limit: int) -> None:
        self._count, self._path, self._limit = count, path, limit
        self._array: Array | None = None
        self._file: Path | None = None

    def put(self, place: int, picture: Array) -> None:
        """Lay down a picture, (1 or 3, H, W). Raises OSError if the disk is full."""
        array = self._array
        if array is None or len(picture) > array.shape[1]:
            array = self._array = self._grown(picture.shape)
        array[place] = picture

    def pixels(self, good: Sequence[int]) -> Tensor:
        """(len(good), C, H, W): the pictures at these rising places, moved together."""
        if self._array is None:
            raise ValueError("no picture was put here")
        for place, old in enumerate(good):
            if place != old:
                self._array[place] = self._array[old]
        return torch.from_numpy(self._array[: len(good)])

    def keep(self, images: Images) -> Images:
        """The same images of `pixels`, in the file at `path` if they are in a file."""
        if self._file is None:
            return images
        size, description = images.pixels.numel(), self._path.with_suffix(".json")
        with self._file.open("r+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(b"" if images.labels is None else images.labels.numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        description.unlink(missing_ok=True)
        self._file.replace(self._path)
        self._file = self._array = None
        said = {
            "shape": list(images.pixels.shape),
            "labelled": images.labels is not None,
            "names": list(images.names),
            "skipped": list(images.skipped),
        }
        write_json(description, said)
        shape = tuple(images.pixels.shape)
        return Images(_mapped(self._path, shape), images.labels, images.names, images.skipped)

    def leave(self) -> None:
        """Remove the temporary file, if there still is one."""
        self._array = None
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _grown(self, picture: tuple[int, ...]) -> Array:
        """Room for pictures of this shape, with what there was in grey."""
        old, old_file, shape = self._array, self._file, (self._count, *picture)
        if prod(shape) <= self._limit:
            array = np.empty(shape, np.uint8)
        else:
            sweep_temporary(self._path.parent, age=3600)  # of processes of this machine
            self._file = self._path.with_name(f".{self._path.name}.{os.getpid()}.{shape[1]}.tmp")
            _reserve(self._file, prod(shape))
            array = np.memmap(self._file, np.uint8, "r+", shape=shape)
        if old is not None:
            array[:] = old
        if old_file is not None:
            old_file.unlink()
        return array


def kept(path: Path) -> Images | None:
    """What `Room.keep` put at path; None if there is nothing, or not the whole of it."""
    if not path.is_file():
        return None
    try:
        said = read_json(path.with_suffix(".json"))
        shape, labelled = tuple(map(int, said["shape"])), bool(said["labelled"])
        names, skipped = (tuple(map(str, said[key])) for key in ("names", "skipped"))
    except (ValueError, KeyError, TypeError):
        return None
    size = prod(shape)
    if path.stat().st_size != size + (8 * shape[0] if labelled else 0):
        return None
    labels = torch.from_numpy(np.fromfile(path, np.int64, offset=size)) if labelled else None
    return Images(_mapped(path, shape), labels, names, skipped)


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The first bytes of a file, to be read as they are wanted and never written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch could write where it must not
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape))


def _reserve(file: Path, size: int) -> None:
    """A file of so many bytes. Raises OSError now, since a mapped file must not run out of disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise OSError(
            f"the pictures take {size:,} bytes in {file.parent}, which has {free:,} left; make "
            "them smaller with --size, or set DDIM_CACHE to another disk"
        )
    with file.open("wb") as opened:
        opened.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
