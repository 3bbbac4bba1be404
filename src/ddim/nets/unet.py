"""A U-Net with the configuration keys and parameter names of diffusers' UNet2DModel.

So weights open in both. Ho et al. 2020, appendix B, with the block types DownBlock2D,
AttnDownBlock2D, UpBlock2D and AttnUpBlock2D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ddim.nets.blocks import Block, Maker, MidBlock, up_widths
from ddim.nets.config import DOWN, UP, UNetConfig
from ddim.nets.embedding import TimeEmbedding, check_label, sinusoid


class UNet(nn.Module):
    """out = net(x, t, label), the shape of x kept.

    x: (B, C, H, W), H and W multiples of 2^(blocks − 1).   t: (B,) network time from 0.
    label: (B,) class indices, for a network with classes.
    conv: the convolutions; with nn.Conv1d it is for signals (B, C, L).
    """

    def __init__(self, config: UNetConfig, conv: Callable[..., nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        embed = config.time_embedding_dim or 4 * widths[0]
        self.conv_in = conv(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], embed)
        if config.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.num_class_embeds, embed)
        make, last, layers = Maker(config, embed, conv), len(widths) - 1, config.layers_per_block
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
        self.conv_out = conv(widths[0], config.out_channels, 3, padding=1)
        for name, weight in self.named_parameters():
            if any(part in name for part in ("conv2.", "to_out.", "conv_out.")):
                nn.init.zeros_(
                    weight
                )  # every residual branch, and the output, starts at 0: Ho et al. 2020

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of x's shape.

        Raises ValueError for sides that do not halve, and for a label too many or too few.
        """
        self.check(x, label)
        temb = self.condition(t, label).to(x.dtype)
        h = self.conv_in(2 * x - 1 if self.config.center_input_sample else x)
        skips = [h]
        for block in self.down_blocks:
            h = block(h, temb, None, skips)
        if self.mid_block is not None:
            h = self.mid_block(h, temb)
        for block in self.up_blocks:
            h = block(h, temb, skips, None)
        return self.conv_out(F.silu(self.conv_norm_out(h)))

    def condition(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Time and class as one vector: (B, embed), in the dtype of the weights."""
        config = self.config
        freq = sinusoid(t, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
        temb: Tensor = self.time_embedding(freq.to(self.time_embedding.linear_1.weight.dtype))
        return temb if label is None else temb + self.class_embedding(label)

    def check(self, x: Tensor, label: Tensor | None) -> None:
        """Raise ValueError for sides that do not halve, and for a label too many or too few."""
        stride, sides = 2 ** (len(self.down_blocks) - 1), x.shape[2:]
        if any(side % stride for side in sides):
            raise ValueError(
                f"sides of {'×'.join(map(str, sides))}; this U-Net needs multiples of {stride}"
            )
        check_label(label, has_classes=self.config.num_class_embeds is not None)
