import numpy as np
import pytest
import torch

from ddim.features import Features
from ddim.metrics import energy_distance, frechet, kernel_distance, manifold, sliced_w2
from ddim.significance import (
    Figure,
    Floor,
    apart,
    averaged,
    difference,
    exchanges,
    figure_of,
    floors,
    measured,
    turned,
    written,
)
from ddim.sketches import FIGURES, HIGHER, Pool, edges, imbalance, kept_places, sketch


def space(dimension=3, classify=None):
    return Features("rows", dimension, lambda rows: rows, "digest", "themselves", classify)


def rows(n, dimension=3, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64) + shift


def drawn(n, seed=0, shift=0.0, where=None):
    return sketch(where or space(), [rows(n, seed=seed, shift=shift)], n)


def sign(rows):
    return (rows[:, 0] > 0).long()


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_a_sketch_is_the_same_for_any_batches(batch):
    x = rows(203)
    found = sketch(space(), x.split(batch), 203)
    assert [block.count for block in found.moments] == [21, 21, 21, *[20] * 7]
    assert found.count == found.kept == 203
    assert torch.equal(torch.cat(found.rows), x)
    assert torch.allclose(found.total.mean, x.mean(0))
    assert torch.allclose(found.total.covariance, torch.cov(x.T))


def test_rows_are_kept_for_a_thousand_images_and_moments_of_all():
    x = rows(2505)
    found = sketch(space(), x.split(64), 2505)
    assert found.count == 2505
    assert torch.equal(torch.cat(found.rows), x[kept_places(2505)])
    assert len(kept_places(2505)) == found.kept == 1000
    assert torch.allclose(found.total.covariance, torch.cov(x.T))


@pytest.mark.parametrize(("n", "told", "says"), [(59, 59, "at least 60"), (70, 71, "70 images")])
def test_too_few_images_or_another_number_are_refused(n, told, says):
    with pytest.raises(ValueError, match=says):
        sketch(space(), [rows(n)], told)


def test_features_that_are_not_finite_are_refused():
    x = rows(60)
    x[33, 1] = torch.nan
    with pytest.raises(ValueError, match="features rows hold a nan"):
        sketch(space(), x.split(8), 60)


def test_figures_of_blocks_are_those_of_their_rows():
    where = space(classify=sign)
    a, b = drawn(64, 1, where=where), drawn(64, 2, 0.4, where)
    pool = Pool.of(a, b, where)
    chosen, against = [0, 3, 8, 12], [1, 10, 15, 19, 4]
    blocks = [*a.rows, *b.rows]
    x, y = (torch.cat([blocks[k] for k in part]) for part in (chosen, against))
    found = pool.figures(chosen, against)
    assert set(found) == set(FIGURES)
    known = manifold(x, y)
    expected = {
        "fd": frechet(x, y),
        "kd": kernel_distance(x, y),
        "sw2": sliced_w2(x, y),
        "energy": energy_distance(x, y),
        **{name: getattr(known, name) for name in HIGHER},
        "balance": abs(float(sign(x).double().mean() - sign(y).double().mean())),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_imbalance_is_the_total_variation_distance():
    assert imbalance(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])) == 0.25
    assert imbalance(torch.tensor([0, 0]), torch.tensor([5])) == 1


def test_leaving_a_block_out_is_the_figure_without_its_images():
    x, real = rows(65, seed=1), drawn(65, 2)
    found = measured(sketch(space(), [x], 65), real, space())
    bounds = edges(65)
    for k in (0, 9):
        rest = torch.cat([x[: bounds[k]], x[bounds[k + 1] :]])
        everything = torch.cat(real.rows)
        assert found["fd"].left_out[k] == pytest.approx(frechet(rest, everything))
        assert found["sw2"].left_out[k] == pytest.approx(sliced_w2(rest, everything))
    assert found["fd"].value == pytest.approx(frechet(x, torch.cat(real.rows)))


