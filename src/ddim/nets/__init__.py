"""Networks: each with a configuration that `read`s and is `written` as JSON."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ddim.kinds import listed, short
from ddim.nets.borrowed import Borrowed
from ddim.nets.config import UNetConfig, UnsupportedError
from ddim.nets.unet import UNet


@dataclass(frozen=True)
class Kind:
    """A network and its configuration."""

    network: Callable[..., nn.Module]
    config: Any


NETS: dict[str, Kind] = {"UNet2DModel": Kind(UNet, UNetConfig)}


def network(config: Mapping[str, Any]) -> nn.Module:
    """The network that a config.json describes; diffusers' own where ours lacks a block, and a line
    in the log says so.

    Raises ValueError for what neither has, or what ours lacks where diffusers is not installed.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in NETS:
        raise ValueError(f"{short(name)} is not a network that ddim has; it has {listed(NETS)}")
    kind = NETS[name]
    try:
        return kind.network(kind.config.read(config))
    except UnsupportedError as missing:
        try:
            net = Borrowed(config)
        except ImportError as error:
            raise ValueError(f"{missing}; {error}") from error
        logging.getLogger("ddim").warning("%s: taking the network of diffusers", missing)
        return net


def bare(net: nn.Module) -> nn.Module:
    """The module whose weights are those of the file: `Borrowed` holds one of diffusers."""
    return net.net if isinstance(net, Borrowed) else net


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


__all__ = [
    "NETS",
    "Borrowed",
    "Kind",
    "UNet",
    "UNetConfig",
    "UnsupportedError",
    "bare",
    "network",
    "small",
]
