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
        self._version = _version(net)

    @property
    def config(self) -> object:
        """That of the network, or None."""
        return getattr(self.net, "config", None)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of the dtype of x. Raises ValueError once the weights were changed."""
        if _version(self.net) != self._version:
            raise ValueError("the weights changed since model.optimize; call it again")
        if (x.requires_grad and torch.is_grad_enabled()) or not len(x):
            return answered(self.net, x, t, label)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self.program(x, t, label).to(x.dtype)

    def __reduce__(self) -> tuple[Callable[[nn.Module], nn.Module], tuple[nn.Module]]:
        """A copy, or what is unpickled, is the trained network: programs stay where they are."""
        return trained, (self.net,)


def answered(net: Callable[..., Tensor], x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """net(x, t), or net(x, t, label) where there is one."""
    return net(x, t) if label is None else net(x, t, label)


def _version(net: nn.Module) -> int:
    """A number that grows with every change in place of the weights."""
    return sum(0 if w.is_inference() else w._version for w in net.parameters())


def trained(net: nn.Module) -> nn.Module:
    """The network that was trained, whatever runs it."""
    return net.net if isinstance(net, Optimized) else net
