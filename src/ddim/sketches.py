"""A set of images in a feature space, in blocks of which any others can be made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import torch
from torch import Tensor

from ddim.features import Features
from ddim.metrics import (
    Moments,
    balls,
    cubic,
    directions,
    distances,
    energy,
    frechet,
    mmd,
    sums,
    w2,
)

BLOCKS = 10
KEPT = 1000
"""The most images that figures of pairs are made of; Fréchet distances take all."""
FEWEST = 60
HIGHER = ("precision", "recall", "density", "coverage")
"""Figures of which more is better."""
FIGURES = ("fd", "kd", "sw2", "energy", *HIGHER, "balance")


@dataclass(frozen=True, eq=False)
class Sketch:
    """A set of images in one feature space, in ten blocks: moments of all its rows, and some rows.

    Blocks differ in size by one at most, the larger ones first.
    """

    moments: tuple[Moments, ...]
    rows: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """The number of images."""
        return sum(block.count for block in self.moments)

    @property
    def kept(self) -> int:
        """The number of rows that figures of pairs are made of."""
        return sum(map(len, self.rows))

    @property
    def total(self) -> Moments:
        """The moments of all images."""
        return reduce(add, self.moments)


def edges(num: int) -> list[int]:
    """Where the ten blocks of num images begin, and num."""
    return [0, *np.cumsum([len(part) for part in np.array_split(range(num), BLOCKS)]).tolist()]


@dataclass(frozen=True, eq=False)
class Portion:
    """What successive images from place `begin` on add to a sketch: moments and rows by block."""

    begin: int
    count: int
    blocks: Mapping[int, tuple[Moments, Tensor]]


def portion(features: Features, images: Tensor, begin: int, num: int) -> Portion:
    """That of uint8 images (B, C, H, W) of a set of num.

    Raises ValueError for features that are not finite.
    """
    found, bounds = features.of(images), edges(num)
    if not torch.isfinite(found).all():
        raise ValueError(f"the features {features.name} hold a nan or an infinity")
    blocks = {}
    for block in range(BLOCKS):
        part = found[max(0, bounds[block] - begin) : max(0, bounds[block + 1] - begin)]
        if len(part):
            blocks[block] = Moments.of(part), part[: KEPT // BLOCKS].double()
    return Portion(begin, len(images), blocks)


class Growing:
    """The sketch of num images, of portions added in their order."""

    def __init__(self, num: int) -> None:
        if num < FEWEST:
            raise ValueError(f"{num} images are too few to compare; choose at least {FEWEST}")
        self._num, self._place = num, 0
        self._moments: list[Moments | None] = [None] * BLOCKS
        self._rows: list[list[Tensor]] = [[] for _ in range(BLOCKS)]

    def add(self, part: Portion) -> None:
        """Add the next. Raises ValueError for another."""
        if part.begin != self._place:
            raise ValueError(
                f"images from {part.begin} on came after {self._place}; keep the order"
            )
        for block, (fresh, some) in part.blocks.items():
            old, rows = self._moments[block], self._rows[block]
            self._moments[block] = fresh if old is None else old + fresh
            rows.append(some[: KEPT // BLOCKS - sum(map(len, rows))])
        self._place += part.count

    def whole(self) -> Sketch:
        """The sketch. Raises ValueError where images are missing, or too many came."""
        if self._place != self._num:
            raise ValueError(f"{self._place} images came where {self._num} were announced")
        moments = tuple(block for block in self._moments if block is not None)
        return Sketch(moments, tuple(map(torch.cat, self._rows)))


def sketch(features: Features, batches: Iterable[Tensor], num: int) -> Sketch:
    """The sketch of num images, given as uint8 batches of any size in their order.

    Raises ValueError as `portion` and `Growing` do.
    """

    growing, place = Growing(num), 0
    for batch in batches:
        growing.add(portion(features, batch, place, num))
        place += len(batch)
    return growing.whole()


def kept_places(num: int) -> Tensor:
    """The places of the images whose rows a sketch of num images keeps."""
    return torch.cat([torch.arange(i, min(j, i + KEPT // BLOCKS)) for i, j in pairwise(edges(num))])


@dataclass(frozen=True, eq=False)
class Pool:
    """Blocks of two sets, from any of which against any others the figures follow."""

    moments: tuple[Moments, ...]
    starts: tuple[int, ...]
    distance: Tensor
    near: Tensor  # sums of distances and of kernels, block by block
    alike: Tensor
    projected: Tensor  # sorted along each direction (512, P), and the places of the values
    places: Tensor
    classes: Tensor | None

    @classmethod
    def of(cls, a: Sketch, b: Sketch, features: Features) -> Pool:
        """The blocks of a, from 0 on, and then those of b."""
        blocks = (*a.rows, *b.rows)
        rows = torch.cat(blocks)
        starts = (0, *np.cumsum([len(block) for block in blocks]).tolist())
        distance = distances(rows)
        along = (rows @ directions(rows.shape[1])).T.sort(1)
        return cls(
            (*a.moments, *b.moments),
            starts,
            distance,
            sums(distance, starts),
            sums(cubic(rows), starts),
            along.values,
            along.indices,
            None if features.classify is None else features.classify(rows),
        )

    def figures(self, a: Sequence[int], b: Sequence[int]) -> dict[str, float]:
        """Every figure of some blocks as samples against others as real images."""
        first, second = self._places(a), self._places(b)
        order = torch.cat([first, second])
        balanced = balls(self.distance[order[:, None], order], len(first))
        return {**self.distances(a, b), **asdict(balanced)}

    def distances(self, a: Sequence[int], b: Sequence[int]) -> dict[str, float]:
        """The figures of which less is better."""
        first, second = self._places(a), self._places(b)
        n, m = len(first), len(second)
        found = {
            "fd": frechet(self._moments(a), self._moments(b)),
            "kd": mmd(_between(self.alike, a, b), n, m),
            "sw2": w2(self._sorted(first), self._sorted(second)),
            "energy": energy(_between(self.near, a, b), n, m),
        }
        if self.classes is not None:
            found["balance"] = imbalance(self.classes[first], self.classes[second])
        return found

    def _sorted(self, places: Tensor) -> Tensor:
        """The values at some places along each direction, sorted, (N, 512)."""
        chosen = torch.zeros(self.starts[-1], dtype=torch.bool)
        chosen[places] = True
        return self.projected[chosen[self.places]].reshape(-1, len(places)).T

    def _moments(self, blocks: Sequence[int]) -> Moments:
        return reduce(add, (self.moments[block] for block in blocks))

    def _places(self, blocks: Sequence[int]) -> Tensor:
        return torch.cat([torch.arange(*self.starts[block : block + 2]) for block in blocks])


def _between(blocks: Tensor, a: Sequence[int], b: Sequence[int]) -> Tensor:
    """Sums (2, 2) over some blocks and some others."""
    parts = [torch.tensor(part) for part in (a, b)]
    return torch.stack([torch.stack([blocks[x][:, y].sum() for y in parts]) for x in parts])


def imbalance(a: Tensor, b: Tensor) -> float:
    """The total variation distance, 0 to 1, between the class frequencies of a and b, (N,) each."""
    most = int(max(a.max(), b.max())) + 1
    shares = [torch.bincount(x, minlength=most).double() / len(x) for x in (a, b)]
    return float((shares[0] - shares[1]).abs().sum() / 2)
