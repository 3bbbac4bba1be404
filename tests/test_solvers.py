"""What every solver promises: its order, and what it does with edits, ends and noise."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

import ddim
from ddim import DDIM, DDPM, IPNDM, DPMpp, Level, Prediction, UniPC, calls, sample
from ddim.exact import THREE, Mixture, order, uneven
from ddim.plans import SPACINGS
from ddim.schedules import SCHEDULES
from ddim.solvers import SOLVERS, analytic_sigmas
from ddim.solvers.base import weights, windows
from ddim.solvers.ddim import sigma
from exact import gaussian

LINEAR = ddim.schedules.linear()
ONE = Mixture([0.7], 0.5)

ORDER = {
    "ddim": 1,
    "heun": 2,
    "dpmpp2s": 2,
    "dpmpp:order=1": 1,
    "dpmpp:order=2": 2,
    "dpmpp:order=3": 3,
    "dpmpp:order=3,compat=True": 2,  # as published, without the factor 2
    "unipc:order=1": 2,
    "unipc:order=1,variant=bh1": 2,
    "unipc:order=2": 3,
    "unipc:order=2,variant=bh1": 3,
    "unipc:order=3": 4,
    "deis:order=1": 1,
    "deis:order=2": 2,
    "deis:order=3": 3,
    "deis:order=4": 4,
    "ipndm:order=1": 1,
    "ipndm:order=2": 1,  # on even steps 2
    "ipndm:order=3": 1,
}
DRAWING = {"ddpm", "resample"}  # these draw: there is no trajectory to converge to
X0_FORM = ["dpmpp:order=1", "dpmpp", "dpmpp:order=3", "dpmpp2s", "unipc", "unipc:order=3"]
EPS_FORM = ["ddim", "heun", "ipndm", "ipndm:order=2", "deis", "deis:order=4"]
SPECS = [*EPS_FORM, *X0_FORM]
EVERY_SCHEDULE = [
    *(make() for make in SCHEDULES.values()),
    ddim.schedules.zero_terminal(LINEAR),
    ddim.schedules.zero_terminal(ddim.schedules.cosine()),
]


@pytest.mark.parametrize("data", [ONE, THREE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("spec", "claimed"), ORDER.items())
def test_converges_to_the_exact_flow_at_its_order(spec, claimed, data):
    within = 0.1 if claimed <= 2 else 0.2
    assert order(ddim.build(spec), data=data) == pytest.approx(claimed, abs=within)


@pytest.mark.parametrize("data", [ONE, THREE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("p", [2, 3, 4])
def test_ipndm_is_of_order_2_on_even_steps_and_loses_it_on_uneven_ones(p, data):
    assert order(IPNDM(p), ramp=False, pattern=(1,), data=data) == pytest.approx(2, abs=0.1)
    # the first-order term of four values is small here, and shows fully on finer steps
    assert order(IPNDM(p), steps=(768, 3072), data=data) == pytest.approx(1, abs=0.1)


def test_every_solver_has_an_order_and_contracts_or_always_draws():
    for specs in (ORDER, SPECS):
        assert {spec.partition(":")[0] for spec in specs} | DRAWING == set(SOLVERS)
    noise = ddim.Seeded([0])
    for name in DRAWING:
        ends = [
            sample(gaussian(), torch.ones(1, 2), ddim.plan(LINEAR, 3), SOLVERS[name](), draw)
            for draw in (noise, lambda like, k: 0 * like)
        ]
        assert not torch.equal(*ends)


def test_the_first_order_of_every_family_is_ddim():
    x, plan = torch.linspace(-1, 1, 5).double(), ddim.plan(LINEAR, 7)
    expected = sample(THREE, x, plan)
    for spec in ("dpmpp:order=1", "deis:order=1", "ipndm:order=1", "dpmpp:order=1,eta=0"):
        torch.testing.assert_close(
            sample(THREE, x, plan, ddim.build(spec)), expected, rtol=0, atol=1e-13
        )


def test_the_sde_of_first_order_at_eta_1_is_ddpm():
    noise, plan = ddim.Seeded(range(3)), ddim.plan(LINEAR, 7)
    x = noise.start((4,)).double()
    torch.testing.assert_close(
        sample(gaussian(0.1), x, plan, DPMpp(order=1, eta=1), noise),
        sample(gaussian(0.1), x, plan, DDPM(), noise),
        rtol=0,
        atol=1e-13,
    )


# Integrals


@pytest.mark.parametrize("rate", [1.0, -1.0, 2.0, 1.3])
@pytest.mark.parametrize("h", [12.0, 3.0, 0.7, 1e-3, -0.5])
def test_weights_integrate_every_polynomial_that_the_nodes_determine(h, rate):
    at = [0.2 - share * h for share in (0, 0.3, 1.1, 1.5)]
    nodes, s = [by_hand(lam) for lam in at], by_hand(at[0] + h)
    found = weights(nodes, nodes[0], s, rate)
    for degree in range(4):
        exact, _ = quad(
            lambda v, k: (1 - v) ** k * rate * h * math.exp(-rate * h * v), 0, 1, args=(degree,)
        )
        ours = sum(w * ((lam - at[0]) / h) ** degree for w, lam in zip(found, at, strict=True))
        assert ours == pytest.approx(exact, rel=1e-11)


def by_hand(log_snr):
    signal = 1 / math.hypot(1, math.exp(-log_snr))
    return Level(math.nan, signal, signal * math.exp(-log_snr))


def test_windows_are_what_has_been_seen_newest_first():
    zero = ddim.schedules.zero_terminal(LINEAR)
    plan = ddim.plan(zero, (1000, 800, 600, 400, 200, 0))
    seen = [[level.t for level in nodes] for nodes, _ in windows(plan, 3)]
    assert seen == [[1000], [800], [600, 800], [400, 600, 800], [200]]
    low = ddim.plan(LINEAR, (20, 9, 5, 3, 2, 1))  # down to a noise of 0.01
    assert [len(nodes) for nodes, _ in windows(low, 3)] == [1, 2, 3, 3, 3]
    upwards = [[level.t for level in nodes] for nodes, _ in windows(plan[::-1], 3)]
    assert upwards == [[0], [200], [400, 200], [600, 400, 200], [800]]


def test_an_interval_far_longer_than_the_one_before_is_ddims():
    ratios = (5.0, 4.0, 3.0, 0.35, 0.2, 0.1)  # log-ratio falls by 0.22, 0.29, 2.15, 0.56, 0.69
    plan = [by_hand(-math.log(ratio)) for ratio in ratios]
    assert [len(nodes) for nodes, _ in windows(tuple(plan), 3)] == [1, 2, 3, 3, 3]
    assert [len(nodes) for nodes, _ in windows((*plan[:3], *plan[4:]), 3)] == [1, 2, 1, 3]
    x = torch.linspace(-1, 1, 4).double()
    for spec in SPECS:  # a step of order 1 between others keeps each method's history straight
        assert sample(THREE, x, (*plan[:3], *plan[4:]), ddim.build(spec)).isfinite().all()


# Edits


@pytest.mark.parametrize(
    ("spec", "form"),
    [*((spec, "eps") for spec in EPS_FORM), *((spec, "x0") for spec in ["ddim", *X0_FORM])],
)
def test_an_edit_at_any_call_moves_the_end_by_what_the_flow_makes_of_it(spec, form):
    """The answers follow a script, in eps or in x0, whatever the state: then the flow carries an
    edit by the ratio of the signals, or of the noises."""
    solver, plan = ddim.build(spec), ddim.plan(LINEAR, (990, 800, 640, 410, 200, 60))
    x, script = torch.zeros(2, dtype=torch.float64), torch.randn(30, 2).double()
    edit = torch.tensor([0.3, -1.0], dtype=torch.float64)
    levels = []

    def run(edited):
        asked = []

        def answer(x, level):
            said = script[len(asked)]
            x = x + edit if len(asked) == edited else x
            asked.append(level)
            if form == "eps":
                return Prediction(x, (x - level.noise * said) / level.signal, said)
            return Prediction(x, said, (x - level.signal * said) / level.noise)

        end = sample(answer, x, plan, solver)
        levels[:] = asked
        return end

    plain = run(None)
    assert len(levels) == calls(solver, plan)
    for k, level in enumerate(levels):
        factor = plan[-1].signal / level.signal if form == "eps" else plan[-1].noise / level.noise
        torch.testing.assert_close(run(k), plain + factor * edit, rtol=0, atol=1e-10)


# Ends


@pytest.mark.parametrize("spec", SPECS)
def test_the_step_into_clean_data_is_the_last_x0(spec):
    seen = []

    def watch(x, level):
        seen.append(THREE(x, level))
        return seen[-1]

    x = torch.linspace(-1, 1, 4).double()
    end = sample(watch, x, ddim.plan(LINEAR, 6), ddim.build(spec))
    torch.testing.assert_close(end, seen[-1].x0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("spec", SPECS)
def test_a_start_without_signal_is_a_step_of_ddim_and_a_fresh_start(spec):
    plan = ddim.plan(ddim.schedules.zero_terminal(LINEAR), 6)
    x, solver = torch.linspace(-1, 1, 4).double(), ddim.build(spec)
    rest = sample(THREE, sample(THREE, x, plan[:2]), plan[1:], solver)
    torch.testing.assert_close(sample(THREE, x, plan, solver), rest, rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE)
@pytest.mark.parametrize("spec", ["heun", "dpmpp2s", "ipndm", "dpmpp:order=2", "deis:order=2"])
def test_a_few_long_steps_on_any_schedule_and_spacing_are_not_far_worse_than_ddims(spec, schedule):
    """The cosine schedule begins at noise/signal 20,000, and there are gaps wherever one looks."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for spacing in SPACINGS:
        for steps in (3, 5, 10):
            plan = ddim.plan(schedule, steps, spacing)
            exact = THREE.flow(x, next(level for level in plan if level.signal), plan[-1])
            errors = [
                (sample(THREE, x, plan, ddim.build(each)) - exact).abs().max().item()
                for each in (spec, "ddim")
            ]
            assert errors[0] < 2 * errors[1] + 0.3, (spacing, steps)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "heun"])
