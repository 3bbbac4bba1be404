"""Noise schedules: two tables over t = 0..T, and the functions that make them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddim.process import Level


@dataclass(frozen=True, eq=False)
class Schedule:
    """The forward process as tables: float64 (T+1,) signal and noise.

    Entry 0 is clean data, 1..T are trained. noise/signal rises strictly from 0. noise_T must be
    near 1, because sampling starts from N(0, I).
    """

    signal: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        for name in ("signal", "noise"):
            table = torch.as_tensor(getattr(self, name), dtype=torch.float64, device="cpu").clone()
            object.__setattr__(self, name, table)
        _check(self.signal, self.noise)

    @property
    def T(self) -> int:
        """The number of trained levels."""
        return len(self.signal) - 1

    @cached_property
    def variance_preserving(self) -> bool:
        """Whether signal² + noise² = 1 everywhere."""
        return bool((self.signal**2 + self.noise**2 - 1).abs().max() < 1e-9)

    @property
    def alpha_bar(self) -> Tensor:
        """(T+1,) α_t = signal². Raises ValueError if the variance is not preserved."""
        if not self.variance_preserving:
            raise ValueError(
                "alpha_bar needs signal² + noise² = 1; read .signal and .noise of this schedule"
            )
        return self.signal**2

    @property
    def top(self) -> int:
        """The highest t with some signal left: T, or T − 1 if the terminal signal is 0."""
        return self.T if self._floats[0][-1] > 0 else self.T - 1

    @cached_property
    def _floats(self) -> tuple[list[float], list[float]]:
        return self.signal.tolist(), self.noise.tolist()

    @cached_property
    def log_ratio(self) -> list[float]:
        """log(noise/signal) at t = 1..top, strictly rising."""
        return (self.noise[1 : self.top + 1] / self.signal[1 : self.top + 1]).log().tolist()

    def level(self, t: float) -> Level:
        """The level at t: a table entry at an integer 0..T, else linear in log-ratio.

        Then also linear in log-signal, unless the variance is preserved. Raises ValueError for t
        outside 0..T, or fractional outside 1..top, where a log-ratio would be infinite.
        """
        if not 0 <= t <= self.T:
            raise ValueError(f"t={t:g} is outside the schedule; choose 0..{self.T}")
        signals, noises = self._floats
        if t == int(t):
            return Level(float(t), signals[int(t)], noises[int(t)])
        if not 1 <= t <= self.top:
            raise ValueError(
                f"t={t:g} lies between levels without a finite log-ratio; "
                f"choose 1..{self.top}, or an integer"
            )
        below = int(t)
        share = t - below
        ratio = math.exp((1 - share) * self.log_ratio[below - 1] + share * self.log_ratio[below])
        signal = 1 / math.hypot(1, ratio)
        if not self.variance_preserving:
            signal = signals[below] ** (1 - share) * signals[below + 1] ** share
        return Level(float(t), signal, signal * ratio)

    def levels(self, t: Tensor, like: Tensor) -> Level:
        """One level per image, in the dtype and on the device of like (B, ...).

        t: (B,) integers in 0..T.   Returns fields (B, 1, ..., 1).
        """
        index = t.cpu()
        if index.is_floating_point() or index.min() < 0 or index.max() > self.T:
            raise ValueError(f"t={t.tolist()} must be integers in 0..{self.T}")
        fields = (index, self.signal[index], self.noise[index])
        return Level(*(v.reshape(-1, *[1] * (like.ndim - 1)).to(like) for v in fields))

    def time(self, ratio: float) -> float:
        """The t in [1, top] of a ratio: the inverse of `level`.

        Raises ValueError outside the trained range.
        """
        if ratio == math.inf and self.top < self.T:
            return float(self.T)
        table = self.log_ratio
        value = math.log(ratio) if ratio > 0 else math.nan
        if not table or not table[0] - 1e-9 <= value <= table[-1] + 1e-9:
            trained = f"{math.exp(table[0]):.4g}..{math.exp(table[-1]):.4g}" if table else "none"
            raise ValueError(
                f"noise/signal={ratio:g} is outside the trained levels, {trained}; stay within"
            )
        if len(table) == 1:
            return 1.0
        value = min(max(value, table[0]), table[-1])
        below = max(bisect.bisect_right(table, value, hi=len(table) - 1), 1)
        return below + (value - table[below - 1]) / (table[below] - table[below - 1])


def _check(signal: Tensor, noise: Tensor) -> None:
    if signal.ndim != 1 or signal.shape != noise.shape or len(signal) < 2:
        raise ValueError(
            f"signal {tuple(signal.shape)} and noise {tuple(noise.shape)} must be two tables of "
            "T+1 entries, T >= 1"
        )
    if not (torch.isfinite(signal).all() and torch.isfinite(noise).all()):
        raise ValueError("the tables hold a nan or an infinity; give finite numbers")
    if noise[0] != 0 or signal[0] != 1 or signal.min() < 0:
        raise ValueError(
            f"signal_0={signal[0]:g}, noise_0={noise[0]:g}, least signal {signal.min():g}; "
            "level 0 is clean data (signal 1, noise 0), and no signal is negative"
        )
    falls = (noise[1:] * signal[:-1] <= noise[:-1] * signal[1:]).nonzero()
    if len(falls):
        t = int(falls[0]) + 1
        told = f"noise/signal does not rise from t={t - 1} to t={t}"
        raise ValueError(f"{told}; it must rise strictly, so every beta is above 0")
    if abs(noise[-1] - 1) > 0.05:
        told = f"noise_T={noise[-1]:.4g}, but sampling starts from N(0, I)"
        raise ValueError(f"{told}; it must be within 0.05 of 1: raise the betas or T")


def from_betas(betas: Tensor | Sequence[float]) -> Schedule:
    """The variance preserving schedule of β_1..β_T in (0, 1]: α_t = Π (1 − β_i)."""
    beta = torch.as_tensor(betas, dtype=torch.float64)
    if beta.ndim != 1 or not ((beta > 0) & (beta <= 1)).all():
        raise ValueError("betas must be a list of T numbers above 0 and at most 1")
    log_alpha = torch.log1p(-beta).cumsum(0)
    return _variance_preserving((log_alpha / 2).exp(), (-torch.expm1(log_alpha)).sqrt())


def from_alpha_bar(alpha_bar: Tensor | Sequence[float]) -> Schedule:
    """The variance preserving schedule of α_1..α_T, without the leading α_0 = 1."""
    alpha = torch.as_tensor(alpha_bar, dtype=torch.float64)
    if alpha.ndim != 1 or not ((alpha >= 0) & (alpha < 1)).all():
        raise ValueError(
            "alpha_bar must be a list of T numbers in [0, 1), falling, "
            "without the leading 1 of clean data"
        )
    return _variance_preserving(alpha.sqrt(), (1 - alpha).sqrt())


def _variance_preserving(signal: Tensor, noise: Tensor) -> Schedule:
    one = torch.ones(1, dtype=torch.float64)
    return Schedule(torch.cat([one, signal]), torch.cat([0 * one, noise]))


def _levels(T: int) -> int:
    if not isinstance(T, int) or not 1 <= T <= 1_000_000:
        raise ValueError(f"T={T}; choose a whole number from 1 to 1000000")
    return T


def linear(
    T: int = 1000, beta_start: float | None = None, beta_end: float | None = None
) -> Schedule:
    """DDPM's schedule: β evenly from 0.1/T to 20/T, at most 0.999. Ho et al. 2020.

    That is 1e-4 to 0.02 at T = 1000; the division keeps noise_T the same for every T. Given betas
    are taken as they are.
    """
    return _even(T, (beta_start, beta_end), (0.1, 20.0), 1)


def scaled_linear(
    T: int = 1000, beta_start: float | None = None, beta_end: float | None = None
) -> Schedule:
    """Latent diffusion's schedule: √β evenly, β from 0.85/T to 12/T. Rombach et al. 2022."""
    return _even(T, (beta_start, beta_end), (0.85, 12.0), 2)


