import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment

from ddim.metrics import frechet, moments, sliced_w2


def test_frechet_is_the_formula_with_scipys_square_root():
    torch.manual_seed(0)
    a, b = torch.randn(300, 6) @ torch.randn(6, 6), torch.randn(400, 2, 3) + 0.3
    (m, c), (n, d) = ([v.numpy() for v in moments(x)] for x in (a, b))
    assert np.allclose(c, np.cov(a.numpy().T))
    expected = ((m - n) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_a_set_with_itself_and_of_pixels_that_never_change_is_finite():
    x = torch.randn(50, 5)
    x[:, 2] = -1
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x + torch.tensor([0, 0, 2.0, 0, 0])) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least 2"):
        frechet(x[:1], x)


def test_sliced_w2_of_a_shift_is_the_shift_over_root_d():
    x, shift = torch.randn(40, 8), torch.randn(8)
    assert sliced_w2(x, x) == 0
    # |<direction, shift>|² has mean |shift|²/d over the sphere.
    assert sliced_w2(x, x + shift, projections=20000) == pytest.approx(
        shift.norm().item() / 8**0.5, rel=0.02
    )


def test_in_one_dimension_it_is_the_optimal_coupling_also_for_unequal_sizes():
    torch.manual_seed(1)
    x, y = torch.randn(6, 1), torch.randn(4, 1) + 1
    common_x, common_y = (
        x.repeat_interleave(2, 0).sort(0).values,
        y.repeat_interleave(3, 0).sort(0).values,
    )
    expected = (common_x - common_y).square().mean().sqrt().item()
    assert sliced_w2(x, y, projections=3) == pytest.approx(expected, rel=1e-6)
    assert sliced_w2(y, x, projections=3) == pytest.approx(expected, rel=1e-6)


def test_it_is_below_the_distance_in_full_and_its_seed_turns_the_directions():
    x, y = torch.randn(30, 3), 2 * torch.randn(30, 3)
    cost = torch.cdist(x, y).square().double()
    rows, columns = linear_sum_assignment(cost.numpy())
    full = cost[rows, columns].mean().sqrt().item()
    assert full / 3 < sliced_w2(x, y) < full / 3**0.5 * 1.01
    assert sliced_w2(x, y, projections=2) != sliced_w2(x, y, projections=2, seed=1)