def test_a_start_from_clean_data_is_a_step_of_ddim_and_a_fresh_start(spec):
    plan = ddim.plan(LINEAR, 6)[::-1]
    x, solver = torch.linspace(-1, 1, 4).double(), ddim.build(spec)
    rest = sample(THREE, sample(THREE, x, plan[:2]), plan[1:], solver)
    torch.testing.assert_close(sample(THREE, x, plan, solver), rest, rtol=0, atol=1e-14)


@pytest.mark.parametrize("spec", SPECS)
def test_encoding_follows_the_flow_upwards(spec):
    """And comes closer than DDIM does, for every solver of a higher order."""
    x = torch.linspace(-1.5, 1.5, 7).double()
    plan = ddim.plan(LINEAR, (900, 800, 700, 600, 500, 400, 320, 250, 190, 140, 100, 70, 50))
    exact = ONE.flow(x, plan[-1], plan[0])
    error, ddims = (
        (ddim.encode(ONE, x, plan, ddim.build(each)) - exact).abs().max().item()
        for each in (spec, "ddim")
    )
    first = ORDER.get(spec) == 1 and spec != "ipndm:order=2"
    assert error == pytest.approx(ddims, rel=1e-9) if first else error < ddims / 2


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE[:5])
@pytest.mark.parametrize("spec", SPECS)
def test_encoding_on_trailing_steps_keeps_to_the_flow_on_any_schedule(spec, schedule):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for steps in (10, 50):
        plan = ddim.plan(schedule, steps)[:-1]
        exact = THREE.flow(x, plan[-1], plan[0])
        errors = [
            (ddim.encode(THREE, x, plan, ddim.build(each)) - exact).abs().max().item()
            for each in (spec, "ddim")
        ]
        assert errors[0] <= 1.2 * errors[1] + 0.02


