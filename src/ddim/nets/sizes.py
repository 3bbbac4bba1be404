"""Networks of a chosen size for samples of a given shape; SIZES."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ddim.kinds import listed, short
from ddim.nets.config import Config, UNetConfig
from ddim.nets.mlp import MLPConfig
from ddim.nets.unet1d import UNet1DConfig

_BASE = (
    (256,),
    (256, 384),
    (128, 256, 384),
    (128, 256, 256, 384),
    (128, 128, 256, 256, 512),
    (128, 128, 256, 256, 512, 512),
)
_LEAST, _MOST, _ATTENDED = 16, 256, 16 * 16
_SIGNAL_ATTENDED = 128


def tiny(shape: tuple[int, ...], classes: int | None = None) -> Config:
    """A network that trains on two CPU cores in half an hour; `sized` says of what.

    As `small`, with 32 channels at the full resolution and 64 below, and vectors 128 wide.
    """
    embeds = _embeds(shape, classes)
    if len(shape) == 1:
        return MLPConfig(shape[0], 128, 2, num_class_embeds=embeds)
    return _narrow(shape, 32, embeds)


def small(shape: tuple[int, ...], classes: int | None = None) -> Config:
    """A network that trains on one CPU or GPU; `sized` says of what.

    Images: 0.2 to 7 million weights. Each side is halved up to three times, while it is even and
    above 4. Attention is in the middle, and from a quarter of the resolution down.
    Signals are halved up to four times. Vectors pass layers as wide as themselves, up to 1024.
    """
    embeds = _embeds(shape, classes)
    if len(shape) == 1:
        width = max(256, min(shape[0], 1024))
        return MLPConfig(shape[0], width, 4, num_class_embeds=embeds)
    few = min(shape[1:]) <= (64 if len(shape) == 2 else 16)
    return _narrow(shape, 32 if few else 64, embeds)


def base(shape: tuple[int, ...], classes: int | None = None) -> Config:
    """A network that fills a GPU; `sized` says of what.

    Images of sides 16 to 256: 40 to 120 million weights. Sides are halved while even and above 8,
    with two layers per block, and attention where there are 16×16 pixels or fewer.
    Signals are halved up to six times. Vectors pass layers twice as wide, 1024 to 4096.
    Raises ValueError for images whose sides are others, or do not halve to 16×16.
    """
    embeds = _embeds(shape, classes)
    if len(shape) == 1:
        width = max(1024, min(2 * shape[0], 4096))
        return MLPConfig(shape[0], width, 8, num_class_embeds=embeds)
    if len(shape) == 2:
        halvings = _halvings(shape[1:], 6, above=8)
        return _signals(
            shape,
            (128, 256, 256, 256, 512, 512, 512)[: halvings + 1],
            layers_per_block=2,
            norm_num_groups=32,
            attention_head_dim=64,
            num_class_embeds=embeds,
        )
    halvings = _halvings(shape[1:], 5, above=8)
    pixels = [math.prod(shape[1:]) >> 2 * level for level in range(halvings + 1)]
    if min(shape[1:]) < _LEAST or max(shape[1:]) > _MOST or pixels[-1] > _ATTENDED:
        raise ValueError(
            f"images of {shape[1]}×{shape[2]}; the size base is for sides from {_LEAST} to {_MOST} "
            f"that halve evenly to {_LEAST}×{_LEAST} or less; resize them, or take small"
        )
    return _images(
        shape,
        _BASE[halvings],
        [count <= _ATTENDED for count in pixels],
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=64,
        num_class_embeds=embeds,
    )


def cifar10(shape: tuple[int, ...], classes: int | None = None) -> Config:
    """The U-Net of 35.7 million weights that Ho et al. 2020 trained on CIFAR-10.

    Raises ValueError unless it is for images whose sides are multiples of 8.
    """
    embeds = _embeds(shape, classes)
    if len(shape) != 3 or any(side % 8 for side in shape[1:]):
        raise ValueError(
            f"samples of {shape}; the size cifar10 is for images (C, H, W) with sides that are "
            "multiples of 8; take small"
        )
    return _images(
        shape,
        (128, 256, 256, 256),
        [False, True, False, False],
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        dropout=0.1,
        attention_head_dim=None,
        norm_eps=1e-6,
        num_class_embeds=embeds,
    )


SIZES: dict[str, Callable[[tuple[int, ...], int | None], Config]] = {
    "tiny": tiny,
    "small": small,
    "base": base,
    "cifar10": cifar10,
}


def sized(name: str, shape: tuple[int, ...], classes: int | None = None) -> Config:
    """The network of a size in SIZES: an MLP for vectors (D,), a UNet1D for signals (C, L), a U-Net
    for images (C, H, W).

    classes: how many there are. The network gets one more, the last, as the null label.
    Raises ValueError for an unknown name, and for a shape that the size does not serve.
    """
    if name not in SIZES:
        raise ValueError(f"size={short(name)} is unknown; choose one of {listed(SIZES)}")
    return SIZES[name](shape, classes)


def _embeds(shape: tuple[int, ...], classes: int | None) -> int | None:
    """The classes and the null label. Raises ValueError for fewer than one, or an odd shape."""
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(
            f"samples of {shape}; networks are for vectors (D,), signals (C, L) and images "
            "(C, H, W), of 1 and more"
        )
    if classes is not None and classes < 1:
        raise ValueError(f"classes={classes}; give 1 or more, or None for a model without labels")
    return None if classes is None else classes + 1


def _halvings(sides: Sequence[int], most: int, *, above: int) -> int:
    """How often the sides halve, while all are even and above some length."""
    count = 0
    while count < most and all(not side >> count & 1 and side >> count > above for side in sides):
        count += 1
    return count


def _narrow(shape: tuple[int, ...], base: int, embeds: int | None) -> Config:
    """`base` channels at the full resolution and twice as many below, one layer per block."""
    narrow: dict[str, Any] = {"layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 32}
    halvings = _halvings(shape[1:], 4 if len(shape) == 2 else 3, above=4)
    widths = (base, *[2 * base] * halvings)
    if len(shape) == 2:
        return _signals(shape, widths, num_class_embeds=embeds, **narrow)
    attended = [level >= 2 for level in range(halvings + 1)]
    return _images(shape, widths, attended, num_class_embeds=embeds, **narrow)


def _signals(shape: tuple[int, ...], widths: tuple[int, ...], **options: Any) -> UNet1DConfig:
    """Attention from the first level of 128 entries or fewer on."""
    channels, length = shape
    attended = [i for i in range(len(widths)) if length >> i <= _SIGNAL_ATTENDED]
    return UNet1DConfig(
        length=length,
        channels=channels,
        block_out_channels=widths,
        attention_level=attended[0] if attended else None,
        **options,
    )


def _images(
    shape: tuple[int, ...], widths: tuple[int, ...], attended: Sequence[bool], **options: Any
) -> UNetConfig:
    """attended: for each level from the top, whether its blocks have attention."""
    channels, height, width = shape
    down = tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attended)
    return UNetConfig(
        sample_size=height if height == width else (height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        **options,
    )
