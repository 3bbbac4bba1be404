"""What a backend makes a program of, and how it keeps what it compiled.

That is in the user's cache folder, by the weights, the configuration, the shape, the precision, the
versions and the machine: never in the folder of a model, for it is code.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddim import __version__
from ddim.files import cache_folder
from ddim.identity import fingerprint
from ddim.nets.optimized import Program, trained

if TYPE_CHECKING:
    from ddim.model import Model

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PADDED = 8


@dataclass(frozen=True, eq=False)
class Build:
    """What a backend is given: a model, and a key of PRECISIONS."""

    model: Model
    precision: str

    @cached_property
    def net(self) -> nn.Module:
        """The network that was trained, in eval mode: a copy where it is not."""
        net = trained(self.model.net)
        return copy.deepcopy(net).eval() if net.training else net

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.model.shape

    @cached_property
    def weights(self) -> str:
        """The fingerprint of the model, computed where something is kept by it."""
        return fingerprint(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return PRECISIONS[self.precision]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters(), torch.empty(0)).device

    def example(self, batch: int) -> dict[str, Tensor]:
        """Inputs by name, for those that trace."""
        count = batch * torch.Size(self.shape).numel()
        x = torch.linspace(-1, 1, count, device=self.device).reshape(batch, *self.shape)
        given = {"x": x, "t": torch.full((batch,), 1.0, device=self.device)}
        if self.model.classes is not None:
            given["label"] = torch.zeros(batch, dtype=torch.long, device=self.device)
        return given

    def kept(self, backend: str, suffix: str, *more: str) -> Path:
        """Where what a backend made of this is, or is to be: named by all that it depends on."""
        network = f"{self.net!r} {getattr(self.net, 'config', None)}"
        known = [self.weights, network, str(self.shape), backend, _sources()]
        known += [torch.__version__, __version__, *more]
        digest = hashlib.sha256("\n".join(known).encode())
        return cache_folder() / "programs" / f"{digest.hexdigest()[:32]}{suffix}"


@cache
def _sources() -> str:
    """A number for the code that traces and what it traces."""
    here = Path(__file__).parent
    paths = [
        *(here / f"{name}.py" for name in ("programs", "backends", "tracing")),
        *sorted((here / "nets").glob("*.py")),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


class Padded:
    """A program for any batch, of programs for one size each.

    A batch of at least an eighth of a size that is there is padded to it; else one is made.
    """

    def __init__(self, make: Callable[[int], Program]) -> None:
        self._make, self._made = make, dict[int, Program]()
        self._lock = Lock()  # a program may hold its answers in one place

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """See `Program`."""
        with self._lock:
            return self._run(x, t, label)

    def _run(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        count = len(x)
        fitting = [size for size in self._made if count <= size <= _PADDED * count]
        size = min(fitting, default=count)
        if size not in self._made:
            self._made[size] = self._make(size)
        if size == count:
            return self._made[size](x, t, label)
        index = torch.arange(size, device=x.device).clamp(max=count - 1)
        rows = None if label is None else label[index]
        return self._made[size](x[index], t[index], rows)[:count]


def taken(path: Path, make: Callable[[Path], object], opened: Callable[[], Any]) -> Any:
    """What a file of the cache holds; made where it is missing, and anew where it is broken.

    Raises ValueError where it cannot be made.
    """
    with _quiet():
        if path.is_file():
            try:
                return opened()
            except Exception as error:  # of whatever kind a library meets in a broken file
                logging.getLogger("ddim").warning("%s is made anew: %s", path, words(error))
        fresh = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(fresh)
            fresh.replace(path)
            return opened()
        except ImportError:
            raise
        except Exception as error:  # likewise
            raise ValueError(
                f"{path.parent} got no program of this network ({words(error)}); choose "
                "backend=eager, or another DDIM_CACHE"
            ) from error
        finally:
            fresh.unlink(missing_ok=True)


def words(error: Exception) -> str:
    """The first of what an error says, on one line."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of those who trace, about their own deprecations; no gradients."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
