"""The training objective L_γ, and the γ that makes it the variational one (Theorem 1)."""

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
    x0, t, eps = batch
    level = schedule.levels(t, x0)
    out = net(diffuse(x0, level, eps), (t - 1).to(x0.device))
    a, b = row(target, level)
    error: Tensor = (out - (a * x0 + b * eps)).square().reshape(len(x0), -1).mean(1)
    return (error if gamma is None else gamma[t.to(gamma.device)].to(error) * error).mean()


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
