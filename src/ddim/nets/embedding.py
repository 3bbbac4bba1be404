"""How the time and the class reach a network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, width: int, flip_sin_to_cos: bool = True, freq_shift: int = 0) -> Tensor:
    """(B, width) sines and cosines of t (B,), float32.

    Frequencies 10000^(−k/(width/2 − freq_shift)), k = 0..width/2 − 1.
    """
    half = width // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * k / (half - freq_shift))
    pair = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    return F.pad(torch.cat(pair, dim=1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Two linear layers with a SiLU between."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, embed)
        self.linear_2 = nn.Linear(embed, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to (B, embed)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class Condition(nn.Module):
    """Time and, where there are classes, the label as one vector.

    width: of the sines and cosines.   embed: of the answer.   classes: how many, the null label
    among them, or None.
    """

    def __init__(self, width: int, embed: int, classes: int | None) -> None:
        super().__init__()
        self.width = width
        self.time_embedding = TimeEmbedding(width, embed)
        self.class_embedding = None if classes is None else nn.Embedding(classes, embed)

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """t (B,), label (B,) or None to (B, embed), in the dtype of the weights.

        Raises ValueError for a label too many or too few.
        """
        check_label(label, has_classes=self.class_embedding is not None)
        weight = self.time_embedding.linear_1.weight
        temb = self.time_embedding(sinusoid(t, self.width).to(weight.dtype))
        return temb if self.class_embedding is None else temb + self.class_embedding(label)


def check_label(label: Tensor | None, *, has_classes: bool) -> None:
    """Raise ValueError for a label where the network has no classes, and for none where it has."""
    if (label is None) == has_classes:
        given, wanted = ("no", "give") if label is None else ("a", "do not give")
        raise ValueError(f"got {given} label; this network was trained otherwise, so {wanted} one")
