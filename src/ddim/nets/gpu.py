"""What torch has no single operation for, on CUDA by Triton; images (B, C, H, W), channels-last.

Group normalisation of two images side by side with the shift before it and SiLU after it, in a
pass that measures and one that writes, and the bias of a convolution with the sum that it joins, in
one. Torch's own would turn the images to channels-first and back. Sums have a fixed order.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddim.nets.kernels import Norm, empty

_WIDE, _ROWS, _PART, _PARTS = 64, 64, 256, 64


@triton.jit
def _tile(first, second, image, rows, c, C1, C, pixels, ok):
    """What two images side by side have in some pixels (`rows`) and channels, as float32."""
    at = (image * pixels + rows).to(tl.int64)[:, None]
    left, right = ok[:, None] & (c < C1)[None, :], ok[:, None] & ((c >= C1) & (c < C))[None, :]
    x = tl.load(first + at * C1 + c[None, :], mask=left, other=0.0).to(tl.float32)
    y = tl.load(second + at * (C - C1) + (c - C1)[None, :], mask=right, other=0.0)
    return x + y.to(tl.float32)


@triton.jit
def _measure(first, second, out, C1, C, pixels, per, parts, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """The mean of each channel in a part of an image, and the squares about it."""
    image, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    begin, end = part * per, tl.minimum((part + 1) * per, pixels)
    total = tl.zeros((ROWS, WIDE), tl.float32)
    for row in range(begin, end, ROWS):
        rows = row + tl.arange(0, ROWS)
        total += _tile(first, second, image, rows, c, C1, C, pixels, rows < end)
    mean = tl.sum(total, 0) / (end - begin)
    squares = tl.zeros((ROWS, WIDE), tl.float32)
    for row in range(begin, end, ROWS):
        rows = row + tl.arange(0, ROWS)
        x = _tile(first, second, image, rows, c, C1, C, pixels, rows < end)
        apart = tl.where((rows < end)[:, None], x - mean[None, :], 0.0)
        squares += apart * apart
    to = out + (image * parts + part) * 2 * C + c
    tl.store(to, mean, mask=c < C)
    tl.store(to + C, tl.sum(squares, 0), mask=c < C)


@triton.jit
def _solve(
    moments,
    shift,
    stride,
    gamma,
    beta,
    out,
    C,
    each,
    pixels,
    per,
    parts,
    eps,
    PARTS: tl.constexpr,
    EACH: tl.constexpr,
):
    """The factor and the offset of each channel of a group, of the moments of all parts."""
    image, j, k = tl.program_id(0), tl.arange(0, EACH), tl.arange(0, PARTS)
    c, mine = tl.program_id(1) * each + j, j < each
    ok = mine[None, :] & (k < parts)[:, None]
    at = moments + ((image * parts + k) * 2 * C)[:, None] + c[None, :]
    count = tl.where(ok, (tl.minimum((k + 1) * per, pixels) - k * per)[:, None], 0).to(tl.float32)
    moved = tl.load(shift + image * stride + c, mask=mine, other=0.0)
    mean = tl.load(at, mask=ok, other=0.0) + moved[None, :]
    total = each * pixels
    middle = tl.sum(tl.sum(mean * count, 0), 0) / total
    squares = tl.load(at + C, mask=ok, other=0.0) + count * (mean - middle) * (mean - middle)
    rate = 1 / tl.sqrt(tl.sum(tl.sum(squares, 0), 0) / total + eps)
    factor = rate * tl.load(gamma + c, mask=mine, other=0.0)
    offset = tl.load(beta + c, mask=mine, other=0.0) + (moved - middle) * factor
    tl.store(out + image * 2 * C + c, factor, mask=mine)
    tl.store(out + image * 2 * C + C + c, offset, mask=mine)


@triton.jit
def _write(
    first,
    second,
    numbers,
    out,
    C1,
    C,
    pixels,
    tiles,
    ACT: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Factor, offset and SiLU."""
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    rows = tile * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    x = _tile(first, second, image, rows, c, C1, C, pixels, rows < pixels)
    at = numbers + image * 2 * C + c
    factor = tl.load(at, mask=c < C, other=0.0)
    y = x * factor[None, :] + tl.load(at + C, mask=c < C, other=0.0)[None, :]
    if ACT:
        y = y * tl.sigmoid(y)
    to = out + (image * pixels + rows).to(tl.int64)[:, None] * C + c[None, :]
    ok = (rows < pixels)[:, None] & (c < C)[None, :]
    tl.store(to, y.to(out.dtype.element_ty), mask=ok)


