"""The training objective L_γ, the γ that makes it the variational one (Theorem 1), and min-SNR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddim.process import diffuse, row
from ddim.schedules import Schedule


def loss(
    net: nn.Module,
    schedule: Schedule,
    target: str,
    batch: tuple[Tensor, Tensor, Tensor],
    gamma: Tensor | None = None,
) -> Tensor:
    """L_γ of Eq. (5): γ_t times the squared error of the output, mean over dimensions and batch.

    batch: x0 (B, ...); t (B,), integers in 1..T; eps (B, ...) standard normal.
    gamma: (T+1,), 1 where None.   The network is asked at its own time, t − 1.
    """
    error = errors(net, schedule, target, batch)
    return (error if gamma is None else gamma[batch[1].to(gamma.device)].to(error) * error).mean()


def errors(
    net: nn.Module,
    schedule: Schedule,
    target: str,
    batch: tuple[Tensor, Tensor, Tensor],
    label: Tensor | None = None,
) -> Tensor:
    """(B,) the squared error of the output, mean over dimensions; batch as in `loss`.

    label: (B,), for a network with classes. Raises ValueError for an output of another shape.
    """
    x0, t, eps = batch
    level = schedule.levels(t, x0)
    condition = () if label is None else (label,)
    out = net(diffuse(x0, level, eps), (t - 1).to(x0.device), *condition)
    if out.shape != x0.shape:
        raise ValueError(
            f"the network answers {tuple(out.shape)} to {tuple(x0.shape)}; training needs one that "
            "answers in the shape it was asked (no learned variance)"
        )
    a, b = row(target, level)
    return (out.to(x0) - (a * x0 + b * eps)).square().reshape(len(x0), -1).mean(1)


def min_snr_gamma(schedule: Schedule, target: str, most: float = 5.0) -> Tensor:
    """(T+1,) γ_t that weigh the error of x0 by min(SNR_t, most), whatever the target; γ_0 = 0.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting", with SNR =
    signal²/noise². Given x_t, an error of x0 is one of the output times a − b·signal/noise.
    Raises ValueError where signal_T is 0, a level that would have no weight, and is sampled from.
    """
    signal, noise = schedule.signal[1:], schedule.noise[1:]
    if not most > 0:
        raise ValueError(f"min_snr={most}; choose a number above 0, usually 5")
    if signal[-1] == 0:
        raise ValueError(
            "min_snr gives level T no weight, for its signal is 0; leave min_snr out, or choose a "
            "schedule that ends above 0"
        )
    a, b = (
        torch.as_tensor(part, dtype=torch.float64)
        for part in row(target, schedule.levels(torch.arange(1, schedule.T + 1), signal))
    )
    ratio = signal / noise
    gamma = ratio.square().clamp(max=most) / (a - b * ratio).square()
    return torch.cat([gamma.new_zeros(1), gamma])


def variational_gamma(schedule: Schedule, sigmas: Sequence[float]) -> Tensor:
    """(T+1,) γ_t of Theorem 1: J_σ = Σ_t γ_t E‖eps − eps_θ(x_t)‖² + constant; γ_0 = 0.

    sigmas: σ_1..σ_T, each above 0. From the KL divergence of two members of q_σ that differ in x0,
    and for t = 1 from N(f_θ(x_1), σ_1² I).
    """
    sigma = torch.as_tensor(sigmas, dtype=torch.float64)
    signal, noise = schedule.signal, schedule.noise
    if sigma.shape != (schedule.T,) or not (sigma > 0).all() or (sigma[1:] > noise[1:-1]).any():
        raise ValueError(
            f"sigmas must be {schedule.T} numbers above 0, each at most the noise of level t - 1"
        )
    if signal[-1] == 0:
        raise ValueError(
            "signal_T is 0, where eps does not determine x0; Theorem 1 needs it above 0"
        )
    kept = (noise[:-1] ** 2 - sigma**2).clamp(min=0).sqrt() / noise[1:]
    reach = signal[:-1] - kept * signal[1:]
    gamma = (reach * noise[1:] / (signal[1:] * sigma)) ** 2 / 2
    return torch.cat([gamma.new_zeros(1), gamma])
