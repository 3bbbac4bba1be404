"""The density of the flow against its closed form, Hutchinson's interval, and the bound."""

import math

import pytest
import torch
from scipy.stats import norm, t as student_t

import ddim
from ddim import Level, Prediction, Seeded, bits_per_dim, fine_plan, schedules, variational_bound
from ddim.exact import THREE
from ddim.likelihood import PIXEL, dequantise, student
from exact import Correlated, gaussian, gaussian_flow

LINEAR = schedules.linear()


def standard(x):
    return -(x**2 + math.log(2 * math.pi)) / 2


@pytest.mark.parametrize("schedule", [LINEAR, schedules.cosine(), schedules.rectified_flow()])
def test_gaussian_data_to_a_millionth_of_a_bit(schedule):
    x = torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64)
    plan = fine_plan(schedule, 600)
    top, low = plan[0], plan[-1]
    spread = [math.hypot(0.5 * level.signal, level.noise) for level in (top, low)]
    exact = standard(gaussian_flow(x, low, top, 0.2)).sum(1) + 2 * math.log(spread[0] / spread[1])
    found = bits_per_dim(gaussian(0.2), x, plan)
    assert found.in_bits(found.log_density - exact).abs().max() < 1e-6
    assert (found.margin == 0).all()
    off = found.in_bits(found.halving)
    assert (off < 1e-4).all()
    assert (off > found.in_bits(found.log_density - exact).abs()).all()


def log_density(x, level):
    """Of THREE at a level."""
    spread = ((level.signal * THREE.std) ** 2 + level.noise**2).sqrt()
    parts = torch.distributions.Normal(level.signal * THREE.means, spread).log_prob(x[:, None])
    return (parts + (THREE.weights / THREE.weights.sum()).log()).logsumexp(1)


def test_a_mixture_to_a_ten_thousandth():
    """The flow keeps quantiles, so its derivative is the ratio of the two densities."""
    x, plan = torch.linspace(-2, 2, 9, dtype=torch.float64), fine_plan(LINEAR, 200)
    reached = THREE.flow(x, plan[-1], plan[0])
    exact = standard(reached) + log_density(x, plan[-1]) - log_density(reached, plan[0])
    found = bits_per_dim(THREE, x, plan)
    assert found.in_bits(found.log_density - exact).abs().max() < 1e-4
    # ... which is that of the data, but for the noise of level 1 and what x_T differs from N(0, I)
    assert (found.log_density - log_density(x, LINEAR.level(0))).abs().max() < 0.05


def test_the_density_integrates_to_1():
    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    density = bits_per_dim(THREE, x, fine_plan(LINEAR, 100)).log_density.exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-4)


def correlated():
    generator = torch.Generator().manual_seed(7)
    draw = torch.randn(2, 64, 64, generator=generator, dtype=torch.float64)
    covariances = 0.25 * (draw @ draw.mT / 64 + 0.05 * torch.eye(64))
    means = 0.2 * torch.randn(2, 64, generator=generator, dtype=torch.float64)
    return Correlated(means, covariances)


def test_hutchinsons_interval_covers_the_exact_trace_in_95_of_100_runs():
    data, runs, draws = correlated(), 400, Seeded(range(3))
    x = Seeded(range(runs)).start((64,)).double() / 2
    plan = fine_plan(LINEAR, 40)
    exact = bits_per_dim(data, x, plan)
    found = bits_per_dim(data, x, plan, probes=8, noise=Seeded(range(1000, 1000 + runs)))
    inside = ((found.log_density - exact.log_density).abs() <= found.margin).double().mean()
    assert inside.item() == pytest.approx(0.95, abs=0.03)
    assert 0.001 < found.in_bits(found.margin).mean() < 0.5
    alone = [
        bits_per_dim(data, x[:3], plan, probes=2, noise=lambda like, k, j=j: draws(like, 2 * j + k))
        for j in range(2)
    ]
    both = bits_per_dim(data, x[:3], plan, probes=4, noise=draws)
    middle = sum(each.log_density for each in alone) / 2
    torch.testing.assert_close(both.log_density, middle)
    # of two values the std is half their distance times √2, and the margin t₁/√2 of that
    halves = [each.margin / student_t.ppf(0.975, 1) for each in alone]
    ends = torch.stack(
        [e.log_density + s * h for e, h in zip(alone, halves, strict=True) for s in (-1, 1)]
    )
    expected = student_t.ppf(0.975, 3) * ends.std(0) / 2
    torch.testing.assert_close(both.margin, expected)
    more = bits_per_dim(data, x, plan, probes=32, noise=Seeded(range(1000, 1000 + runs)))
    assert more.margin.mean() < found.margin.mean() / 1.8


