"""Models on disk: a diffusers pipeline folder with ddim.json beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ddim import __version__, convert, ermongroup, hub
from ddim.files import read_json, to_json, write_all
from ddim.kinds import built, short
from ddim.model import Model, Sampling
from ddim.nets import NETS, Borrowed, UNet, bare, network
from ddim.nets.optimized import trained
from ddim.schedules import Schedule
from ddim.weights import STEM, fill, read_file, read_weights

PIPELINE = ("unet/config.json", f"unet/{STEM}.safetensors")
PLAIN = ("net/config.json", "net/model.safetensors")
SCHEDULER = "scheduler/scheduler_config.json"


def holds_model(path: Path) -> bool:
    """Whether a folder looks like a model's."""
    return (path / "model_index.json").exists() or (path / PLAIN[0]).exists()


def save(model: Model, path: str | Path) -> None:
    """Write a model's folder, over an older model if one is there.

    A U-Net with an eps, x0 or v target on a variance preserving schedule becomes a pipeline folder
    that diffusers opens; everything else goes to net/. ddim.json holds the exact tables, the target
    and the notes.
    """
    folder, model = Path(path), replace(model, net=trained(model.net))
    refuse_foreign(model)
    process = (model.schedule, model.target, model.sampling)
    pipeline = isinstance(model.net, UNet | Borrowed) and convert.expressible(*process)
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
    state = _contiguous(bare(model.net).state_dict())
    files = {
        weights: safetensors.torch.save(state, {"format": "pt"}),
        config: to_json(_config(model.net).written()),
        "ddim.json": to_json(about),
    }
    if pipeline:
        files[SCHEDULER] = to_json(convert.scheduler_config(*process))
        files["model_index.json"] = to_json(convert.MODEL_INDEX)
    write_all(folder, files)
    for name in (*stale, *(() if pipeline else (SCHEDULER, "model_index.json"))):
        (folder / name).unlink(missing_ok=True)  # of an older model in this folder


def refuse_foreign(model: Model) -> None:
    """Raise ValueError for a model whose network `save` cannot write."""
    if type(model.net) not in [*(kind.network for kind in NETS.values()), Borrowed]:
        raise ValueError(
            f"{type(model.net).__name__} is not a network that ddim can write; "
            f"it has {', '.join(NETS)}, so keep the weights of yours with safetensors"
        )


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    config: str | Path | None = None,
    raw: bool = False,
    variant: str | None = None,
) -> Model:
    """Open a model, wherever it is from; eval mode, gradients off, weights as float32.

    path: a folder that `save`, `ddim train` or diffusers wrote (a pipeline, or a checkpoint of its
        training); a ckpt.pth of ermongroup/ddim or its folder; hf:owner/name[@revision] on the hub.
    config: what the path does not say itself: the YAML of a checkpoint, or the
        scheduler_config.json of a U-Net without one.
    raw: the weights of the last update where averaged ones, which are preferred, are there too.
    variant: of the weights, such as fp16, where diffusers wrote one.
    Raises FileNotFoundError if there is no model, ValueError for anything in it that does not fit.
    Nothing in it is ever run.
    """
    folder = Path(hub.fetch(str(path))) if hub.is_id(path) else Path(path)
    beside = None if config is None else Path(config)
    checkpoint = folder if folder.is_file() else folder / ermongroup.CHECKPOINT
    if checkpoint.is_file() and not holds_model(folder):
        if variant:
            raise ValueError(f"variant={variant!r}: {checkpoint} has none; leave it out")
        model = ermongroup.open_checkpoint(checkpoint, beside, raw=raw)
    elif holds_model(folder) or (folder / "config.json").is_file() or _unets(folder):
        model = _opened(folder, beside, raw, variant)
    else:
        missing = "does not exist" if not folder.exists() else "holds no model"
        hint = "" if folder.exists() or str(path).count("/") != 1 else f", or hf:{path} for the hub"
        raise FileNotFoundError(
            f"{folder} {missing}; give a folder that ddim train or diffusers wrote, "
            f"or a checkpoint of ermongroup/ddim{hint}"
        )
    model.net.to(device).eval().requires_grad_(False)
    return model


