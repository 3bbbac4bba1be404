"""What the paper proves of q_σ, held to rounding."""

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, strategies as st

import ddim
from ddim import DDIM, DDPM, Level, Prediction, sample
from ddim.losses import loss, variational_gamma
from ddim.solvers.ddim import sigma, sigma_hat
from exact import gaussian

LINEAR = ddim.schedules.linear()
SCHEDULES = [
    LINEAR,
    ddim.schedules.cosine(),
    ddim.schedules.zero_terminal(LINEAR),
    ddim.schedules.rectified_flow(),
]
PAIRS = [
    (t, s)
    for t in (1, 2, 3, 10, 117, 500, 999, 1000)
    for s in (0, 1, 2, 9, 116, 499, 998, 999)
    if s < t
]


def one_step(solver, t, s, x0, eps):
    """The mean of the solver's step for a denoiser that knows x0 and eps, and the std it adds."""
    drawn = []

    def answer(x, level):
        return Prediction(x, x0, eps)

    def unit(like, k):
        drawn.append(like)
        return torch.ones_like(like)

    end = sample(answer, torch.zeros_like(x0), (t, s), solver, unit)
    return (drawn[0], end - drawn[0]) if drawn else (end, torch.zeros_like(end))


@given(k=st.integers(0, len(SCHEDULES) - 1), pair=st.sampled_from(PAIRS), share=st.floats(0, 1))
def test_one_step_keeps_the_marginal_for_every_admissible_sigma(k, pair, share):
    t, s = (SCHEDULES[k].level(v) for v in pair)
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    solver = DDIM(sigmas=(share * s.noise,))
    weight_x0, std = one_step(solver, t, s, one, zero)
    weight_eps, _ = one_step(solver, t, s, zero, one)
    # x_s = a·x0 + b·eps + std·z, eps and z independent: its marginal is that of level s if and
    # only if a = signal and b² + std² = noise².
    assert weight_x0.item() == pytest.approx(s.signal, abs=1e-12)
    assert (weight_eps**2 + std**2).item() == pytest.approx(s.noise**2, abs=1e-12)
    assert std.item() == pytest.approx(share * s.noise, abs=1e-12)


@pytest.mark.parametrize("schedule", [*SCHEDULES[:3], ddim.schedules.linear(40)])
def test_eta_1_is_the_ddpm_posterior_for_every_pair(schedule):
    alpha, T = schedule.alpha_bar.tolist(), schedule.T
    pairs = (
        [*PAIRS, *pairwise(range(T, -1, -1))] if T == 1000 else combinations(range(T, -1, -1), 2)
    )
    for first, then in pairs:
        t, s = schedule.level(first), schedule.level(then)
        # Bayes: q(x_s | x_t, x0) ∝ N(x_t; √(α_t/α_s) x_s, 1 − α_t/α_s) N(x_s; √α_s x0, 1 − α_s),
        # Ho et al. 2020, Eq. (6, 7).
        beta = 1 - alpha[first] / alpha[then]
        variance = (1 - alpha[then]) * beta / (1 - alpha[first])
        on_x0 = math.sqrt(alpha[then]) * beta / (1 - alpha[first])
        on_x = math.sqrt(alpha[first] / alpha[then]) * (1 - alpha[then]) / (1 - alpha[first])
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        mean_x0, std = one_step(DDPM(), t, s, one, zero)
        mean_eps, _ = one_step(DDPM(), t, s, zero, one)
        assert mean_x0.item() == pytest.approx(on_x0 + on_x * t.signal, abs=1e-12)
        assert mean_eps.item() == pytest.approx(on_x * t.noise, abs=1e-12)
        assert mean_eps.item() == pytest.approx(on_x * t.noise, rel=1e-9, abs=0)
        assert std.item() ** 2 == pytest.approx(variance, abs=1e-12)


def test_the_variances_that_diffusers_publishes():
    # DDPM's fixed-small variance at its 0-based (t, previous); our t is one more.
    for t, s, value in (
        (420, 400, 0.14771),
        (980, 960, 0.32460),
        (487, 486, 0.00979),
        (999, 998, 0.02),
    ):
        assert sigma(LINEAR.level(t + 1), LINEAR.level(s + 1)) ** 2 == pytest.approx(
            value, abs=1e-5
        )


