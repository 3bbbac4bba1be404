"""Configurations of networks, and that of a U-Net: the fields of diffusers' UNet2DModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from ddim.kinds import built, listed, short

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
ELSEWHERE: dict[str, tuple[Any, ...]] = {
    "act_fn": ("swish", "mish", "gelu", "relu"),
    "downsample_type": ("resnet",),
    "resnet_time_scale_shift": ("scale_shift",),
    "upsample_type": ("resnet",),
    "down_block_types": (
        "ResnetDownsampleBlock2D",
        "SkipDownBlock2D",
        "AttnSkipDownBlock2D",
        "DownEncoderBlock2D",
        "AttnDownEncoderBlock2D",
        "KDownBlock2D",
    ),
    "up_block_types": (
        "ResnetUpsampleBlock2D",
        "SkipUpBlock2D",
        "AttnSkipUpBlock2D",
        "UpDecoderBlock2D",
        "AttnUpDecoderBlock2D",
        "KUpBlock2D",
    ),
}
"""What diffusers' UNet2DModel has beyond this one."""
EMA = frozenset(
    {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup"}
    | {"inv_gamma", "power"}
)
"""What diffusers' EMAModel writes into the config.json of averaged weights."""
_WIDEST, _MOST = 1 << 16, 64
Sizes = Mapping[str, tuple[int | None, ...]]
T = TypeVar("T")


class Config(Protocol):
    """What configures a network and travels as its config.json."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @property
    def num_class_embeds(self) -> int | None:
        """The number of classes, the null label among them; None for a network without labels."""

    def written(self) -> dict[str, Any]:
        """Every field, as config.json holds it, and `_class_name`, a key of NETS."""


class UnsupportedError(ValueError):
    """A U-Net that this one is not, but diffusers' is."""


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
        self._bounded()
        for key, allowed in ONLY.items():
            _offered(key, getattr(self, key), allowed)
        for key, table in (("down_block_types", DOWN), ("up_block_types", UP)):
            for block in getattr(self, key):
                _offered(key, block, tuple(table))
            if len(getattr(self, key)) != len(self.block_out_channels):
                raise ValueError(
                    f"{key} has {len(getattr(self, key))} entries and block_out_channels "
                    f"{len(self.block_out_channels)}; give one block per width"
                )
        for width in self.block_out_channels:
            if width % self.norm_num_groups or width % (self.attention_head_dim or width):
                raise ValueError(
                    f"block_out_channels has {width}, which must be a multiple of "
                    f"norm_num_groups={self.norm_num_groups} "
                    f"and of attention_head_dim={self.attention_head_dim}"
                )

    def _bounded(self) -> None:
        """Raise ValueError for a size that no network has."""
        size = self.sample_size if isinstance(self.sample_size, tuple) else (self.sample_size,)
        widths: Sizes = {
            "block_out_channels": self.block_out_channels,
            "norm_num_groups": (self.norm_num_groups,),
            "attention_head_dim": (self.attention_head_dim,),
            "in_channels": (self.in_channels,),
            "out_channels": (self.out_channels,),
            "sample_size": size,
            "time_embedding_dim": (self.time_embedding_dim,),
            "num_class_embeds": (self.num_class_embeds,),
        }
        counts: Sizes = {
            "layers_per_block": (self.layers_per_block,),
            "len(block_out_channels)": (len(self.block_out_channels),),
        }
        whole(widths, counts)
        fine = {
            "downsample_padding": self.downsample_padding in (0, 1),
            "dropout": 0 <= self.dropout < 1,
            "freq_shift": 0 <= self.freq_shift < max(self.block_out_channels[0] // 2, 1),
            "mid_block_scale_factor": self.mid_block_scale_factor > 0,
            "norm_eps": self.norm_eps > 0,
        }
        within(self, fine)

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UNetConfig:
        """From a parsed config.json; keys that begin with _ are notes, as are those of an average.

        Raises ValueError for a key it does not know, UnsupportedError for a block of diffusers
        alone.
        """
        notes = {key for key in config if key.startswith("_")} | EMA
        return built(cls, {key: value for key, value in config.items() if key not in notes})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image. Raises ValueError where the configuration does not say."""
        return image_shape(self.sample_size, self.in_channels, self.out_channels)

    def written(self) -> dict[str, Any]:
        """Every field, as config.json holds it."""
        return {"_class_name": "UNet2DModel", **asdict(self)}


def image_shape(
    size: int | tuple[int, int] | None, channels: int, answered: int
) -> tuple[int, int, int]:
    """(C, H, W) of one image, for a network that answers C channels or, with a variance, 2C."""
    if size is None or answered not in (channels, 2 * channels):
        raise ValueError(
            f"sample_size={size}, in_channels={channels}, "
            f"out_channels={answered} do not fix an image's shape; set sample_size"
        )
    return (channels, *(size if isinstance(size, tuple) else (size, size)))


def whole(widths: Sizes, counts: Sizes) -> None:
    """Raise ValueError for what is no size of a network: 1 to 65536 wide, 1 to 64 parts.

    None is what the network chooses itself, or lacks.
    """
    for most, sizes in ((_WIDEST, widths), (_MOST, counts)):
        for key, values in sizes.items():
            if not all(value is None or 0 < value <= most for value in values):
                raise ValueError(
                    f"{key}={short(values[0] if len(values) == 1 else values)} "
                    f"must be whole numbers above 0, at most {most}"
                )


def within(config: Any, fine: Mapping[str, bool]) -> None:
    """Raise ValueError for the first field that is not."""
    for key, fits in fine.items():
        if not fits:
            raise ValueError(f"{key}={short(getattr(config, key))} is out of its range")


def read_plain(kind: type[T], config: Mapping[str, Any]) -> T:
    """From a parsed config.json of ours; keys that begin with _ are notes."""
    return built(kind, {key: value for key, value in config.items() if not key.startswith("_")})


def _offered(key: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value in allowed:
        return
    name = f"block type {value!r}" if key.endswith("block_types") else f"{key}={short(value)}"
    kind = UnsupportedError if value in ELSEWHERE.get(key, ()) else ValueError
    raise kind(f"{name} is not in this U-Net; it has {listed(allowed)}")
