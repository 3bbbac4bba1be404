"""The ground that solvers are proven on is itself proven: by autograd, quadrature and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm

from ddim import DDIM, Level, schedules
from ddim.exact import THREE, Mixture, departure, order, uneven
from exact import gaussian, gaussian_flow

LEVELS = [Level(math.nan, 0.8, 0.6), Level(math.nan, 0.05, 0.99), Level(math.nan, 0.999, 0.01)]
SQUARE = Mixture([[[0.0, 1.0], [1.0, 0.0]], [[-1.0, 0.5], [0.2, 0.3]]], [0.2, 0.7], [1, 3])


@pytest.mark.parametrize("level", LEVELS)
def test_eps_is_the_score_of_the_mixed_density(level):
    x = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    parts = torch.distributions.Normal(
        level.signal * SQUARE.means.flatten(1),
        ((level.signal * SQUARE.std) ** 2 + level.noise**2).sqrt()[:, None],
    )
    log = parts.log_prob(x.flatten(1)[:, None]).sum(2) + torch.tensor([0.25, 0.75]).double().log()
    (score,) = torch.autograd.grad(log.logsumexp(1).sum(), x)
    p = SQUARE(x.detach(), level)
    torch.testing.assert_close(p.eps, -level.noise * score, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(level.signal * p.x0 + level.noise * p.eps, x.detach())


def test_a_mixture_of_one_is_the_gaussian_with_its_linear_flow():
    one, x = Mixture([0.3], 0.5), torch.linspace(-2, 2, 9, dtype=torch.float64)
    for level in LEVELS:
        torch.testing.assert_close(one(x, level).x0, gaussian(0.3)(x, level).x0)
    exact = gaussian_flow(x, LEVELS[1], LEVELS[0], mean=0.3)
    torch.testing.assert_close(one.flow(x, *LEVELS[1::-1]), exact, rtol=0, atol=1e-13)


def test_clean_data_and_data_without_signal():
    x = torch.tensor([-0.4, 2.0])
    assert THREE(x, Level(0, 1.0, 0.0)).x0 is x
    p = THREE(x, Level(1000, 0.0, 1.0))
    torch.testing.assert_close(p.x0, torch.full((2,), 0.3 * -1 + 0.5 * 0.2 + 0.2 * 1.5))
    torch.testing.assert_close(p.eps, x)
    assert p.x0.dtype == torch.float32


def test_the_flow_is_what_an_adaptive_integrator_finds():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    t, s = Level(math.nan, 0.1, 0.995), Level(math.nan, 1.0, 0.05)

    def slope(r, y):
        return THREE(torch.tensor(y) / math.hypot(1, r), unit(r)).eps.numpy()

    def unit(r):
        return Level(math.nan, 1 / math.hypot(1, r), r / math.hypot(1, r))

    found = solve_ivp(
        slope, (t.ratio, s.ratio), x / t.signal, method="DOP853", rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(THREE.flow(x, t, s) / s.signal, found.y[:, -1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigmas", [-12.0, -7.0, 7.0, 12.0])
def test_the_flow_is_right_far_out_and_to_any_scale(sigmas):
    one, t = Mixture([0.3], 0.5), Level(math.nan, 1.0, 0.05)
    x = torch.tensor([t.signal * 0.3 + sigmas * math.hypot(0.5, 0.05)], dtype=torch.float64)
    for s in (Level(math.nan, 1.0, 100.0), Level(math.nan, 0.1, 0.995), Level(0, 1.0, 0.0)):
        spread = math.hypot(0.5 * s.signal, s.noise)
        assert one.flow(x, t, s).item() == pytest.approx(0.3 * s.signal + sigmas * spread, rel=1e-9)


def test_each_x_may_have_its_own_level():
    x, t = torch.linspace(-1, 1, 3, dtype=torch.float64), LEVELS[1]
    together = THREE.flow(
        x, t, Level(math.nan, *torch.tensor([[[0.8], [0.05], [1]], [[0.6], [0.99], [0]]]).double())
    )
    assert together[1].item() == pytest.approx(x[1].item(), abs=0.02)
    for i, level in enumerate([LEVELS[0], None, schedules.linear().level(0)]):
        if level:
            torch.testing.assert_close(together[i], THREE.flow(x, t, level)[i])


def test_draws_follow_the_mixture():
    drawn = THREE.draw(20_000, torch.Generator().manual_seed(3)).numpy()

    def below(x):
        parts = zip(THREE.means, THREE.std, THREE.weights, strict=True)
        return sum(float(w) * norm.cdf(x, float(m), float(s)) for m, s, w in parts)

    assert kstest(drawn, below).pvalue > 0.01
    assert SQUARE.draw(7).shape == (7, 2, 2)


@pytest.mark.parametrize("pattern", [(1,), (2, 1, 3)])
def test_uneven_plans_span_the_same_levels_and_ramp_up(pattern):
    for ramp in (True, False):
        steps = torch.tensor(
            [
                math.log(a.ratio / b.ratio)
                for a, b in zip(
                    uneven(60, ramp, pattern), uneven(60, ramp, pattern)[1:], strict=False
                )
            ]
        )
        assert len(steps) == 60
        assert steps.sum().item() == pytest.approx(math.log(200), abs=1e-4)
        lengths = steps / steps[-1] * pattern[-1]
        assert lengths[30:].tolist() == pytest.approx([*pattern] * (30 // len(pattern)), abs=1e-3)
        assert (lengths[0] / pattern[0]).item() == pytest.approx(1 / 60 if ramp else 1, abs=1e-3)


def test_departure_and_order_see_a_planted_fault():
    class Sloppy(DDIM):
        def __call__(self, x, plan, noise):
            end = yield from DDIM.__call__(self, x, plan, noise)
            return end + 1e-3

    assert departure(Sloppy(), uneven(4000)) == pytest.approx(1e-3, rel=0.5)
    assert departure(DDIM(), uneven(4000)) < 8e-4
    assert order(DDIM()) == pytest.approx(1, abs=0.05)
    assert order(Sloppy(), steps=(1000, 4000)) < 0.9


@pytest.mark.parametrize("bad", [{"std": 0.0}, {"std": [1.0, 2.0, 3.0]}, {"weights": [1.0, -1.0]}])
def test_parameters_that_make_no_density_are_refused(bad):
    with pytest.raises(ValueError, match="for 2 means; give one number above 0"):
        Mixture(torch.zeros(2, 1), **{"std": 1.0, **bad})


def test_the_flow_of_many_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"shape \(K,\)"):
        SQUARE.flow(torch.zeros(2).double(), *LEVELS[:2])
