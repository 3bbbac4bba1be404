"""The U-Net with convolutions of one dimension, for signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from ddim.nets.config import UNetConfig, read_plain, whole, within
from ddim.nets.unet import UNet


@dataclass(frozen=True)
class UNet1DConfig:
    """For signals (channels, length); one level per entry of block_out_channels, each of half the
    length of the one before.

    attention_level: self-attention from this level on (0 is the whole length) and in the middle;
    None for the middle alone.   periodic: the signal's end is next to its begin.
    num_class_embeds: the number of classes, the null label among them, or None.
    Raises ValueError for a value that this network does not have.
    """

    length: int = 64
    channels: int = 1
    block_out_channels: tuple[int, ...] = (32, 64, 64)
    layers_per_block: int = 1
    attention_level: int | None = 2
    attention_head_dim: int | None = 32
    norm_num_groups: int = 8
    dropout: float = 0.0
    periodic: bool = False
    num_class_embeds: int | None = None

    def __post_init__(self) -> None:
        whole({"length": (self.length,), "channels": (self.channels,)}, {})
        self.parts()  # checks the rest
        levels = len(self.block_out_channels)
        within(self, {"attention_level": 0 <= (self.attention_level or 0) < levels})
        if self.length % 2 ** (levels - 1):
            raise ValueError(
                f"length={self.length} must be a multiple of {2 ** (levels - 1)}, for "
                f"block_out_channels has {levels} levels; give fewer"
            )

    def parts(self) -> UNetConfig:
        """The U-Net that this one is, but for the number of dimensions."""
        levels = len(self.block_out_channels)
        first = levels if self.attention_level is None else self.attention_level
        down = tuple("AttnDownBlock2D" if i >= first else "DownBlock2D" for i in range(levels))
        return UNetConfig(
            in_channels=self.channels,
            out_channels=self.channels,
            block_out_channels=self.block_out_channels,
            layers_per_block=self.layers_per_block,
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            attention_head_dim=self.attention_head_dim,
            norm_num_groups=self.norm_num_groups,
            dropout=self.dropout,
            num_class_embeds=self.num_class_embeds,
        )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UNet1DConfig:
        """From a parsed config.json. Raises ValueError for a key it does not know."""
        return read_plain(cls, config)

    @property
    def shape(self) -> tuple[int, int]:
        """(C, L) of one signal."""
        return self.channels, self.length

    def written(self) -> dict[str, Any]:
        """Every field, as config.json holds it."""
        return {"_class_name": "UNet1D", **asdict(self)}


class UNet1D(nn.Module):
    """out = net(x, t, label), the shape of x kept.

    x: (B, C, L), L any multiple of 2^(levels − 1).   t: (B,) network time from 0.
    label: (B,) class indices, for a network with classes.
    """

    def __init__(self, config: UNet1DConfig) -> None:
        super().__init__()
        self.config = config
        around: Literal["circular", "zeros"] = "circular" if config.periodic else "zeros"
        self.unet = UNet(config.parts(), partial(nn.Conv1d, padding_mode=around))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (B, C, L).

        Raises ValueError for other shapes, and for a label too many or too few.
        """
        if x.ndim != 3 or x.shape[1] != self.config.channels:
            raise ValueError(
                f"signals of {tuple(x.shape[1:])}; "
                f"this network is for {self.config.channels} channels and one length"
            )
        return self.unet(x, t, label)
