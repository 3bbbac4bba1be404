"""Networks: each with a configuration that `read`s and is `written` as JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ddim.nets.config import UNetConfig
from ddim.nets.unet import UNet


@dataclass(frozen=True)
class Kind:
    """A network and its configuration."""

    network: Callable[..., nn.Module]
    config: Any


NETS: dict[str, Kind] = {"UNet2DModel": Kind(UNet, UNetConfig)}


def small(shape: tuple[int, int, int]) -> UNetConfig:
    """A U-Net of 0.2 to 7 million weights for images (C, H, W).

    Each side is halved up to three times, while it is even and above 4. Attention is in the middle,
    and from a quarter of the resolution down.
    """
    channels, height, width = shape
    halvings = 0
    while halvings < 3 and not (height | width) >> halvings & 1 and min(shape[1:]) >> halvings > 4:
        halvings += 1
    base = 32 if min(height, width) <= 16 else 64
    levels = ["DownBlock2D" if level < 2 else "AttnDownBlock2D" for level in range(halvings + 1)]
    return UNetConfig(
        sample_size=height if height == width else (height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(base, *[2 * base] * halvings),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=32,
        down_block_types=tuple(levels),
        up_block_types=tuple(level.replace("Down", "Up") for level in reversed(levels)),
    )


__all__ = ["NETS", "Kind", "UNet", "UNetConfig", "small"]
