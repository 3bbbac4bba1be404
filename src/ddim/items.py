"""Training data as torch's programs have it: map-style data sets, tensors and arrays."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ddim.data import Arrays, Examples, Images, check_labels, to_float

_KEYS, _LABELS = ("image", "pixel_values", "images", "x"), ("label", "labels", "y")
_LOOKED_AT = 16


@dataclass(frozen=True, eq=False)
class Items:
    """A map-style data set, whose items are read when they are wanted, with its own augmentation.

    dataset[i]: a tensor, (tensor, label), or {"image" or "pixel_values": tensor, "label": label};
    uint8 becomes [-1, 1], floats stay as they are; all of one shape. names: its `classes`.
    """

    dataset: Any

    def __post_init__(self) -> None:
        if not len(self.dataset):
            raise ValueError("the data set is empty; it needs one item at least")
        if not self.shape or 0 in self.shape:
            raise ValueError(f"item 0 is {self.shape}; give tensors of rank 1 or more")

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item."""
        with same_draws():
            return tuple(self._value(0).shape)

    @cached_property
    def labels(self) -> Tensor | None:
        """int64 (N,): the data set's `targets`, or else found by reading every item once.

        None if the first item has none. Raises ValueError for one that is no whole number.
        """
        with same_draws():
            if _parts(self.dataset[0], 0)[1] is None:
                return None
            targets = getattr(self.dataset, "targets", None)
            if targets is None:
                targets = [_parts(self.dataset[k], k)[1] for k in range(len(self))]
        labels = torch.tensor([_whole(label, k) for k, label in enumerate(targets)])
        check_labels(labels, self._classes, len(self), "items")
        return labels

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, where items have labels and the data set has `classes`."""
        return () if self.labels is None else self._classes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the number of items and of 16 that are spread evenly, drawn from seed 0.

        A change in other items goes unnoticed.
        """
        count = len(self)
        places = sorted({k * (count - 1) // (_LOOKED_AT - 1) for k in range(_LOOKED_AT)})
        digest = hashlib.sha256(repr((count, *self.shape)).encode())
        with same_draws():
            for place in places:
                digest.update(self._value(place).contiguous().numpy().data)
        return digest.hexdigest()

    def batch(self, chosen: Tensor) -> Tensor:
        """(B, *shape). Raises ValueError that names an item of another shape, or with a nan."""
        values = []
        for place in chosen.tolist():
            value = self._value(place)
            if tuple(value.shape) != self.shape:
                raise ValueError(
                    f"item {place} is {tuple(value.shape)} and item 0 {self.shape}; "
                    "crop or resize them to one shape"
                )
            if not torch.isfinite(value).all():
                raise ValueError(f"item {place} holds a nan or an infinity; mend it")
            values.append(value)
        return torch.stack(values)

    @property
    def _classes(self) -> tuple[str, ...]:
        return tuple(map(str, getattr(self.dataset, "classes", ()) or ()))

    def _value(self, place: int) -> Tensor:
        value, _ = _parts(self.dataset[place], place)
        return to_float(value) if value.dtype == torch.uint8 else value.detach().float()


def examples(data: Any) -> Examples:
    """Anything to train on: Examples as they are; uint8 (N, C, H, W) as Images, floats as Arrays.

    data: those, a tensor, a numpy array, or a map-style data set. Raises ValueError for others.
    """
    if _are_examples(data):
        return data
    if isinstance(data, np.ndarray):
        if data.dtype.kind not in "uif":
            raise ValueError(f"an array of {data.dtype} is no data; give uint8 or floats")
        data = torch.from_numpy(np.ascontiguousarray(data))
    if isinstance(data, Tensor):
        return Arrays(data.detach().float()) if data.is_floating_point() else Images(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return Items(data)
    raise ValueError(
        f"a {type(data).__name__} is no data; give a tensor, an array, a data set with a length "
        "and dataset[i], or what ddim.read returns"
    )


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """The global random numbers of torch (CPU), numpy and Python from a seed, then as before."""
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def _are_examples(data: object) -> TypeGuard[Examples]:
    return hasattr(type(data), "batch") and hasattr(type(data), "fingerprint")


def _parts(item: Any, place: int) -> tuple[Tensor, Any]:
    """The tensor and the label, or None, of an item."""
    value, label = item, None
    if isinstance(item, Mapping):
        value = next((item[key] for key in _KEYS if key in item), None)
        label = next((item[key] for key in _LABELS if key in item), None)
    elif isinstance(item, tuple | list) and item:
        value, label = item[0], (item[1] if len(item) > 1 else None)
    if not isinstance(value, Tensor) or not (
        value.dtype == torch.uint8 or value.is_floating_point()
    ):
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"item {place} is a {type(item).__name__} with a {got} for its example; give a tensor "
            'of uint8 or floats, (tensor, label), or {"image": tensor, "label": label}'
        )
    return value, label


def _whole(label: Any, place: int) -> int:
    number = label.item() if isinstance(label, Tensor | np.generic) else label
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"the label of item {place} is {label!r}; give a whole number")
    return number
