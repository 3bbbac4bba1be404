"""Distances between sets of images, in pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to a and b, rows of features (N, ...) and (M, ...).
    Heusel et al. 2017, Eq. 6.

    |μ_a − μ_b|² + tr(C_a + C_b − 2(C_a C_b)^½), in float64. Not "FID", which is this in the
    features of one given network.
    """
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of rows (N, ...), float64.

    Raises ValueError for fewer than two rows.
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} rows have no covariance; give at least 2")
    rows = x.reshape(len(x), -1).double()
    return rows.mean(0), torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])


def sliced_w2(a: Tensor, b: Tensor, projections: int = 512, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of rows (N, ...) and (M, ...), Bonneel et al. 2015.

    The root of the mean of W2² over random directions. Sizes may differ: quantile functions are
    compared exactly.
    """
    x, y = a.reshape(len(a), -1).double(), b.reshape(len(b), -1).double()
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], projections, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    return float(
        _w2_squared((x @ directions).sort(0).values, (y @ directions).sort(0).values).mean().sqrt()
    )


def _w2_squared(x: Tensor, y: Tensor) -> Tensor:
    """W2² per column of sorted samples; quantile functions are steps between break points."""
    n, m = len(x), len(y)
    breaks = torch.tensor(sorted({*range(0, n * m + 1, m), *range(0, n * m + 1, n)}))
    left, width = breaks[:-1], breaks.diff().double() / (n * m)
    gap = x[left.div(m, rounding_mode="floor")] - y[left.div(n, rounding_mode="floor")]
    weighted: Tensor = gap.square() * width.to(gap)[:, None]
    return weighted.sum(0)
