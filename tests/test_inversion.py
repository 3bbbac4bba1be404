"""Images to latents and back: to the last bit by two-step solvers, by DDIM with a certificate."""

import math

import pytest
import torch

import ddim
from ddim import DDIM, Pair, Prediction, belm, between, decode, encode, reconstruct
from ddim.exact import THREE, Mixture, uneven
from ddim.fixed_point import invert
from ddim.schedules import SCHEDULES
from exact import gaussian
from tiny import tiny_model

LINEAR = ddim.schedules.linear()
PLANS = [
    ddim.plan(schedule, steps, spacing)
    for schedule in (
        LINEAR,
        ddim.schedules.cosine(),
        ddim.schedules.rectified_flow(),
        ddim.schedules.zero_terminal(LINEAR),
    )
    for steps, spacing in ((10, "leading"), (10, "trailing"), (50, "log_snr"))
]


@pytest.fixture(scope="module")
def digits():
    return ddim.data.to_float(ddim.digits().pixels[:16])


@pytest.fixture(scope="module")
def network():
    return tiny_model("v").denoiser()


# The lattice


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("target", ["eps", "v"])
def test_the_lattice_gives_every_bit_of_the_digits_back(digits, steps, target):
    model = tiny_model(target)
    back = reconstruct(model.denoiser(), digits, model.plan(steps), exact="lattice")
    assert torch.equal(back.view(torch.int32), digits.view(torch.int32))
    plain = reconstruct(model.denoiser(), digits, model.plan(steps))
    assert (plain - digits).abs().max() > 0.1


@pytest.mark.parametrize("plan", PLANS)
def test_the_lattice_is_exact_for_any_deterministic_answer_on_any_plan(digits, plan):
    def rough(x, level):
        x0 = torch.sign(torch.sin(1000 * x))
        return Prediction(x, x0, torch.cos(300 * x))

    pair = encode(rough, digits, plan, exact="lattice")
    assert pair.lattice
    assert pair.x.dtype == pair.previous.dtype == torch.int64
    assert torch.equal(decode(rough, pair, plan), digits)


def test_every_eight_bit_image_lies_on_the_lattice():
    x = ddim.data.to_float(torch.arange(256, dtype=torch.uint8))
    assert torch.equal((x.double() / belm.UNIT).round() * belm.UNIT, x.double())


def test_what_is_not_on_the_lattice_comes_back_as_its_nearest_point():
    x = torch.linspace(-1.3, 1.1, 14, dtype=torch.float64)
    back = reconstruct(THREE, x, ddim.plan(LINEAR, 10), exact="lattice")
    assert back.dtype == torch.float32
    assert 0 < (back - x).abs().max() < 3e-7


def test_a_state_that_leaves_the_lattice_is_an_error():
    def broken(x, level):
        return Prediction(x, x * math.nan, x)

    with pytest.raises(FloatingPointError, match="left the lattice"):
        encode(broken, torch.zeros(2, 3), ddim.plan(LINEAR, 5), exact="lattice")


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_network_is_asked_in_float32_whatever_the_default(digits, default):
    seen = set()

    def watch(x, level):
        seen.add(x.dtype)
        return gaussian()(x, level)

    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        pair = encode(watch, digits, ddim.plan(LINEAR, 5), exact="lattice")
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(decode(watch, pair, ddim.plan(LINEAR, 5)), digits)
    assert seen == {torch.float32}


@pytest.mark.parametrize("name", ["linear", "cosine", "rectified_flow"])
def test_the_latents_of_the_lattice_converge(name):
    """To those of the flow, from clean data; as O-BELM's do not."""
    x = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)
    errors = {}
    for steps in (50, 200):
        plan = ddim.plan(SCHEDULES[name](), steps)
        true = THREE.flow(x, plan[-1], plan[0])
        pairs = {exact: encode(THREE, x, plan, exact=exact) for exact in ("lattice", "belm")}
        states = (pairs["lattice"].x * belm.UNIT, pairs["belm"].x)
        errors[steps] = [(state - true).abs().max().item() for state in states]
    (coarse, _), (fine, of_belm) = errors.values()
    assert fine < coarse / 5
    assert fine < of_belm / 4


# O-BELM


@pytest.mark.parametrize("steps", [10, 50, 200])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "log_snr"])
def test_belm_in_float32_gives_digits_back(digits, steps, spacing):
    model = tiny_model("v")
    plan = model.plan(steps, spacing)
    pair = encode(model.denoiser(), digits, plan, exact="belm")
    back = decode(model.denoiser(), pair, plan)
    assert back.dtype == torch.float32
    assert ((back - digits) / 2).square().mean() <= 1e-9


