"""How each reference samples: its table, steps, clip and last level.

A preset is for comparing with a reference; to sample well, `Model.plan` and a solver do better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ddim.convert import SPACINGS, grid
from ddim.guidance import clip
from ddim.kinds import listed
from ddim.model import Model
from ddim.plans import Plan
from ddim.process import Denoiser
from ddim.schedules import Schedule, from_alpha_bar, scaled_linear
from ddim.solvers import DDIM, Solver
from ddim.spec import choose


@dataclass(frozen=True)
class Reference:
    """A run as a reference does it: `sample(run.denoiser(), x, run.plan, run.solver)`.

    model: with its table at the precision of the reference.   plan: it may end above 0.
    clip: the limit on x0, or None.   keep_eps: whether eps stays what it was when x0 is clipped.
    """

    model: Model
    plan: Plan
    solver: Solver
    clip: float | None = None
    keep_eps: bool = False

    def denoiser(
        self,
        label: int | Sequence[int] | None = None,
        guidance: float = 1.0,
        negative: int | None = None,
    ) -> Denoiser:
        """The network as a Denoiser; see `Model.denoiser`."""
        plain = self.model.denoiser(label, guidance=guidance, negative=negative)
        return plain if self.clip is None else clip(plain, self.clip, keep_eps=self.keep_eps)


Preset = Callable[[Model, int], Reference]
"""(model, steps) to the run that a reference would do."""


@dataclass(frozen=True)
class ErmongroupDDIM:
    """The paper's code: sample_type generalized. skip: its skip_type, uniform or quad.

    uniform steps by ⌊T/S⌋ from the first level, and so takes more than S steps where S does not
    divide T. quad ends at 0.8 T; a level that it repeats does nothing and is left out.
    """

    eta: float = 0.0
    skip: str = "uniform"

    def __call__(self, model: Model, steps: int) -> Reference:
        """Raises ValueError for an unknown skip or steps outside 1..T."""
        return _reference(single(model), _skipped(model.schedule.T, steps, self.skip), self.eta)


@dataclass(frozen=True)
class ErmongroupDDPM:
    """The paper's code: sample_type ddpm_noisy. The mean is that of σ(1), the noise added σ̂; x0 is
    clipped to [−1, 1] and eps follows."""

    skip: str = "uniform"

    def __call__(self, model: Model, steps: int) -> Reference:
        """As `ErmongroupDDIM`."""
        times = _skipped(model.schedule.T, steps, self.skip)
        solver = DDIM(eta=1.0, added="hat")
        return replace(_reference(single(model), times), solver=solver, clip=1.0)


@dataclass(frozen=True)
class GuidedDiffusion:
    """openai/guided-diffusion, timestep_respacing ddimN: the least whole stride that gives N steps.

    x0 is clipped to [−1, 1] and eps follows.
    """

    eta: float = 0.0

    def __call__(self, model: Model, steps: int) -> Reference:
        """Raises ValueError for a number of steps that no whole stride gives."""
        T = _admitted(model.schedule.T, steps)
        stride = -(-T // steps)
        if len(range(0, T, stride)) != steps or stride == T:
            near = sorted({len(range(0, T, s)) for s in (stride - 1, stride) if 0 < s < T})
            raise ValueError(
                f"steps={steps}: no whole stride over T={T} gives so many in guided-diffusion; "
                f"choose {' or '.join(map(str, near))}"
            )
        return replace(_reference(model, _ascending(range(0, T, stride)), self.eta), clip=1.0)


@dataclass(frozen=True)
class Diffusers:
    """diffusers' DDIMScheduler with what the folder of the model asks for: spacing, offset, clip
    with eps kept, last level.

    Each step goes to the next level of the grid. DDIMScheduler itself goes to t − ⌊T/S⌋, which is
    that level for leading (with an offset below ⌊T/S⌋), and for trailing where S divides T; its
    linspace images are others. Its last step between two equal levels (offset 0, last level 1),
    which does nothing but clip, is left out.
    """

    eta: float = 0.0

    def __call__(self, model: Model, steps: int) -> Reference:
        """Raises ValueError where the folder's spacing is none of diffusers'."""
        asked = model.sampling
        if asked.spacing not in SPACINGS:
            raise ValueError(
                f"the model asks for spacing={asked.spacing!r}, which diffusers does not have; "
                f"it has {listed(SPACINGS)}"
            )
        if asked.threshold:
            raise ValueError(
                "the model asks for dynamic thresholding, which no preset does; sample without one "
                "and wrap the denoiser in ddim.threshold"
            )
        return replace(
            _reference(
                single(model),
                _strided(model.schedule.T, steps, SPACINGS[asked.spacing], asked.offset),
                self.eta,
                asked.final,
            ),
            clip=asked.clip,
            keep_eps=True,
        )


@dataclass(frozen=True)
class SD1:
    """Stable Diffusion 1: scaled_linear, leading with offset 1, down to level 1 and no further."""

    eta: float = 0.0

    def __call__(self, model: Model, steps: int) -> Reference:
        """Raises ValueError for a model on another table."""
        table, own = scaled_linear(1000, 0.00085, 0.012), model.schedule
        if own.T != table.T or not torch.allclose(own.signal, table.signal, rtol=1e-4):
            raise ValueError(
                "the preset sd1 is for models trained on scaled_linear from 0.00085 to 0.012 with "
                "T=1000, and this one was not; choose another preset"
            )
        return _reference(single(model), _strided(1000, steps, "leading", 1), self.eta, 1)


PRESETS: dict[str, Callable[..., Preset]] = {
    "ermongroup-ddim": ErmongroupDDIM,
    "ermongroup-ddpm": ErmongroupDDPM,
    "guided-diffusion": GuidedDiffusion,
    "diffusers": Diffusers,
    "sd1": SD1,
}


def preset(text: str) -> Preset:
    """The preset that name:key=value describes, such as ermongroup-ddim:eta=0.5,skip=quad.

    Raises ValueError naming what is allowed.
    """
    return choose(text, PRESETS)


def single(model: Model) -> Model:
    """The model with α_t as the product in float32 of 1 − β, β rounded to float32 itself."""
    alpha = model.schedule.alpha_bar
    betas = (1 - alpha[1:] / alpha[:-1]).float()
    table: Schedule = from_alpha_bar((1 - betas).cumprod(0).double())
    return replace(model, schedule=table)


def _reference(model: Model, times: Sequence[int], eta: float = 0.0, final: int = 0) -> Reference:
    """DDIM over t, falling, and down to a last level; a last step between equal levels is none."""
    ends = times if times[-1] == final else [*times, final]
    return Reference(model, model.plan(ends), DDIM(eta=eta))


def _admitted(T: int, steps: int) -> int:
    if type(steps) is not int or not 1 <= steps <= T:
        raise ValueError(f"steps={steps}; choose a whole number from 1 to {T}")
    return T


def _ascending(timesteps: Sequence[int]) -> list[int]:
    """The t, falling, of timesteps that count from 0 and rise."""
    return [step + 1 for step in reversed(timesteps)]


def _skipped(T: int, steps: int, skip: str) -> list[int]:
    _admitted(T, steps)
    if skip == "uniform":
        return _ascending(range(0, T, T // steps))
    if skip != "quad":
        raise ValueError(f"skip={skip!r}; choose uniform or quad")
    squares = np.linspace(0, math.sqrt(0.8 * T), steps) ** 2
    return _ascending(sorted({int(square) for square in squares}))


def _strided(T: int, steps: int, spacing: str, offset: int) -> list[int]:
    return [step + 1 for step in grid(spacing, T, steps, offset)]