@triton.jit
def _join(
    y,
    add,
    bias,
    count,
    C,
    ADD: tl.constexpr,
    BIAS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    at, ok = rows.to(tl.int64)[:, None] * C + c[None, :], (rows < count)[:, None] & (c < C)[None, :]
    value = tl.load(y + at, mask=ok).to(tl.float32)
    if ADD:
        value += tl.load(add + at, mask=ok).to(tl.float32)
    if BIAS:
        value += tl.load(bias + c, mask=c < C).to(tl.float32)[None, :]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=ok)


def normalise(images: tuple[Tensor, ...], norm: Norm, shift: Tensor | None, *, act: bool) -> Tensor:
    """As `Kernels.normalise`, not tiled."""
    images = tuple(image.contiguous(memory_format=torch.channels_last) for image in images)
    batch, width, *sides = images[0].shape
    C, pixels, device = sum(i.shape[1] for i in images), sides[0] * sides[1], images[0].device
    out = empty((batch, C, sides[0], sides[1]), images[0])
    per = triton.cdiv(max(_PART, triton.cdiv(pixels, _PARTS)), _ROWS) * _ROWS
    parts, tiles, columns = (triton.cdiv(*n) for n in ((pixels, per), (pixels, _ROWS), (C, _WIDE)))
    moments = torch.empty((batch, parts, 2, C), device=device)
    numbers = torch.empty((batch, 2, C), device=device)
    rows = _nothing(C, device) if shift is None else shift.float().contiguous()
    stride, each = 0 if len(rows) == 1 else C, C // norm.groups
    two = images[0], images[-1]
    with torch.cuda.device(device):
        _measure[batch * parts, columns](
            *two, moments, width, C, pixels, per, parts, WIDE=_WIDE, ROWS=_ROWS
        )
        _solve[batch, norm.groups](
            moments,
            rows,
            stride,
            norm.gamma,
            norm.beta,
            numbers,
            C,
            each,
            pixels,
            per,
            parts,
            norm.eps,
            PARTS=triton.next_power_of_2(parts),
            EACH=triton.next_power_of_2(each),
            num_warps=1,
        )
        _write[batch * tiles, columns](
            *two, numbers, out, width, C, pixels, tiles, ACT=act, WIDE=_WIDE, ROWS=_ROWS
        )
    return out


def join(y: Tensor, add: Tensor | None, bias: Tensor | None) -> Tensor:
    """y (B, C, H, W), which is written over, with another image and a bias (C,) added."""
    if add is None and bias is None:
        return y
    y = y.contiguous(memory_format=torch.channels_last)
    if add is not None:
        add = add.contiguous(memory_format=torch.channels_last)
    given, C = (y, y if add is None else add, y if bias is None else bias), y.shape[1]
    count, how = y.numel() // C, {"ADD": add is not None, "BIAS": bias is not None}
    with torch.cuda.device(y.device):
        _join[triton.cdiv(count, _ROWS), triton.cdiv(C, _WIDE)](
            *given, count, C, **how, WIDE=_WIDE, ROWS=_ROWS
        )
    return y


@lru_cache
def _nothing(width: int, device: torch.device) -> Tensor:
    return torch.zeros(1, width, device=device)