def test_unipc_corrects_on_the_way_up_too():
    x, plan = torch.linspace(-1.5, 1.5, 7).double(), uneven(40)
    exact = THREE.flow(x, plan[-1], plan[0])
    with_it, without = (
        (ddim.encode(THREE, x, plan, solver) - exact).abs().max() for solver in (UniPC(2), DPMpp(2))
    )
    assert with_it < without / 4


# Noise

ETAS = [
    "ddpm",
    "ddim:eta=0.4",
    "dpmpp:order=1,eta=0.5",
    "dpmpp:order=2,eta=1",
    "dpmpp:order=2,eta=0.3",
    "dpmpp:order=3,eta=1",
    "dpmpp:order=3,eta=0.7,compat=True",
]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("spec", ETAS)
def test_noise_keeps_the_marginals_where_the_denoiser_is_constant(spec, zero):
    """Data of one point c. The run is linear in x_T and the draws, so with these as the unit
    vectors the square of a state is its variance."""
    schedule = ddim.schedules.zero_terminal(LINEAR) if zero else LINEAR
    plan, seen = ddim.plan(schedule, 8), []
    for c, scale in ((0.0, 1.0), (0.7, 0.0)):

        def point(x, level, c=c):
            seen.append((c, level, x))
            x0 = torch.full_like(x, c)
            return Prediction(x, x0, (x - level.signal * c) / level.noise)

        def unit(like, k, scale=scale):
            return scale * torch.eye(9, dtype=torch.float64)[k + 1]

        start = plan[0].signal * c + scale * plan[0].noise * torch.eye(9, dtype=torch.float64)[0]
        end = sample(point, start, plan, ddim.build(spec), unit)
        assert end.tolist() == pytest.approx([c] * 9, abs=1e-12)
    for c, level, x in seen:
        if c:
            assert x.tolist() == pytest.approx([level.signal * c] * 9, abs=1e-10)
        else:
            assert x.square().sum().item() == pytest.approx(level.noise**2, abs=1e-10)
    assert max(x.count_nonzero().item() for _, _, x in seen) > 4  # it did draw


