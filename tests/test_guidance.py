"""Guidance and measurements: each a denoiser made of denoisers."""

import math

import pytest
import torch

import ddim
from ddim import DDIM, Blur, Downsample, Mask, Prediction, Resample, Seeded, guide, project, sample
from ddim.exact import Mixture
from ddim.solvers import SOLVERS
from exact import gaussian
from tiny import tiny_model

LINEAR = ddim.schedules.linear()
T500 = LINEAR.level(500)
HALVES = Mixture([[-1.0, 0.3], [0.8, -0.5]], 0.3, [1.0, 3.0])
EACH = [Mixture(mean[None], 0.3) for mean in HALVES.means]


def both(x, level):
    """The first half of the batch is asked for one component, the second for the mixture."""
    a, b = x.chunk(2)
    parts = EACH[0](a, level), HALVES(b, level)
    return Prediction(
        *(torch.cat([getattr(p, name) for p in parts]) for name in ("x", "x0", "eps"))
    )


# Classifier-free guidance


def test_scale_1_is_the_asked_denoiser_bit_for_bit_and_calls_nothing_else():
    def untouched(x, level):
        raise AssertionError

    x, plan = Seeded(range(3)).start((2,)), ddim.plan(LINEAR, 7)
    guided = guide(EACH[0], untouched, 1.0, rescale=0.7)
    assert torch.equal(sample(guided, x, plan), sample(EACH[0], x, plan))


def test_the_answer_is_the_null_led_towards_the_asked_and_still_explains_x():
    x = torch.randn(5, 2).double()
    asked, null = EACH[0](x, T500), HALVES(x, T500)
    for scale in (0.0, 3.0, -1.0):
        p = guide(EACH[0], both, scale)(x, T500)
        torch.testing.assert_close(p.eps, null.eps + scale * (asked.eps - null.eps))
        torch.testing.assert_close(T500.signal * p.x0 + T500.noise * p.eps, x)
    x = torch.randn(5, 2)
    assert torch.equal(guide(EACH[0], both, 2.0)(x, LINEAR.level(0)).x0, x)


def test_guidance_keeps_to_its_interval():
    seen = []

    def watched(x, level):
        seen.append(level.t)
        return both(x, level)

    plan = ddim.plan(LINEAR, 10)
    interval = (plan[7].ratio, plan[3].ratio)
    sample(guide(EACH[0], watched, 2.0, interval), torch.zeros(1, 2), plan)
    assert seen == [700, 600, 500, 400, 300]


def test_rescale_brings_the_std_of_the_asked_back():
    x = 2 * torch.randn(4, 2).double()
    asked, plain = EACH[0](x, T500), guide(EACH[0], both, 4.0)(x, T500)
    p = guide(EACH[0], both, 4.0, rescale=1.0)(x, T500)
    torch.testing.assert_close(p.x0.std(1), asked.x0.std(1))
    torch.testing.assert_close(T500.signal * p.x0 + T500.noise * p.eps, x)
    half = guide(EACH[0], both, 4.0, rescale=0.5)(x, T500)
    torch.testing.assert_close(half.x0, (p.x0 + plain.x0) / 2)


@pytest.mark.parametrize(
    "bad",
    [{"scale": math.nan}, {"interval": (2.0, 1.0)}, {"interval": (-1, 1)}, {"rescale": 1.5}],
)
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match="choose a finite scale"):
        guide(EACH[0], both, **{"scale": 2.0, **bad})


def test_a_model_guides_from_its_null_label_or_a_negative_one():
    model, x = tiny_model("v", classes=4), Seeded(range(3)).start((1, 8, 8))
    asked, null = model.denoiser([0, 1, 2]), model.denoiser(3)
    expected = null(x, T500).eps + 2.5 * (asked(x, T500).eps - null(x, T500).eps)
    for chosen in (
        model.denoiser([0, 1, 2], guidance=2.5, negative=3),
        ddim.Model(model.net, model.schedule, "v", model.shape, notes={"null_label": 3}).denoiser(
            [0, 1, 2], guidance=2.5
        ),
    ):
        torch.testing.assert_close(chosen(x, T500).eps, expected, rtol=0, atol=1e-5)
    one = model.denoiser(1, guidance=2.0, negative=0, clip=0.5)
    assert one(x, T500).x0.abs().max() == 0.5
    plain = model.denoiser(1, guidance=1.0, negative=0)
    assert torch.equal(plain(x, T500).eps, model.denoiser(1)(x, T500).eps)


