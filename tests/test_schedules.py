import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, strategies as st

from ddim import Schedule, schedules

PRESERVING = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "zero": lambda: schedules.zero_terminal(schedules.linear()),
}
ALL = {**PRESERVING, "rectified_flow": schedules.rectified_flow}


def test_the_default_is_ddpms():
    schedule = schedules.linear()
    assert schedule.T == 1000
    assert schedule.alpha_bar[1].item() == pytest.approx(1 - 1e-4, rel=1e-14)
    assert schedule.alpha_bar[1000].item() == pytest.approx(4.03583e-5, rel=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schedules.linear(), {}),
        (
            schedules.linear(400, 2e-4, 0.04),
            {"num_train_timesteps": 400, "beta_start": 2e-4, "beta_end": 0.04},
        ),
        (
            schedules.scaled_linear(),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (schedules.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (schedules.zero_terminal(schedules.linear()), {"rescale_betas_zero_snr": True}),
    ],
)
def test_the_tables_are_those_of_diffusers_to_its_precision(ours, theirs):
    scheduler, alpha = DDIMScheduler(**theirs), ours.alpha_bar
    table = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(alpha[1:], table, rtol=2e-4, atol=2e-7)
    if not theirs.get("rescale_betas_zero_snr"):
        betas = scheduler.betas.double()
        torch.testing.assert_close(1 - alpha[1:] / alpha[:-1], betas, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("T", [2, 10, 50, 100, 1000, 4000])
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_every_schedule_admits_every_length(name, T):
    schedule = schedules.SCHEDULES[name](T)
    assert schedule.T == T
    assert schedule.noise[0] == 0
    assert schedule.signal[0] == 1


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name):
    schedule = PRESERVING[name]()
    torch.testing.assert_close(
        schedule.signal**2 + schedule.noise**2, torch.ones(1001).double(), rtol=0, atol=1e-14
    )


def test_rectified_flow_is_the_straight_line_and_says_that_it_has_no_alpha_bar():
    schedule = schedules.rectified_flow(4)
    assert schedule.noise.tolist() == [0, 0.25, 0.5, 0.75, 1]
    torch.testing.assert_close(schedule.signal + schedule.noise, torch.ones(5).double())
    with pytest.raises(ValueError, match="signal² \\+ noise² = 1"):
        _ = schedule.alpha_bar


def test_zero_terminal_moves_the_end_and_keeps_the_beginning():
    before, after = schedules.linear(), schedules.zero_terminal(schedules.linear())
    assert after.signal[-1] == 0
    assert after.noise[-1] == 1
    assert after.signal[1].item() == pytest.approx(before.signal[1].item(), rel=1e-14)
    assert after.top == 999


def test_sigmoid_is_its_formula_at_a_few_points():
    """α = (s(b) − s(a + (b − a)u))/(s(b) − s(a)), s the sigmoid, a = start/tau, b = end/tau."""
    half = schedules.sigmoid()
    assert half.alpha_bar[500].item() == pytest.approx(0.5, abs=1e-12)
    torch.testing.assert_close(
        half.alpha_bar[1:500] + half.alpha_bar[501:1000].flip(0), torch.ones(499).double()
    )
    assert half.alpha_bar[200].item() == pytest.approx(0.895680, abs=1e-6)
    assert schedules.sigmoid(tau=0.5).alpha_bar[200].item() == pytest.approx(0.975756, abs=1e-6)
    shifted = schedules.sigmoid(start=0.0, end=3.0, tau=0.9)
    assert shifted.alpha_bar[500].item() == pytest.approx(0.267259, abs=1e-6)
    with pytest.raises(ValueError, match=r"tau=0\.1; choose"):
        schedules.sigmoid(tau=0.1)


def test_small_noise_is_as_precise_as_large():
    schedule = schedules.from_betas([1e-12, 1e-12, 1.0])
    assert schedule.noise[1].item() == pytest.approx(1e-6, rel=1e-12)
    assert schedule.noise[2].item() == pytest.approx(math.sqrt(2e-12), rel=1e-11)