LAW = {
    "ddpm": 1,
    "dpmpp:order=1,eta=0.3": 1,
    "dpmpp:order=2,eta=0.3": 2,
    "dpmpp:order=2,eta=1": 2,
    "dpmpp:order=2,eta=2": 2,
    "dpmpp:order=3,eta=0.3": 2,
    "dpmpp:order=3,eta=1": 2,
    "dpmpp:order=3,eta=2,compat=True": 2,
}


def variance(spec, steps, ramp=True):
    """The variance of the end, by unit vectors, relative to that of the data at the last level."""
    plan = uneven(steps, ramp)
    unit = torch.eye(steps + 1, dtype=torch.float64)
    start = unit[0] * math.hypot(0.5 * plan[0].signal, plan[0].noise)
    end = sample(gaussian(), start, plan, ddim.build(spec), lambda like, k: unit[k + 1])
    return end.square().sum().item() / ((0.5 * plan[-1].signal) ** 2 + plan[-1].noise ** 2)


@pytest.mark.parametrize(("spec", "claimed"), LAW.items())
def test_the_law_of_the_sde_converges_on_gaussian_data(spec, claimed):
    """At order 1 or 2, for every eta: the third order leaves an error of the noise itself."""
    few, many = (abs(variance(spec, steps) - 1) for steps in (100, 400))
    assert math.log(few / many, 4) == pytest.approx(claimed, abs=0.25)
    assert many < (0.03 if claimed == 1 else 0.003)