def test_a_model_says_what_guidance_needs():
    model = tiny_model("v", classes=4)
    with pytest.raises(ValueError, match="need a label"):
        model.denoiser(guidance=2.0)
    with pytest.raises(ValueError, match=r"no null label.*give negative="):
        model.denoiser(1, guidance=2.0)
    with pytest.raises(ValueError, match=r"label=7; choose 0\.\.3"):
        model.denoiser(1, guidance=2.0, negative=7)
    with pytest.raises(ValueError, match="2 labels for a batch of 3"):
        model.denoiser([0, 1], guidance=2.0, negative=3)(torch.zeros(3, 1, 8, 8), T500)


# Classifier guidance


def log_first(x, level):
    """log p(first component | x_t), exact."""
    spread = (level.signal * 0.3) ** 2 + level.noise**2
    apart = torch.stack([((x - level.signal * mean) ** 2).sum(1) for mean in HALVES.means.to(x)], 1)
    return (HALVES.weights.to(x).log() - apart / (2 * spread)).log_softmax(1)[:, 0]


@pytest.mark.parametrize("t", [1, 500, 1000])
def test_the_exact_classifier_leads_to_the_conditional_denoiser(t):
    """∇ log p(x | y) = ∇ log p(x) + ∇ log p(y | x), Bayes."""
    x, level = torch.randn(6, 2).double(), LINEAR.level(t)
    with torch.no_grad():
        p = ddim.classifier_guide(HALVES, log_first)(x, level)
    torch.testing.assert_close(p.eps, EACH[0](x, level).eps, rtol=0, atol=1e-9)
    torch.testing.assert_close(p.x0, EACH[0](x, level).x0, rtol=0, atol=1e-9)
    assert not p.eps.requires_grad


def test_classifier_guidance_at_scale_0_and_at_the_ends_changes_nothing():
    x = torch.randn(6, 2).double()
    for level, scale in ((T500, 0.0), (LINEAR.level(0), 2.0)):
        p = ddim.classifier_guide(HALVES, log_first, scale)(x, level)
        torch.testing.assert_close(p.x0, HALVES(x, level).x0, rtol=0, atol=1e-12)
    end = ddim.schedules.zero_terminal(LINEAR).level(1000)
    p = ddim.classifier_guide(HALVES, log_first)(x, end)
    assert torch.equal(p.x0, HALVES(x, end).x0)


def test_gradients_pass_through_the_classifier_s_slope():
    x = torch.randn(3, 2).double()

    def end(x):
        return ddim.classifier_guide(HALVES, log_first, 2.0)(x, T500).eps.sum()

    step = 1e-5 * torch.randn(3, 2).double()
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(end(leaf), leaf)
    change = end(x + step) - end(x - step)
    torch.testing.assert_close((slope * 2 * step).sum(), change, rtol=1e-5, atol=1e-12)


# Measurements

KNOWN = torch.zeros(8, 8, dtype=torch.bool)
KNOWN[:, :5] = True
MEASUREMENTS = [Mask(KNOWN), Downsample(2), Downsample(4), Blur(1.5), Blur(0.7, 1e-3), Blur(0.0)]