@pytest.mark.parametrize("plan", PLANS)
def test_belm_undoes_itself_on_any_plan(plan):
    x = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)
    back = reconstruct(THREE, x, plan, exact="belm") if not plan[-1].noise else None
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", [belm.coefficients, belm.leapfrog])
def test_the_coefficients_carry_constant_x0_and_eps_exactly(rule):
    for plan in PLANS:
        for above, t, below in belm.triples(plan):
            a, b, c = rule(above, t, below)
            x0, eps = 0.7, -1.3
            states = [level.signal * x0 + level.noise * eps for level in (above, t, below)]
            assert a * states[0] + b * states[1] + c * eps == pytest.approx(states[2], abs=1e-9)


def test_the_coefficients_are_those_of_the_paper():
    """BELM, Eq. 18, with h_i = r_i − r_(i−1)."""
    above, t, below = (LINEAR.level(k) for k in (500, 400, 320))
    h, h_above = t.ratio - below.ratio, above.ratio - t.ratio
    a, b, c = belm.coefficients(above, t, below)
    assert a == pytest.approx(h**2 / h_above**2 * below.signal / above.signal)
    assert b == pytest.approx((h_above**2 - h**2) / h_above**2 * below.signal / t.signal)
    assert c == pytest.approx(-h * (h + h_above) / h_above * below.signal)


def test_a_far_interval_is_the_leapfrogs():
    plan = ddim.plan(ddim.schedules.cosine(), 50)
    assert belm.coefficients(*plan[:3]) == belm.leapfrog(*plan[:3])
    assert belm.coefficients(*plan[20:23]) != belm.leapfrog(*plan[20:23])


@pytest.mark.parametrize("upwards", [True, False])
def test_belm_is_of_second_order(upwards):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def error(steps):
        plan = uneven(steps, ramp=False)
        if upwards:
            return (
                (encode(THREE, x, plan, exact="belm").x - THREE.flow(x, plan[-1], plan[0]))
                .abs()
                .max()
            )
        end = ddim.sample_reversibly(THREE, x, plan)
        return (end - THREE.flow(x, plan[0], plan[-1])).abs().max()

    assert math.log(error(96) / error(384), 4) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("exact", ["lattice", "belm"])
def test_the_first_state_encoded_is_the_latent_of_the_flow(exact):
    """Nearer to it than DDIM's on the same steps."""
    x, plan = torch.linspace(-1, 1, 7, dtype=torch.float64), ddim.plan(LINEAR, 100)[:-1]
    true = THREE.flow(x, plan[-1], plan[0])
    pair = encode(THREE, x, plan, exact=exact)
    found = pair.x * belm.UNIT if pair.lattice else pair.x
    assert (found - true).abs().max() < (encode(THREE, x, plan) - true).abs().max() / 2


def test_a_single_step_would_only_be_remembered(digits, network):
    for exact in ("belm", "lattice"):
        with pytest.raises(ValueError, match="2 levels; give at least 3"):
            reconstruct(network, digits, ddim.plan(LINEAR, 1), exact=exact)


def test_encoding_costs_one_call_a_step_and_decoding_one_less(digits, network):
    seen = []

    def watch(x, level):
        seen.append(level.t)
        return network(x, level)

    plan = ddim.plan(LINEAR, 5)
    pair = encode(watch, digits, plan, exact="belm")
    assert seen == [0, 200, 400, 600, 800]
    seen.clear()
    decode(watch, pair, plan)
    assert seen == [800, 600, 400, 200]


# DDIM's own inverse


def test_a_solved_latent_samples_back_to_the_image(digits):
    model = tiny_model("v")
    plan = (*model.plan(10)[:-1], model.schedule.level(1))
    latent = encode(model.denoiser(), digits, plan, exact="fixed_point")
    back = ddim.sample(model.denoiser(), latent, plan)
    naive = decode(model.denoiser(), encode(model.denoiser(), digits, plan), plan)
    assert (back - digits).abs().max() < 1e-4
    assert (naive - digits).abs().max() > 0.01