def test_with_noise_the_second_order_is_the_best():
    errors = [abs(variance(f"dpmpp:order={p},eta=1", 50) - 1) for p in (1, 2, 3)]
    assert min(errors) == errors[1]


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 2.0])
def test_a_parabola_is_integrated_exactly_and_by_compat_with_half_its_curvature(eta):
    """In the SDE too, where x0 is a function of λ alone."""
    plan = tuple(by_hand(lam) for lam in (-1.0, -0.6, -0.1, 0.5))
    h, rate = 0.6, 1 + eta

    def step(solver, curve):
        def answer(x, level):
            lam = -math.log(level.ratio)
            x0 = torch.full_like(x, curve(lam))
            return Prediction(x, x0, (x - level.signal * x0) / level.noise)

        return sample(answer, torch.zeros(1).double(), plan, solver, lambda like, k: 0 * like)

    def alone(curve):
        """What the last step adds to a start there, integrated by scipy."""
        kernel, _ = quad(lambda v: curve(0.5 - h * v) * rate * h * math.exp(-rate * h * v), 0, 1)
        return plan[-1].signal * kernel

    for curve, bend in ((lambda lam: 2 * lam - 1, 0), (lambda lam: lam**2, 1)):
        mended, published = (
            step(DPMpp(3, eta=eta, compat=compat), curve).item() for compat in (False, True)
        )
        before = sample_state(plan, DPMpp(3, eta=eta), curve)
        carried = plan[-1].noise / plan[2].noise * math.exp(-eta * h) * before
        assert mended == pytest.approx(carried + alone(curve), abs=1e-12)
        half = bend / 2 * alone(lambda lam: (lam + 0.1) ** 2)  # the parabola less its tangent at t
        assert published == pytest.approx(mended - half, abs=1e-12)


def sample_state(plan, solver, curve):
    """The state that the last interval begins from."""
    states = []

    def answer(x, level):
        states.append(x.item())
        x0 = torch.full_like(x, curve(-math.log(level.ratio)))
        return Prediction(x, x0, (x - level.signal * x0) / level.noise)

    sample(answer, torch.zeros(1).double(), plan, solver, lambda like, k: 0 * like)
    return states[-1]


