"""How probable a model finds data: the density of its probability flow, and the variational bound.

Along the flow dy/dr = eps (Eq. 14), with y = x/signal and r = noise/signal, the density changes by
the divergence of eps (Chen et al. 2018; Song et al. 2020, arXiv:2011.13456, section 4.3). With
eps = (y − x0)/r the large part of it is known, and what is left to integrate is the trace m,

    dm/dr = tr(∂x0/∂y)/r
    log p(x_1) = log N(x_T; 0, I) + D log(noise_T/noise_1) − m

for x_1 at the last level of the plan and x_T at the first. m is one more coordinate of the state,
so that any solver of this package integrates both, at its order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan, checked, descending
from ddim.process import Denoiser, Level, Prediction, diffuse, floating
from ddim.sampling import sample
from ddim.schedules import Schedule
from ddim.solvers import Solver, UniPC

PIXEL = 1 / 127.5
"""The width of one of 256 values in [-1, 1]."""


@dataclass(frozen=True)
class Likelihood:
    """log_density: (B,), float64, natural logarithm of the density of x.

    margin: (B,), half of Hutchinson's 95 % interval of it; 0 for the exact trace. It takes the
        probes' estimates to be normal, as those of many dimensions nearly are.
    halving: (B,), how far half the steps are from it: the error of the steps, roughly. By chance it
        may vanish for one image, so look at the mean. In nats, as margin is.
    dimensions: D.
    """

    log_density: Tensor
    margin: Tensor
    halving: Tensor
    dimensions: int

    @property
    def bits(self) -> Tensor:
        """Bits per dimension of 8-bit images in [-1, 1]: −log2 p/D + log2(127.5)."""
        return self.in_bits(-self.log_density) - math.log2(PIXEL)

    def in_bits(self, nats: Tensor) -> Tensor:
        """Of the image, as bits per dimension."""
        return nats / (self.dimensions * math.log(2))


def fine_plan(schedule: Schedule, steps: int) -> Plan:
    """Levels from the highest with signal down to t = 1, even in log(noise/signal), t fractional.

    But near t = 1, where the flow is followed from, they are close, so that the low order that a
    multistep method begins with does not show.
    """
    if steps < 2 or schedule.top < 2:
        raise ValueError(f"steps={steps} over {schedule.top} levels; choose 2 or more of each")
    lengths = np.minimum(1.0, 2.0 ** np.minimum(np.arange(steps), 50) / steps)
    share = np.cumsum(lengths)[-2::-1] / lengths.sum()
    low, high = schedule.log_ratio[0], schedule.log_ratio[-1]
    times = [schedule.time(math.exp(low + (high - low) * part)) for part in share]
    return checked(tuple(schedule.level(t) for t in (schedule.top, *times, 1)))


def bits_per_dim(
    denoiser: Denoiser,
    x: Tensor,
    plan: Plan,
    probes: int = 0,
    noise: Noise | None = None,
    solver: Solver = UniPC(order=3),
) -> Likelihood:
    """The density of x (B, ...), taken as a sample at plan[-1], under N(0, I) at plan[0].

    plan: falling, fine, between levels with signal and noise, such as fine_plan(schedule, 200).
    probes: 0 for the exact trace, D backward passes a call; or at least 2 random signs (Hutchinson
    1990), one backward pass each and the same along the whole flow, drawn from noise. Where there
    are no fewer than D, the exact trace is taken, which costs less.
    Each image costs a call and these passes per step, and half of that again for `halving`.
    """
    if not all(level.signal and level.noise for level in descending(plan, 2)):
        raise ValueError(
            "the likelihood needs a plan between levels with both signal and noise; "
            "use fine_plan(schedule, 200)"
        )
    if probes and (probes < 2 or noise is None):
        raise ValueError(
            f"probes={probes}; give 0 for the exact trace, or 2 or more and noise=ddim.Seeded(...)"
        )
    if not floating(x).isfinite().all():
        raise ValueError("x holds a nan or an infinity; give images in [-1, 1]")
    if probes >= x[0].numel():
        probes = 0
    signs = [torch.where(noise(x, k) < 0, -1.0, 1.0) for k in range(probes)] if noise else []
    halved = (*plan[:-1:2], plan[-1])
    full, half = (_log_densities(denoiser, x, each, signs, solver) for each in (plan, halved))
    margin = torch.zeros_like(full[:, 0])
    if probes:
        margin = student(probes - 1) * full.std(1) / math.sqrt(probes)
    halving = (full.mean(1) - half.mean(1)).abs()
    return Likelihood(full.mean(1), margin, halving, x[0].numel())


def _log_densities(
    denoiser: Denoiser, x: Tensor, plan: Plan, signs: list[Tensor], solver: Solver
) -> Tensor:
    """(B, number of estimates of the trace)."""
    flat = x.reshape(len(x), -1).double()
    size = flat.shape[1]

    def extended(state: Tensor, level: Level) -> Prediction:
        with torch.enable_grad():
            at = state[:, :size].reshape(x.shape).detach().requires_grad_()
            p = denoiser(at, level)
            traces = level.signal * _traces(p.x0, at, signs)
        eps = torch.cat([p.eps.detach().reshape(flat.shape), traces / level.ratio], 1)
        return Prediction(state, (state - level.noise * eps) / level.signal, eps)

    start = torch.cat([flat, flat.new_zeros(len(x), max(1, len(signs)))], 1)
    with torch.no_grad():
        end = sample(extended, start, plan[::-1], solver)
    top, m = end[:, :size], end[:, size:] / plan[0].signal
    prior = -(top.square().sum(1, keepdim=True) + size * math.log(2 * math.pi)) / 2
    return prior + size * math.log(float(plan[0].noise / plan[-1].noise)) - m


def _traces(out: Tensor, x: Tensor, signs: list[Tensor]) -> Tensor:
    """tr(∂out/∂x), (B, 1), exactly; or v·(∂out/∂x)ᵀv for each v of signs, (B, len(signs))."""
    if not out.requires_grad:  # a constant
        return out.new_zeros(len(x), max(1, len(signs)), dtype=torch.float64)

    def back(v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(
            out, x, v.to(out), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return (product * v).reshape(len(x), -1).double().sum(1)

    if signs:
        return torch.stack([back(v) for v in signs], 1)
    units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
    return sum((back(unit.expand(x.shape)) for unit in units), x.new_zeros(len(x)).double())[
        :, None
    ]


def dequantise(x: Tensor, noise: Noise, width: float = PIXEL) -> Tensor:
    """x (B, ...) plus uniform noise as wide as a pixel value; draw −1 of noise.

    Without it a density of discrete values has no meaning. Its bits are then, on average, an upper
    bound of those of the pixels (Theis et al. 2016, arXiv:1511.01844).
    """
    uniform: Tensor = torch.special.ndtr(noise(x.double(), -1))
    return x.double() + width * (uniform - 0.5)


def student(degrees: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = level for Student's distribution.

    T = √ν tan θ, where the density of θ is ∝ cos^(ν−1) θ.
    """
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(degrees) * np.tan(np.interp(level, area / area[-1], angle)))


