"""Randomness as a value: the k-th draw of a run is a function of (seed, k) and of nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[Tensor, int], Tensor]
"""(like, k) to the k-th standard normal draw of this run, shaped, typed and placed as `like`."""


def stream(seed: int, k: int, use: int = 0) -> np.random.Generator:
    """The k-th independent random stream of a seed; each use, sampling or training, has its own.

    Philox (Salmon et al. 2011) with key seed + use·2^64 and counter k·2^192.
    """
    return np.random.Generator(np.random.Philox(key=seed + (use << 64), counter=k << 192))


@dataclass(frozen=True)
class Seeded:
    """One stream per image: an image depends on its seed, not on batch, order, worker or device.

    seeds: integers from 0 to 2^64 − 1, one per image of the batch. (torch's CPU generator would
    keep only the lower 32 bits.) Draws are made on the CPU in float32 and then converted.
    """

    seeds: tuple[int, ...]

    def __init__(self, seeds: Iterable[int]) -> None:
        chosen = tuple(operator.index(seed) for seed in seeds)
        for seed in chosen:
            if not 0 <= seed < 2**64:
                raise ValueError(f"seed={seed}; choose seeds from 0 to 2^64 - 1")
        object.__setattr__(self, "seeds", chosen)

    def __call__(self, like: Tensor, k: int) -> Tensor:
        """Draw k = 0, 1, ... of this run, one a solver step; like: (B, ...), one image a seed."""
        if len(like) != len(self.seeds):
            raise ValueError(
                f"{len(self.seeds)} seeds for a batch of {len(like)}; give one seed per image"
            )
        shape = tuple(like.shape[1:])
        drawn = np.empty((len(self.seeds), *shape), dtype=np.float32)
        for i, seed in enumerate(self.seeds):
            drawn[i] = stream(seed, k + 1).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(drawn).to(like)

    def start(self, shape: tuple[int, ...], device: str | torch.device = "cpu") -> Tensor:
        """x_T: draw k = −1 from N(0, I), float32 (B, *shape), where shape is that of one image."""
        return self(torch.empty(len(self.seeds), *shape, device=device), -1)


class UndrawnError(ValueError):
    """A solver that draws noise, and none to draw."""


def undrawn(like: Tensor, k: int) -> Tensor:
    """The noise of a run that was given none."""
    raise UndrawnError("this solver draws noise; pass noise=ddim.Seeded(seeds), one seed per image")