@pytest.mark.parametrize("spec", ["dpmpp:order=2,eta=0.3", "dpmpp:order=3,eta=1"])
def test_an_edit_in_the_sde_shrinks_with_the_noise_it_replaces(spec):
    plan, solver = ddim.plan(LINEAR, 6)[:-1], ddim.build(spec)

    def run(edit):
        def answer(x, level):
            x = x + edit if level == plan[2] else x
            return Prediction(x, 0 * x, x / level.noise)

        return sample(answer, torch.ones(1).double(), plan, solver, lambda like, k: 1 + 0 * like)

    t, s = plan[2], plan[-1]
    factor = s.noise / t.noise * (s.ratio / t.ratio) ** solver.eta
    assert (run(0.5) - run(0.0)).item() == pytest.approx(0.5 * factor, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_analytic_sigmas_sample_gaussian_data_exactly_in_any_number_of_steps(eta, steps):
    """For Gaussian data each reverse step is Gaussian, so the best variance is the true one."""
    plan = ddim.plan(LINEAR, steps + 1)[:-1]
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    x0 = 0.5 * torch.cat([corners[0], -corners[0]])[:, None]
    z = torch.cat([corners[1], corners[1]])[:, None]  # with x0, all second moments are exact
    added = analytic_sigmas(gaussian(), x0, plan, lambda like, k: z, eta)
    assert len(added) == steps
    unit = torch.eye(steps + 1, dtype=torch.float64)
    start = unit[0] * math.hypot(0.5 * plan[0].signal, plan[0].noise)
    end = sample(gaussian(), start, plan, DDIM(eta, added=added), lambda like, k: unit[k + 1])
    s = plan[-1]
    assert end.square().sum().item() == pytest.approx((0.5 * s.signal) ** 2 + s.noise**2, abs=1e-10)


def test_analytic_sigmas_are_those_of_the_paper_for_an_exact_denoiser():
    """Bao et al. 2022: σ² + c² r² (1 − E|eps|²/D), which needs no data; here by quadrature."""
    plan, generator = ddim.plan(LINEAR, 5), torch.Generator().manual_seed(0)
    x0 = THREE.draw(100_000, generator)
    noise = torch.empty_like(x0).normal_(generator=generator)
    ours = analytic_sigmas(THREE, x0, plan, lambda like, k: noise, 1.0)
    assert ours[-1] == 0
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for (t, s), std in zip(list(pairwise(plan))[:-1], ours[:-1], strict=True):
        spread = ((t.signal * THREE.std) ** 2 + t.noise**2).sqrt()
        parts = torch.distributions.Normal(t.signal * THREE.means, spread)
        density = parts.log_prob(x[:, None]).exp() @ THREE.weights
        size = (density * THREE(x, t).eps.square()).sum().item() * (x[1] - x[0]).item()
        c = s.signal - math.sqrt(s.noise**2 - sigma(t, s) ** 2) / t.ratio
        paper = math.sqrt(sigma(t, s) ** 2 + c**2 * t.ratio**2 * (1 - size))
        assert std == pytest.approx(paper, rel=0.005)
    assert ours[-2] > 1.1 * sigma(plan[-3], plan[-2])  # the estimate does matter


def test_analytic_sigmas_take_half_precision_their_own_draw_per_step_and_a_falling_plan():
    plan, drawn = ddim.plan(LINEAR, 4), []
    x0 = torch.randn(64, 2, dtype=torch.float64)

    def noise(like, k):
        drawn.append(k)
        return ddim.Seeded(range(64))(like, k)

    wide = analytic_sigmas(gaussian(), x0.bfloat16().double(), plan, noise)
    assert drawn == [0, 1, 2]
    assert analytic_sigmas(gaussian(), x0.bfloat16(), plan, noise) == pytest.approx(wide, rel=1e-5)
    with pytest.raises(ValueError, match="rising plan"):
        analytic_sigmas(gaussian(), x0, plan[::-1], noise)
    with pytest.raises(ValueError, match=r"uint8; give floating-point"):
        analytic_sigmas(gaussian(), torch.zeros(64, 2, dtype=torch.uint8), plan, noise)


def test_stds_given_are_added_to_every_image_whatever_its_eta():
    plan, x = ddim.plan(LINEAR, 3), torch.zeros(2, 1, dtype=torch.float64)
    solver = DDIM(eta=(0.0, 1.0), added=(0.0, 0.25, 0.0))

    def zero(x, level):
        return Prediction(x, 0 * x, x / level.noise)

    *_, (_, last) = ddim.trace(zero, x, plan, solver, lambda like, k: torch.ones_like(like))
    assert last.x.flatten().tolist() == pytest.approx([0.25, 0.25])


def test_analytic_sigmas_need_no_signal_and_no_gradient():
    plan = ddim.plan(ddim.schedules.zero_terminal(LINEAR), 3)
    x0 = torch.randn(64, 2, requires_grad=True)
    stds = analytic_sigmas(gaussian(0.0, 1.0), x0, plan, ddim.Seeded(range(64)))
    assert all(math.isfinite(std) for std in stds)
    with pytest.raises(ValueError, match="eta=2; choose 0"):
        analytic_sigmas(gaussian(), x0, plan, ddim.Seeded(range(64)), eta=2)


# Options


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("deis:order=0", "order=0; choose a whole number from 1 to 4"),
        ("ipndm:order=5", "from 1 to 4"),
        ("dpmpp:order=4", "from 1 to 3"),
        ("unipc:order=2.5", "order=2.5; choose a whole"),
        ("deis:order=2.0", "order=2.0; choose a whole"),
        ("unipc:order=True", "order=True; choose a whole"),
        ("unipc:order=three", "order='three'; choose a whole"),
        ("unipc:variant=bh3", "'bh1' or 'bh2'"),
        ("dpmpp:eta=-1", "eta=-1; choose a number from 0"),
        ("dpmpp:eta=much", "eta=much; choose a number"),
        ("dpmpp:eta=11", "eta=11; choose a number from 0"),
        ("dpmpp:compat=True", "order=2; it is True or False"),
        ("dpmpp:order=3,compat=yes", "compat=yes"),
        ("ddim:added=0.1/-0.1", "a tuple of numbers from 0"),
        ("ddim:added=0.1/x", "a tuple of numbers from 0"),
        ("ddim:sigmas=0.1/0,added=0.1/0", "give one of them"),
        ("heun:order=2", "no options at all"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_construction(spec, words):
    with pytest.raises(ValueError, match=words):
        ddim.build(spec)


@pytest.mark.parametrize(
    ("solver", "times", "words"),
    [
        (DPMpp(eta=1), (0, 500, 1000), "rising plan"),
        (DPMpp(eta=0.5), (1, 500, 1000), "rising plan"),
        (DDIM(added=(0.1,)), (1000, 500, 0), "added has 1 values for 2 steps"),
        (DDIM(added=(0.1, 0.1)), (1000, 500, 0), r"added\[1\]=0.1 but .* give 0"),
        (DDIM(added=(0.1, 0.0)), (0, 500, 1000), "rising plan"),
        (DDIM(sigmas=(0.1, 0.0)), (0, 500, 1000), "rising plan"),
        (DDIM, (1000, 0), "give an object such as"),
        ("unipc", (1000, 0), "'unipc' is no solver"),
    ],
)
def test_what_does_not_suit_the_plan_is_refused_before_the_network_is_asked(solver, times, words):
    def refuse(x, level):
        raise AssertionError("the network was asked")

    with pytest.raises(ValueError, match=words):
        sample(refuse, torch.zeros(1, 3), ddim.plan(LINEAR, times), solver, ddim.Seeded([1]))


def test_the_middle_level_of_dpmpp2s_preserves_the_variance():
    plan = ddim.plan(LINEAR, (900, 300, 0))
    _, (middle, _), _ = ddim.trace(THREE, torch.zeros(2).double(), plan, ddim.DPMpp2S())
    assert math.isnan(middle.t)
    assert middle.ratio**2 == pytest.approx(plan[0].ratio * plan[1].ratio, rel=1e-12)
    assert middle.signal**2 + middle.noise**2 == pytest.approx(1, abs=1e-14)


def test_a_model_places_the_middle_level_of_dpmpp2s_by_its_ratio():
    from tiny import tiny_model

    model, seen = tiny_model(), []
    net = model.net.forward
    model.net.forward = lambda x, t: (seen.append(t[0].item()), net(x, t))[1]
    noise = ddim.Seeded([0])
    with torch.no_grad():
        end = sample(
            model.denoiser(), noise.start(model.shape), model.plan((900, 300, 0)), ddim.DPMpp2S()
        )
    t, s = (model.schedule.level(time) for time in (900, 300))
    middle = model.schedule.time(math.sqrt(t.ratio * s.ratio)) - 1
    assert seen == [899, pytest.approx(middle, abs=1e-4), 299]
    assert end.isfinite().all()


def test_the_corrector_costs_no_call_and_helps():
    x, plan = torch.linspace(-1, 1, 5).double(), ddim.plan(LINEAR, 12, "log_snr")[:-1]
    exact = THREE.flow(x, plan[0], plan[-1])
    with_it, without = (
        (sample(THREE, x, plan, solver) - exact).abs().max() for solver in (UniPC(3), DPMpp(3))
    )
    assert calls(UniPC(3), plan) == calls(DPMpp(3), plan)
    assert with_it < without
