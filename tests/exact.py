"""Gaussian data, element by element: its exact denoiser and flow."""

import math

import torch

from ddim import Prediction


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
