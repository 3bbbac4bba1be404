"""Models on disk: a diffusers pipeline folder with ddim.json beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ddim import __version__, convert
from ddim.model import Model, Sampling
from ddim.nets import NETS
from ddim.nets.unet import UNet
from ddim.schedules import Schedule

PIPELINE = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors")
PLAIN = ("net/config.json", "net/model.safetensors")
SCHEDULER = "scheduler/scheduler_config.json"


def write(path: Path, content: bytes) -> None:
    """Put content at path whole or not at all."""
    write_all(path.parent, {path.name: content})


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Put files into a folder: all as temporary files, synced, and then all renamed at once."""
    staged = [(folder / name, content) for name, content in contents.items()]
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path, _ in staged}
    try:
        for path, content in staged:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, _ in staged:
            temporary[path].replace(path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    for parent in {path.parent for path, _ in staged}:
        descriptor = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document, indented."""
    write(path, _json(content))


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming the file if it is missing or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must be a JSON object")
    return content


def holds_model(path: Path) -> bool:
    """Whether a folder looks like a model's."""
    return (path / "model_index.json").exists() or (path / PLAIN[0]).exists()


def save(model: Model, path: str | Path) -> None:
    """Write a model's folder, over an older model if one is there.

    A U-Net with an eps, x0 or v target on a variance preserving schedule becomes a pipeline folder
    that diffusers opens; everything else goes to net/. ddim.json holds the exact tables, the target
    and the notes.
    """
    folder = Path(path)
    if type(model.net) not in [kind.network for kind in NETS.values()]:
        raise ValueError(
            f"{type(model.net).__name__} is not a network that ddim can write; "
            f"it has {', '.join(NETS)}, so keep the weights of yours with safetensors"
        )
    process = (model.schedule, model.target, model.sampling)
    pipeline = isinstance(model.net, UNet) and convert.expressible(*process)
    (config, weights), stale = (PIPELINE, PLAIN) if pipeline else (PLAIN, PIPELINE)
    about = {
        "format": 1,
        "version": __version__,
        "torch": torch.__version__,
        "target": model.target,
        "shape": list(model.shape),
        "range": [-1, 1],
        "sampling": asdict(model.sampling),
        **model.notes,
        "signal": model.schedule.signal.tolist(),
        "noise": model.schedule.noise.tolist(),
    }
    state = _contiguous(model.net.state_dict())
    files = {
        weights: safetensors.torch.save(state, {"format": "pt"}),
        config: _json(_net_config(model)),
        "ddim.json": _json(about),
    }
    if pipeline:
        files[SCHEDULER] = _json(convert.scheduler_config(*process))
        files["model_index.json"] = _json(convert.MODEL_INDEX)
    write_all(folder, files)
    for name in (*stale, *(() if pipeline else (SCHEDULER, "model_index.json"))):
        (folder / name).unlink(missing_ok=True)  # of an older model in this folder


def load(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Open a folder that `save`, `ddim train` or diffusers wrote; eval mode, gradients off.

    Raises FileNotFoundError if there is none, ValueError for anything in it that does not fit.
    """
    folder = Path(path)
    if not holds_model(folder):
        missing = "does not exist" if not folder.exists() else "holds no model"
        raise FileNotFoundError(
            f"{folder} {missing}; give a folder that ddim train or diffusers wrote"
        )
    config, weights = PIPELINE if (folder / "model_index.json").exists() else PLAIN
    net = _net(folder / config)
    _fill(net, folder / weights)
    net = net.to(device).eval().requires_grad_(False)
    if (folder / "ddim.json").exists():
        return _described(net, folder / "ddim.json")
    entries = read_json(folder / SCHEDULER)
    try:
        schedule, target, sampling = convert.from_scheduler_config(entries)
        return Model(net, schedule, target, _config(net).shape, sampling)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / SCHEDULER}: {error}") from error


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _net_config(model: Model) -> dict[str, Any]:
    name = next(name for name, kind in NETS.items() if type(model.net) is kind.network)
    return {**_config(model.net).written(), "_class_name": name}


def _config(net: nn.Module) -> Any:
    """The configuration of one of NETS, which torch types as a Tensor or a Module."""
    return net.config


def _net(path: Path) -> nn.Module:
    config = read_json(path)
    name = config.get("_class_name")
    if name not in NETS:
        raise ValueError(
            f"{path}: {name!r} is not a network that ddim has; it has {', '.join(NETS)}"
        )
    kind = NETS[name]
    try:
        return kind.network(kind.config.read(config))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _fill(net: nn.Module, path: Path) -> None:
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); the file is missing or damaged"
        ) from error
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(own.keys() | found.keys()):
        if own.get(name) != found.get(name):
            raise ValueError(
                f"{path}: {name} is {found.get(name, 'missing')}, but config.json asks for "
                f"{own.get(name, 'no such weight')}; the two files do not belong together"
            )
    net.load_state_dict(state)


def _described(net: nn.Module, path: Path) -> Model:
    entries = read_json(path)
    shape = _config(net).shape
    if entries.get("shape") != list(shape):
        raise ValueError(
            f"{path} says images of {entries.get('shape')}, the network is for {shape}; "
            "the files do not belong together"
        )
    known = (
        "format",
        "version",
        "torch",
        "target",
        "shape",
        "range",
        "sampling",
        "signal",
        "noise",
    )
    try:
        return Model(
            net,
            Schedule(
                torch.tensor(entries["signal"], dtype=torch.float64),
                torch.tensor(entries["noise"], dtype=torch.float64),
            ),
            entries["target"],
            tuple(entries["shape"]),
            Sampling(**entries["sampling"]),
            {key: value for key, value in entries.items() if key not in known},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a model ({type(error).__name__}: {error})"
        ) from error
