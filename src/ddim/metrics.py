"""Distances between two sets of images, as rows of features: samples a, real images b."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

NEAREST = 5


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean (D,) and scatter Σ(x − mean)(x − mean)ᵀ (D, D) of rows, float64.

    Two of them add up to those of all rows (Chan et al. 1979), so they stream and merge.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Those of rows (N, ...)."""
        flat = _flat(rows)
        mean = flat.mean(0) if len(flat) else flat.new_zeros(flat.shape[1])
        centred = flat - mean
        return cls(len(flat), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        gap = other.mean - self.mean
        between = torch.outer(gap, gap) * (self.count * other.count / count)
        return Moments(
            count, self.mean + gap * (other.count / count), self.scatter + other.scatter + between
        )

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D). Raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"{self.count} rows have no covariance; give at least 2")
        return self.scatter / (self.count - 1)


def frechet(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """Fréchet distance of the Gaussians fitted to a and b, rows of features (N, ...) and (M, ...).
    Heusel et al. 2017, Eq. 6.

    |μ_a − μ_b|² + tr(C_a + C_b − 2(C_a C_b)^½), in float64. Not "FID", which is this in the
    features of one given network.
    """
    p, q = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    return frechet_gaussians(p.mean, p.covariance, q.mean, q.covariance)


def frechet_gaussians(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """As `frechet`, of means (D,) and covariances (D, D), float64."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD of rows (N, ...), (M, ...) with the kernel (x·y/D + 1)³.

    Bińkowski et al. 2018, Eq. 4, over all pairs; about 0, and at times below it, for sets of one
    law. In the features of Inception-2015 it is what KID estimates.
    """
    return mmd(_pairs(cubic, a, b), len(a), len(b))


def energy_distance(a: Tensor, b: Tensor) -> float:
    """√(2E|X − Y| − E|X − X'| − E|Y − Y'|) over all pairs of rows. Székely and Rizzo 2013."""
    return energy(_pairs(distances, a, b), len(a), len(b))


@dataclass(frozen=True)
class Manifold:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(a: Tensor, b: Tensor, nearest: int = NEAREST) -> Manifold:
    """How samples a (N, ...) lie in balls around real images b (M, ...), and the reverse.

    A ball reaches to the nearest-th neighbour within its own set. Raises ValueError for sets not
    larger than that.
    """
    return balls(distances(torch.cat([_flat(a), _flat(b)])), len(a), nearest)


def sliced_w2(a: Tensor, b: Tensor, projections: int = 512, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of rows (N, ...) and (M, ...), Bonneel et al. 2015.

    The root of the mean of W2² over random directions. Sizes may differ: quantile functions are
    compared exactly.
    """
    x, y = _flat(a), _flat(b)
    onto = directions(x.shape[1], projections, seed).to(x.device)
    return w2((x @ onto).sort(0).values, (y @ onto).sort(0).values)


def nearest(a: Tensor, b: Iterable[Tensor], but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The Euclidean distance of each row of a to its nearest row of b, and that row's place.

    b: in parts, each of some rows.   but: the place in b that each row of a is not held against,
    (N,), such as its own.
    """
    x, begin = a.flatten(1).float(), 0
    best, where = torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.long)
    for part in b:
        far = torch.cdist(x, part.flatten(1).float())
        if but is not None:
            mine = (but >= begin) & (but < begin + len(part))
            far[mine, but[mine] - begin] = torch.inf
        found = far.min(1)
        closer = found.values < best
        best = torch.where(closer, found.values, best)
        where = torch.where(closer, found.indices + begin, where)
        begin += len(part)
    return best, where


def cubic(rows: Tensor) -> Tensor:
    """The kernel (x·y/D + 1)³ of every pair of distinct rows (P, D), (P, P), its diagonal 0."""
    return ((rows @ rows.T / rows.shape[1] + 1) ** 3).fill_diagonal_(0)


def distances(rows: Tensor) -> Tensor:
    """The Euclidean distance of every pair of rows (P, D), (P, P)."""
    centred = rows - rows.mean(0)
    return torch.cdist(centred, centred).fill_diagonal_(0)


def directions(dimension: int, count: int = 512, seed: int = 0) -> Tensor:
    """Random unit vectors as columns (D, count), float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(dimension, count, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=0)


def sums(matrix: Tensor, starts: Sequence[int]) -> Tensor:
    """The sums of the blocks (K, K) of a matrix (P, P), block k from starts[k] to starts[k + 1]."""
    rows = torch.stack([matrix[i:j].sum(0) for i, j in pairwise(starts)])
    return torch.stack([rows[:, i:j].sum(1) for i, j in pairwise(starts)], 1)


def mmd(total: Tensor, n: int, m: int) -> float:
    """The unbiased squared MMD of n rows against m, from the sums (2, 2) of their `cubic`."""
    if min(n, m) < 2:
        raise ValueError(f"{n} and {m} rows; give at least 2 of each")
    (aa, ab), (_, bb) = total.tolist()
    return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)


def energy(total: Tensor, n: int, m: int) -> float:
    """The energy distance of n rows and m, from the sums (2, 2) of their `distances`."""
    (aa, ab), (_, bb) = total.tolist()
    return max(0.0, 2 * ab / (n * m) - aa / n**2 - bb / m**2) ** 0.5


def balls(distance: Tensor, n: int, nearest: int = NEAREST) -> Manifold:
    """`manifold` of the first n rows of a distance matrix as samples and the rest as real ones."""
    if min(n, len(distance) - n) <= nearest:
        raise ValueError(
            f"{n} and {len(distance) - n} rows for the {nearest} nearest; give at least "
            f"{nearest + 1} of each"
        )
    across = distance[:n, n:]
    radius_a, radius_b = (  # the smallest of a row is the distance 0 to itself
        own.kthvalue(nearest + 1, dim=1).values for own in (distance[:n, :n], distance[n:, n:])
    )
    within = across < radius_b
    return Manifold(
        precision=float(within.any(1).double().mean()),
        recall=float((across < radius_a[:, None]).any(0).double().mean()),
        density=float(within.double().sum(1).mean() / nearest),
        coverage=float((across.min(0).values < radius_b).double().mean()),
    )


def w2(x: Tensor, y: Tensor) -> float:
    """The root of the mean W2² over the columns of sorted values (N, P) and (M, P).

    Quantile functions are steps between break points, and are compared exactly.
    """
    n, m = len(x), len(y)
    if n == m:
        return float((x - y).square().mean().sqrt())
    breaks = torch.tensor(sorted({*range(0, n * m + 1, m), *range(0, n * m + 1, n)}))
    left, width = breaks[:-1], breaks.diff().double() / (n * m)
    gap = x[left.div(m, rounding_mode="floor")] - y[left.div(n, rounding_mode="floor")]
    return float((gap.square() * width[:, None]).sum(0).mean().sqrt())


def _flat(rows: Tensor) -> Tensor:
    return rows.flatten(1).double()


def _pairs(matrix: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    return sums(matrix(torch.cat([_flat(a), _flat(b)])), (0, len(a), len(a) + len(b)))
