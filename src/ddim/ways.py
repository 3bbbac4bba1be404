"""The ways to run a model's network on this machine: a precision and a backend."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddim.backends import BACKENDS, ready
from ddim.kinds import listed, short
from ddim.nets.optimized import Optimized, Program, answered, trained
from ddim.programs import PRECISIONS, Build, words

if TYPE_CHECKING:
    from ddim.model import Model

AUTO = "auto"
BOUNDS: Mapping[str, float] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""The relative error of a call, ‖y − y_fp32‖/‖y_fp32‖, up to which auto takes a precision."""
_TRIALS, _CALL, _SHARE, _RUN = 3, 0.2, 0.1, 64 * 20
_GAIN = 1.05


@dataclass(frozen=True)
class Way:
    """precision: a key of PRECISIONS.   backend: a key of BACKENDS."""

    precision: str = "fp32"
    backend: str = "eager"

    def __str__(self) -> str:
        return f"{self.precision} {self.backend}"


def optimized(
    model: Model, precision: str = AUTO, backend: str = AUTO, batch_size: int = 64
) -> Model:
    """The model with its network run another way; see `Model.optimize`."""
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size={short(batch_size)}; choose a whole number from 1")
    ways = _ways(model, precision, backend, batch_size)
    if len(ways) == 1:
        return by(model, ways[0], made(model, ways[0]))
    return by(model, *_fastest(model, ways, batch_size))


def by(model: Model, way: Way, program: Program) -> Model:
    """The model with its network run by a program."""
    return replace(model, net=Optimized(trained(model.net), program, str(way)))


def made(model: Model, way: Way) -> Program:
    """The program of a way. Raises ValueError where this machine has none, ImportError where an
    extra is missing.
    """
    return BACKENDS[way.backend](_build(model, way.precision))


def _build(model: Model, precision: str) -> Build:
    build = Build(model, precision)
    if precision == "fp16" and build.device.type == "cpu":
        raise ValueError("precision=fp16 is for GPUs; on a CPU choose bf16 or fp32")
    return build


def _ways(model: Model, precision: str, backend: str, batch_size: int) -> list[Way]:
    """What to choose from, the plain way first: what is ready, unless it is named."""
    for name, given, table in (
        ("precision", precision, PRECISIONS),
        ("backend", backend, BACKENDS),
    ):
        if given not in (AUTO, *table):
            raise ValueError(f"{name}={short(given)}; choose one of {listed([AUTO, *table])}")
    device = next(model.net.parameters(), torch.empty(0)).device
    found = []
    for each in native(device) if precision == AUTO else [precision]:
        names = [backend]
        if backend == AUTO:
            build = _build(model, each)
            names = [name for name in BACKENDS if ready(build, name, batch_size)]
        found += [Way(each, name) for name in names]
    return found


def native(device: torch.device) -> list[str]:
    """The precisions that a device computes in by itself, fp32 first."""
    if device.type == "cuda":
        return ["fp32", "bf16", "fp16"] if torch.cuda.is_bf16_supported() else ["fp32", "fp16"]
    told: Any = getattr(torch.cpu, "get_capabilities", dict)  # of torch 2.9 and later
    flags = told() if device.type == "cpu" else {}
    has = flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16")
    return ["fp32", "bf16"] if has else ["fp32"]


def inputs(model: Model, batch: int, t: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Noise and its time on the network's clock, as a sampler gives them to a program."""
    device = next(model.net.parameters(), torch.empty(0)).device
    x = torch.randn(batch, *model.shape, generator=torch.Generator().manual_seed(0)).to(device)
    classes = model.classes
    labels = None if classes is None else torch.arange(batch, device=device) % classes
    return x, torch.full((1,), t, device=device).expand(batch), labels


def error(model: Model, program: Program, batch: int = 2) -> float:
    """The greatest relative error of a program at the first, a middle and the last t."""
    T, apart = model.schedule.T, []
    for t in (0, T // 2, T - 1):
        given = inputs(model, batch, t)
        net = trained(model.net)
        with torch.no_grad():
            right = answered(net, *given)
            apart.append(((program(*given) - right).norm() / right.norm()).item())
    return math.inf if any(map(math.isnan, apart)) else max(apart)


def seconds(
    programs: Mapping[Way, Program], given: Any, trials: int, limit: float
) -> dict[Way, float]:
    """The median time of a call of each program, their calls alternating; one before is not timed.

    trials: at most so many of each, and no more once `limit` seconds have gone.
    """
    spent: dict[Way, list[float]] = {way: [] for way in programs}
    with torch.no_grad():
        for program in programs.values():
            program(*given)
        begin = time.perf_counter()
        for _ in range(trials):
            for way, program in programs.items():
                synchronise(given[0].device)
                start = time.perf_counter()
                program(*given)
                synchronise(given[0].device)
                spent[way].append(time.perf_counter() - start)
            if time.perf_counter() - begin > limit:
                break
    return {way: median(each) for way, each in spent.items()}


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest(model: Model, ways: Sequence[Way], batch: int) -> tuple[Way, Program]:
    """The fastest way within its bound; the plain one, which is first, unless another gains.

    No more is tried once that has taken a tenth of what the plain one takes for 64 images in 20
    steps: then no run of that length loses by the choice.
    """
    begin, t = time.perf_counter(), model.schedule.T // 2
    plain, *others = sorted(ways, key=lambda way: way.backend != "eager")
    programs, few = {plain: made(model, plain)}, min(batch, 4)
    one = seconds(programs, inputs(model, few, t), 1, 0)[plain] / few
    limit = _SHARE * _RUN * one
    batch = max(1, min(batch, int(min(limit / 10, _CALL) / one)))
    given = inputs(model, batch, t)
    for way in others:
        if time.perf_counter() - begin > limit:
            break
        try:
            program = made(model, way)
            with torch.no_grad():
                program(*given)  # some compile only now
        except Exception as failure:  # of whatever kind: there are others
            logging.getLogger("ddim").warning("without %s: %s", way, words(failure))
            continue
        programs[way] = program
    took = seconds(programs, given, _TRIALS, limit)
    for way in sorted(took, key=lambda way: took[way]):
        if took[way] * _GAIN >= took[plain]:
            break
        if error(model, programs[way], max(1, batch // 8)) <= BOUNDS[way.precision]:
            return way, programs[way]
    return plain, programs[plain]
