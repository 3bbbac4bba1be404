"""How fast a model's network runs on this machine, by every way, against the machine's limit."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddim.model import Model
from ddim.nets.kernels import machine
from ddim.nets.optimized import answered, trained
from ddim.programs import PRECISIONS
from ddim.ways import BOUNDS, Way, error, inputs, made, seconds, synchronise

_TRIALS, _SECONDS = 30, 6.0
_GOOD = 0.95


@dataclass(frozen=True)
class Row:
    """One way at one batch size.

    ms: of a call, the median.   images: per second and call.   gflops: 10⁹ operations per second,
    counted as the network is written.   share: of the limit, which a way that saves operations may
    pass.   memory: MB above rest during a call, None where the system does not tell.   error: of a
    call, relative to fp32.
    """

    batch: int
    precision: str
    backend: str
    ms: float
    images: float
    gflops: float
    share: float
    memory: float | None
    error: float


def rows(
    model: Model, ways: Iterable[Way], batches: Iterable[int], told: Callable[[str], None]
) -> list[Row]:
    """Every way at every batch size; those of one size are timed in turns.

    told: of what is being done, for a progress bar.
    """
    found, each, t = [], flops(model), model.schedule.T // 2
    asked = list(ways)
    for batch in batches:
        limits = {name: limit(model, name, batch) for name in {way.precision for way in asked}}
        programs = {}
        for way in asked:
            told(f"{way}, batch {batch}")
            programs[way] = made(model, way)
        given = inputs(model, batch, t)
        took = seconds(programs, given, _TRIALS, _SECONDS)
        for way, spent in took.items():
            rate = batch * each / spent
            found.append(
                Row(
                    batch,
                    way.precision,
                    way.backend,
                    1000 * spent,
                    batch / spent,
                    rate / 1e9,
                    rate / limits[way.precision],
                    _memory(programs[way], given),
                    error(model, programs[way], batch),
                )
            )
    return found


def suggested(found: Iterable[Row]) -> Row:
    """The smallest batch of the fastest way that makes 95 % of its most images per second, among
    those whose error `auto` would take.
    """
    right = [row for row in found if row.error <= BOUNDS[row.precision]] or list(found)
    best = max(right, key=lambda row: row.images)
    of_it = [r for r in right if (r.precision, r.backend) == (best.precision, best.backend)]
    good = [row for row in of_it if row.images >= _GOOD * best.images]
    return min(good, key=lambda row: row.batch)


def flops(model: Model) -> int:
    """Multiplications and additions of a call for one sample, as the network is written."""
    x, t, label = inputs(model, 1, 0)
    net = trained(model.net)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        answered(net, x, t.contiguous(), label)
    return int(counter.get_total_flops())


def limit(model: Model, precision: str, batch: int) -> float:
    """Operations per second that this machine reaches: the faster of a matrix product and, where
    the network has one, a convolution, both of the shape of its heaviest layer.
    """
    layer, x, y = _heaviest(model, batch)
    dtype = PRECISIONS[precision]
    weight = layer.weight.detach().to(dtype)
    inner, count = weight[0].numel(), y.numel() // len(weight)
    work = 2 * inner * y.numel()
    wide = torch.randn(count, inner, device=x.device).to(dtype)
    rates = [work / _quickest(lambda: wide @ weight.reshape(len(weight), -1).T, x.device)]
    if isinstance(layer, nn.Conv2d):
        image = torch.randn_like(x).to(dtype, memory_format=torch.channels_last)
        weight = weight.contiguous(memory_format=torch.channels_last)
        how: Any = layer.stride, layer.padding
        rates.append(work / _quickest(lambda: F.conv2d(image, weight, None, *how), x.device))
    return max(rates)


def about() -> dict[str, Any]:
    """The machine, for those who compare."""
    name = next((line for line in machine().splitlines() if "model name" in line), "")
    said: dict[str, Any] = {
        "system": platform.platform(),
        "processor": name.partition(":")[2].strip() or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        said["gpu"] = torch.cuda.get_device_name()
    return said


def _heaviest(model: Model, batch: int) -> tuple[Any, Tensor, Tensor]:
    """The layer of the most operations, and its input and output for a batch."""
    net, seen = trained(model.net), list[tuple[int, Any, Tensor, Tensor]]()

    def look(layer: Any, given: tuple[Tensor, ...], answer: Tensor) -> None:
        work = layer.weight[0].numel() * answer.numel()
        seen.append((work, layer, given[0], answer))

    kinds = (nn.Conv2d, nn.Conv1d, nn.Linear)
    hooks = [m.register_forward_hook(look) for m in net.modules() if isinstance(m, kinds)]
    x, t, label = inputs(model, 1, 0)
    try:
        with torch.no_grad():
            answered(net, x, t.contiguous(), label)
    finally:
        for hook in hooks:
            hook.remove()
    _, layer, given, answer = max(seen, key=lambda each: each[0])
    sizes = (batch, *[1] * (given.ndim - 1)), (batch, *[1] * (answer.ndim - 1))
    return layer, given.repeat(sizes[0]), answer.repeat(sizes[1])


def _quickest(call: Callable[[], Tensor], device: torch.device) -> float:
    """The median time of a call."""
    spent = []
    for _ in range(12):
        synchronise(device)
        begin = time.perf_counter()
        call()
        synchronise(device)
        spent.append(time.perf_counter() - begin)
    return median(spent[2:])


def _memory(program: Any, given: Any) -> float | None:
    """MB that the process, or the GPU, holds more than at rest while a call runs."""
    device = given[0].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before: float = torch.cuda.memory_allocated(device)
        with torch.no_grad():
            program(*given)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or it would not be counted
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        with torch.no_grad():
            program(*given)
        return max(resident("VmHWM") - before, 0.0)
    except (OSError, AttributeError):
        return None


def resident(key: str) -> float:
    """VmRSS, what this process holds now, or VmHWM, the most since it was reset; MB, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3
