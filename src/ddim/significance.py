"""How much a figure means: what two halves of real images differ by, and what the seeds change.

Every set of images is cut into ten blocks of consecutive ones. Leaving out one block at a time
gives the standard error of any figure (the delete-a-group jackknife, Kott 2001), and of the
difference of two settings on the same seeds; exchanging blocks between two sets of real images
gives the distribution of the figure for sets of one law.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
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
    w2,
)
from ddim.noise import stream

BLOCKS = 10
KEPT = 1000
"""The most images that figures of pairs are made of; Fréchet distances take all."""
FEWEST = 60
_T = 2.2621571627982  # Student's t, 9 degrees of freedom, two-sided 5 %
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


def edges(num: int) -> list[int]:
    """Where the ten blocks of num images begin, and num."""
    return [0, *np.cumsum([len(part) for part in np.array_split(range(num), BLOCKS)]).tolist()]


def sketch(features: Features, batches: Iterable[Tensor], num: int) -> Sketch:
    """The sketch of num images, given as uint8 batches of any size in their order.

    Raises ValueError for fewer than 60 images, or another number than num of them, or features
    that are not finite.
    """
    if num < FEWEST:
        raise ValueError(f"{num} images are too few to compare; choose at least {FEWEST}")
    bounds, place = edges(num), 0
    moments: list[Moments | None] = [None] * BLOCKS
    rows: list[list[Tensor]] = [[] for _ in range(BLOCKS)]
    for batch in batches:
        found = features.of(batch)
        if not torch.isfinite(found).all():
            raise ValueError(f"the features {features.name} hold a nan or an infinity")
        for block in range(BLOCKS):
            part = found[max(0, bounds[block] - place) : max(0, bounds[block + 1] - place)]
            if len(part):
                fresh, old = Moments.of(part), moments[block]
                moments[block] = fresh if old is None else old + fresh
                room = KEPT // BLOCKS - sum(map(len, rows[block]))
                rows[block].append(part[:room].double())
        place += len(batch)
    if place != num:
        raise ValueError(f"{place} images came where {num} were announced")
    return Sketch(
        tuple(block for block in moments if block is not None), tuple(map(torch.cat, rows))
    )


@dataclass(frozen=True, eq=False)
class Pool:
    """Blocks of two sets, from any of which against any others the figures follow."""

    moments: tuple[Moments, ...]
    starts: tuple[int, ...]
    distance: Tensor
    kernel: Tensor
    projected: Tensor
    classes: Tensor | None

    @classmethod
    def of(cls, a: Sketch, b: Sketch, features: Features) -> Pool:
        """The blocks of a, 0..9, and those of b, 10..19."""
        blocks = (*a.rows, *b.rows)
        rows = torch.cat(blocks)
        return cls(
            (*a.moments, *b.moments),
            (0, *np.cumsum([len(block) for block in blocks]).tolist()),
            distances(rows),
            cubic(rows),
            rows @ directions(rows.shape[1]),
            None if features.classify is None else features.classify(rows),
        )

    def figures(self, a: Sequence[int], b: Sequence[int]) -> dict[str, float]:
        """Every figure of some blocks as samples against others as real images."""
        first, second = self._places(a), self._places(b)
        order, n = torch.cat([first, second]), len(first)
        distance = self.distance[order[:, None], order]
        found = {
            "fd": frechet(self._moments(a), self._moments(b)),
            "kd": mmd(self.kernel[order[:, None], order], n),
            "sw2": w2(self.projected[order], n),
            "energy": energy(distance, n),
            **asdict(balls(distance, n)),
        }
        if self.classes is not None:
            found["balance"] = imbalance(self.classes[first], self.classes[second])
        return found

    def _moments(self, blocks: Sequence[int]) -> Moments:
        return reduce(add, (self.moments[block] for block in blocks))

    def _places(self, blocks: Sequence[int]) -> Tensor:
        return torch.cat([torch.arange(*self.starts[block : block + 2]) for block in blocks])


def imbalance(a: Tensor, b: Tensor) -> float:
    """The total variation distance, 0 to 1, between the class frequencies of a and b, (N,) each."""
    most = int(max(a.max(), b.max())) + 1
    shares = [torch.bincount(x, minlength=most).double() / len(x) for x in (a, b)]
    return float((shares[0] - shares[1]).abs().sum() / 2)


@dataclass(frozen=True)
class Figure:
    """A figure of n images, and what it is with each block of seeds left out."""

    value: float
    n: int
    left_out: tuple[float, ...]

    @property
    def pseudo(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The jackknife's pseudo-values."""
        return BLOCKS * self.value - (BLOCKS - 1) * np.array(self.left_out)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence over seeds, the real images held fixed."""
        return _around(self.value, self.pseudo)


def difference(a: Figure, b: Figure) -> tuple[float, float, float]:
    """a − b on the same seeds, and its 95 % interval, from paired pseudo-values."""
    low, high = _around(a.value - b.value, a.pseudo - b.pseudo)
    return a.value - b.value, low, high


def _around(
    value: float, pseudo: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[float, float]:
    margin = _T * float(pseudo.std(ddof=1)) / float(np.sqrt(len(pseudo)))
    return value - margin, value + margin


def measured(samples: Sketch, real: Sketch, features: Features) -> dict[str, Figure]:
    """Every figure of samples against as many real images."""
    pool, all_of = Pool.of(samples, real, features), range(BLOCKS)
    against = range(BLOCKS, 2 * BLOCKS)
    whole = pool.figures(all_of, against)
    parts = [pool.figures([k for k in all_of if k != left], against) for left in all_of]
    counts = {"fd": samples.count}
    return {
        name: Figure(value, counts.get(name, samples.kept), tuple(p[name] for p in parts))
        for name, value in whole.items()
    }


@dataclass(frozen=True)
class Floor:
    """A figure's distribution for two sets of n real images each: values in rising order."""

    n: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Its mean."""
        return float(np.mean(self.values))

    @property
    def worst(self) -> float:
        """The value that two real sets exceed in 1 of 20 cases."""
        return float(np.quantile(self.values, 0.95))

    @property
    def spread(self) -> float:
        """From the mean to the value that two real sets exceed in 1 of 20 cases."""
        return self.worst - self.mean

    def p_value(self, value: float) -> float:
        """How often two sets of real images differ as much as this, (1 + #)/(1 + count)."""
        return (1 + sum(known >= value for known in self.values)) / (1 + len(self.values))


def floors(a: Sketch, b: Sketch, features: Features, repeats: int = 99) -> dict[str, Floor]:
    """The permutation distribution of each figure between two halves of real images.

    Blocks are exchanged between a and b, disjoint sets of one size, so that both halves keep that
    size. Figures of which more is better are turned round, so that their floor is in the same
    order: what lies above it is worse than real.
    """
    pool = Pool.of(a, b, features)
    found = [pool.figures(*split) for split in exchanges(a, repeats)]
    return {
        name: Floor(
            a.count if name == "fd" else a.kept,
            tuple(sorted(turned(name, figures[name]) for figures in found)),
        )
        for name in found[0]
    }


def turned(name: str, value: float) -> float:
    """The figure, its sign changed where more is better."""
    return -value if name in HIGHER else value


def exchanges(a: Sketch, repeats: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Random splits of twenty blocks into two halves of equal size: larger and smaller ones apart."""
    large = sum(block.count > a.moments[-1].count for block in a.moments)
    kinds = [
        [k for k in range(2 * BLOCKS) if (k % BLOCKS < large) is wanted] for wanted in (True, False)
    ]
    random = stream(seed, 0)
    splits = []
    for _ in range(repeats):
        halves: tuple[list[int], list[int]] = ([], [])
        for kind in kinds:
            order = random.permutation(kind).tolist()
            halves[0].extend(order[: len(kind) // 2])
            halves[1].extend(order[len(kind) // 2 :])
        splits.append(halves)
    return splits