def test_ddim_is_eulers_method_in_the_paper_s_coordinates():
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)
    for schedule in (LINEAR, ddim.schedules.rectified_flow()):
        denoise, levels = gaussian(0.3), ddim.plan(schedule, (990, 700, 30, 2, 1, 0))
        y = x / levels[0].signal
        for t, s in pairwise(levels):
            y = y + (s.noise / s.signal - t.noise / t.signal) * denoise(y * t.signal, t).eps
        end = sample(denoise, x, levels)
        torch.testing.assert_close(end, y * levels[-1].signal, rtol=0, atol=1e-12)


def test_every_sigma_has_the_same_training_objective():
    """Theorem 1: J_σ and L_γ have one gradient, for a network that is any function of (x, t)."""
    schedule = ddim.schedules.linear(6)
    sigmas = [
        0.3,
        *(
            share * float(n)
            for share, n in zip((0.1, 1.0, 0.6, 0.9, 0.4), schedule.noise[1:-1], strict=True)
        ),
    ]
    theta = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def net(x, clock):
        return theta[clock, :1] * x.sin() + theta[clock, 1:] * x

    x0, eps = torch.randn(2, 12, 5, dtype=torch.float64)
    t = torch.arange(12) % 6 + 1
    j = torch.zeros((), dtype=torch.float64)
    for i, time in enumerate(t.tolist()):
        x = schedule.level(time).signal * x0[i] + schedule.level(time).noise * eps[i]
        guess = (
            x - schedule.level(time).noise * net(x[None], torch.tensor([time - 1]))[0]
        ) / schedule.level(time).signal
        std = sigmas[time - 1]
        if time == 1:
            j = j - torch.distributions.Normal(guess, std).log_prob(x0[i]).sum()
            continue
        now, after = schedule.level(time), schedule.level(time - 1)
        means = [
            one_step(DDIM(sigmas=(std,)), now, after, clean, (x - now.signal * clean) / now.noise)[
                0
            ]
            for clean in (x0[i], guess)
        ]
        p, q = (torch.distributions.Normal(mean, std) for mean in means)
        j = j + torch.distributions.kl_divergence(p, q).sum()
    gamma = variational_gamma(schedule, sigmas)
    simple = loss(net, schedule, "eps", (x0, t, eps), gamma) * x0.numel()
    (by_j,), (by_l,) = (
        torch.autograd.grad(value, theta, retain_graph=True) for value in (j, simple)
    )
    assert by_l.abs().max() > 1
    torch.testing.assert_close(by_j / by_l.abs().max(), by_l / by_l.abs().max(), rtol=0, atol=1e-10)


def test_the_round_trip_errs_as_one_over_steps():
    x = torch.linspace(-1.5, 1.5, 11, dtype=torch.float64)
    plans = {steps: ddim.plan(LINEAR, steps, "trailing") for steps in (50, 100, 200, 500)}
    errors = [
        (ddim.reconstruct(gaussian(0.2), x, levels) - x).square().mean().sqrt().item()
        for levels in plans.values()
    ]
    products = [steps * error for steps, error in zip(plans, errors, strict=True)]
    assert errors[0] > 5 * errors[-1]
    assert max(products) / min(products) < 1.5


STDS = (0.25 * torch.arange(1, 3073, dtype=torch.float64) ** -1.2).sqrt()
STDS = STDS * (0.25 * 3072 / STDS.square().sum()).sqrt()

W2 = {
    "ddim:eta=0": {10: 39.24681, 20: 12.58298, 50: 2.37869, 100: 0.65185, 1000: 0.01359},
    "ddim:eta=0.2": {10: 39.85296, 20: 12.89026, 50: 2.47608, 100: 0.68577},
    "ddim:eta=0.5": {10: 43.49443, 20: 14.74359, 50: 3.07920, 100: 0.90586},
    "ddpm": {10: 69.21580, 20: 26.73212, 50: 7.00532, 100: 2.40664, 1000: 0.04762},
    "ddim:eta=1,added=hat": {10: 115.27927, 20: 21.91082, 50: 3.09765, 100: 0.74281},
}