@pytest.mark.parametrize("degrees", [1, 2, 7, 31])
def test_the_quantile_is_students(degrees):
    for level in (0.8, 0.95):
        expected = student_t.ppf((1 + level) / 2, degrees)
        assert student(degrees, level) == pytest.approx(expected, rel=1e-7)


def test_more_probes_than_dimensions_are_the_exact_trace():
    x, plan = torch.randn(2, 3).double(), fine_plan(LINEAR, 20)
    found = bits_per_dim(gaussian(), x, plan, probes=3, noise=Seeded(range(2)))
    assert (found.margin == 0).all()
    assert torch.equal(found.log_density, bits_per_dim(gaussian(), x, plan).log_density)


def test_halving_is_the_distance_to_half_the_steps():
    x, plan = torch.linspace(-1, 1, 3).double(), fine_plan(LINEAR, 21)
    found = bits_per_dim(THREE, x, plan)
    half = bits_per_dim(THREE, x, (*plan[:-1:2], plan[-1]))
    torch.testing.assert_close(found.halving, (found.log_density - half.log_density).abs())


def test_dequantised_pixels_fill_their_cells_evenly():
    x = ddim.data.to_float(torch.full((500, 1, 4, 4), 7, dtype=torch.uint8))
    off = (dequantise(x, Seeded(range(500))) - x) / PIXEL
    assert off.dtype == torch.float64
    assert -0.5 < off.min() < -0.49
    assert 0.49 < off.max() < 0.5
    assert off.mean().abs() < 0.01
    assert off.var().item() == pytest.approx(1 / 12, rel=0.03)


def test_bits_are_of_pixels():
    """A uniform density on [-1, 1] costs 8 bits, of 255 steps between 256 values."""
    found = bits_per_dim(gaussian(), torch.zeros(1, 3).double(), fine_plan(LINEAR, 10))
    uniform = type(found)(torch.tensor([-3 * math.log(2.0)]), found.margin, found.halving, 3)
    assert uniform.bits.item() == pytest.approx(1 + math.log2(127.5))


def test_images_of_any_shape_and_dtype_and_a_constant_answer():
    x = torch.linspace(-1, 1, 12).reshape(2, 2, 3)
    plan = fine_plan(LINEAR, 30)
    flat = bits_per_dim(gaussian(), x.reshape(2, 6).double(), plan)
    assert torch.allclose(bits_per_dim(gaussian(), x, plan).bits, flat.bits)

    weight = torch.zeros((), requires_grad=True)

    def point(x, level):
        return Prediction(x, torch.zeros_like(x) + weight, x / level.noise)

    found = bits_per_dim(point, x.double(), plan)
    low = plan[-1].noise
    exact = standard(x.double() / low).reshape(2, -1).sum(1) - 6 * math.log(low)
    torch.testing.assert_close(found.log_density, exact, rtol=1e-4, atol=0)


def test_fine_plans_are_even_in_log_ratio_but_near_the_data():
    for schedule in (LINEAR, schedules.zero_terminal(LINEAR)):
        plan = fine_plan(schedule, 100)
        assert len(plan) == 101
        assert (plan[0].t, plan[-1].t) == (schedule.top, 1)
        logs = torch.tensor([math.log(level.ratio) for level in plan], dtype=torch.float64)
        steps = -logs.diff()
        torch.testing.assert_close(steps[:90], steps[:1].expand(90))
        assert steps[-1] < steps[0] / 90


