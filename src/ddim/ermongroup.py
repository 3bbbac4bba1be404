"""Checkpoints of the DDIM paper's own code, github.com/ermongroup/ddim.

Training writes ckpt.pth = [model, optimiser, epoch, step, ema] beside config.yml. The published
weights (pesser/pytorch_diffusion) are the state dict alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.convert import BETA_SCHEDULES
from ddim.files import read_checkpoint, read_yaml
from ddim.kinds import built, listed, short
from ddim.model import Model, Sampling
from ddim.nets import UNet, UNetConfig
from ddim.schedules import Schedule, from_betas, linear, scaled_linear
from ddim.weights import fill, state_dict

CHECKPOINT, CONFIG = "ckpt.pth", "config.yml"
_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
_RESNET = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def open_checkpoint(path: Path, config: Path | None = None, *, raw: bool = False) -> Model:
    """The model of a ckpt.pth, or of a bare state dict; its notes say which weights were taken.

    config: the YAML configuration, where None the config.yml beside it.   raw: the weights of the
    last update rather than their average, which is preferred where there is one.
    Raises ValueError for anything that is not this layout or does not belong together.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"{path} is no checkpoint ({listed(_SUFFIXES)}); give one, or the folder of a model"
        )
    beside = config or path.parent / CONFIG
    if config is not None and not config.is_file():
        raise ValueError(f"{config} is no file; give the YAML configuration of {path.name}")
    if not beside.exists():
        raise ValueError(
            f"{path} does not say how its network is built; give its YAML file by "
            f"ddim import --config (config= in Python), or put it beside as {CONFIG}"
        )
    described = _Config.read(beside)
    state, taken = _chosen(read_checkpoint(path), path, raw)
    weights = _translated(state, path, len(described.net.block_out_channels))
    with torch.device("meta"):
        net = UNet(described.net)
    fill(net, weights, path)
    notes = {"source": {"layout": "ermongroup", "file": path.name, **taken}}
    return Model(net, described.schedule, "eps", described.net.shape, Sampling("leading"), notes)


@dataclass(frozen=True)
class _Model:
    ch: int
    in_channels: int
    out_ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resamp_with_conv: bool = True


@dataclass(frozen=True)
class _Diffusion:
    beta_start: float
    beta_end: float
    num_diffusion_timesteps: int
    beta_schedule: str = "linear"

    def schedule(self) -> Schedule:
        T, ends = self.num_diffusion_timesteps, (self.beta_start, self.beta_end)
        linear(T)  # refuses a T that is none
        if self.beta_schedule == "linear":
            return linear(T, *ends)
        if self.beta_schedule == "quad":
            return scaled_linear(T, *ends)
        if self.beta_schedule == "const":
            return from_betas([self.beta_end] * T)
        if self.beta_schedule == "jsd":
            return from_betas([1 / n for n in range(T, 0, -1)])
        if self.beta_schedule == "sigmoid":
            return BETA_SCHEDULES["sigmoid"](T, *ends)
        raise ValueError(
            f"beta_schedule={short(self.beta_schedule)} is unknown; known are linear, quad, const, "
            "jsd, sigmoid"
        )


@dataclass(frozen=True)
class _Config:
    """The network and the schedule that a config.yml describes."""

    net: UNetConfig
    schedule: Schedule

    @classmethod
    def read(cls, path: Path) -> _Config:
        entries = read_yaml(path)
        try:
            parts = {name: _entries(entries, name) for name in ("data", "model", "diffusion")}
            net = built(_Model, _known(parts["model"], _Model))
            if not net.resamp_with_conv:
                raise ValueError("resamp_with_conv=False is not in our U-Net")
            if parts["data"].get("rescaled", True) is not True:
                raise ValueError("rescaled=False: its images lie in [0, 1], and ours in [-1, 1]")
            if parts["data"].get("logit_transform", False) is not False:
                raise ValueError("logit_transform=True: its images are logits, not in [-1, 1]")
            size = parts["data"].get("image_size")
            schedule = built(_Diffusion, _known(parts["diffusion"], _Diffusion)).schedule()
            return cls(_unet(net, size), schedule)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: {error}") from error


def _entries(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"it has no entry {name!r}, which a configuration of ermongroup/ddim has")
    return part


