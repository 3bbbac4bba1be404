"""Convolutions whose weights are laid out once, for `Fast`: by oneDNN, and by Winograd."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim.nets.kernels import Kernels, Norm, empty, kernels

_LEAST, _PIXELS = 64, 64
_CHUNK = 1 << 20
_ONE = [1, 1]
_LAYING = Lock()  # weights are laid out once, whoever comes first
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this torch has the convolutions of weights laid out once, and they are right."""
    x, weight = torch.linspace(-1, 1, 512).reshape(1, 8, 8, 8), torch.ones(8, 8, 3, 3)
    try:
        own = Conv(weight, torch.ones(8), dtype, (1, 1, 1), packed=True)
        other = x.to(dtype, memory_format=torch.channels_last)
        y = own(other, other).float()
        Doubled(weight, None, dtype, packed=True)(other)
    except (AttributeError, RuntimeError, TypeError):  # a torch without them, or with others
        return False
    return torch.allclose(y, F.conv2d(x, weight, torch.ones(8), padding=1) + x, atol=0.1)


class Conv:
    """y = conv(x) or conv(x) + add, of channels-last images in one dtype.

    geometry: stride, padding and groups.
    packed: by oneDNN's operations of weights laid out once, for a CPU where `packs`. It is done at
    the first call, for images of that size; the batch does not matter.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        geometry: tuple[int, int, int] = (1, 0, 1),
        *,
        packed: bool = False,
    ) -> None:
        stride, padding, groups = geometry
        self.weight = weight.detach().to(dtype).clone(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self._how = [padding] * 2, [stride] * 2, _ONE, groups
        self._packed, self._laid_out = packed, False
        self._join = usable(dtype, weight.device) if weight.is_cuda else None

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), add (B, C', H', W')."""
        padding, stride, dilation, groups = self._how
        if not self._packed:
            bias = None if self._join else self.bias
            y = F.conv2d(x, self.weight, bias, stride, padding, dilation, groups)
            if self._join:
                return self._join.join(y, add, self.bias)
            return y if add is None else y.add_(add)
        ops = torch.ops.mkldnn
        with _LAYING if not self._laid_out else nullcontext():
            if not self._laid_out:
                size = [1, *x.shape[1:]]
                self.weight = ops._reorder_convolution_weight(self.weight, *self._how, size)
                self._laid_out = True
        given = (self.weight, self.bias, *self._how)
        if add is None:
            return ops._convolution_pointwise(x, *given, "none", [], "")
        return ops._convolution_pointwise.binary(x, add, *given, "add", 1.0, None, [], None)


