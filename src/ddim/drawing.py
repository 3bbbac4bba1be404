"""Noise drawn while the network computes, for devices that would wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ddim.noise import Noise


@contextmanager
def ahead(noise: Noise, draws: int | None = None) -> Iterator[Noise]:
    """The same noise; draw k + 1 is made in a thread while the network looks at what k led to.

        with ahead(ddim.Seeded(seeds)) as noise:
            images = ddim.sample(denoiser, x, plan, ddim.DDPM(), noise)

    For a noise whose draws are functions of k and of the shape and dtype of `like`, as Seeded's.
    draws: how many will be asked for, so that none is made in vain. A k out of turn is drawn when
    asked. Errors are raised where the draw is asked for.
    """

    def drawn(shape: torch.Size, dtype: torch.dtype, k: int, pinned: bool) -> Tensor:
        draw = noise(torch.empty(1, dtype=dtype).expand(shape), k)  # of no size of its own
        return draw.pin_memory() if pinned else draw

    coming: dict[tuple[torch.Size, torch.dtype, int, bool], Future[Tensor]] = {}
    with ThreadPoolExecutor(1, "ddim-noise") as thread:

        def draw(like: Tensor, k: int) -> Tensor:
            asked = (like.shape, like.dtype, k, like.is_cuda)
            ready = coming.pop(asked, None)
            coming.clear()
            now = drawn(*asked) if ready is None else ready.result()
            if draws is None or k + 1 < draws:
                later = (like.shape, like.dtype, k + 1, like.is_cuda)
                coming[later] = thread.submit(drawn, *later)
            return now.to(like.device, non_blocking=like.is_cuda)

        yield draw


def at_hand(noise: Noise, device: torch.device) -> AbstractContextManager[Noise]:
    """`ahead` for a GPU. A CPU has no time to draw in: its cores are the network's."""
    return nullcontext(noise) if device.type == "cpu" else ahead(noise)