@pytest.mark.parametrize(
    ("spec", "steps"), [(spec, steps) for spec, row in W2.items() for steps in row]
)
def test_the_law_of_the_samples_of_a_gaussian_in_3072_dimensions(spec, steps):
    """x holds one standard deviation per direction, and the noise adds variances: all is exact."""
    solver, levels = ddim.build(spec), ddim.plan(LINEAR, steps, "leading")

    def add_variances(like, k):
        t, s = levels[k], levels[k + 1]
        std = sigma_hat(t, s) if solver.added == "hat" else sigma(t, s, solver.eta)
        return ((like**2 + std**2).sqrt() - like) / std

    end = sample(
        gaussian(0.0, STDS), torch.ones(3072, dtype=torch.float64), levels, solver, add_variances
    )
    assert (end - STDS).square().sum().item() == pytest.approx(W2[spec][steps], abs=6e-6)


@dataclass(frozen=True)
class Circulating:
    """The formula that circulates with √(1 − α²) where the paper has √(1 − α)."""

    def __call__(self, x, plan, noise):
        for t, s in pairwise(plan):
            p = yield x, t
            x = s.signal * p.x0 + math.sqrt(1 - s.signal**4) * p.eps
        return x


@pytest.mark.parametrize(
    ("steps", "wrong", "right"), [(10, 0.73, 0.374), (50, 9.5, 0.472), (100, 174, 0.486)]
)
def test_the_mean_that_circulates_blows_up_on_an_exact_denoiser(steps, wrong, right):
    levels, one = ddim.plan(LINEAR, steps, "leading"), torch.ones(1, dtype=torch.float64)
    assert sample(gaussian(), one, levels, Circulating()).item() == pytest.approx(wrong, rel=0.01)
    assert sample(gaussian(), one, levels, DDIM()).item() == pytest.approx(right, abs=6e-4)


def test_the_variance_that_circulates_is_negative_for_every_t():
    alpha = LINEAR.alpha_bar
    circulating = 1 - alpha[:-1] / alpha[1:]
    assert (circulating < 0).all()
    # With the fraction upright it is the square of the paper's σ̂, and not the DDPM posterior.
    for t in (2, 500, 1000):
        upright = (1 - alpha[t] / alpha[t - 1]).item()
        assert sigma_hat(LINEAR.level(t), LINEAR.level(t - 1)) ** 2 == pytest.approx(
            upright, abs=1e-12
        )
        assert sigma(LINEAR.level(t), LINEAR.level(t - 1)) ** 2 < upright


def test_sigma_hat_is_the_noise_between_two_levels_on_any_schedule():
    for schedule in SCHEDULES:
        t, s = schedule.level(700), schedule.level(300)
        forward = (t.signal / s.signal * s.noise) ** 2 + sigma_hat(t, s) ** 2
        assert forward == pytest.approx(t.noise**2, abs=1e-12)


def test_a_single_step_into_data_admits_every_eta():
    levels, x = ddim.plan(LINEAR, (100, 0)), torch.ones(1, 2, dtype=torch.float64)
    end = sample(gaussian(), x, levels, DDIM(eta=5), ddim.Seeded([0]))
    assert torch.equal(end, sample(gaussian(), x, levels))


def test_sigma_hat_in_the_mean_would_leave_no_room():
    levels = ddim.plan(LINEAR, 10, "leading")
    negative = [s.noise**2 - sigma_hat(t, s) ** 2 < 0 for t, s in pairwise(levels)]
    assert sum(negative) == 4


def test_the_last_step_returns_x0_for_every_eta():
    x0, eps = torch.randn(2, 4, dtype=torch.float64)
    for solver in (DDIM(), DDIM(eta=0.7), DDPM(), DDIM(eta=1, added="hat")):
        mean, std = one_step(solver, LINEAR.level(100), LINEAR.level(0), x0, eps)
        assert torch.equal(mean, x0)
        assert not std.any()