@pytest.mark.parametrize(
    ("measure", "size"),
    [*((measure, (8, 8)) for measure in MEASUREMENTS), (Blur(1.0), (7, 9)), (Blur(1.2), (8, 5))],
    ids=repr,
)
def test_the_inverse_is_a_pseudo_inverse(measure, size):
    """The four conditions of Penrose: A A⁺ A = A, A⁺ A A⁺ = A⁺, and A A⁺, A⁺ A symmetric."""
    count = math.prod(size)
    seen = measure(torch.eye(count, dtype=torch.float64).reshape(count, 1, *size))
    a = seen.reshape(count, -1).T
    y = torch.eye(len(a), dtype=torch.float64).reshape(-1, *seen.shape[1:])
    inverse = measure.inverse(y).reshape(len(a), count).T
    for found, wanted in (
        (a @ inverse @ a, a),
        (inverse @ a @ inverse, inverse),
        ((a @ inverse).T, a @ inverse),
        ((inverse @ a).T, inverse @ a),
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_blur_is_a_gaussian_of_its_std():
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 16, 16] = 1
    spread = Blur(2.0, 1e-9)(x)[0, 0]
    at = torch.arange(32.0).double() - 16
    assert spread.sum().item() == pytest.approx(1)
    assert (spread.sum(0) * at**2).sum().item() == pytest.approx(4, rel=1e-3)
    assert (spread.sum(1) * at**2).sum().item() == pytest.approx(4, rel=1e-3)