def test_where_the_plain_iteration_diverges_the_latent_is_found():
    """Two narrow bumps in ten steps: the derivative of the plain iteration exceeds 1."""
    two, x = Mixture([-1.0, 1.0], 0.2), torch.linspace(-1.2, 1.2, 13, dtype=torch.float64)
    plan = ddim.plan(LINEAR, (1000, 700, 400, 150, 1))
    found = invert(two, x, plan, tolerance=1e-9)
    assert found.converged.all()
    assert found.residual.shape == (4, 13)
    torch.testing.assert_close(ddim.sample(two, found.latent, plan), x, rtol=0, atol=1e-8)


def test_a_step_far_too_long_is_halved_until_it_is_not():
    """F is far steeper than the first step supposes, which lands dozens of times as far off."""

    def steep(x, level):
        return Prediction(x, 40 * x, (x - 40 * level.signal * x) / level.noise)

    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    found = invert(steep, x, ddim.plan(LINEAR, (500, 1)), iterations=12)
    assert found.converged.all()
    assert (found.returned <= 1e-5).all()


def test_the_residual_is_how_far_the_step_down_ends_from_the_state_before():
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    plan = ddim.plan(LINEAR, (500, 1))
    found = invert(gaussian(), x, plan, tolerance=1e-3, iterations=2)
    reached = ddim.sample(gaussian(), found.latent, plan)
    torch.testing.assert_close((reached - x).abs(), found.residual[0])


def test_an_image_is_solved_alike_in_any_batch():
    two, x = Mixture([-1.0, 1.0], 0.2), torch.linspace(-1.2, 1.2, 13, dtype=torch.float64)
    plan = ddim.plan(LINEAR, (1000, 400, 1))
    together, alone = invert(two, x, plan), invert(two, x[3:4], plan)
    torch.testing.assert_close(together.latent[3:4], alone.latent, rtol=0, atol=1e-12)


def planted(x, level):
    """x̂_0 is a point whatever x, so no state leads to another image."""
    x0 = torch.full_like(x, 0.25)
    return Prediction(x, x0, (x - level.signal * x0) / level.noise if level.noise else 0 * x)


def test_what_has_no_inverse_is_reported_and_not_returned():
    x = torch.tensor([[0.25, 0.25], [0.9, -0.9]])
    plan = ddim.plan(LINEAR, (1000, 500, 0))
    found = invert(planted, x, plan)
    assert found.converged.tolist() == [True, False]
    assert found.residual[0, 1] == pytest.approx(1.15)
    assert (found.residual[1] <= 1e-5).all()
    with pytest.raises(FloatingPointError, match=r"1 of 2 images, first at step 1 of 2.*belm"):
        found.certified()
    with pytest.raises(FloatingPointError, match="fixed point was not found"):
        encode(planted, x, plan, exact="fixed_point")


def test_a_network_that_answers_nan_is_not_taken_for_converged():
    def broken(x, level):
        return Prediction(x, x * math.nan, x * math.nan)

    found = invert(broken, torch.zeros(2, 3), ddim.plan(LINEAR, (500, 100)))
    assert not found.converged.any()
    with pytest.raises(FloatingPointError, match="2 of 2"):
        found.certified()


def test_the_top_of_the_cosine_schedule_is_solved_in_float32(digits):
    model = tiny_model("v")
    model = ddim.Model(model.net, ddim.schedules.cosine(), "v", model.shape)
    plan = model.plan((1000, 800, 600, 400, 200, 100, 50, 20, 1))
    found = invert(model.denoiser(), digits[:4], plan)
    assert found.converged.all()
    back = ddim.sample(model.denoiser(), found.latent, plan)
    distance = (back - digits[:4]).abs().flatten(1).amax(1)
    torch.testing.assert_close(found.returned, distance)
    assert (distance < 1e-3).all()


def test_a_latent_of_half_precision_images_keeps_its_digits():
    x = torch.linspace(-1, 1, 5).half()
    found = invert(gaussian(), x, ddim.plan(LINEAR, (1000, 500, 100, 1)))
    assert found.latent.dtype == torch.float32
    assert (found.returned < 1e-4).all()


def test_one_broken_image_does_not_keep_the_search_going():
    def broken(x, level):
        p = gaussian()(x, level)
        lost = torch.where(x == x[0], math.nan, 0.0) if level.t == 500 else 0.0
        return Prediction(x, p.x0 + lost, p.eps)

    x, plan = torch.tensor([[0.5, 0.2], [0.1, -0.3]]), ddim.plan(LINEAR, (500, 1))
    alone = invert(gaussian(), x[1:], plan)
    found = invert(broken, x, plan)
    assert found.converged.tolist() == [False, True]
    assert found.calls == alone.calls


