"""Data whose denoiser is known in closed form, and plans on which an order shows."""

import math

import torch

from ddim import Level, Prediction


def gaussian(mean=0.0, std=0.5):
    """The exact denoiser of data N(mean, std²), element by element."""

    def denoise(x, level):
        gain = level.signal * std**2 / (level.signal**2 * std**2 + level.noise**2)
        x0 = mean + gain * (x - level.signal * mean)
        eps = (x - level.signal * x0) / level.noise if level.noise else torch.zeros_like(x)
        return Prediction(x, x0, eps)

    return denoise


def gaussian_flow(x, t, s, mean=0.0, std=0.5):
    """Where the probability flow carries x from level t to level s."""
    spread = math.sqrt((s.signal**2 * std**2 + s.noise**2) / (t.signal**2 * std**2 + t.noise**2))
    return s.signal * mean + spread * (x - t.signal * mean)


def uneven(steps, first=10.0, last=0.05):
    """Levels by hand: log-ratio steps 2 : 1 : 3, the first one short, for a method's warm-up."""
    weights = [(2, 1, 3)[k % 3] for k in range(steps)]
    weights[0] /= steps
    total, passed, levels = sum(weights), 0.0, []
    for weight in (*weights, 0):
        ratio = first * (last / first) ** (passed / total)
        signal = 1 / math.hypot(1, ratio)
        levels.append(Level(math.nan, signal, signal * ratio))
        passed += weight
    return tuple(levels)
