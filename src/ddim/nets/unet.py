"""A U-Net with the configuration keys and parameter names of diffusers' UNet2DModel.

So weights open in both. Ho et al. 2020, appendix B, with the block types DownBlock2D,
AttnDownBlock2D, UpBlock2D and AttnUpBlock2D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim.nets.config import DOWN, UP, UNetConfig


class UNet(nn.Module):
    """out = net(x, t, label), the shape of x kept.

    x: (B, C, H, W), H and W multiples of 2^(blocks − 1).   t: (B,) network time from 0.
    label: (B,) class indices, for a network with classes.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        embed = config.time_embedding_dim or 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], embed)
        if config.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.num_class_embeds, embed)
        make, last, layers = Maker(config, embed), len(widths) - 1, config.layers_per_block
        self.down_blocks = nn.ModuleList(
            Block(
                make,
                [(widths[max(i - 1, 0)], width), *[(width, width)] * (layers - 1)],
                attention=DOWN[config.down_block_types[i]],
                down=i < last,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(make, widths[-1]) if config.mid_block_type else None
        self.up_blocks = nn.ModuleList(
            Block(
                make,
                up_widths(widths, last - i, layers),
                attention=UP[config.up_block_types[i]],
                up=i < last,
            )
            for i in range(len(widths))
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        for name, weight in self.named_parameters():
            if any(part in name for part in ("conv2.", "to_out.", "conv_out.")):
                nn.init.zeros_(
                    weight
                )  # every residual branch, and the output, starts at 0: Ho et al. 2020

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (B, C, H, W). Raises ValueError for a label too many or too few."""
        stride = 2 ** (len(self.down_blocks) - 1)
        if x.shape[-1] % stride or x.shape[-2] % stride:
            raise ValueError(
                f"images of {x.shape[-2]}×{x.shape[-1]}; this U-Net needs multiples of {stride}"
            )
        if (label is None) != (self.config.num_class_embeds is None):
            given, wanted = ("no", "give") if label is None else ("a", "do not give")
            raise ValueError(
                f"got {given} label; this network was trained otherwise, so {wanted} one"
            )
        freq = sinusoid(
            t, self.conv_in.out_channels, self.config.flip_sin_to_cos, self.config.freq_shift
        )
        temb = self.time_embedding(freq.to(x.dtype))
        if label is not None:
            temb = temb + self.class_embedding(label).to(x.dtype)
        h = self.conv_in(2 * x - 1 if self.config.center_input_sample else x)
        skips = [h]
        for block in self.down_blocks:
            h = block(h, temb, None, skips)
        if self.mid_block is not None:
            h = self.mid_block(h, temb)
        for block in self.up_blocks:
            h = block(h, temb, skips, None)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


def sinusoid(t: Tensor, width: int, flip_sin_to_cos: bool, freq_shift: int) -> Tensor:
    """(B, width) sines and cosines of t (B,), float32.

    Frequencies 10000^(−k/(width/2 − freq_shift)), k = 0..width/2 − 1.
    """
    half = width // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * k / (half - freq_shift))
    pair = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    return F.pad(torch.cat(pair, dim=1), (0, width % 2))


def up_widths(widths: tuple[int, ...], level: int, layers: int) -> list[tuple[int, int]]:
    """(in, out) of the resnets of an up block: what comes from below, with the skips."""
    width, below = widths[level], widths[min(level + 1, len(widths) - 1)]
    skips = [width] * layers + [widths[max(level - 1, 0)]]
    return [((below if j == 0 else width) + skip, width) for j, skip in enumerate(skips)]


class TimeEmbedding(nn.Module):
    """Two linear layers with a SiLU between."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, embed)
        self.linear_2 = nn.Linear(embed, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to (B, embed)."""
        return self.linear_2(F.silu(self.linear_1(x)))


@dataclass(frozen=True)
class Maker:
    """Makes the parts of a block from the options they share."""

    config: UNetConfig
    embed: int

    def resnet(self, width: int, out: int, scale: float = 1) -> Resnet:
        """width to out channels; the sum with the shortcut is divided by scale."""
        return Resnet(self.config, (width, out, self.embed), scale)

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
            nn.ModuleList([Resample(out, make.config.downsample_padding)]) if down else None
        )
        self.upsamplers = nn.ModuleList([Resample(out, None)]) if up else None

    def forward(
        self, h: Tensor, temb: Tensor, take: list[Tensor] | None, give: list[Tensor] | None
    ) -> Tensor:
        """h (B, C, H, W). Going up, skips are taken from a list; going down, given to one."""
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
        """(B, C, H, W) to the same."""
        h = self.resnets[0](h, temb)
        if self.attentions is not None:
            h = self.attentions[0](h)
        return self.resnets[1](h, temb)


class Resnet(nn.Module):
    """Two convolutions with the time added between them."""

    def __init__(self, config: UNetConfig, widths: tuple[int, int, int], scale: float) -> None:
        super().__init__()
        width, out, embed = widths
        self.scale = scale
        self.norm1 = nn.GroupNorm(config.norm_num_groups, width, config.norm_eps)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embed, out)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, out, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width, out, 1) if width != out else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x (B, C, H, W), temb (B, embed) to (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h + self.time_emb_proj(F.silu(temb))[:, :, None, None])
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
        """(B, C, H, W) to the same."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            f(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (self.to_out[0](h).transpose(1, 2).reshape(x.shape) + x) / self.scale


class Resample(nn.Module):
    """Halve (padding given) or double (padding None) the resolution, and convolve."""

    def __init__(self, width: int, padding: int | None) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(
            width,
            width,
            3,
            stride=1 if padding is None else 2,
            padding=1 if padding is None else padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2) or (B, C, 2H, 2W)."""
        if self.padding is None:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)