def _known(entries: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The entries that a dataclass has; the others concern training."""
    return {key: value for key, value in entries.items() if key in kind.__annotations__}


def _unet(model: _Model, size: Any) -> UNetConfig:
    """This network as one of diffusers: the five options of the published DDPM weights."""
    if type(size) is not int or not 0 < size <= 1 << 16 or len(model.ch_mult) > 16:
        raise ValueError(f"image_size={short(size)} with {len(model.ch_mult)} levels is no network")
    inside = [size >> level in model.attn_resolutions for level in range(len(model.ch_mult))]
    return UNetConfig(
        sample_size=size,
        in_channels=model.in_channels,
        out_channels=model.out_ch,
        block_out_channels=tuple(model.ch * mult for mult in model.ch_mult),
        layers_per_block=model.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in inside),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(inside)),
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        downsample_padding=0,
        attention_head_dim=None,
    )


def _chosen(content: Any, path: Path, raw: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict to take of a checkpoint, and what to note of it."""
    if isinstance(content, dict):
        if raw:
            raise ValueError(f"{path} holds one set of weights, so there is no raw one; leave raw")
        return state_dict(content, path), {"weights": "the only ones"}
    if not isinstance(content, list | tuple) or len(content) not in (4, 5):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; a checkpoint of ermongroup/ddim is a state "
            "dict, or [model, optimiser, epoch, step] and perhaps ema"
        )
    averaged = len(content) == 5 and not raw
    counts = {
        key: value
        for key, value in zip(("epoch", "step"), content[2:4], strict=True)
        if type(value) is int
    }
    taken = "ema" if averaged else "raw" if len(content) == 5 else "the only ones"
    weights = {"weights": taken, **counts}
    return state_dict(content[4] if averaged else content[0], path), weights


def _translated(state: Mapping[str, Tensor], path: Path, levels: int) -> dict[str, Tensor]:
    """The weights under the names of our U-Net. Attention is by 1×1 convolutions there."""
    found = {}
    for key, tensor in state.items():
        plain = key.removeprefix("module.")
        if plain == "logvar":  # of type: bayesian, beside the network
            continue
        name = _name(plain, levels)
        if name is None:
            raise ValueError(
                f"{path}: {short(key)} is no weight of the U-Net of ermongroup/ddim with "
                f"{levels} levels"
            )
        if name in found:
            raise ValueError(f"{path} holds {short(plain)} twice; it is no state dict")
        pixelwise = "attentions" in name and tensor.shape[2:] == (1, 1)
        found[name] = tensor[:, :, 0, 0] if pixelwise else tensor
    return found


def _name(key: str, levels: int) -> str | None:
    """The name in our U-Net of a weight there, or None."""
    if re.fullmatch(r"(conv_in|conv_out|norm_out)\.(weight|bias)", key):
        return key.replace("norm_out", "conv_norm_out")
    if match := re.fullmatch(r"temb\.dense\.([01])\.(weight|bias)", key):
        return f"time_embedding.linear_{int(match[1]) + 1}.{match[2]}"
    if match := re.fullmatch(r"mid\.(block|attn)_([12])\.(.+)", key):
        return _part("mid_block", match[1], int(match[2]) - 1, match[3])
    match = re.fullmatch(r"(down|up)\.(\d{1,2})\.(.+)", key)
    if not match or int(match[2]) >= levels:
        return None
    level = int(match[2]) if match[1] == "down" else levels - 1 - int(match[2])  # 0 is the finest
    return _in_level(f"{match[1]}_blocks.{level}", match[1], match[3])


def _in_level(place: str, side: str, rest: str) -> str | None:
    if match := re.fullmatch(r"(block|attn)\.(\d{1,2})\.(.+)", rest):
        return _part(place, match[1], int(match[2]), match[3])
    if match := re.fullmatch(rf"{side}sample\.conv\.(weight|bias)", rest):
        return f"{place}.{side}samplers.0.conv.{match[1]}"
    return None


def _part(place: str, kind: str, index: int, rest: str) -> str:
    """The name of a weight of a residual block or of attention."""
    layer, _, weight = rest.partition(".")
    if kind == "block":
        return f"{place}.resnets.{index}.{_RESNET.get(layer, layer)}.{weight}"
    return f"{place}.attentions.{index}.{_ATTENTION.get(layer, layer)}.{weight}"