def _even(
    T: int, given: tuple[float | None, float | None], defaults: tuple[float, float], power: int
) -> Schedule:
    """β^(1/power) evenly between the ends, at most 0.999."""
    scaled = (default / _levels(T) for default in defaults)
    start, end = (d if b is None else b for b, d in zip(given, scaled, strict=True))
    if not all(isinstance(b, int | float) and 0 < b <= 1 for b in given if b is not None):
        raise ValueError(f"beta_start={start}, beta_end={end}; choose numbers above 0, at most 1")
    root = torch.linspace(start ** (1 / power), end ** (1 / power), T, dtype=torch.float64)
    return from_betas((root**power).clamp(max=0.999 if given[1] is None else 1.0))


def cosine(T: int = 1000, s: float = 0.008) -> Schedule:
    """α_t ∝ cos²(π/2·(t/T + s)/(1 + s)), β at most 0.999. Nichol and Dhariwal 2021, Eq. 17."""
    u = torch.arange(_levels(T) + 1, dtype=torch.float64) / T
    return _capped(torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2)


def sigmoid(T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """α_t falls as a sigmoid over [start, end]/tau, β at most 0.999. Jabri et al. 2022."""
    if not (tau > 0 and 0 < (end - start) / tau <= 30):
        raise ValueError(f"start={start}, end={end}, tau={tau}; choose end > start, at most 30 tau")
    u = torch.linspace(start / tau, end / tau, _levels(T) + 1, dtype=torch.float64)
    return _capped((-u).sigmoid() - (-u[-1]).sigmoid())


def _capped(f: Tensor) -> Schedule:
    """α_t ∝ f_t, (T+1,), but each β at most 0.999."""
    return from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))


def rectified_flow(T: int = 1000) -> Schedule:
    """signal = 1 − u, noise = u, at u = t/T. Liu et al. 2022. Not variance preserving."""
    u = torch.arange(_levels(T) + 1, dtype=torch.float64) / T
    return Schedule(1 - u, u)


def zero_terminal(schedule: Schedule) -> Schedule:
    """The schedule with its signal shifted and scaled to signal_T = 0, signal_1 unchanged.

    Lin et al. 2023, Algorithm 1.
    """
    if schedule.T < 2:
        raise ValueError("T=1 leaves no level between data and noise; choose T of at least 2")
    alpha = schedule.alpha_bar[1:]
    first, last = alpha[0].sqrt(), alpha[-1].sqrt()
    return from_alpha_bar(((alpha.sqrt() - last) * first / (first - last)) ** 2)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "rectified_flow": rectified_flow,
}