def test_downsample_takes_means():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Downsample(2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("measure", MEASUREMENTS, ids=repr)
@pytest.mark.parametrize("spec", ["ddim", "ddpm", "unipc", "heun", "resample:repeats=3"])
def test_the_final_image_satisfies_the_measurement(measure, spec):
    model, noise = tiny_model("v"), Seeded(range(2))
    real = ddim.data.to_float(ddim.digits().pixels[:2])
    y = measure(real)
    denoiser = project(model.denoiser(clip=1.0), measure, y)
    end = sample(denoiser, noise.start(model.shape), model.plan(6), ddim.build(spec), noise)
    assert (measure(end) - y).abs().max() <= 1e-5
    free = sample(model.denoiser(clip=1.0), noise.start(model.shape), model.plan(6))
    assert (measure(free) - y).abs().max() > 0.1


def test_a_projected_answer_explains_x_and_one_measurement_serves_all():
    x = torch.randn(3, 1, 8, 8).double()
    y = Downsample(2)(torch.rand(1, 1, 8, 8).double())
    p = project(gaussian(), Downsample(2), y)(x, T500)
    torch.testing.assert_close(T500.signal * p.x0 + T500.noise * p.eps, x)
    torch.testing.assert_close(Downsample(2)(p.x0), y.expand(3, 1, 4, 4))
    clean = project(gaussian(), Downsample(2), y)(x, LINEAR.level(0))
    assert torch.equal(clean.x0, x)


def test_inpainting_a_gaussian_keeps_what_is_known_and_draws_the_rest():
    """Independent pixels: the unknown ones follow the data's law whatever is known."""
    known, noise = torch.tensor([[True, False]]), Seeded(range(4000))
    start, y = noise.start((1, 1, 2)), torch.full((1, 1, 1, 2), 0.9)
    denoiser = project(gaussian(0.2, 0.5), Mask(known), Mask(known)(y))
    end = sample(denoiser, start, ddim.plan(LINEAR, 100, "quadratic"), ddim.DDPM(), noise)
    assert (end[..., 0] == 0.9).all()
    assert end[..., 1].mean().item() == pytest.approx(0.2, abs=0.03)
    assert end[..., 1].std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mask(torch.ones(8, 8)), "give bool"),
        (lambda: Downsample(0), "whole number from 1"),
        (lambda: Downsample(3)(torch.zeros(1, 1, 8, 8)), "do not divide by factor=3"),
        (lambda: Blur(-1.0), "a std from 0"),
        (lambda: Blur(1.0, 0.0), "cutoff in"),
        (lambda: Blur("a"), "a std from 0"),
        (lambda: Blur(math.inf), "a std from 0"),
        (lambda: Downsample(True), "whole number from 1"),
        (lambda: Mask(KNOWN[:5, :5])(torch.zeros(1, 1, 8, 8)), "known is"),
        (
            lambda: Mask(torch.ones(3, 8, 8).bool())(torch.zeros(1, 1, 8, 8)),
            r"known is \(3, 8, 8\)",
        ),
        (lambda: ddim.classifier_guide(HALVES, log_first, math.nan), "finite"),
        (
            lambda: ddim.classifier_guide(HALVES, lambda x, t: x)(torch.zeros(1, 2), T500),
            "one differentiable number per image",
        ),
        (
            lambda: project(gaussian(), Mask(KNOWN), torch.zeros(1, 3, 8, 8))(
                torch.zeros(3, 1, 8, 8), T500
            ),
            "give one measurement per image",
        ),
        (
            lambda: project(gaussian(), Downsample(2), torch.zeros(1, 1, 8, 8))(
                torch.zeros(1, 1, 8, 8), T500
            ),
            "give one measurement per image",
        ),
        (
            lambda: project(gaussian(), Mask(KNOWN), torch.zeros(2, 1, 8, 8))(
                torch.zeros(3, 1, 8, 8), T500
            ),
            "give one measurement per image",
        ),
    ],
)
def test_measurements_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# RePaint's repeats


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_without_repeats_it_is_ddim(eta):
    noise, plan = Seeded(range(3)), ddim.plan(LINEAR, 7)
    x = noise.start((4,)).double()
    torch.testing.assert_close(
        sample(gaussian(0.1), x, plan, Resample(eta, 1), noise),
        sample(gaussian(0.1), x, plan, DDIM(eta), noise),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("schedule", [LINEAR, ddim.schedules.rectified_flow()])
@pytest.mark.parametrize("repeats", [2, 5])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_repeats_keep_the_marginals(eta, repeats, schedule):
    """Data of one point c: the variance, by unit vectors, is that of the level at every call."""
    plan, seen, draws = ddim.plan(schedule, 4), [], 4 * repeats * 2 + 1

    def point(x, level):
        seen.append((level, x))
        return Prediction(x, torch.zeros_like(x), x / level.noise)

    def unit(like, k):
        return torch.eye(draws, dtype=torch.float64)[k + 1]

    start = plan[0].noise * torch.eye(draws, dtype=torch.float64)[0]
    end = sample(point, start, plan, Resample(eta, repeats), unit)
    assert (end == 0).all()
    assert [level.t for level, _ in seen] == [
        t for t in (1000, 750, 500, 250) for _ in range(repeats)
    ]
    for level, x in seen:
        assert x.square().sum().item() == pytest.approx(level.noise**2, abs=1e-10)
    assert ddim.calls(Resample(eta, repeats), plan) == 4 * repeats


def test_resample_is_a_solver_by_name_and_refuses_what_makes_no_sense():
    assert ddim.build("resample:eta=0.5,repeats=4") == Resample(0.5, 4)
    assert SOLVERS["resample"] is Resample
    for bad, words in (({"eta": 1.5}, "eta=1.5"), ({"repeats": 0}, "repeats=0")):
        with pytest.raises(ValueError, match=words):
            Resample(**bad)
    with pytest.raises(ValueError, match="rising plan"):
        sample(gaussian(), torch.zeros(1, 2), ddim.plan(LINEAR, 3)[::-1], Resample(0.0, 2))


def test_image_to_image_begins_part_of_the_way_down():
    """plan[k:] from a diffused image keeps what the flow keeps of it, the lower the more."""
    x0, plan = torch.full((500, 1), 0.9), ddim.plan(LINEAR, 200, "quadratic")
    eps = Seeded(range(500)).start((1,))
    for k in (0, 100, 150, 190):
        t = plan[k]
        end = sample(gaussian(0.0, 0.5), ddim.diffuse(x0, t, eps), plan[k:])
        spread = math.hypot(0.5 * t.signal, t.noise)
        assert end.mean().item() == pytest.approx(0.5 * t.signal * 0.9 / spread, abs=0.04)