def test_alpha_bar_and_betas_say_the_same():
    alpha = schedules.cosine(50).alpha_bar
    torch.testing.assert_close(
        schedules.from_alpha_bar(alpha[1:]).signal, alpha.sqrt(), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_time_inverts_level(name, data):
    schedule = ALL[name]()
    t = data.draw(st.floats(1, schedule.top))
    assert schedule.time(schedule.level(t).ratio) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_levels_between_lie_on_the_line_in_log_ratio(name):
    schedule = ALL[name]()
    low, mid, high = (schedule.level(t) for t in (400, 400.25, 401))
    log = [math.log(level.ratio) for level in (low, mid, high)]
    assert log[1] == pytest.approx(0.75 * log[0] + 0.25 * log[2], abs=1e-12)
    if name in PRESERVING:
        assert mid.signal**2 + mid.noise**2 == pytest.approx(1, abs=1e-14)
    else:
        assert math.log(mid.signal) == pytest.approx(
            0.75 * math.log(low.signal) + 0.25 * math.log(high.signal)
        )


def test_levels_of_a_batch_are_the_table_in_the_dtype_of_the_images():
    schedule = schedules.linear()
    level = schedule.levels(torch.tensor([1, 1000]), torch.zeros(2, 3, 8, 8))
    assert level.signal.shape == (2, 1, 1, 1)
    assert level.signal.dtype == torch.float32
    assert level.noise.flatten().tolist() == pytest.approx(
        [schedule.level(t).noise for t in (1, 1000)]
    )
    with pytest.raises(ValueError, match=r"0\.\.1000"):
        schedule.levels(torch.tensor([1, 1001]), torch.zeros(2, 3))


def test_a_schedule_is_its_own_copy():
    signal = schedules.linear().signal.clone()
    schedule = Schedule(signal, (1 - signal**2).sqrt())
    signal[500] = 0
    assert schedule.signal[500] > 0


@pytest.mark.parametrize("t", [-1, 1001, 0.5, math.nan])
def test_t_outside_the_schedule_is_refused(t):
    with pytest.raises(ValueError, match="choose"):
        schedules.linear().level(t)


def test_a_fraction_next_to_a_level_without_signal_is_refused():
    with pytest.raises(ValueError, match=r"1\.\.999"):
        schedules.zero_terminal(schedules.linear()).level(999.5)


@pytest.mark.parametrize("ratio", [1e-3, 0.0, -1.0, 0.00999, 157.5, 200.0, math.inf, math.nan])
def test_a_ratio_that_was_not_trained_is_refused(ratio):
    with pytest.raises(ValueError, match="trained levels"):
        schedules.linear().time(ratio)


def test_no_signal_is_time_T_where_the_table_ends_so():
    assert schedules.zero_terminal(schedules.linear()).time(math.inf) == 1000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.from_betas([0.1, 0.0, 0.9]), "above 0"),
        (lambda: schedules.from_betas([0.1, 1.5]), "at most 1"),
        (lambda: schedules.from_betas([1e-4] * 10), "within 0.05 of 1"),
        (lambda: schedules.from_alpha_bar([1.0, 0.5, 0.001]), "without the leading 1"),
        (lambda: schedules.from_alpha_bar([0.5, 0.6, 0.001]), "from t=1 to t=2"),
        (lambda: schedules.linear(0), "from 1 to 1000000"),
        (lambda: Schedule(torch.tensor([1.0, math.nan]), torch.tensor([0.0, 1.0])), "nan"),
        (lambda: Schedule(torch.ones(3), torch.ones(2)), "T\\+1 entries"),
        (
            lambda: Schedule(torch.tensor([1.0, -0.1]), torch.tensor([0.0, 1.0])),
            "no signal is negative",
        ),
        (lambda: Schedule(torch.tensor([0.9, 0.1]), torch.tensor([0.0, 1.0])), "level 0 is clean"),
        (lambda: Schedule(torch.tensor([1.0, 0.1]), torch.tensor([0.1, 1.0])), "level 0 is clean"),
        (lambda: Schedule(torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.94])), "within 0.05 of 1"),
        (lambda: Schedule(torch.tensor([1.0, 0.1]), torch.tensor([0.0, 1.06])), "within 0.05 of 1"),
    ],
)
def test_a_broken_table_is_refused_with_the_reason(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_given_beta_above_the_cap_is_taken_as_it_is():
    alpha = schedules.linear(10, 0.1, 0.9999).alpha_bar
    assert float(alpha[-1] / alpha[-2]) == pytest.approx(1e-4)
    capped = schedules.linear(10).alpha_bar
    assert float(capped[-1] / capped[-2]) == pytest.approx(1e-3)
