"""Images to files: a grid, a folder, an array. Other samples to an array."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddim.data import to_pixels
from ddim.files import write

if TYPE_CHECKING:
    from PIL.Image import Image


def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write images (B, 1 or 3, H, W) in [-1, 1] as one PNG, row by row.

    Nearly square where columns is None. Small images are enlarged by a whole factor, so that each
    pixel stays a square.
    """
    write_png(grid(images, columns), Path(path))


def save_each(images: Tensor, seeds: Sequence[int], folder: str | Path) -> None:
    """Write each image as folder/SEED.png, its seed in six digits or more."""
    for image, seed in zip(images, seeds, strict=True):
        write_png(picture(to_pixels(image)), Path(folder) / f"{seed:06d}.png")


def save_arrays(images: Tensor, seeds: Sequence[int], path: str | Path) -> None:
    """Write an .npz of images, uint8 (N, H, W, C), and seeds; `ddim train` reads it too."""
    buffer = io.BytesIO()
    pixels = to_pixels(images).permute(0, 2, 3, 1).cpu().numpy()
    np.savez_compressed(buffer, images=pixels, seeds=np.array(seeds, dtype=np.uint64))
    write(Path(path), buffer.getvalue())


def save_samples(samples: Tensor, seeds: Sequence[int], path: str | Path) -> None:
    """Write an .npz of samples as they are, float32 (N, ...), and seeds."""
    buffer = io.BytesIO()
    numbers = samples.float().cpu().numpy()
    np.savez_compressed(buffer, samples=numbers, seeds=np.array(seeds, dtype=np.uint64))
    write(Path(path), buffer.getvalue())


def save_gif(frames: Sequence[Image], path: str | Path, rate: float = 10.0) -> None:
    """Write pictures of one size as a GIF that begins again; `rate` a second, the last for two."""
    buffer, each = io.BytesIO(), round(1000 / rate)
    first, *rest = frames
    shown = [each] * len(rest) + [2000]
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=shown, loop=0)
    write(Path(path), buffer.getvalue())


def grid(images: Tensor, columns: int | None = None) -> Image:
    """Images (B, 1 or 3, H, W) in [-1, 1] side by side, a pixel of white between them."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images are {tuple(images.shape)}; give (B, 1 or 3, H, W), B at least 1")
    pixels = to_pixels(images).cpu()
    b, c, h, w = pixels.shape
    columns = columns or math.ceil(math.sqrt(b))
    factor = max(1, math.ceil(48 / max(h, w)))
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    h, w = h * factor + 1, w * factor + 1
    canvas = torch.full(
        (c, math.ceil(b / columns) * h + 1, columns * w + 1), 255, dtype=torch.uint8
    )
    for i, tile in enumerate(pixels):
        top, left = i // columns * h + 1, i % columns * w + 1
        canvas[:, top : top + h - 1, left : left + w - 1] = tile
    return picture(canvas)


def picture(pixels: Tensor) -> Image:
    """uint8 (1 or 3, H, W) as a Pillow image."""
    from PIL import Image

    array = pixels.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def write_png(image: Image, path: Path) -> None:
    """Write a Pillow image, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write(path, buffer.getvalue())
