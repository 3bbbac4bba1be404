"""Data whose denoiser and flow are known exactly, and the order of a solver measured on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ddim.plans import Plan
from ddim.process import Level, Prediction
from ddim.sampling import sample
from ddim.solvers import Solver


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data from a mixture of K isotropic Gaussians, and its exact denoiser E[x_0 | x_t].

    means: (K, ...), one point each.   std, weights: one number above 0 per mean, or one for all.
    It is a Denoiser, mixture(x, level), computed in float64.
    """

    means: Tensor | Sequence[Any]
    std: Tensor | Sequence[float] | float
    weights: Tensor | Sequence[float] | float = 1.0

    def __post_init__(self) -> None:
        count = len(self.means)
        for name in ("means", "std", "weights"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            if name != "means" and (value.numel() not in (1, count) or not (value > 0).all()):
                raise ValueError(
                    f"{name}={value.tolist()} for {count} means; give one number above 0 per mean, "
                    "or one for all"
                )
            object.__setattr__(self, name, value if name == "means" else value.expand(count))

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """E[x_0 | x] and its eps, (B, ...) as x. At noise 0: x0 = x, eps = 0."""
        if not level.noise:
            return Prediction(x, x, torch.zeros_like(x))
        flat, (means, std, weights) = x.reshape(len(x), -1).double(), self._parts(x.device)
        variance = (level.signal * std) ** 2 + level.noise**2
        apart = torch.cdist(flat, level.signal * means, compute_mode=_EXACT).square()
        log = weights.log() - means.shape[1] / 2 * variance.log() - apart / (2 * variance)
        pull = log.softmax(1) / variance  # p(component | x) / variance
        # eps = −noise · score, and x_0 = (x + noise² · score)/signal without dividing by signal.
        eps = level.noise * (pull.sum(1, keepdim=True) * flat - level.signal * pull @ means)
        x0 = level.signal * (pull @ std**2)[:, None] * flat + level.noise**2 * pull @ means
        return Prediction(x, x0.to(x).reshape(x.shape), eps.to(x).reshape(x.shape))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Data (count, ...), float64, independent."""
        means, std, weights = self._parts()
        which = torch.multinomial(weights, count, replacement=True, generator=generator)
        z = torch.empty(count, means.shape[1], dtype=torch.float64).normal_(generator=generator)
        return (means[which] + std[which, None] * z).reshape(count, *self._shape)

    def flow(self, x: Tensor, t: Level, s: Level) -> Tensor:
        """Where the probability flow carries x (B,), float64, from t to s: it keeps each quantile.

        s may have one value per x, fields (B, 1). Raises ValueError unless means are (K,).
        """
        if self._shape:
            raise ValueError("the flow is known for one-dimensional data; give means of shape (K,)")
        side = torch.where(self._tail(x, t, -torch.ones_like(x)) < 0.5, -1.0, 1.0)
        wanted = self._tail(x, t, side)  # the smaller tail, which keeps its digits
        means, std, _ = self._parts()
        far = float(means.abs().max() + 40 * (std.max() + torch.as_tensor(s.noise).max()))
        low, high = torch.full_like(x, -far), torch.full_like(x, far)
        for _ in range(64):  # bisection, down to rounding
            middle = (low + high) / 2
            less = (self._tail(middle, s, side) - wanted) * side > 0
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return (low + high) / 2

    def _tail(self, x: Tensor, level: Level, side: Tensor) -> Tensor:
        """The probability above x (side 1) or below it (side −1)."""
        means, std, weights = self._parts()
        spread = ((level.signal * std) ** 2 + level.noise**2).sqrt()
        z = (x[:, None] - level.signal * means[:, 0]) / spread
        return torch.special.erfc(side[:, None] * z / math.sqrt(2)) @ weights / 2

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(torch.as_tensor(self.means).shape[1:])

    def _parts(self, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """means (K, D), std (K,), weights (K,) of sum 1."""
        means, std, weights = (
            torch.as_tensor(value).to(device) for value in (self.means, self.std, self.weights)
        )
        return means.reshape(len(std), -1), std, weights / weights.sum()


_EXACT = "donot_use_mm_for_euclid_dist"  # the other mode loses digits where x is near a mean

THREE = Mixture((-1.0, 0.2, 1.5), (0.3, 0.5, 0.4), (0.3, 0.5, 0.2))
"""Three bumps on a line."""


def uneven(steps: int, ramp: bool = True, pattern: tuple[int, ...] = (2, 1, 3)) -> Plan:
    """`steps` intervals from noise/signal 10 to 0.05 whose lengths in log-ratio repeat a pattern.

    On even steps a coefficient that ignores their lengths would pass. The ramp starts with a length
    O(1/steps²) that doubles, so that the low order of a multistep method's warm-up does not show.
    """
    growth = [min(1.0, 2 ** min(k, 50) / steps) if ramp else 1.0 for k in range(steps)]
    passed = [0.0, *accumulate(pattern[k % len(pattern)] * g for k, g in enumerate(growth))]
    ratios = [10 * (0.05 / 10) ** (share / passed[-1]) for share in passed]
    signals = [1 / math.hypot(1, ratio) for ratio in ratios]
    return tuple(Level(math.nan, a, a * r) for a, r in zip(signals, ratios, strict=True))


def departure(solver: Solver, plan: Plan, data: Mixture = THREE) -> float:
    """The farthest that a run is from the exact flow, over its end and all calls but the first
    quarter, where a predictor may be seen before it is corrected.
    """
    x, seen = torch.linspace(-2, 2, 9, dtype=torch.float64), []

    def watch(state: Tensor, level: Level) -> Prediction:
        seen.append((state, level))
        return data(state, level)

    seen.append((sample(watch, x, plan, solver), plan[-1]))
    states, levels = zip(*seen[len(seen) // 4 :], strict=True)
    fields = torch.tensor([[level.signal, level.noise] for level in levels], dtype=torch.float64)
    fields = fields.repeat_interleave(len(x), 0)
    reached = Level(math.nan, fields[:, :1], fields[:, 1:])
    exact = data.flow(x.repeat(len(levels)), plan[0], reached)
    return float((torch.cat(states) - exact).abs().max())


def order(
    solver: Solver,
    ramp: bool = True,
    pattern: tuple[int, ...] = (2, 1, 3),
    steps: tuple[int, int] = (96, 384),
    data: Mixture = THREE,
) -> float:
    """The order p at which a deterministic solver converges: departure ∝ (longest interval)^p.

    Measured between two numbers of steps on `uneven` plans.
    """
    few, many = (uneven(count, ramp, pattern) for count in steps)
    errors = departure(solver, few, data) / departure(solver, many, data)
    longest = [
        max(math.log(float(t.ratio) / float(s.ratio)) for t, s in pairwise(plan))
        for plan in (few, many)
    ]
    return math.log(errors) / math.log(longest[0] / longest[1])