def test_a_start_without_signal_is_solved():
    plan = ddim.plan(ddim.schedules.zero_terminal(LINEAR), (1000, 700, 1))
    x = torch.linspace(-0.5, 0.5, 5, dtype=torch.float64)
    found = invert(gaussian(), x, plan)
    assert found.converged.all()
    assert (ddim.sample(gaussian(), found.latent, plan) - x).abs().max() < 1e-4


# Paths


def test_between_is_slerp_of_each_state_and_keeps_the_ends_of_the_lattice(digits, network):
    plan = ddim.plan(LINEAR, 10)
    pair = encode(network, digits[:2], plan, exact="lattice")
    a, b = (Pair(pair.x[k : k + 1], pair.previous[k : k + 1]) for k in (0, 1))
    start, end = between(a, b, 0.0), between(a, b, 1.0)
    assert torch.equal(start.x, a.x)
    assert torch.equal(end.previous, b.previous)
    half = between(a, b, 0.5)
    torch.testing.assert_close(
        half.x.double(), ddim.slerp(a.x.double(), b.x.double(), 0.5), rtol=0, atol=0.51
    )
    assert decode(network, half, plan).isfinite().all()
    with pytest.raises(ValueError, match="different methods"):
        between(a, a.x.float(), 0.5)
    with pytest.raises(ValueError, match="different methods"):
        between(a, Pair(a.x.float(), a.x.float()), 0.5)
    x = torch.randn(2, 4)
    assert torch.equal(between(x, x.flip(0), 0.3), ddim.slerp(x, x.flip(0), 0.3))


# What is refused

REFUSED = [
    ({"exact": "edict"}, "choose None or one of belm, lattice, fixed_point"),
    ({"solver": ddim.UniPC(), "exact": "belm"}, "leave the solver out"),
    ({"solver": DDIM(eta=1)}, "draws noise on a rising plan"),
    ({"solver": DDIM(eta=1), "exact": "lattice"}, "leave the solver out"),
    ({"plan": ddim.plan(LINEAR, 5)[:-1]}, r"ends at t=200.*let it end at 0"),
    ({"plan": ddim.plan(LINEAR, 5)[::-1]}, "ends at t=1000"),
    ({"plan": ddim.plan(LINEAR, (0,)), "exact": "fixed_point"}, "give at least 2"),
    ({"solver": ddim.Resample(0.0, 2)}, "rising plan"),
    ({"plan": ddim.plan(LINEAR, (0,)), "exact": "belm"}, "give at least 3"),
    ({"x": torch.zeros(1, 2, dtype=torch.int64), "exact": "belm"}, "floating-point"),
    ({"x": torch.zeros(1, 2, dtype=torch.uint8)}, "floating-point"),
    ({"x": torch.full((1, 2), math.nan)}, "x reaches nan"),
    ({"x": torch.full((1, 2), 255.0)}, r"x reaches 255; images lie in \[-1, 1\]"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_cannot_be_inverted_is_refused_in_a_sentence(given, words):
    usual = {"x": torch.zeros(1, 2), "plan": ddim.plan(LINEAR, 5)}
    with pytest.raises(ValueError, match=words):
        reconstruct(gaussian(), **{**usual, **given})


def test_a_pair_is_decoded_by_its_own_method():
    pair = Pair(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="leave the solver out"):
        decode(gaussian(), pair, ddim.plan(LINEAR, 5), ddim.UniPC())


def test_the_plan_of_every_method_falls():
    x, rising = torch.zeros(1, 2), ddim.plan(LINEAR, 5)[::-1]
    for call in (
        lambda: invert(gaussian(), x, rising),
        lambda: encode(gaussian(), x, rising, exact="lattice"),
        lambda: decode(gaussian(), Pair(x, x), rising),
    ):
        with pytest.raises(ValueError, match=r"rises from t=0 to 1000.*plan\[::-1\]"):
            call()
    with pytest.raises(ValueError, match="floating-point"):
        invert(gaussian(), x.byte(), rising[::-1])
    quiet = ddim.Resample(0.0, 1)
    assert torch.equal(
        encode(gaussian(), x, rising[::-1], quiet), encode(gaussian(), x, rising[::-1])
    )


@pytest.mark.parametrize("bad", [{"tolerance": 0}, {"iterations": 0}, {"memory": 0}])
def test_a_search_needs_numbers_above_0(bad):
    with pytest.raises(ValueError, match="choose numbers above 0"):
        invert(gaussian(), torch.zeros(1, 2), ddim.plan(LINEAR, 5), **bad)
