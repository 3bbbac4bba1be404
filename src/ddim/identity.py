"""What a model is, as a number: by it its recipes, latents and programs know it again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from ddim.nets.optimized import trained

if TYPE_CHECKING:
    from ddim.model import Model


def fingerprint(model: Model) -> str:
    """SHA-256 of the weights, the target and the schedule."""
    digest = hashlib.sha256(f"{model.target} {model.shape}".encode())
    tables = {"signal": model.schedule.signal, "noise": model.schedule.noise}
    for name, tensor in sorted({**trained(model.net).state_dict(), **tables}.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