def test_zero_terminal_signal_keeps_eta_1_finite():
    zero = ddim.schedules.zero_terminal(LINEAR)
    x, noise = torch.randn(2, 5, dtype=torch.float64), ddim.Seeded(range(2))
    denoise = gaussian(0.2)
    for solver in (DDIM(), DDPM()):
        assert sample(denoise, x, ddim.plan(zero, 20), solver, noise).isfinite().all()


@pytest.mark.parametrize(
    ("steps", "spacing", "most"),
    [(10, "leading", 1.0004), (10, "trailing", 1.082), (1000, "trailing", 1.354)],
)
def test_eta_beyond_what_the_plan_admits_names_the_bound(steps, spacing, most):
    levels, noise = ddim.plan(LINEAR, steps, spacing), ddim.Seeded([0])
    x = torch.ones(1, 2, dtype=torch.float64)
    assert sample(gaussian(), x, levels, DDIM(eta=most - 1e-3), noise).isfinite().all()
    with pytest.raises(ValueError, match="asks for more") as refused:
        sample(gaussian(), x, levels, DDIM(eta=most + 1e-3), noise)
    named = float(str(refused.value).rpartition(" ")[2])
    assert named == pytest.approx(most, abs=6e-4)
    assert sample(gaussian(), x, levels, DDIM(eta=named), noise).isfinite().all()


def test_levels_that_all_but_meet_leave_no_room_for_noise():
    low = Level(math.nan, 0.6, 0.8)
    high = Level(math.nan, 0.6, math.nextafter(0.8, 1))
    x = torch.ones(1, 2, dtype=torch.float64)
    assert sample(gaussian(), x, (high, low), DDPM(), ddim.Seeded([0])).isfinite().all()


def refuse(x, level):
    raise AssertionError("the network was asked")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DDIM(eta=-1), "eta=-1; choose 0"),
        (lambda: DDIM(eta=math.nan), "eta=nan"),
        (lambda: DDIM(eta=(0.1, -0.1)), "eta=-0.1"),
        (lambda: DDIM(added="hats"), "'sigma' or 'hat'"),
        (lambda: DDIM(eta=0.5, added="hat"), "defined for eta=1"),
        (lambda: DDIM(eta=0.5, sigmas=(0.1, 0.0)), "give one of them"),
        (lambda: DDIM(eta=()), r"eta=\(\); give one number"),
        (lambda: DDIM(eta=[0.5]), r"eta=\[0\.5\]"),
        (lambda: DDIM(sigmas=(-0.1, 0.0)), "numbers from 0"),
        (lambda: DDIM(sigmas=(math.nan,)), "numbers from 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_construction(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("solver", "times", "words"),
    [
        (DDIM(sigmas=(0.1,)), (1000, 500, 0), "1 sigmas for 2 steps"),
        (DDIM(sigmas=(0.1, 0.1)), (1000, 500, 0), r"sigmas\[1\]=0.1 .*choose 0\.\.0"),
        (DDIM(eta=(0.0, 0.0, 0.0)), (1000, 900, 0), "3 values of eta for a batch of 2"),
        (DDIM(eta=0.5), (1000, 999, 1000), "strictly monotone"),
        (DDIM(eta=0.5), (999, 1000), "rising plan"),
        (DDIM(eta=2), (1000, 900, 0), "eta=2 asks for more"),
        (DDIM(eta=(0.0, 2.0)), (1000, 900, 0), "eta=2 asks for more"),
        (DDIM(eta=(0.0, 0.5, 1.0)), (1000, 900, 0), "3 values of eta for a batch of 2"),
        (DDIM(eta=0.5), (0, 500, 1000), "rising plan"),
    ],
)
def test_an_inadmissible_sigma_is_refused_before_the_network_is_asked(solver, times, words):
    with pytest.raises(ValueError, match=words):
        sample(refuse, torch.zeros(2, 3), ddim.plan(LINEAR, times), solver, ddim.Seeded([1, 2]))


def test_levels_by_hand_need_no_schedule():
    t, s = Level(math.nan, 0.6, 0.8), Level(math.nan, 0.8, 0.6)
    x = torch.ones(1, 1, dtype=torch.float64)
    assert sample(gaussian(), x, (t, s)).isfinite().all()