class Doubled:
    """A 3×3 convolution of an image whose sides were doubled, as one transposed convolution.

    Of its nine weights several meet the same pixel, so that their sums, four to an answer, do.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, packed: bool
    ) -> None:
        sums = torch.zeros(*weight.shape[:2], 4, 4, dtype=torch.float64, device=weight.device)
        for i in range(2):
            for j in range(2):
                sums[:, :, i : i + 3, j : j + 3] += weight.detach()
        turned = sums.flip(2, 3).transpose(0, 1).to(dtype)
        self._weight = turned.contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.detach().to(dtype)
        self._packed, self._laid_out = packed, False

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        if not self._packed:
            return F.conv_transpose2d(x, self._weight, self._bias, stride=2, padding=1)
        ops, how = torch.ops.mkldnn, ([1, 1], [0, 0], [2, 2], _ONE, 1)
        with _LAYING if not self._laid_out else nullcontext():
            if not self._laid_out:
                size = [1, *x.shape[1:]]
                laid_out = ops._reorder_convolution_transpose_weight
                self._weight = laid_out(self._weight, *how, size)
                self._laid_out = True
        given = (self._weight, self._bias, *how)
        return ops._convolution_transpose_pointwise(x, *given, "none", [], "")


class NormConv:
    """conv(silu(norm(x + shift))) + add, of one image or of two side by side.

    biased: False to leave the bias of the convolution to others.
    """

    def __init__(
        self,
        norm: nn.GroupNorm,
        conv: Any,
        dtype: torch.dtype,
        *,
        packed: bool,
        biased: bool = True,
    ) -> None:
        self.norm = Norm(norm)
        self._kernels = usable(dtype, conv.weight.device)
        self._winograd: Winograd | None = None
        bias = conv.bias if biased else None
        wide = min(conv.weight.shape[:2]) >= _LEAST
        if self._kernels and packed and wide and conv.kernel_size == (3, 3):
            self._winograd = Winograd(conv, bias, dtype, self._kernels)
        self._conv: Conv | None = None  # made where it is needed, for weights take memory
        self._given = conv, bias, dtype, packed

    def __call__(
        self, images: tuple[Tensor, ...], shift: Tensor | None = None, add: Tensor | None = None
    ) -> Tensor:
        """images (B, C_i, H, W), shift (1 or B, Σ C_i)."""
        height, width = images[0].shape[2:]
        if self._winograd and height * width >= _PIXELS and not (height % 2 or width % 2):
            return self._winograd(images, self.norm, shift, add)
        if self._conv is None:
            conv, bias, dtype, packed = self._given
            geometry = 1, conv.padding[0], 1
            self._conv = Conv(conv.weight, bias, dtype, geometry, packed=packed)
        return self._conv(normalise(self._kernels, images, self.norm, shift, act=True), add)


class Winograd:
    """A 3×3 convolution as products in the space of 4×4 patches, after a normalisation."""

    def __init__(
        self, conv: nn.Conv2d, bias: Tensor | None, dtype: torch.dtype, compiled: Kernels
    ) -> None:
        g = torch.tensor(_G, dtype=torch.float64)
        weight = torch.einsum("ap,oipq,bq->aboi", g, conv.weight.detach().double(), g)
        self._out, self._kernels = conv.out_channels, compiled
        self._product: Conv | None = None
        if compiled.multiplies and conv.in_channels % 2 == 0:
            self._weights = _in_blocks(weight.flatten(0, 1), dtype)
        else:
            rows = weight.reshape(-1, conv.in_channels, 1, 1)
            self._product = Conv(rows, None, dtype, (1, 0, 16), packed=True)
        self._bias = torch.zeros(self._out) if bias is None else bias.detach()
        self._bias = self._bias.to(dtype)

    def __call__(
        self, images: tuple[Tensor, ...], norm: Norm, shift: Tensor | None, add: Tensor | None
    ) -> Tensor:
        """As `NormConv`; a few images at a time, so that the patches stay in the cache."""
        batch, _, height, width = images[0].shape
        widest = max(sum(image.shape[1] for image in images), self._out)
        size = max(1, _CHUNK // (4 * height * width * widest * images[0].itemsize))
        if self._product is None:
            layer = self._weights, self._bias
            return self._kernels.winograd(images, norm, shift, layer, add, size)
        out = empty((batch, self._out, height, width), images[0])
        for begin in range(0, batch, size):
            part = slice(begin, begin + size)
            some = tuple(image[part] for image in images)
            row = shift if shift is None or len(shift) == 1 else shift[part]
            tiles = self._kernels.normalise(some, norm, row, act=True, tiled=True)
            added = None if add is None else add[part]
            self._kernels.gather(self._product(tiles), self._bias, added, out[part])
        return out


def _in_blocks(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(16, C', C) as `Kernels.winograd` takes it."""
    deep = 4 // dtype.itemsize
    full = F.pad(weight, (0, 0, 0, -weight.shape[1] % 16))
    blocks = full.reshape(16, -1, 16, full.shape[2] // deep, deep).transpose(2, 3)
    return blocks.to(dtype).contiguous()


def usable(dtype: torch.dtype, device: torch.device) -> Any:
    """The kernels that are for this dtype and device: `Kernels`, the module `gpu`, or None."""
    if device.type == "cuda":
        return _on_gpu()
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return None
    found = kernels()
    return found if isinstance(found, Kernels) else None


@cache
def _on_gpu() -> Any:
    """The module `gpu`, or None where there is no Triton."""
    try:
        return import_module("ddim.nets.gpu")
    except ImportError:
        return None


def normalise(
    compiled: Any,
    images: tuple[Tensor, ...],
    norm: Norm,
    shift: Tensor | None = None,
    *,
    act: bool = False,
) -> Tensor:
    """The group norm of one or two images side by side, as `Kernels.normalise`, or by torch."""
    if compiled is not None:
        normalised: Tensor = compiled.normalise(images, norm, shift, act=act)
        return normalised
    x = torch.cat(images, 1) if len(images) > 1 else images[0]
    if shift is not None:
        x = x + shift[:, :, None, None].to(x.dtype)
    y = F.group_norm(x, norm.groups, norm.gamma.to(x.dtype), norm.beta.to(x.dtype), norm.eps)
    return F.silu(y, inplace=True) if act else y
