"""The weights of a network on disk: found under the names of diffusers, and put into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.files import read_checkpoint, read_json, read_tensors
from ddim.kinds import listed, short

STEM = "diffusion_pytorch_model"
_VARIANT = re.compile(rf"{STEM}(?:\.(\w+)\.(?:safetensors|bin)|\.\w+\.index\.(\w+)\.json)")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_weights(folder: Path, variant: str | None = None) -> tuple[dict[str, Tensor], Path]:
    """The weights of a folder of diffusers, and the file that names them.

    One file or an index of shards; safetensors first, else .bin read as weights alone; of a variant
    such as fp16 where one is given. Attention of older versions gets its present names.
    Raises ValueError if there is none, naming the variants that there are.
    """
    mark = f".{variant}" if variant else ""
    for suffix in ("safetensors", "bin"):
        whole = folder / f"{STEM}{mark}.{suffix}"
        index = folder / f"{STEM}.{suffix}.index{mark}.json"
        if whole.exists():
            return _renamed(read_file(whole)), whole
        if index.exists():
            return _renamed(_shards(index)), index
    matches = (_VARIANT.fullmatch(path.name) for path in folder.glob(f"{STEM}.*"))
    found = sorted({match[1] or match[2] for match in matches if match})
    hint = f"; it has the variant {listed(found)}: ddim import --variant (variant= in Python)"
    raise ValueError(f"{folder / f'{STEM}{mark}.safetensors'} is missing{hint if found else ''}")


def read_file(path: Path) -> dict[str, Tensor]:
    """A file of named tensors: safetensors, or what torch.save wrote of a state dict."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    return state_dict(read_checkpoint(path), path)


def state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The content, if it is named tensors. Raises ValueError otherwise."""
    if isinstance(content, dict) and content:
        named = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if len(named) == len(content):
            return named
    kind = "an empty dict" if content == {} else f"a {type(content).__name__}"
    raise ValueError(f"{path} holds {kind}, not the named weights of a network")


def fill(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Make these the weights of a network, as float32; the network may lie on the meta device.

    Raises ValueError unless names and shapes are those of the network and all are finite numbers.
    """
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(own.keys() | found.keys()):
        if own.get(name) != found.get(name):
            there = short(found[name]) if name in found else "missing"
            raise ValueError(
                f"{path}: {short(name)[1:-1]} is {there}, but the "
                f"configuration asks for {own.get(name, 'no such weight')}; "
                "they do not belong together"
            )
        tensor = state[name]
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if tensor.dtype not in _FLOATS or not plain:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{path}: {name} holds {kind}{'' if plain else ', sparse or empty'}; weights are "
                "of float32, float64, float16 or bfloat16"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} holds what is no finite number; it is damaged")
    net.load_state_dict(
        {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}, assign=True
    )


def _shards(index: Path) -> dict[str, Tensor]:
    """The tensors of every file that an index names.

    Raises ValueError for a file outside the folder or a tensor that is not where it is said to be.
    """
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index} has no weight_map; it is no index of weights")
    state: dict[str, Tensor] = {}
    for name in sorted({str(value) for value in placed.values()}):
        if not re.fullmatch(r"[\w-][\w.-]*\.(safetensors|bin)", name):
            raise ValueError(f"{index} names {short(name)}, which is no file of weights beside it")
        shard = read_file(index.parent / name)
        said = {key for key, value in placed.items() if value == name}
        for key in sorted(said ^ shard.keys()):
            there = "says that" if key in said else "does not say that"
            raise ValueError(f"{index} {there} {short(key)} is in {name}; they do not agree")
        state |= shard
    return state


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the names that attention has in diffusers now."""
    old = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.")
    return {
        old.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name): tensor
        for name, tensor in state.items()
    }