@dataclass(frozen=True)
class Bound:
    """The variational bound in bits per dimension, (B,) each: bits = prior + steps + data.

    prior: of x_T against N(0, I).   steps: of every step but the last.   data: of the pixels given
    the last state.
    """

    prior: Tensor
    steps: Tensor
    data: Tensor

    @property
    def bits(self) -> Tensor:
        """Their sum, an upper bound of the bits that the images cost."""
        return self.prior + self.steps + self.data


def variational_bound(
    denoiser: Denoiser, x: Tensor, plan: Plan, noise: Noise, width: float = PIXEL
) -> Bound:
    """One draw per step of the bound of Ho et al. 2020, Eq. 5, for DDPM on a plan that falls to 0.

    x: images (B, ...) of values `width` apart in [-1, 1].   A step from t to s costs
    (1/r_s² − 1/r_t²)/2 · |x0 − x̂_0|² nats, and the pixels N(x̂_0, r²) of the last state, over their
    width.
    """
    if descending(plan)[-1].noise:
        raise ValueError("the bound needs a plan that falls to 0, such as model.plan(1000)")
    x, top = floating(x).double(), plan[0]
    unit = x[0].numel() * math.log(2)
    variance = float(top.noise) ** 2
    prior = (variance + (top.signal * x) ** 2 - 1 - math.log(variance)) / 2
    steps, data = torch.zeros_like(x), torch.zeros_like(x)
    for k, (t, s) in enumerate(pairwise(plan)):
        p = denoiser(diffuse(x, t, noise(x, k)), t)
        if s.noise:
            gained = float(s.ratio) ** -2 - float(t.ratio) ** -2
            steps = steps + gained / 2 * (x - p.x0) ** 2
        else:
            data = -_log_cell(x, p.x0, float(t.ratio), width)
    return Bound(*(part.reshape(len(x), -1).sum(1) / unit for part in (prior, steps, data)))


def _log_cell(x: Tensor, mean: Tensor, std: float, width: float) -> Tensor:
    """log P(x ± width/2) under N(mean, std²), the cells at −1 and 1 open outwards."""
    low, high = ((x + side * width / 2 - mean) / std for side in (-1, 1))
    edge = width / 2 - 1
    low = torch.where(x < edge, -torch.inf, low)
    high = torch.where(x > -edge, torch.inf, high)
    swap = low > 0  # to the tail that keeps its digits
    low, high = torch.where(swap, -high, low), torch.where(swap, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return log_high + torch.log1p(-torch.exp(log_low - log_high))