def by_hand(mean, x, width, std):
    """The mass of the cell around x, the outer ones open."""
    low = -math.inf if x < -1 + width / 2 else x - width / 2
    high = math.inf if x > 1 - width / 2 else x + width / 2
    return norm.cdf(high, mean, std) - norm.cdf(low, mean, std)


def test_the_bound_of_one_step_is_the_pixels_and_the_prior():
    x = torch.tensor([[-1.0, -0.2, 0.6, 1.0]], dtype=torch.float64)
    width, level = 0.4, Level(math.nan, 0.8, 0.6)
    found = variational_bound(
        lambda x, t: Prediction(x, torch.full_like(x, 0.1), x),
        x,
        (level, LINEAR.level(0)),
        Seeded([0]),
        width,
    )
    data = -sum(math.log2(by_hand(0.1, v, width, 0.75)) for v in x[0].tolist()) / 4
    assert found.data.item() == pytest.approx(data, rel=1e-9)
    prior = sum((0.36 + (0.8 * v) ** 2 - 1) / 2 - math.log(0.6) for v in x[0].tolist()) / 4
    assert found.prior.item() == pytest.approx(prior / math.log(2))
    assert found.bits.item() == pytest.approx((prior / math.log(2)) + data)


def test_a_pixel_far_from_its_mean_still_has_a_finite_cost():
    def sure(x, level):
        return Prediction(x, torch.ones_like(x), x)

    plan = (LINEAR.level(1), LINEAR.level(0))
    found = variational_bound(sure, torch.tensor([[-1.0, 0.5]]), plan, Seeded([0]))
    assert 1000 < found.data.item() < 1e5


@pytest.mark.parametrize("std", [0.2, 0.35])
def test_the_bound_lies_above_the_entropy_and_comes_nearer_as_one_over_steps(std):
    """Of Gaussian pixels, whose entropy is that of the density less log2 of their width."""
    x = std * Seeded(range(64)).start((512,)).double()
    x = (x.clamp(-1, 1) / PIXEL).round() * PIXEL
    entropy = (math.log2(2 * math.pi * math.e * std**2) / 2) - math.log2(PIXEL)
    # what this sample costs on average beyond the entropy is known too
    cost = entropy + ((x / std).square().mean().item() - 1) / (2 * math.log(2))
    gaps = []
    for steps in (25, 50, 100):
        plan = LINEAR_FINE[steps]
        found = variational_bound(gaussian(0.0, std), x, plan, Seeded(range(64)))
        gaps.append(found.bits.mean().item() - cost)
    assert gaps[0] > gaps[1] > gaps[2] > -0.002
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)


LINEAR_FINE = {
    steps: (*fine_plan(schedules.linear(1000, 1e-6, 0.02), steps), LINEAR.level(0))
    for steps in (25, 50, 100)
}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plan": ddim.plan(LINEAR, 10)}, r"use fine_plan\(schedule, 200\)"),
        ({"plan": fine_plan(LINEAR, 10)[::-1]}, "the plan rises"),
        ({"plan": fine_plan(LINEAR, 10)[:2]}, "give at least 3"),
        ({"probes": 1, "noise": Seeded([0])}, "probes=1; give 0"),
        ({"probes": 8}, "noise=ddim.Seeded"),
        ({"x": torch.zeros(1, 2, dtype=torch.uint8)}, "floating-point"),
        ({"x": torch.full((1, 2), math.inf)}, "an infinity"),
    ],
)
def test_what_has_no_likelihood_is_refused(options, words):
    usual = {"x": torch.zeros(1, 2), "plan": fine_plan(LINEAR, 10)}
    with pytest.raises(ValueError, match=words):
        bits_per_dim(gaussian(), **{**usual, **options})


def test_the_bound_and_the_fine_plan_say_what_they_need():
    with pytest.raises(ValueError, match="falls to 0"):
        variational_bound(gaussian(), torch.zeros(1, 2), fine_plan(LINEAR, 10), Seeded([0]))
    with pytest.raises(ValueError, match="steps=1"):
        fine_plan(LINEAR, 1)
