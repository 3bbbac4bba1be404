"""What is exported of a model, by `tracing.export`: its network, or a whole sampler."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ddim.model import Model
from ddim.noise import undrawn
from ddim.plans import Plan
from ddim.rows import Fitted
from ddim.sampling import sample
from ddim.solvers import DDIM, Solver
from ddim.spec import describe


class Sampler(nn.Module):
    """image = sampler(x): a deterministic run on a fixed plan as one module.

    x: (B, *shape) at plan[0].   label: of every image, or None.   clip: as in `Model.denoiser`.
    Raises ValueError if the solver draws noise.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        solver: Solver = DDIM(),
        label: int | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.net = model.net
        self._run = model.denoiser(label, clip), plan, solver

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) at the first level of the plan to the same at its last."""
        denoiser, plan, solver = self._run
        return sample(denoiser, x, plan, solver, undrawn)


def network_example(model: Model) -> dict[str, Tensor]:
    """Inputs for `tracing.export` of model.net: x, t and perhaps label."""
    x = torch.linspace(-1, 1, 2 * torch.Size(model.shape).numel()).reshape(2, *model.shape)
    example = {"x": x, "t": torch.tensor([0, model.schedule.T - 1])}
    if model.classes is not None:
        example["label"] = torch.tensor([0, model.classes - 1])
    return example


def about_network(model: Model) -> dict[str, Any]:
    """What those who run an exported network have to know: the clock, target and tables."""
    return {
        "what": "the network: out = net(x, t), t = level − 1",
        "target": model.target,
        "channels": "of twice the shape's channels the first half is meant, the rest a variance",
        "shape": list(model.shape),
        "range": [-1, 1],
        "signal": model.schedule.signal.tolist(),
        "noise": model.schedule.noise.tolist(),
    }


def about_sampler(model: Model, plan: Plan, solver: Solver) -> dict[str, Any]:
    """What those who run an exported sampler have to know."""
    fitted = {"rows": solver.rows} if isinstance(solver, Fitted) else {}
    return {
        "what": "a sampler: image = sampler(x), x at the first level: from N(0, I) where that is T",
        "solver": "fitted" if fitted else describe(solver),
        **fitted,
        "times": [None if math.isnan(level.t) else float(level.t) for level in plan],
        "signal": [float(level.signal) for level in plan],
        "noise": [float(level.noise) for level in plan],
        "shape": list(model.shape),
        "range": [-1, 1],
    }
