import math

import pytest
import torch
from hypothesis import given, strategies as st

from ddim import Level, Prediction, diffuse, split
from ddim.process import TARGETS, Split, row

RATIOS = st.floats(1e-3, 1e3)


def at(ratio):
    signal = 1 / math.hypot(1, ratio)
    return Level(1.0, signal, signal * ratio)


@pytest.mark.parametrize("target", TARGETS)
@given(ratio=RATIOS, vp=st.booleans())
def test_split_recovers_what_diffuse_mixed(target, ratio, vp):
    level = at(ratio) if vp else Level(1.0, 1 / (1 + ratio), ratio / (1 + ratio))
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    x = diffuse(x0, level, eps)
    a, b = row(target, level)
    p = split(a * x0 + b * eps, x, level, target)
    scale = max(ratio, 1 / ratio)
    torch.testing.assert_close(p.x0, x0, rtol=0, atol=1e-13 * scale)
    torch.testing.assert_close(p.eps, eps, rtol=0, atol=1e-13 * scale)


def test_v_is_the_rotation_of_salimans_and_ho():
    # v = alpha eps − sigma x0; at 45 degrees both weigh the same.
    a, b = row("v", at(1.0))
    assert (a, b) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)))
    assert row("v", at(1e-9)) == pytest.approx((0, 1), abs=1e-8)


def test_flow_is_the_velocity_of_the_straight_line():
    x0, eps = torch.randn(2, 3, dtype=torch.float64)
    levels = [Level(math.nan, 1 - u, u) for u in (0.3, 0.3 + 1e-6)]
    before, after = (diffuse(x0, level, eps) for level in levels)
    a, b = row("flow", levels[0])
    torch.testing.assert_close((after - before) / 1e-6, a * x0 + b * eps, rtol=0, atol=1e-8)


@given(ratio=RATIOS)
def test_another_x0_explains_the_same_x(ratio):
    level = at(ratio)
    x0, eps, other = torch.randn(3, 5, dtype=torch.float64)
    p = Prediction(diffuse(x0, level, eps), x0, eps).with_x0(other, level)
    assert p.x0 is other
    torch.testing.assert_close(
        level.signal * p.x0 + level.noise * p.eps, p.x, rtol=1e-12, atol=1e-12
    )


def test_clean_data_is_not_explained_otherwise():
    x = torch.randn(3)
    p = Prediction(x, x, torch.zeros(3))
    assert p.with_x0(torch.ones(3), Level(0.0, 1.0, 0.0)) is p


def test_ratio_without_signal_is_infinite():
    assert Level(1.0, 0.0, 1.0).ratio == math.inf
    assert Level(1.0, torch.zeros(2), torch.ones(2)).ratio.isinf().all()


@pytest.mark.parametrize(
    ("target", "level"),
    [
        ("eps", Level(7.0, 0.0, 1.0)),
        ("x0", Level(7.0, 1.0, 0.0)),
        ("eps", Level(7.0, torch.tensor([[0.5], [0.0]]), 1.0)),
    ],
)
def test_a_singular_target_names_itself_and_the_level(target, level):
    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=rf"{target} target .*t=7"):
        split(x, x, level, target)


def test_one_level_per_image():
    level = Level(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0.8], [0.6]]), torch.tensor([[0.6], [0.8]])
    )
    x0, eps = torch.ones(2, 3), torch.full((2, 3), 10.0)
    expected = torch.tensor([[6.8] * 3, [8.6] * 3])
    torch.testing.assert_close(diffuse(x0, level, eps), expected)
    torch.testing.assert_close(split(eps, expected, level, "eps").x0, x0)


ENDS = {"eps": [0.0, 1.0, 1e4], "x0": [1e-4, 1.0, math.inf], "v": [0.0, 1.0, math.inf]}


@pytest.mark.parametrize(("target", "ratio"), [(t, r) for t in ENDS for r in ENDS[t]])
def test_mixed_is_the_sum_and_a_new_tensor(target, ratio):
    level = Level(1.0, 0.0, 1.0) if ratio == math.inf else at(ratio)
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    (a, b), x = row(target, level), diffuse(x0, level, eps)
    out = a * x0 + b * eps
    before = x.clone(), out.clone()
    for weights in (
        (0.3, -2.0),
        (1.0, 0.0),
        (0.0, 1.0),
        (torch.tensor([[0.5], [1.0], [2.0]]), 0.1),
    ):
        found = split(out, x, level, target).mixed(*weights)
        torch.testing.assert_close(found, weights[0] * x0 + weights[1] * eps, rtol=0, atol=1e-10)
        torch.testing.assert_close(Prediction(x, x0, eps).mixed(*weights), found)
        found.zero_()
        assert torch.equal(x, before[0])
        assert torch.equal(out, before[1])


def test_what_the_network_said_is_not_computed():
    x, out = torch.randn(2, 3, 4)
    assert split(out, x, at(2.0), "eps").eps is out
    assert split(out, x, at(2.0), "x0").x0 is out
    assert split(out, x, at(2.0), "v").x0 is not out


def test_gradients_are_those_of_where_a_prediction_was_made():
    """A preview without gradients does not cut them off, and a denoiser without has none."""
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    p = split(x.sin(), x, at(2.0), "eps")
    with torch.no_grad():
        assert p.x0.requires_grad
        assert not p.mixed(0.5, 0.5).requires_grad
        cut = split(x.sin(), x, at(2.0), "eps")
    assert not cut.x0.requires_grad
    assert not cut.mixed(0.5, 0.5).requires_grad

    def step(x, target):
        p = split(x.sin(), x, at(2.0), target)
        return p.mixed(0.7, 0.4) * p.x0 + p.eps

    for target in TARGETS:
        assert torch.autograd.gradcheck(lambda x, target=target: step(x, target), x)
        assert torch.autograd.gradgradcheck(lambda x, target=target: step(x, target), x)


def test_a_blend_of_predictions_of_one_state_is_that_of_their_parts():
    x = torch.randn(2, 3)
    p = split(torch.randn(4, 3), torch.cat([x, x]), at(2.0), "v")
    led = p.blended(x, lambda both: both[:2].lerp(both[2:], 3.0))
    assert isinstance(led, Split)
    torch.testing.assert_close(led.x0, p.x0[:2].lerp(p.x0[2:], 3.0))
    torch.testing.assert_close(led.eps, p.eps[:2].lerp(p.eps[2:], 3.0))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        diffuse(torch.zeros(2, 3), at(1.0), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="keep the shape"):
        split(torch.zeros(2, 6), torch.zeros(2, 3), at(1.0), "eps")
    with pytest.raises(ValueError, match="choose one of eps, x0, v, flow"):
        row("score", at(1.0))
