"""Networks: each with a configuration that `read`s and is `written` as JSON."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ddim.kinds import listed, short
from ddim.nets.borrowed import Borrowed
from ddim.nets.config import Config, UNetConfig, UnsupportedError
from ddim.nets.mlp import MLP, MLPConfig
from ddim.nets.sizes import SIZES, sized, small
from ddim.nets.unet import UNet
from ddim.nets.unet1d import UNet1D, UNet1DConfig


@dataclass(frozen=True)
class Kind:
    """A network and its configuration."""

    network: Callable[..., nn.Module]
    config: Any


NETS: dict[str, Kind] = {
    "UNet2DModel": Kind(UNet, UNetConfig),
    "UNet1D": Kind(UNet1D, UNet1DConfig),
    "MLP": Kind(MLP, MLPConfig),
}


def network(config: Mapping[str, Any]) -> nn.Module:
    """The network that a config.json describes; diffusers' own where ours lacks a block, and a line
    in the log says so.

    Raises ValueError for what neither has, or what ours lacks where diffusers is not installed.
    """
    kind = _kind(config.get("_class_name"))
    try:
        return kind.network(kind.config.read(config))
    except UnsupportedError as missing:
        try:
            net = Borrowed(config)
        except ImportError as error:
            raise ValueError(f"{missing}; {error}") from error
        logging.getLogger("ddim").warning("%s: taking the network of diffusers", missing)
        return net


def configured(config: Mapping[str, Any]) -> Config:
    """The configuration in a config.json; a U-Net's where it does not say of what.

    Raises ValueError for what is not in one of ours.
    """
    read: Config = _kind(config.get("_class_name", "UNet2DModel")).config.read(config)
    return read


def _kind(name: Any) -> Kind:
    if not isinstance(name, str) or name not in NETS:
        raise ValueError(f"{short(name)} is not a network that ddim has; it has {listed(NETS)}")
    return NETS[name]


def bare(net: nn.Module) -> nn.Module:
    """The module whose weights are those of the file: `Borrowed` holds one of diffusers."""
    return net.net if isinstance(net, Borrowed) else net


__all__ = [
    "MLP",
    "NETS",
    "SIZES",
    "Borrowed",
    "Config",
    "Kind",
    "MLPConfig",
    "UNet",
    "UNet1D",
    "UNet1DConfig",
    "UNetConfig",
    "UnsupportedError",
    "bare",
    "configured",
    "network",
    "sized",
    "small",
]