def _opened(folder: Path, config: Path | None, raw: bool, variant: str | None) -> Model:
    """The model of a folder of ours or of diffusers."""
    if (folder / PLAIN[0]).exists() and not (folder / "model_index.json").exists():
        if config or raw or variant:
            raise ValueError(f"{folder} is a folder of ours; leave config, raw and variant out")
        net = _net(folder / PLAIN[0])
        fill(net, read_file(folder / PLAIN[1]), folder / PLAIN[1])
        return _described(net, folder / "ddim.json")
    _refuse_pipeline(folder)
    place, notes = _chosen(folder, raw)
    net = _net(place / "config.json")
    state, path = read_weights(place, variant)
    fill(bare(net), state, path)
    if any(buffer.is_meta for buffer in net.buffers()):  # of diffusers, made and not stored
        net = Borrowed(_config(net).written())
        fill(net.net, state, path)
    if (folder / "ddim.json").exists() and config is None:
        return _described(net, folder / "ddim.json")
    scheduler = config or _scheduler(folder)
    try:
        schedule, target, sampling = convert.from_scheduler_config(read_json(scheduler))
        return Model(net, schedule, target, _config(net).shape, sampling, notes)
    except (TypeError, ValueError, RuntimeError) as error:
        told = str(error)
        raise ValueError(told if str(scheduler) in told else f"{scheduler}: {told}") from error


def _refuse_pipeline(folder: Path) -> None:
    """Raise ValueError for a pipeline that is more than a network of images."""
    if not (folder / "model_index.json").exists():
        return
    index = read_json(folder / "model_index.json")
    parts = {name for name, entry in index.items() if isinstance(entry, list)}
    if parts & {"vae", "vqvae", "text_encoder", "transformer"}:
        raise ValueError(
            f"{folder} holds a {short(index.get('_class_name'))[1:-1]}, whose images are not those "
            "of its network; open it in diffusers and give it our solvers by "
            "ddim.interop.diffusers.SolverScheduler"
        )


def _unets(folder: Path) -> list[str]:
    return [name for name in ("unet_ema", "unet") if (folder / name / "config.json").is_file()]


def _chosen(folder: Path, raw: bool) -> tuple[Path, dict[str, Any]]:
    """The folder of the network, and what to note of it: the averaged one, where both are there."""
    found = ["unet"] if (folder / "ddim.json").exists() else _unets(folder)
    if raw and "unet_ema" not in found:
        raise ValueError(
            f"{folder} holds one set of weights, so there is no raw one; leave raw out"
        )
    name = "unet" if raw else next(iter(found), "")
    weights = "the only ones" if len(found) < 2 else "raw" if raw else "ema"
    return folder / name, {"source": {"layout": "diffusers", "weights": weights}}


def _scheduler(folder: Path) -> Path:
    beside = folder / SCHEDULER
    path = beside if beside.exists() else folder / beside.name
    if not path.exists() and not (folder / "model_index.json").exists():
        raise ValueError(
            f"{folder} holds a U-Net and does not say its schedule; give the scheduler_config.json "
            "that it was trained with by ddim import --config (config= in Python)"
        )
    return path if path.exists() else beside


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _config(net: nn.Module) -> Any:
    """The configuration of one of NETS, which torch types as a Tensor or a Module."""
    return net.config


def _net(path: Path) -> nn.Module:
    config = read_json(path)
    try:
        with torch.device("meta"):
            return network(config)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _described(net: nn.Module, path: Path) -> Model:
    entries = read_json(path)
    shape = _config(net).shape
    if entries.get("shape") != list(shape):
        raise ValueError(
            f"{path} says samples of {short(entries.get('shape'))}, the network is for {shape}; "
            "the files do not belong together"
        )
    known = {"format", "version", "torch", "target", "shape", "range", "sampling"}
    known |= {"signal", "noise"}
    try:
        return Model(
            net,
            Schedule(
                torch.tensor(entries["signal"], dtype=torch.float64),
                torch.tensor(entries["noise"], dtype=torch.float64),
            ),
            entries["target"],
            shape,
            built(Sampling, entries["sampling"]),
            {key: value for key, value in entries.items() if key not in known},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not describe a model ({type(error).__name__}: {error})"
        ) from error
