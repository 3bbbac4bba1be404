"""Clipping and thresholding, encoding and slerp."""

import math

import pytest
import torch

import ddim
from ddim import DDPM, Level, Prediction, Seeded, clip, encode, reconstruct, slerp, threshold
from exact import gaussian, gaussian_flow

LINEAR = ddim.schedules.linear()
T500 = LINEAR.level(500)


def answering(x0):
    def denoise(x, level):
        return Prediction(x, x0, (x - level.signal * x0) / level.noise if level.noise else 0 * x)

    return denoise


@pytest.mark.parametrize("wrap", [clip, threshold])
def test_a_wrapped_answer_still_explains_x(wrap):
    x0, x = 3 * torch.randn(2, 4, 50).double()
    p = wrap(answering(x0))(x, T500)
    torch.testing.assert_close(T500.signal * p.x0 + T500.noise * p.eps, x, rtol=0, atol=1e-12)
    assert p.x0.abs().max() <= 1
    assert not torch.equal(p.eps, answering(x0)(x, T500).eps)


@pytest.mark.parametrize("wrap", [clip, threshold])
def test_what_is_within_the_limits_is_left_as_it_is(wrap):
    x0, x = torch.rand(2, 4, 50).double() * 2 - 1
    p, q = wrap(answering(x0))(x, T500), answering(x0)(x, T500)
    assert torch.equal(p.x0, q.x0)
    assert torch.equal(p.eps, q.eps)


@pytest.mark.parametrize("wrap", [clip, threshold])
def test_clean_data_is_left_alone(wrap):
    x = 5 * torch.ones(1, 3)
    assert torch.equal(wrap(answering(x))(x, LINEAR.level(0)).x0, x)


def test_clip_cuts_at_the_limit():
    x0 = torch.tensor([[-3.0, -0.4, 0.2, 9.0]])
    assert clip(answering(x0), 0.5)(torch.zeros(1, 4), T500).x0.tolist() == [
        [-0.5, pytest.approx(-0.4), pytest.approx(0.2), 0.5]
    ]
    with pytest.raises(ValueError, match="above 0"):
        clip(answering(x0), 0)


def test_threshold_is_one_scale_per_image_at_its_quantile():
    x0 = torch.stack([torch.linspace(0, -4, 101), torch.linspace(0, 0.5, 101)])
    p = threshold(answering(x0), quantile=0.5)(torch.zeros(2, 101), T500)
    torch.testing.assert_close(p.x0[0], (torch.linspace(0, -4, 101) / 2).clamp(min=-1))
    torch.testing.assert_close(p.x0[1], x0[1])
    capped = threshold(answering(x0), quantile=0.5, maximum=1.6)(torch.zeros(2, 101), T500)
    torch.testing.assert_close(capped.x0[0], (torch.linspace(0, -4, 101) / 1.6).clamp(min=-1))
    usual = threshold(answering(torch.linspace(0, 4, 1001)[None]))(torch.zeros(1, 1001), T500)
    assert (usual.x0 == 1).sum() == 6  # all from the quantile 0.995 on
    with pytest.raises(ValueError, match="quantile=0"):
        threshold(answering(x0), quantile=0)


def test_encode_finds_the_latent_of_the_flow():
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    levels = ddim.plan(LINEAR, range(1000, 0, -1))
    exact = gaussian_flow(x, levels[-1], levels[0], mean=0.2)
    torch.testing.assert_close(encode(gaussian(0.2), x, levels), exact, rtol=0, atol=0.01)


def test_encode_starts_from_clean_images_and_refuses_what_it_cannot_invert():
    x, levels = torch.linspace(-1, 1, 4, dtype=torch.float64), ddim.plan(LINEAR, 100)
    torch.testing.assert_close(reconstruct(gaussian(), x, levels), x, rtol=0, atol=0.1)
    with pytest.raises(ValueError, match="the plan rises"):
        encode(gaussian(), x, levels[::-1])
    for wrong in (encode, reconstruct):
        with pytest.raises(ValueError, match="rising plan"):
            wrong(gaussian(), x, levels, DDPM())


def test_slerp_keeps_the_norm_of_noise():
    a, b = (Seeded(range(k, k + 50)).start((3, 16, 16)) for k in (0, 50))
    for w in (0.1, 0.5, 0.8):
        square = slerp(a, b, w).flatten(1).square().sum(1).mean().item()
        assert square == pytest.approx(768, rel=0.02)
        assert ((1 - w) * a + w * b).flatten(1).square().sum(1).mean().item() == pytest.approx(
            768 * (1 - 2 * w * (1 - w)), rel=0.02
        )


def test_slerp_moves_at_constant_speed_along_the_arc_of_each_image():
    a = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double()
    b = torch.tensor([[0.0, 2.0], [math.sin(0.3), math.cos(0.3)]]).double()
    third = slerp(a, b, 1 / 3)
    torch.testing.assert_close(
        third[0], torch.tensor([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)]).double()
    )
    torch.testing.assert_close(third[1], torch.tensor([math.sin(0.1), math.cos(0.1)]).double())
    each = slerp(a, b, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(each, torch.stack([a[0], b[1]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_wider(dtype):
    a = Seeded(range(8)).start((3, 8, 8)).to(dtype)
    assert torch.equal(slerp(a, a, 0.5), a)
    p = threshold(answering(3 * a))(a, T500)
    assert p.x0.dtype == dtype
    assert p.x0.abs().max() == 1


@pytest.mark.parametrize("wrap", [clip, threshold])
def test_an_image_may_be_one_number(wrap):
    x0 = torch.tensor([-3.0, 0.5])
    assert wrap(answering(x0))(torch.zeros(2), T500).x0.tolist() == [-1, 0.5]
    assert slerp(x0, x0, 0.5).tolist() == [-3, 0.5]


def test_slerp_of_parallel_images_is_the_line():
    a = torch.tensor([[1.0, 2.0, 2.0]], requires_grad=True)
    torch.testing.assert_close(slerp(a, -a, 0.25), 0.5 * a)
    mixed = slerp(a, 3 * a.detach(), 0.5)
    torch.testing.assert_close(mixed, 2 * a)
    (slope,) = torch.autograd.grad(mixed.sum(), a)
    assert slope.isfinite().all()
    with pytest.raises(ValueError, match="one shape"):
        slerp(a, a[:, :2], 0.5)


def test_wrappers_take_levels_made_by_hand():
    level = Level(math.nan, 0.6, 0.8)
    assert clip(answering(torch.ones(1, 2) * 2))(torch.zeros(1, 2), level).x0.max() == 1
