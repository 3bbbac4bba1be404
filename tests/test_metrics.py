import numpy as np
import ot
import prdc
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ddim.metrics import (
    Moments,
    energy_distance,
    frechet,
    kernel_distance,
    manifold,
    nearest,
    sliced_w2,
)


def drawn(n=120, m=90, d=5):
    torch.manual_seed(0)
    a = torch.randn(n, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64)
    return a, torch.randn(m, d, dtype=torch.float64) + 0.3


class Features(torch.nn.Module):
    """The images themselves, as torchmetrics wants an extractor."""

    num_features = 5

    def forward(self, x):
        return x.flatten(1)


def test_frechet_is_the_formula_with_scipys_square_root():
    a, b = drawn(300, 400, 6)
    (m, c), (n, d) = ((x.numpy().mean(0), np.cov(x.numpy().T)) for x in (a, b))
    expected = ((m - n) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet(b, a.reshape(300, 2, 3)) == pytest.approx(expected, rel=1e-8)


def test_frechet_is_torchmetrics_fid_of_the_same_features():
    a, b = drawn()
    judge = FrechetInceptionDistance(feature=Features(), normalize=True).set_dtype(torch.float64)
    judge.update(b.reshape(-1, 1, 1, 5), real=True)
    judge.update(a.reshape(-1, 1, 1, 5), real=False)
    assert frechet(a, b) == pytest.approx(float(judge.compute()), rel=1e-6)


def test_frechet_of_a_set_with_itself_and_of_pixels_that_never_change_is_finite():
    x = torch.randn(50, 5)
    x[:, 2] = -1
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x + torch.tensor([0, 0, 2.0, 0, 0])) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least 2"):
        frechet(x[:1], x)


def test_moments_stream_and_merge_to_those_of_all_rows():
    a, _ = drawn()
    a = a + 1e6  # where a sum of squares would lose every digit
    parts = [Moments.of(part) for part in a.split([1, 50, 0, 69])]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert total.count == 120
    assert torch.allclose(total.mean, a.mean(0), rtol=1e-14)
    assert np.allclose(total.covariance, np.cov(a.numpy().T), rtol=1e-8)
    assert torch.allclose((parts[3] + (parts[1] + parts[0])).scatter, total.scatter, rtol=1e-8)
    assert frechet(total, Moments.of(a)) == pytest.approx(0, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save")
def test_kernel_distance_is_torchmetrics_kid_of_one_subset_of_all_and_sklearns_kernel():
    a, b = drawn(90, 90)
    judge = KernelInceptionDistance(
        feature=Features(), subsets=1, subset_size=90, normalize=True
    ).set_dtype(torch.float64)
    judge.update(b.reshape(-1, 1, 1, 5), real=True)
    judge.update(a.reshape(-1, 1, 1, 5), real=False)
    assert kernel_distance(a, b) == pytest.approx(float(judge.compute()[0]), rel=1e-6)

    a, b = drawn()
    own = [polynomial_kernel(x.numpy(), degree=3, coef0=1, gamma=1 / 5) for x in (a, b)]
    across = polynomial_kernel(a.numpy(), b.numpy(), degree=3, coef0=1, gamma=1 / 5)
    unbiased = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in own]
    assert kernel_distance(a, b) == pytest.approx(sum(unbiased) - 2 * across.mean(), rel=1e-6)


def test_energy_distance_is_the_mean_of_sklearns_distances():
    a, b = drawn()
    aa, ab, bb = (euclidean_distances(x, y).mean() for x, y in ((a, a), (a, b), (b, b)))
    assert energy_distance(a, b) == pytest.approx((2 * ab - aa - bb) ** 0.5, rel=1e-6)
    assert energy_distance(a, a) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("k", [1, 5])
def test_precision_recall_density_and_coverage_are_prdcs(k):
    a, b = drawn()
    expected = prdc.compute_prdc(b.numpy(), a.numpy(), k)
    found = manifold(a, b, k)
    assert 0.1 < found.precision < 1
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-6)
    with pytest.raises(ValueError, match=f"at least {k + 1}"):
        manifold(a[:k], b, k)


def test_sliced_w2_of_a_shift_is_the_shift_over_root_d():
    x, shift = torch.randn(40, 8), torch.randn(8)
    assert sliced_w2(x, x) == 0
    # |<direction, shift>|² has mean |shift|²/d over the sphere.
    assert sliced_w2(x, x + shift, projections=20000) == pytest.approx(
        shift.norm().item() / 8**0.5, rel=0.02
    )


@pytest.mark.parametrize(("n", "m"), [(120, 90), (80, 80), (7, 90)])
def test_sliced_w2_is_pots_on_the_same_directions(n, m):
    from ddim.metrics import directions

    a, b = drawn(n, m)
    expected = ot.sliced_wasserstein_distance(
        a.numpy(), b.numpy(), projections=directions(5, 64, seed=3).numpy()
    )
    assert sliced_w2(a, b, 64, seed=3) == pytest.approx(float(expected), rel=1e-6)


def test_it_is_below_the_distance_in_full_and_its_seed_turns_the_directions():
    x, y = torch.randn(30, 3), 2 * torch.randn(30, 3)
    cost = torch.cdist(x, y).square().double()
    rows, columns = linear_sum_assignment(cost.numpy())
    full = cost[rows, columns].mean().sqrt().item()
    assert full / 3 < sliced_w2(x, y) < full / 3**0.5 * 1.01
    assert sliced_w2(x, y, projections=2) != sliced_w2(x, y, projections=2, seed=1)


def test_the_nearest_are_sklearns_in_any_parts_and_never_the_row_that_is_left_out():
    a, b = drawn()
    far, where = NearestNeighbors(n_neighbors=1).fit(b.numpy()).kneighbors(a.numpy())
    for sizes in ([90], [1, 60, 29]):
        found, place = nearest(a, b.split(sizes))
        assert place.tolist() == where[:, 0].tolist()
        assert np.allclose(found, far[:, 0], rtol=1e-4)
    own = torch.arange(90)
    found, place = nearest(b, b.split([50, 40]), own)
    far, where = NearestNeighbors(n_neighbors=2).fit(b.numpy()).kneighbors(b.numpy())
    assert place.tolist() == where[:, 1].tolist()
    assert np.allclose(found, far[:, 1], rtol=1e-4)
