"""How much a figure means: what two halves of real images differ by, and what the seeds change.

Every set of images is cut into ten blocks of consecutive ones. Leaving out one block at a time
gives the standard error of any figure (the delete-a-group jackknife, Kott 2001), and of the
difference of two settings on the same seeds; exchanging blocks between two sets of real images
gives the distribution of the figure for sets of one law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.features import Features
from ddim.noise import stream
from ddim.sketches import BLOCKS, HIGHER, Pool, Sketch, edges

_T = 2.2621571627982  # Student's t, 9 degrees of freedom, two-sided 5 %
_SHARES = ("precision", "recall", "coverage", "balance", "agreement")


@dataclass(frozen=True)
class Figure:
    """A figure of n images, and what it is with each block of seeds left out.

    p: how often sets that mix samples and real images differ as much, for distances.
    """

    value: float
    n: int
    left_out: tuple[float, ...]
    p: float | None = None

    @property
    def pseudo(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The jackknife's pseudo-values."""
        return BLOCKS * self.value - (BLOCKS - 1) * np.array(self.left_out)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence over seeds, the real images held fixed."""
        return _around(self.value, self.pseudo)


def written(name: str, figure: Figure) -> dict[str, Any]:
    """A figure with its 95 % interval, within what it can be, for a document."""
    low, high = figure.interval
    least, most = (-math.inf if name == "kd" else 0.0, 1.0 if name in _SHARES else math.inf)
    return {
        "value": figure.value,
        "low": max(low, least),
        "high": min(high, most),
        "n": figure.n,
        "left_out": list(figure.left_out),
        **({} if figure.p is None else {"p": figure.p}),
    }


def figure_of(entry: Mapping[str, Any]) -> Figure:
    """The figure that `written` wrote."""
    return Figure(entry["value"], entry["n"], tuple(entry["left_out"]), entry.get("p"))


def difference(a: Figure, b: Figure) -> tuple[float, float, float]:
    """a − b on the same seeds, and its 95 % interval, from paired pseudo-values."""
    low, high = _around(a.value - b.value, a.pseudo - b.pseudo)
    return a.value - b.value, low, high


def apart(a: Figure, b: Figure) -> tuple[float, float, float]:
    """a − b of independent samples, and its 95 % interval."""
    one, two = (float(figure.pseudo.std(ddof=1)) for figure in (a, b))
    margin = _T * math.hypot(one, two) / BLOCKS**0.5
    return a.value - b.value, a.value - b.value - margin, a.value - b.value + margin


def _around(
    value: float, pseudo: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[float, float]:
    margin = _T * float(pseudo.std(ddof=1)) / float(np.sqrt(len(pseudo)))
    return value - margin, value + margin


def measured(
    samples: Sketch, real: Sketch, features: Features, repeats: int = 99
) -> dict[str, Figure]:
    """Every figure of samples against as many real images.

    The p of a distance is that of the permutation test: (1 + #)/(1 + repeats), # of exchanges of
    blocks between samples and real images that differ as much. It is exact for samples of the law
    of the real images, whatever that law is.
    """
    pool, all_of = Pool.of(samples, real, features), range(BLOCKS)
    against = range(BLOCKS, 2 * BLOCKS)
    whole = pool.figures(all_of, against)
    parts = [pool.figures(rest, against) for rest in without_one()]
    mixed = [pool.distances(*split) for split in exchanges(samples, repeats)]
    return {
        name: Figure(
            value,
            samples.count if name == "fd" else samples.kept,
            tuple(part[name] for part in parts),
            None
            if name in HIGHER
            else (1 + sum(known[name] >= value for known in mixed)) / (1 + repeats),
        )
        for name, value in whole.items()
    }


def averaged(values: Tensor, root: bool = False) -> Figure:
    """The mean of one value per image (N,), or its root, as a figure."""
    bounds = edges(len(values))
    blocks = [values[i:j].double() for i, j in pairwise(bounds)]
    means = [
        float(torch.cat([blocks[k] for k in rest]).mean())
        for rest in (list(range(BLOCKS)), *without_one())
    ]
    value, *left_out = [mean**0.5 if root else mean for mean in means]
    return Figure(value, len(values), tuple(left_out))


def without_one() -> list[list[int]]:
    """The blocks but one, for each in turn."""
    return [[k for k in range(BLOCKS) if k != left] for left in range(BLOCKS)]


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
        """The value that 1 of 20 exchanges exceeds."""
        return float(np.quantile(self.values, 0.95))

    @property
    def spread(self) -> float:
        """From the mean to the value that 1 of 20 exchanges exceeds."""
        return self.worst - self.mean


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
    """Random splits of twenty blocks into halves of one size: larger and smaller ones apart."""
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
