"""The parts of a U-Net, over images or signals: Ho et al. 2020, appendix B.

Their parameters have the names of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim.nets.config import UNetConfig


def up_widths(widths: tuple[int, ...], level: int, layers: int) -> list[tuple[int, int]]:
    """(in, out) of the resnets of an up block: what comes from below, with the skips."""
    width, below = widths[level], widths[min(level + 1, len(widths) - 1)]
    skips = [width] * layers + [widths[max(level - 1, 0)]]
    return [((below if j == 0 else width) + skip, width) for j, skip in enumerate(skips)]


@dataclass(frozen=True)
class Maker:
    """Makes the parts of a block from the options they share.

    conv: nn.Conv2d or nn.Conv1d, or one of them with options.   embed: width of the time embedding.
    """

    config: UNetConfig
    embed: int
    conv: Callable[..., nn.Module]

    def resnet(self, width: int, out: int, scale: float = 1) -> Resnet:
        """width to out channels; the sum with the shortcut is divided by scale."""
        return Resnet(self, (width, out), scale)

    def attention(self, width: int, scale: float = 1) -> Attention:
        """Self-attention with heads of attention_head_dim channels, or one head."""
        c = self.config
        return Attention(
            width,
            width // (c.attention_head_dim or width),
            nn.GroupNorm(c.norm_num_groups, width, c.norm_eps),
            scale,
        )


class Block(nn.Module):
    """Resnets, each followed by attention or not; then a change of resolution or none."""

    def __init__(
        self,
        make: Maker,
        widths: list[tuple[int, int]],
        *,
        attention: bool,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        out = widths[-1][1]
        self.resnets = nn.ModuleList(make.resnet(*pair) for pair in widths)
        self.attentions = nn.ModuleList(make.attention(out) for _ in widths) if attention else None
        self.downsamplers = (
            nn.ModuleList([Resample(make.conv, out, make.config.downsample_padding)])
            if down
            else None
        )
        self.upsamplers = nn.ModuleList([Resample(make.conv, out, None)]) if up else None

    def forward(
        self, h: Tensor, temb: Tensor, take: list[Tensor] | None, give: list[Tensor] | None
    ) -> Tensor:
        """h (B, C, ...). Going up, skips are taken from a list; going down, given to one."""
        for i, resnet in enumerate(self.resnets):
            h = resnet(h if take is None else torch.cat([h, take.pop()], dim=1), temb)
            if self.attentions is not None:
                h = self.attentions[i](h)
            if give is not None:
                give.append(h)
        if self.downsamplers is not None:
            h = self.downsamplers[0](h)
            if give is not None:
                give.append(h)
        return h if self.upsamplers is None else self.upsamplers[0](h)


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, make: Maker, width: int) -> None:
        super().__init__()
        scale = make.config.mid_block_scale_factor
        self.resnets = nn.ModuleList(make.resnet(width, width, scale) for _ in range(2))
        self.attentions = (
            nn.ModuleList([make.attention(width, scale)]) if make.config.add_attention else None
        )

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        h = self.resnets[0](h, temb)
        if self.attentions is not None:
            h = self.attentions[0](h)
        return self.resnets[1](h, temb)


class Resnet(nn.Module):
    """Two convolutions with the time added between them."""

    def __init__(self, make: Maker, widths: tuple[int, int], scale: float) -> None:
        super().__init__()
        (width, out), config = widths, make.config
        self.scale = scale
        self.norm1 = nn.GroupNorm(config.norm_num_groups, width, config.norm_eps)
        self.conv1 = make.conv(width, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(make.embed, out)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, out, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = make.conv(out, out, 3, padding=1)
        self.conv_shortcut = make.conv(width, out, 1) if width != out else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x (B, C, ...), temb (B, embed) to (B, out, ...)."""
        h = self.conv1(F.silu(self.norm1(x)))
        shift = self.time_emb_proj(F.silu(temb))
        h = self.norm2(h + shift[(..., *[None] * (h.ndim - 2))])
        h = self.conv2(self.dropout(F.silu(h)))
        return ((x if self.conv_shortcut is None else self.conv_shortcut(x)) + h) / self.scale


class Attention(nn.Module):
    """Self-attention over the pixels, with a residual connection."""

    def __init__(self, width: int, heads: int, norm: nn.GroupNorm, scale: float) -> None:
        super().__init__()
        self.heads, self.scale, self.group_norm = heads, scale, norm
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            f(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (self.to_out[0](h).transpose(1, 2).reshape(x.shape) + x) / self.scale


class Resample(nn.Module):
    """Halve (padding given) or double (padding None) the resolution, and convolve."""

    def __init__(self, conv: Callable[..., nn.Module], width: int, padding: int | None) -> None:
        super().__init__()
        self.padding = padding
        stride, around = (1, 1) if padding is None else (2, padding)
        self.conv = conv(width, width, 3, stride=stride, padding=around)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same of half or twice the sides."""
        if self.padding is None:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(F.pad(x, (0, 1) * (x.ndim - 2)) if self.padding == 0 else x)
