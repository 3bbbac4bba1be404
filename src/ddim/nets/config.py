"""The configuration of a U-Net: the fields of diffusers' UNet2DModel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
ONLY: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "attn_norm_num_groups": (None,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_type": ("UNetMidBlock2D", None),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}


@dataclass(frozen=True)
class UNetConfig:
    """The fields of UNet2DModel's config.json, with its defaults.

    The published DDPM weights differ from the defaults in five: flip_sin_to_cos=False,
    freq_shift=1, norm_eps=1e-6, downsample_padding=0, attention_head_dim=None (one head).
    Raises ValueError for a value that this network does not have.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def __post_init__(self) -> None:
        for key, allowed in ONLY.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} is not in this U-Net; it has {_listed(allowed)}"
                )
        for key, table in (("down_block_types", DOWN), ("up_block_types", UP)):
            for block in getattr(self, key):
                if block not in table:
                    raise ValueError(
                        f"block type {block!r} is not in this U-Net; "
                        f"{key} may hold {_listed(table)}"
                    )
            if len(getattr(self, key)) != len(self.block_out_channels):
                raise ValueError(
                    f"{key} has {len(getattr(self, key))} entries and block_out_channels "
                    f"{len(self.block_out_channels)}; give one block per width"
                )
        counts = (self.layers_per_block, self.norm_num_groups, *self.block_out_channels)
        if not all(isinstance(count, int) and count > 0 for count in counts):
            raise ValueError(
                f"layers_per_block={self.layers_per_block}, "
                f"norm_num_groups={self.norm_num_groups}, "
                f"block_out_channels={self.block_out_channels} must be whole numbers above 0"
            )
        for width in self.block_out_channels:
            if width % self.norm_num_groups or width % (self.attention_head_dim or width):
                raise ValueError(
                    f"block_out_channels has {width}, which must be a multiple of "
                    f"norm_num_groups={self.norm_num_groups} "
                    f"and of attention_head_dim={self.attention_head_dim}"
                )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UNetConfig:
        """From a parsed config.json; keys that begin with _ are notes.

        Raises ValueError for a key it does not know.
        """
        known = {field.name for field in fields(cls)}
        entries = {key: value for key, value in config.items() if not key.startswith("_")}
        if unknown := entries.keys() - known:
            raise ValueError(
                f"{_listed(sorted(unknown))} is not a U-Net option; "
                f"known are {_listed(sorted(known))}"
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()
        }
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"a U-Net option has the wrong kind ({error})") from error

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image. Raises ValueError where the configuration does not say."""
        if self.sample_size is None or self.in_channels != self.out_channels:
            raise ValueError(
                f"sample_size={self.sample_size}, in_channels={self.in_channels}, "
                f"out_channels={self.out_channels} do not fix an image's shape; set sample_size"
            )
        size = self.sample_size
        return (self.in_channels, *(size if isinstance(size, tuple) else (size, size)))

    def written(self) -> dict[str, Any]:
        """Every field, as config.json holds it."""
        return {"_class_name": "UNet2DModel", **asdict(self)}


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))
