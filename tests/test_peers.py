"""The same trajectories as diffusers, in float64; and where it is wrong, both numbers.

Its schedulers are handed our levels and our denoiser, so that only the formulas differ. Where its
`step` rounds to float32 the update that it calls is called instead.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import diffusers
import pytest
import torch

import ddim
from ddim import Level, Prediction, sample
from ddim.exact import THREE, Mixture, order, uneven
from ddim.solvers import DPMpp

PLAN = uneven(11, ramp=False)
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # its use of numpy


def prepared(scheduler, plan, **fields):
    """The scheduler on our levels, at its first step."""
    scheduler.set_timesteps(len(plan) - 1)
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.tensor([level.ratio for level in plan], dtype=torch.float64)
    for name, value in fields.items():
        setattr(scheduler, name, value)
    scheduler._step_index = 0
    return scheduler


def follow(scheduler, plan, x, answer=THREE):
    """Its own loop: one call of `step` for each call of the denoiser."""
    for level in plan[:-1]:
        p = answer(x, level)
        x = scheduler.step(p.eps, scheduler.timesteps[scheduler._step_index], x).prev_sample
    return x


def start():
    return torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 1, 2, 2)


def image(x, level):
    """The mixture, pixel by pixel, as diffusers wants images."""
    p = THREE(x.flatten(), level)
    return Prediction(x, p.x0.reshape(x.shape), p.eps.reshape(x.shape))


def agree(ours, theirs, within=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=within)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc(p, variant):
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=p, solver_type=variant, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    theirs = follow(prepared(scheduler, PLAN), PLAN, start(), image)
    agree(sample(image, start(), PLAN, ddim.UniPC(p, variant)), theirs)


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_deis(nodes):
    scheduler = diffusers.DEISMultistepScheduler(solver_order=nodes, lower_order_final=False)
    theirs = follow(prepared(scheduler, PLAN), PLAN, start(), image)
    agree(sample(image, start(), PLAN, ddim.DEIS(nodes)), theirs)


def test_ipndm():
    fields = {
        "alphas": torch.tensor([level.signal for level in PLAN], dtype=torch.float64),
        "betas": torch.tensor([level.noise for level in PLAN], dtype=torch.float64),
    }
    scheduler = prepared(diffusers.IPNDMScheduler(), PLAN, **fields)
    x = start()
    for level in PLAN[:-1]:
        p = image(x, level)
        v = level.signal * p.eps - level.noise * p.x0  # it takes eps from v
        x = scheduler.step(v, scheduler.timesteps[scheduler._step_index], x).prev_sample
    agree(sample(image, start(), PLAN, ddim.IPNDM(4)), x)


def test_heun():
    """It works in y = x/signal and asks twice at every level but the first and the last."""
    twice = [PLAN[0], *(level for level in PLAN[1:-1] for _ in range(2)), PLAN[-1]]
    scheduler = diffusers.HeunDiscreteScheduler()
    scheduler.set_timesteps(len(PLAN))
    ratios = [PLAN[0].ratio, *(level.ratio for level in PLAN[1:] for _ in range(2)), 0.0]
    scheduler.sigmas = torch.tensor(ratios, dtype=torch.float64)
    scheduler._step_index, y = 0, start() / PLAN[0].signal
    for k in range(2 * (len(PLAN) - 1)):
        level = [*twice, PLAN[-1]][k]
        p = image(y * level.signal, level)
        y = scheduler.step(p.eps, scheduler.timesteps[0], y).prev_sample
    agree(sample(image, start(), PLAN, ddim.Heun()), y * PLAN[-1].signal)


def test_dpmpp2s_is_its_singlestep_solver_on_a_plan_with_the_middles():
    middles = [
        level for t, s in pairwise(PLAN) for level in (t, with_ratio(math.sqrt(t.ratio * s.ratio)))
    ]
    fine = (*middles, PLAN[-1])
    scheduler = diffusers.DPMSolverSinglestepScheduler(solver_order=2)
    scheduler = prepared(scheduler, fine, order_list=[1, 2] * (len(PLAN) - 1))
    agree(sample(image, start(), PLAN, ddim.DPMpp2S()), follow(scheduler, fine, start(), image))


def with_ratio(ratio):
    signal = 1 / math.hypot(1, ratio)
    return Level(math.nan, signal, signal * ratio)


@dataclass(frozen=True)
class Theirs:
    """Its DPM-Solver++ as one of our solvers, by the three updates that its `step` chooses from."""

    p: int
    algorithm: str = "dpmsolver++"

    def __call__(self, x, plan, noise):
        scheduler = prepared(
            diffusers.DPMSolverMultistepScheduler(
                solver_order=self.p, algorithm_type=self.algorithm
            ),
            plan,
        )
        past = []
        for k, level in enumerate(plan[:-1]):
            answer = yield x, level
            past = [*past, answer.x0][-self.p :]
            drawn = noise(x, k) if "sde" in self.algorithm else None
            if len(past) == 1:
                x = scheduler.dpm_solver_first_order_update(past[0], sample=x, noise=drawn)
            elif len(past) == 2:
                x = scheduler.multistep_dpm_solver_second_order_update(past, sample=x, noise=drawn)
            else:
                x = scheduler.multistep_dpm_solver_third_order_update(past, sample=x, noise=drawn)
            scheduler._step_index += 1
        return x


@pytest.mark.parametrize("p", [1, 2, 3])
def test_dpmpp_multistep(p):
    ours = sample(image, start(), PLAN, DPMpp(p, compat=p == 3))
    agree(ours, sample(image, start(), PLAN, Theirs(p)))


def test_the_step_of_its_dpmpp_is_these_updates():
    """So that the tests here speak of what its users run; `step` itself rounds to float32."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    theirs = follow(prepared(scheduler, PLAN), PLAN, start(), image)
    agree(sample(image, start(), PLAN, Theirs(3)), theirs, within=1e-5)


@pytest.mark.parametrize("data", [Mixture([0.7], 0.5), THREE], ids=["gaussian", "mixture"])
def test_its_third_order_is_of_order_2_and_ours_of_order_3(data):
    assert order(Theirs(3), data=data) == pytest.approx(2, abs=0.1)
    assert order(DPMpp(3), data=data) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("p", [1, 2])
def test_the_sde_of_first_and_second_order(p):
    noise = ddim.Seeded(range(3))
    ours = sample(image, start(), PLAN, DPMpp(p, eta=1), noise)
    agree(ours, sample(image, start(), PLAN, Theirs(p, "sde-dpmsolver++"), noise))


def test_without_draws_its_sde_of_third_order_is_of_order_1_and_ours_of_order_3():
    """A sign in its D2 term is wrong (minus a half for plus a half). With draws of 0 the SDE is an
    ordinary equation, and both converge to one limit."""

    def end(solver, steps):
        return sample(image, start(), uneven(steps), solver, lambda like, k: 0 * like)

    def slope(solver):
        few, many = ((end(solver, n) - limit).abs().max().item() for n in (100, 400))
        return math.log(few / many, 4)

    limit = end(DPMpp(3, eta=1), 3000)
    assert slope(DPMpp(3, eta=1)) == pytest.approx(3, abs=0.1)
    assert slope(DPMpp(2, eta=1)) == pytest.approx(2, abs=0.1)
    assert slope(Theirs(3, "sde-dpmsolver++")) == pytest.approx(1, abs=0.1)
