"""A trained network behind the program of a backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Program = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, t, label) to the answer of a network: (B, ...) of any B, (B,), (B,) or None; no gradients."""


class Optimized(nn.Module):
    """out = net(x, t, label), by a program; the network itself answers where x wants gradients.

    way: the precision and backend, in words, such as "bf16 eager".
    """

    def __init__(self, net: nn.Module, program: Program, way: str) -> None:
        super().__init__()
        self.net, self.program, self.way = net, program, way

    @property
    def config(self) -> object:
        """That of the network, or None."""
        return getattr(self.net, "config", None)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of the dtype of x."""
        if x.requires_grad and torch.is_grad_enabled():
            return self.net(x, t) if label is None else self.net(x, t, label)
        with torch.no_grad():
            return self.program(x, t, label)


def trained(net: nn.Module) -> nn.Module:
    """The network that was trained, whatever runs it."""
    return net.net if isinstance(net, Optimized) else net
