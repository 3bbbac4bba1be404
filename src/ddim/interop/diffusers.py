"""Our solvers and plans as a scheduler of diffusers, for its pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ddim.convert import DEFAULTS, SPACINGS, adopted, from_scheduler_config, grid
from ddim.extras import needed
from ddim.guidance import clip, threshold
from ddim.interop.networks import denoiser_from
from ddim.kinds import listed
from ddim.plans import SPACINGS as OURS, Plan, placed, plan
from ddim.process import Denoiser, Level, determinant, diffuse, floating
from ddim.rows import fitted
from ddim.sampling import visited
from ddim.solvers import DDIM, Solver
from ddim.solvers.base import Run
from ddim.spec import build

needed("diffusers", "diffusers", "SolverScheduler")
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor


class SolverScheduler(SchedulerMixin, ConfigMixin):
    """Any solver of ddim where diffusers takes a scheduler.

        pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver="unipc")

    solver: text as of `ddim.build`, such as ddim:eta=0.5 or dpmpp:order=2.
    timestep_spacing: leading, trailing or linspace, on the grids of diffusers; or uniform,
        quadratic, log_snr or rho, which are ours.
    times, fit: a recipe of ddim tune, as its `scheduler` says them; it is for one number of steps:
        SolverScheduler.from_config(pipe.scheduler.config, **recipe.scheduler)
    clip_keeps_eps: for ddim alone, what clip_sample means in DDIMScheduler; False re-derives eps.
    The other options are those of DDIMScheduler, but clip_sample is False unless it is set.
    `from_config` takes every value of the other scheduler, its defaults too; karras sigmas become
    the spacing rho, Lu's lambdas log_snr. A solver that looks twice at an interval has more
    timesteps than steps, `order` times as many. An edit between two steps is honoured.
    """

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers]
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = DEFAULTS["beta_start"],
        beta_end: float = DEFAULTS["beta_end"],
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        clip_sample: bool = False,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        solver: str = "ddim",
        clip_keeps_eps: bool = False,
        times: Sequence[float] | None = None,
        fit: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(solver, str):
            raise ValueError(f"solver={solver!r}; give text such as 'unipc', see ddim.describe")
        self.solver: Solver = build(solver) if fit is None else fitted(fit)
        if timestep_spacing not in {*SPACINGS.values(), *OURS}:
            raise ValueError(
                f"timestep_spacing={timestep_spacing!r} is unknown; "
                f"choose one of {listed({**dict.fromkeys(SPACINGS.values()), **OURS})}"
            )
        if clip_keeps_eps and (thresholding or not isinstance(self.solver, DDIM)):
            raise ValueError(
                f"clip_keeps_eps is for ddim alone and a clip; the solver is {solver}, "
                f"thresholding={thresholding}"
            )
        known = {**self.config, "_class_name": "SolverScheduler"}
        if known["trained_betas"] is not None:
            known["trained_betas"] = [float(beta) for beta in known["trained_betas"]]
        self.schedule, self.target, self._sampling = from_scheduler_config(known)
        self._run: Run[Tensor] | None = None
        self._level = self.schedule.level(self.schedule.T)
        self._begin_index: int | None = None
        self._index = 0
        self._generator: Any = None
        determinant(self.target, self.schedule.level(self.schedule.T))
        usual = 20 if times is None else len(times) - 1
        self.set_timesteps(max(1, min(usual, self.schedule.T - steps_offset)))

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """A scheduler with the values of another one's configuration, and those given here.

        Raises ValueError for an option that it does not have, and for flow matching.
        """
        if unknown := kwargs.keys() - inspect.signature(cls.__init__).parameters.keys():
            raise ValueError(f"{listed(sorted(unknown))} is no option of SolverScheduler")
        entries = adopted(dict(config or {}))
        return super().from_config(entries, return_unused_kwargs, **kwargs)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Lay the plan: so many steps by timestep_spacing, or these timesteps, from 0 and falling.

        Raises ValueError for what the table does not admit.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("give num_inference_steps or timesteps, and not both")
        if timesteps is None:
            if type(num_inference_steps) is not int:
                raise ValueError(
                    f"num_inference_steps={num_inference_steps!r}; give a whole number"
                )
            if self.config["times"] is not None:
                self._lay(plan(self.schedule, self._tuned(num_inference_steps)), device)
                return
            times = self._times(num_inference_steps)
        else:
            times = [float(step) + 1 for step in timesteps]
            if not times:
                raise ValueError("timesteps is empty; give at least one")
        final = self._sampling.final
        laid = plan(self.schedule, times if times[-1] == final else [*times, final])
        if len(laid) < 2:
            raise ValueError("from level 1 to level 1 there is no step; give a higher timestep")
        self._lay(laid, device)

    def _lay(self, laid: Plan, device: str | torch.device | None) -> None:
        """Take a plan and its timesteps."""
        self.plan: Plan = laid
        asked = visited(self.solver, self.plan)
        clock = [float(placed(level, self.schedule).t) - 1 for level in asked]
        whole = all(step == int(step) for step in clock)
        self._clock = [int(step) for step in clock] if whole else clock
        self.timesteps = torch.tensor(self._clock, device=device)
        self.num_inference_steps = len(self.plan) - 1
        self._run = self._begin_index = None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Answer the solver's question and return its next: (prev_sample, pred_original_sample).

        model_output, sample: (B, C, ...) of any float dtype; the coefficients are float64, the
        arithmetic float32 or wider.   generator: of the noise, for solvers that draw.
        eta, use_clipped_model_output: what some pipelines hand over; the solver and clip_keeps_eps
            say it here. Raises ValueError for an eta above 0 and for a timestep out of turn.
        """
        if eta:
            raise ValueError(f"eta={eta:g}: here it belongs to the solver, 'ddim:eta={eta:g}'")
        state = _wide(sample)
        self._generator = generator
        run = self._begin(state, timestep) if self._run is None else self._run
        self._refuse(timestep)
        prediction = self._seen(model_output)(state, self._level)
        try:
            following, self._level = run.send(prediction)
            self._run = run
        except StopIteration as end:
            following, self._run = end.value, None
        self._index += 1
        pair = following.to(sample.dtype), prediction.x0.to(sample.dtype)
        return DDIMSchedulerOutput(*pair) if return_dict else pair

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample, which is at the scale that the network was trained at."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Draw x_t given x0, Eq. (4). timesteps: (B,) or (1,), from 0."""
        wide = _wide(original_samples)
        return diffuse(wide, self._levels(timesteps, wide), noise.to(wide)).to(original_samples)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The v of a clean sample and noise, the target of v_prediction."""
        wide = _wide(sample)
        level = self._levels(timesteps, wide)
        return (level.signal * noise.to(wide) - level.noise * wide).to(sample)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where in timesteps the first step will be: image-to-image begins below the noise."""
        self._begin_index = begin_index

    @property
    def begin_index(self) -> int | None:
        """What `set_begin_index` was given."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """The place in timesteps of the next step, once a run has begun."""
        return None if self._run is None else self._index

    @property
    def order(self) -> int:
        """Timesteps per step."""
        return -(-len(self._clock) // (len(self.plan) - 1))

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,) α_t, float32."""
        return self.schedule.alpha_bar[1:].float()

    def __len__(self) -> int:
        return self.schedule.T

    def _tuned(self, steps: int) -> list[float]:
        """t of the recipe, which has a number of steps of its own."""
        times = [float(t) for t in self.config["times"]]
        if steps != len(times) - 1:
            raise ValueError(
                f"num_inference_steps={steps}, but the recipe has {len(times) - 1}; give that "
                "number, or load the recipe of another"
            )
        return times

    def _times(self, steps: int) -> list[float]:
        """t, falling, of so many steps."""
        spacing, T = self.config["timestep_spacing"], self.schedule.T
        if spacing in SPACINGS.values():
            return [step + 1 for step in grid(spacing, T, steps, self._sampling.offset)]
        return [float(level.t) for level in plan(self.schedule, steps, spacing)[:-1]]

    def _begin(self, state: Tensor, timestep: float | Tensor) -> Run[Tensor]:
        """Start the solver on the part of the plan that begins with this timestep."""
        if self._begin_index is not None:
            places = [self._begin_index]
        else:
            first = float(timestep)
            places = [i for i, turn in enumerate(self._clock) if abs(first - turn) < 1e-3]
        self._index, rest = self._rest(places or [0])
        run = self.solver(state, rest, self._noise)
        _, self._level = next(run)
        return run

    def _refuse(self, timestep: float | Tensor) -> None:
        """Raise ValueError for a timestep out of turn; one on an accelerator is not waited for."""
        if isinstance(timestep, Tensor) and timestep.device.type != "cpu":
            return
        turn = self._clock[self._index]
        if abs(float(timestep) - turn) >= 1e-3:
            raise ValueError(
                f"step was given timestep {float(timestep):g} and its turn is {turn:g}; go through "
                "scheduler.timesteps in order, or call set_timesteps to begin again"
            )

    def _rest(self, places: Sequence[int]) -> tuple[int, Plan]:
        """The first of these places in timesteps where an interval begins, and the plan from it."""
        if places[0] == 0:
            return 0, self.plan
        count = len(self._clock)
        parts = [self.plan[k:] for k in range(len(self.plan) - 1)]
        begins = {count - len(visited(self.solver, part)): part for part in parts}
        for place in places:
            if place in begins:
                return place, begins[place]
        raise ValueError(
            f"no interval of the plan begins at place {places[0]} of timesteps; "
            f"they begin at {listed(begins)}"
        )

    def _seen(self, model_output: Tensor) -> Denoiser:
        """The network's answer as a Denoiser, with the clip or threshold of the configuration."""
        config = self.config
        said = denoiser_from(lambda x, t: model_output, self.schedule, self.target)
        if config["thresholding"]:
            return threshold(said, config["dynamic_thresholding_ratio"], config["sample_max_value"])
        if config["clip_sample"]:
            keep = config["clip_keeps_eps"]
            return clip(said, config["clip_sample_range"], keep_eps=keep)
        return said

    def _noise(self, like: Tensor, k: int) -> Tensor:
        return randn_tensor(
            like.shape, generator=self._generator, device=like.device, dtype=torch.float32
        ).to(like)

    def _levels(self, timesteps: Tensor, like: Tensor) -> Level:
        if not timesteps.numel():
            raise ValueError("no timesteps are left; give more steps, or a higher strength")
        if not timesteps.is_floating_point():
            return self.schedule.levels(timesteps.reshape(-1) + 1, like)
        levels = [self.schedule.level(step + 1) for step in timesteps.reshape(-1).tolist()]
        columns = [[float(getattr(level, name)) for level in levels] for name in _FIELDS]
        shape = (-1, *[1] * (like.ndim - 1))
        return Level(
            *(torch.tensor(c, dtype=torch.float64).to(like).reshape(shape) for c in columns)
        )


_FIELDS = ("t", "signal", "noise")


def _wide(x: Tensor) -> Tensor:
    return floating(x).to(torch.promote_types(x.dtype, torch.float32))
