import math
from itertools import pairwise

import numpy as np
import pytest

from ddim import Level, plan, schedules
from ddim.plans import SPACINGS, checked
from ddim.schedules import SCHEDULES

STEPS = {
    10: range(1, 11),
    50: range(1, 51),
    100: range(1, 101),
    1000: range(1, 1001, 7),
    4000: (1, 2, 3, 61, 999, 3999, 4000),
}


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("schedule", [*SCHEDULES, "zero_terminal"])
def test_every_spacing_gives_exactly_the_steps_asked_for(schedule, spacing, T):
    table = (
        schedules.zero_terminal(schedules.linear(T))
        if schedule == "zero_terminal"
        else SCHEDULES[schedule](T)
    )
    for steps in STEPS[T]:
        levels = plan(table, steps, spacing)
        times = [level.t for level in levels]
        assert len(levels) == steps + 1
        assert times[-1] == 0
        assert all(t > s and t == int(t) for t, s in pairwise(times))
        assert all(t.ratio > s.ratio for t, s in pairwise(levels))


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_steps_the_schedule_does_not_have_are_refused(spacing, steps):
    with pytest.raises(ValueError, match=rf"steps={steps} .*1\.\.1000"):
        plan(schedules.linear(), steps, spacing)


def times(steps, spacing):
    return [level.t for level in plan(schedules.linear(), steps, spacing)]


def test_leading_is_the_papers_uniform_and_trailing_starts_at_T():
    assert times(10, "leading") == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]
    assert times(10, "trailing") == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert times(3, "trailing") == [1000, 667, 334, 0]
    assert times(600, "trailing")[-3:] == [4, 2, 0]
    assert times(4, "uniform") == [1000, 667, 334, 1, 0]
    assert times(4, "quadratic") == [1000, 562, 250, 62, 0]


@pytest.mark.parametrize(
    ("spacing", "to"), [("log_snr", math.log), ("rho", lambda r: r ** (1 / 7))]
)
def test_ratios_are_even_to_the_nearest_integer(spacing, to):
    levels = plan(schedules.linear(), 12, spacing)[:-1]
    assert levels[0].t == 1000
    assert levels[-1].t == 1
    gap = (to(levels[0].ratio) - to(levels[-1].ratio)) / 11
    for k, level in enumerate(levels[1:-1], 1):
        exact = schedules.linear().time(
            math.exp(to(levels[0].ratio) - k * gap)
            if to is math.log
            else (to(levels[0].ratio) - k * gap) ** 7
        )
        assert abs(level.t - exact) <= 0.5


def test_levels_without_signal_come_first_in_log_ratio_spacings():
    zero = schedules.zero_terminal(schedules.linear())
    for spacing in ("log_snr", "rho"):
        assert [level.t for level in plan(zero, 3, spacing)] == [1000, 999, 1, 0]
        assert [level.t for level in plan(zero, 1, spacing)] == [1000, 0]


def test_an_explicit_list_is_taken_literally_up_or_down():
    assert [level.t for level in plan(schedules.linear(), (1000, 400.5, 3, 1))] == [
        1000,
        400.5,
        3,
        1,
    ]
    assert [level.t for level in plan(schedules.linear(), [0, 10, 500])] == [0, 10, 500]


@pytest.mark.parametrize("bad", [(1000, 500, 500, 0), (1000, 400, 600, 0), (0, 600, 400), (5, 5)])
def test_a_plan_that_turns_back_or_repeats_is_refused(bad):
    with pytest.raises(ValueError, match="strictly monotone"):
        plan(schedules.linear(), bad)


def test_t_outside_the_schedule_and_an_empty_plan_are_refused():
    with pytest.raises(ValueError, match=r"t=1001 .*0\.\.1000"):
        plan(schedules.linear(), (1001, 0))
    with pytest.raises(ValueError, match="empty"):
        plan(schedules.linear(), ())
    with pytest.raises(ValueError, match="choose one of trailing"):
        plan(schedules.linear(), 10, "karras")


def test_levels_made_by_hand_are_checked_too():
    with pytest.raises(ValueError, match="t=nan"):
        checked((Level(math.nan, 1.0, 2.0), Level(math.nan, 1.0, math.nan)))


def test_steps_may_be_numpys_whole_numbers_but_not_fractions():
    assert plan(schedules.linear(), np.int64(7)) == plan(schedules.linear(), 7)
    with pytest.raises(ValueError, match=r"steps=7\.5; choose a whole number"):
        plan(schedules.linear(), 7.5)


def test_a_spacing_may_be_a_function():
    assert [
        level.t
        for level in plan(schedules.linear(), 2, lambda schedule, steps: (schedule.T, steps, 0))
    ] == [1000, 2, 0]