def test_the_interval_of_a_mean_is_students():
    values = rows(60, 1)[:, 0]
    found = averaged(values)
    blocks = values.reshape(10, 6).mean(1).numpy()
    margin = 2.2621571627982 * blocks.std(ddof=1) / 10**0.5
    assert found.value == pytest.approx(float(values.mean()))
    assert found.interval == pytest.approx((found.value - margin, found.value + margin))
    assert averaged(values.square(), root=True).value == pytest.approx(
        float(values.square().mean()) ** 0.5
    )


def test_intervals_cover_the_mean_of_many_seeds_and_pairing_narrows_the_difference():
    real = drawn(60, 1000)
    found, paired, alone = [], [], []
    for seed in range(120):
        x = rows(60, seed=seed)
        one = measured(sketch(space(), [x], 60), real, space(), 0)["fd"]
        two = measured(sketch(space(), [x + 0.1], 60), real, space(), 0)["fd"]
        found.append((one.value, *one.interval))
        paired.append(difference(two, one))
        alone.append(apart(two, one))
    for each in (found, paired):
        truth = np.mean([value for value, _, _ in each])
        covered = np.mean([low <= truth <= high for _, low, high in each])
        assert 0.88 <= covered <= 1
    widths = [np.median([high - low for _, low, high in each]) for each in (paired, alone)]
    assert widths[0] < 0.6 * widths[1]


def test_a_figure_is_written_within_what_it_can_be_and_read_back():
    figure = Figure(0.99, 60, tuple(0.99 + 0.01 * (-1) ** k for k in range(10)))
    entry = written("recall", figure)
    assert entry["high"] == 1
    assert written("kd", Figure(-1.0, 60, figure.left_out))["low"] < -1
    assert written("fd", Figure(0.01, 60, figure.left_out))["low"] == 0
    assert figure_of(entry) == figure


def test_a_floor_has_a_mean_and_a_value_that_one_in_twenty_exceeds():
    floor = Floor(60, tuple(float(k) for k in range(1, 100)))
    assert floor.mean == 50
    assert floor.worst == pytest.approx(94.1)
    assert floor.spread == pytest.approx(44.1)


def test_exchanges_keep_the_sizes_of_both_halves():
    a = drawn(64)
    for first, second in exchanges(a, 20):
        assert sorted(first + second) == list(range(20))
        counts = [sum(a.moments[k % 10].count for k in half) for half in (first, second)]
        assert counts == [64, 64]
    assert exchanges(a, 2) == exchanges(a, 2)
    assert exchanges(a, 2) != exchanges(a, 2, seed=1)


def test_other_samples_are_told_from_real_ones_and_the_same_are_not():
    known = floors(drawn(60, 1), drawn(60, 2), space(), 19)
    other = measured(drawn(60, 3, shift=2.0), drawn(60, 1), space(), 19)
    for name in ("fd", "kd", "sw2", "energy"):
        assert other[name].p == 0.05
        assert other[name].value > known[name].worst
    for name in ("precision", "coverage"):
        assert other[name].p is None
        assert turned(name, other[name].value) > known[name].worst
    assert all(value <= 0 for value in known["precision"].values)
    same = measured(drawn(60, 1), drawn(60, 1), space(), 19)
    assert same["fd"].p == same["energy"].p == 1


@pytest.mark.slow
@pytest.mark.parametrize("tails", ["normal", "lognormal"])
def test_real_images_against_real_ones_are_rejected_in_one_of_twenty_cases(tails):
    where, rejected = space(4, sign), {}
    for seed in range(300):
        x = rows(128, 4, seed)
        a, b = (x if tails == "normal" else torch.cat([x[:, :1], x[:, 1:].exp()], 1)).split(64)
        found = measured(sketch(where, [a], 64), sketch(where, [b], 64), where)
        for name, figure in found.items():
            if figure.p is not None:
                rejected.setdefault(name, []).append(figure.p <= 0.05)
    assert set(rejected) == {"fd", "kd", "sw2", "energy", "balance"}
    for name, each in rejected.items():
        assert len(each) == 300
        low = 0 if name == "balance" else 0.025  # which has few values, and so many ties
        assert low <= np.mean(each) <= 0.075, name
