"""diffusers' own UNet2DModel, for the blocks that our U-Net lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ddim.extras import needed
from ddim.nets.config import image_shape


@dataclass(frozen=True)
class BorrowedConfig:
    """A config.json of UNet2DModel, as it stands."""

    entries: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image. Raises ValueError where the configuration does not say."""
        size, *channels = (
            self.entries[key] for key in ("sample_size", "in_channels", "out_channels")
        )
        return image_shape(tuple(size) if isinstance(size, list) else size, *channels)

    @property
    def num_class_embeds(self) -> int | None:
        """The number of classes, if there are any."""
        return self.entries["num_class_embeds"]

    def written(self) -> dict[str, Any]:
        """Every field, as config.json holds it."""
        return {"_class_name": "UNet2DModel", **self.entries}


class Borrowed(nn.Module):
    """out = net(x, t, label), as `UNet`; `net` is the network of diffusers.

    Raises ImportError without diffusers, ValueError for a configuration that it refuses.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        diffusers = needed("diffusers", "diffusers", "this U-Net, which ours is not,")
        entries = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            self.net = diffusers.UNet2DModel.from_config(entries)
        except Exception as error:  # of whatever kind a wrong value leads to
            words = re.sub(r"\s+", " ", str(error))[:160]
            raise ValueError(f"diffusers makes no U-Net of it ({words})") from error
        own = {k: v for k, v in self.net.config.items() if not k.startswith("_")}
        self.config = BorrowedConfig(own)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (B, C, H, W)."""
        return self.net(x, t, class_labels=label).sample
