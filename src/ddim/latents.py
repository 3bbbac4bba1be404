"""Latents on disk: a safetensors file that says by which model and how it was encoded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddim.belm import Pair
from ddim.files import write
from ddim.identity import fingerprint
from ddim.inversion import EXACT
from ddim.model import Model

_KEY = "ddim"


@dataclass(frozen=True)
class Encoding:
    """How latents were made: all that decoding needs beside the model itself.

    times: t of the plan, falling.   batch_size: images per network call, to which the bits of the
    lattice belong.   model: `fingerprint` of it.
    """

    times: tuple[float, ...]
    solver: str
    exact: str | None
    label: int | None
    batch_size: int
    model: str
    target: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        kinds = {
            "times": all(isinstance(t, int | float) for t in self.times) and len(self.times) > 1,
            "solver": isinstance(self.solver, str),
            "exact": self.exact is None or self.exact in EXACT,
            "label": self.label is None or type(self.label) is int,
            "batch_size": type(self.batch_size) is int and self.batch_size > 0,
            "shape": all(type(size) is int for size in self.shape),
        }
        for name, right in kinds.items():
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)!r}")

    def holds(self, tensors: dict[str, Tensor]) -> bool:
        """Whether the arrays of a file are such latents."""
        names = {"x", "previous"} if self.exact in ("belm", "lattice") else {"x"}
        kinds = (torch.int64,) if self.exact == "lattice" else (torch.float32, torch.float64)
        return (
            set(tensors) == names
            and len({(each.shape, each.dtype) for each in tensors.values()}) == 1
            and tensors["x"].dtype in kinds
            and tensors["x"].ndim > 0
            and len(tensors["x"]) > 0
            and tuple(tensors["x"].shape[1:]) == self.shape
        )

    def refuse(self, model: Model, path: str | Path) -> None:
        """Raise ValueError unless these latents are this model's."""
        for name, own in (("target", model.target), ("shape", model.shape)):
            if getattr(self, name) != own:
                raise ValueError(
                    f"{path} was encoded by a model of {name} {getattr(self, name)}, and this "
                    f"one's is {own}; decode it with the model that encoded it"
                )
        if self.model != fingerprint(model):
            raise ValueError(
                f"{path} was encoded by a model with other weights or another schedule; "
                "decode it with the model that encoded it"
            )


def save_latents(latent: Tensor | Pair, encoding: Encoding, path: str | Path) -> None:
    """Write latents (B, ...), or a pair of them, and how they were made."""
    parts = (
        {"x": latent.x, "previous": latent.previous} if isinstance(latent, Pair) else {"x": latent}
    )
    tensors = {name: part.detach().cpu().contiguous() for name, part in parts.items()}
    about = {_KEY: json.dumps({"format": 1, **asdict(encoding)})}
    write(Path(path), safetensors.torch.save(tensors, about))


def load_latents(path: str | Path) -> tuple[Tensor | Pair, Encoding]:
    """Read what `save_latents` wrote. Raises ValueError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(_KEY)
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); ddim encode writes such a file"
        ) from error
    try:
        entries: dict[str, Any] = json.loads(about or "{}")
        if entries.pop("format") != 1:
            raise ValueError("of another format")
        entries.update(times=tuple(entries["times"]), shape=tuple(entries["shape"]))
        encoding = Encoding(**entries)
        if not encoding.holds(tensors):
            raise ValueError("its arrays are others than it says")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no latents that can be decoded ({type(error).__name__}: {error}); "
            "ddim encode writes a file of them"
        ) from error
    latent = Pair(tensors["x"], tensors["previous"]) if "previous" in tensors else tensors["x"]
    return latent, encoding
