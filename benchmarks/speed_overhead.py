"""The section overhead of speed.py: what a step costs beside the network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

import ddim
from ddim.plans import Plan
from ddim.ways import Way
from speed_rivals import LINEAR, Run, Timed, diffusers, driven, in_turns, opened, table, told

PEERS = {
    "ddim": "DDIMScheduler",
    "unipc:order=2": "UniPCMultistepScheduler",
    "dpmpp:order=2": "DPMSolverMultistepScheduler",
    "deis:order=2": "DEISMultistepScheduler",
    "ipndm:order=4": None,
}
SHAPES = {(16, 3, 32, 32): 50, (64, 3, 256, 256): 5}


class Still(nn.Module):
    """A network that takes no time: the same answer at each call."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.answer = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, ...), whatever is given."""
        return self.answer


@torch.no_grad()
def overhead(asked: argparse.Namespace) -> str:
    """What a step costs beside the network."""
    model = opened("cifar", asked)
    x = torch.randn(16, *model.shape)
    clock, ways = torch.full((1,), 500).expand(16), [Way("fp32", "eager"), Way("bf16", "eager")]
    nets = {
        str(way): partial(model.optimize(way.precision, way.backend).net, x, clock) for way in ways
    }
    for net in nets.values():
        net()
    calls = in_turns(nets, asked.rounds, asked.seconds)
    ms = {way: f"{1000 * timed.median:.0f} ms in {way}" for way, timed in calls.items()}
    said = [f"A call of `cifar` at batch 16 takes {' and '.join(ms.values())}."]
    for shape, steps in SHAPES.items():
        told(f"overhead: {shape}")
        runs = _bare(shape, steps)
        for run in runs.values():
            run()
        found = in_turns(runs, 5 * asked.rounds, asked.seconds)
        shares = list(calls.values()) if shape[0] == 16 else []
        head = ["", "µs per step", "of the loop by hand", "diffusers', of ours"]
        head += [f"of a call in {way}" for way in list(nets)[: len(shares)]]
        rows = [_costs(name, found, steps, shares) for name in found]
        said.append(f"{list(shape)}, {steps} steps:\n\n{table(head, rows)}")
    return "\n\n".join(said)


def _costs(name: str, found: Mapping[str, Timed], steps: int, shares: list[Timed]) -> list[str]:
    each, peer = found[name].median / steps, f"diffusers, {PEERS.get(name)}"
    over = f"{found[name].times(found[peer]):.2f}×" if peer in found else ""
    parts = [f"{100 * each / call.median:.2g} %" for call in shares]
    return [name, f"{1e6 * each:.0f}", f"{found['by hand'].times(found[name]):.2f}×", over, *parts]


def _bare(shape: tuple[int, ...], steps: int) -> dict[str, Run]:
    """Every way to take the steps of a run without a network, a loop by hand first."""
    net = Still(shape)
    model = ddim.Model(net, ddim.schedules.linear(), "eps", shape[1:])
    x, plan, library = torch.randn(shape), model.plan(steps, "leading"), diffusers()
    solvers = {name: ddim.build(name) for name in PEERS}
    for rows, name in ((steps + 1, "fitted, of all eps"), (4, "fitted, of three eps")):
        solvers[name] = _recipe(plan, rows)
    runs: dict[str, Run] = {"by hand": partial(_by_hand, net, x, plan)}
    numbers = [[0.1, 0.1, 0.1] for _ in plan[1:]]  # of no sense: what they are costs nothing
    runs["by hand, UniPC"] = partial(_unipc_by_hand, net, x, plan, numbers)
    for name, solver in solvers.items():
        runs[name] = partial(ddim.sample, model.denoiser(), x, plan, solver)
    usual = library.DDIMScheduler(**LINEAR).config
    for kind in filter(None, PEERS.values()):
        scheduler = getattr(library, kind).from_config(usual)
        runs[f"diffusers, {kind}"] = partial(driven, scheduler, steps, net, x)
    return runs


def _by_hand(net: nn.Module, x: Tensor, plan: Plan) -> Tensor:
    """DDIM with eps in two passes over one piece of memory."""
    x = x.clone()
    for t, s in pairwise(plan):
        eps = net(x, torch.full((len(x),), int(t.t) - 1))
        scale = float(s.signal / t.signal)
        x.mul_(scale).add_(eps, alpha=float(s.noise) - scale * float(t.noise))
    return x


def _unipc_by_hand(net: nn.Module, x: Tensor, plan: Plan, numbers: list[list[float]]) -> Tensor:
    """UniPC of order 2 likewise; numbers: the weights of the past x0 at each step."""
    x, past = x.clone(), x
    for (t, s), (new, old, w) in zip(pairwise(plan), numbers, strict=True):
        eps = net(x, torch.full((len(x),), int(t.t) - 1))
        x0 = x.mul(1 / float(t.signal)).add_(eps, alpha=-float(t.ratio))
        if new:
            x.add_(x0, alpha=new).add_(past, alpha=old)
        share = float(s.noise / t.noise)
        x.mul_(share).add_(x0, alpha=float(s.signal) - w - share * float(t.signal))
        if w:
            x.add_(past, alpha=w)
        past = x0
    return x


def _recipe(plan: Plan, length: int) -> ddim.Fitted:
    """A solver as `ddim tune` writes one, its rows cut to a length."""
    rows = ddim.rows_of(ddim.IPNDM(3), plan)
    return ddim.Fitted(tuple(float(s.ratio) for s in plan), tuple(row[:length] for row in rows))
