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


class Correlated:
    """The exact denoiser of a mixture of Gaussians with full covariances, in float64."""

    def __init__(self, means, covariances):
        self.means = means
        self.values, self.vectors = torch.linalg.eigh(covariances)

    def __call__(self, x, level):
        x0s, logs = [], []
        for mean, values, vectors in zip(self.means, self.values, self.vectors, strict=True):
            variance = level.signal**2 * values + level.noise**2
            apart = (x - level.signal * mean) @ vectors
            x0s.append(mean + (level.signal * values / variance * apart) @ vectors.T)
            logs.append(-(apart**2 / variance + variance.log()).sum(1) / 2)
        share = torch.stack(logs, 1).softmax(1)
        x0 = (share[:, :, None] * torch.stack(x0s, 1)).sum(1)
        return Prediction(x, x0, (x - level.signal * x0) / level.noise)
