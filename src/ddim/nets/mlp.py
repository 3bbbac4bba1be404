"""A residual network of linear layers, for vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ddim.nets.config import read_plain, whole, within
from ddim.nets.embedding import Condition


@dataclass(frozen=True)
class MLPConfig:
    """For vectors of `features` numbers: `depth` residual blocks of two layers `width` wide.

    num_class_embeds: the number of classes, the null label among them, or None.
    Raises ValueError for a value that this network does not have.
    """

    features: int = 2
    width: int = 256
    depth: int = 4
    time_embedding_dim: int = 256
    dropout: float = 0.0
    num_class_embeds: int | None = None

    def __post_init__(self) -> None:
        widths = ("features", "width", "time_embedding_dim", "num_class_embeds")
        whole({key: (getattr(self, key),) for key in widths}, {"depth": (self.depth,)})
        within(
            self,
            {
                "dropout": 0 <= self.dropout < 1,
                "time_embedding_dim": self.time_embedding_dim > 1,
            },
        )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> MLPConfig:
        """From a parsed config.json. Raises ValueError for a key it does not know."""
        return read_plain(cls, config)

    @property
    def shape(self) -> tuple[int]:
        """(D,) of one vector."""
        return (self.features,)

    def written(self) -> dict[str, Any]:
        """Every field, as config.json holds it."""
        return {"_class_name": "MLP", **asdict(self)}


class MLP(nn.Module):
    """out = net(x, t, label), the shape of x kept.

    x: (B, D).   t: (B,) network time from 0.   label: (B,) class indices, for a network with
    classes.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        embed = config.time_embedding_dim
        self.condition = Condition(embed, embed, config.num_class_embeds)
        self.linear_in = nn.Linear(config.features, config.width)
        self.blocks = nn.ModuleList(Residual(config) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(config.width)
        self.linear_out = nn.Linear(config.width, config.features)
        for weight in self.linear_out.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (B, D).

        Raises ValueError for vectors of another length, and for a label too many or too few.
        """
        if x.shape[1:] != self.config.shape:
            raise ValueError(
                f"samples of {tuple(x.shape[1:])}; this network is for {self.config.shape}"
            )
        temb = self.condition(t, label)
        h = self.linear_in(x)
        for block in self.blocks:
            h = block(h, temb)
        return self.linear_out(F.silu(self.norm_out(h)))


class Residual(nn.Module):
    """Two linear layers with the time added between them; the last starts at 0."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear_1, self.linear_2 = nn.Linear(width, width), nn.Linear(width, width)
        self.time_emb_proj = nn.Linear(config.time_embedding_dim, width)
        self.dropout = nn.Dropout(config.dropout)
        for weight in self.linear_2.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x (B, width), temb (B, embed) to (B, width)."""
        h = self.linear_1(F.silu(self.norm1(x)))
        h = self.norm2(h + self.time_emb_proj(F.silu(temb)))
        return x + self.linear_2(self.dropout(F.silu(h)))
