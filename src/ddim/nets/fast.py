"""The U-Net as it samples: the same numbers as `UNet`, in fewer passes over memory.

Channels-last throughout. A group norm, the shift of the time before it and the SiLU after it are
one pass, over two images side by side where a skip comes in, so that nothing is concatenated. The
residual is summed by the convolution that it joins, queries, keys and values are one convolution,
and what the time adds is computed once for a level and all layers, with the bias of the convolution
before it. On a CPU weights are laid out once for oneDNN, a convolution after doubling is a
transposed one of 4/9 the work, and the wide 3×3 ones are Winograd's F(2×2, 3×3). No gradients.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim.nets.blocks import Attention, Resample
from ddim.nets.kernels import Kernels, Norm, narrow
from ddim.nets.packed import Conv, Doubled, NormConv, normalise, packs, usable
from ddim.nets.unet import UNet

_SCORES = 1 << 25
_TIMES = 1024
_CACHE = 1 << 24


class Fast:
    """out = fast(x, t, label), as the `UNet` it is made of, in eval mode.

    dtype: of weights and activations; the embedding of time and class is float32.
    t: (B,); where all are one (a stride of 0) the embedding is computed once and, on a CPU, kept.
    """

    def __init__(self, net: UNet, dtype: torch.dtype = torch.float32) -> None:
        make = Maker(dtype, next(net.parameters()).device)
        self._net, self._dtype = net, dtype
        self._conv_in = make.conv(net.conv_in)
        self._down = [make.block(block) for block in net.down_blocks]
        self._middle = [] if net.mid_block is None else make.block(net.mid_block)[0]
        self._up = [make.block(block) for block in net.up_blocks]
        self._out = make.norm_conv(net.conv_norm_out, net.conv_out)
        self._weight, self._bias = torch.cat(make.weights), torch.cat(make.biases)
        self._remembered = lru_cache(_TIMES)(self._embedded)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of x's shape and dtype. Raises ValueError as `UNet` does."""
        self._net.check(x, label)
        for given in (t, t if label is None else label):
            if given.shape != x.shape[:1]:
                raise ValueError(
                    f"times or labels {tuple(given.shape)} for {len(x)} images; give one per image"
                )
        shifts, parts = self._shifts(t, label), self._parts(x)
        if parts == 1:
            return self._answer(x, shifts)
        rows = [shifts] * parts if len(shifts) == 1 else shifts.chunk(parts)
        return torch.cat(list(map(self._answer, x.chunk(parts), rows)))

    def _parts(self, x: Tensor) -> int:
        """In how many parts to run a batch: on a CPU no activation is to leave its cache."""
        if x.device.type != "cpu":
            return 1
        widest = x[:, 0].numel() * self._conv_in.weight.shape[0] * self._dtype.itemsize
        return min(len(x), -(-widest // _CACHE))

    def _answer(self, x: Tensor, shifts: Tensor) -> Tensor:
        h = 2 * x - 1 if self._net.config.center_input_sample else x
        h = self._conv_in(h.to(self._dtype).contiguous(memory_format=torch.channels_last))
        skips = [h]
        for layers, resample in self._down:
            for layer in layers:
                h = layer((h,), shifts)
                skips.append(h)
            if resample is not None:
                h = resample(h)
                skips.append(h)
        for layer in self._middle:
            h = layer((h,), shifts)
        for layers, resample in self._up:
            for layer in layers:
                h = layer((h, skips.pop()), shifts)
            if resample is not None:
                h = resample(h)
        return self._out((h,)).to(x.dtype).contiguous()

    def _shifts(self, t: Tensor, label: Tensor | None) -> Tensor:
        """What time and class add in each resnet, side by side: (1 or B, Σ channels) float32."""
        shared = t.stride() == (0,) or len(t) == 1
        if label is None and shared and t.device.type == "cpu":
            return self._remembered(float(t[0]))
        return self._projected(self._net.condition(t[:1] if shared else t, label))

    def _embedded(self, t: float) -> Tensor:
        return self._projected(self._net.condition(torch.tensor([t])))

    def _projected(self, temb: Tensor) -> Tensor:
        return F.linear(F.silu(temb), self._weight, self._bias).float()


class Maker:
    """Makes the parts, and gathers the projections of the time, which become one."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.packed = device.type == "cpu" and packs(dtype)
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.width = 0

    def conv(self, conv: Any) -> Conv:
        """The same convolution."""
        geometry = conv.stride[0], conv.padding[0], 1
        return Conv(conv.weight, conv.bias, self.dtype, geometry, packed=self.packed)

    def linear(self, *layers: nn.Module) -> Conv:
        """Linear layers of the channels, as one convolution whose answers lie side by side."""
        parts: list[Any] = list(layers)
        weight = torch.cat([part.weight for part in parts])[:, :, None, None]
        bias = torch.cat([part.bias for part in parts])
        return Conv(weight, bias, self.dtype, packed=self.packed)

    def norm_conv(self, norm: nn.GroupNorm, conv: Any, *, biased: bool = True) -> NormConv:
        """A normalisation, SiLU and a convolution."""
        return NormConv(norm, conv, self.dtype, packed=self.packed, biased=biased)

    def shift(self, projection: nn.Linear, bias: Tensor) -> slice:
        """Where the answer of a projection of the time, and a bias, is among all of them."""
        self.weights.append(projection.weight.detach())
        self.biases.append(projection.bias.detach() + bias.detach())
        begin, self.width = self.width, self.width + projection.out_features
        return slice(begin, self.width)

    def block(self, block: Any) -> tuple[list[FastLayer], FastResample | None]:
        """Its layers and its change of resolution."""
        attentions: list[Any] = list(block.attentions or [])
        attentions += [None] * (len(block.resnets) - len(attentions))
        pairs = zip(block.resnets, attentions, strict=True)
        layers = [FastLayer(self, resnet, attention) for resnet, attention in pairs]
        changes = [getattr(block, name, None) for name in ("downsamplers", "upsamplers")]
        change = next((each[0] for each in changes if each is not None), None)
        return layers, None if change is None else FastResample(self, change)


class FastLayer:
    """A resnet, and attention or none."""

    def __init__(self, make: Maker, resnet: Any, attention: Any) -> None:
        self._first = make.norm_conv(resnet.norm1, resnet.conv1, biased=False)
        self._at = make.shift(resnet.time_emb_proj, resnet.conv1.bias)
        self._second = make.norm_conv(resnet.norm2, resnet.conv2)
        self._make, self._scale = make, resnet.scale
        self._shortcut, self._parts = resnet.conv_shortcut, list[Conv]()
        self._attention = None if attention is None else FastAttention(make, attention)

    def __call__(self, images: tuple[Tensor, ...], shifts: Tensor) -> Tensor:
        """images (B, C_i, H, W), as one of Σ C_i channels."""
        h = self._first(images)
        h = self._second((h,), shifts[:, self._at], self._residual(images))
        h = h if self._scale == 1 else h / self._scale
        return h if self._attention is None else self._attention(h)

    def _residual(self, images: tuple[Tensor, ...]) -> Tensor:
        if self._shortcut is None:
            return images[0]
        if not self._parts:
            widths = [image.shape[1] for image in images]
            split = self._shortcut.weight.split(widths, dim=1)
            biases = [self._shortcut.bias, *[None] * (len(images) - 1)]
            make = self._make
            self._parts = [
                Conv(weight, bias, make.dtype, packed=make.packed)
                for weight, bias in zip(split, biases, strict=True)
            ]
        added: Tensor | None = None
        for part, image in zip(self._parts, images, strict=True):
            added = part(image, added)
        assert added is not None
        return added


class FastAttention:
    """Self-attention over the pixels, with its residual."""

    def __init__(self, make: Maker, attention: Attention) -> None:
        self._norm, self._kernels = Norm(attention.group_norm), usable(make.dtype, make.device)
        self._qkv = make.linear(attention.to_q, attention.to_k, attention.to_v)
        self._to_out = make.linear(attention.to_out[0])
        self._heads, self._scale = attention.heads, attention.scale

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        tokens = self._qkv(normalise(self._kernels, (x,), self._norm))
        if isinstance(self._kernels, Kernels) and narrow(x.shape[1] // self._heads):
            h = self._kernels.attend(tokens, self._heads)
        else:
            h = self._by_products(tokens, *x.shape)
        y = self._to_out(h, x)
        return y if self._scale == 1 else y / self._scale

    def _by_products(self, tokens: Tensor, batch: int, width: int, *sides: int) -> Tensor:
        parts = tokens.permute(0, 2, 3, 1).reshape(batch, -1, 3, self._heads, width // self._heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        h = attend(q, k, v, self._kernels).transpose(1, 2)
        return h.reshape(batch, *sides, width).permute(0, 3, 1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, compiled: Any = None) -> Tensor:
    """Attention of (B, heads, N, C); on a CPU by products, which are faster while they fit.

    compiled: what `usable` says.
    """
    batch, heads, count, width = q.shape
    if q.device.type != "cpu" or batch * heads * count**2 > _SCORES:
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = (each.reshape(batch * heads, count, width) for each in (q, k, v))
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=width**-0.5)
    shares = scores.softmax(-1) if compiled is None else compiled.softmax(scores)
    return torch.bmm(shares, v).reshape(batch, heads, count, width)


class FastResample:
    """Half or twice the resolution; twice by `Doubled`, on a CPU."""

    def __init__(self, make: Maker, resample: Resample) -> None:
        conv: Any = resample.conv
        self._padding = resample.padding
        self._transposed: Doubled | None = None
        if resample.padding is None and make.device.type == "cpu":
            self._transposed = Doubled(conv.weight, conv.bias, make.dtype, packed=make.packed)
            return
        self._conv = make.conv(conv)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2) or (B, C, 2H, 2W)."""
        if self._transposed is not None:
            return self._transposed(x)
        if self._padding is None:
            return self._conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self._conv(F.pad(x, (0, 1, 0, 1)) if self._padding == 0 else x)
