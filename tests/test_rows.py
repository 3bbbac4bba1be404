"""A solver by its numbers is the solver, on its plan and on no other."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ddim.exact import THREE, uneven
from ddim.plans import plan
from ddim.process import Prediction
from ddim.rows import Fitted, rows_of, trimmed
from ddim.sampling import sample, trace
from ddim.schedules import linear, zero_terminal
from ddim.solvers import SOLVERS
from ddim.spec import build

LINEAR = ["ddim", "ipndm", "deis", "deis:order=2", "dpmpp:order=3", "unipc:order=3", "unipc"]


def fitted(solver, levels):
    return Fitted(tuple(float(level.ratio) for level in levels), rows_of(solver, levels))


BARE = plan(zero_terminal(linear()), 6)
LOUD = (replace(BARE[0], noise=1.03), *BARE[1:])


@pytest.mark.parametrize(
    "levels", [plan(linear(), 7), plan(linear(), 9, "log_snr"), uneven(6), BARE, LOUD]
)
@pytest.mark.parametrize("spec", LINEAR)
def test_the_rows_of_a_solver_are_the_solver(spec, levels):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    solver = build(spec)
    torch.testing.assert_close(
        sample(THREE, x, levels, fitted(solver, levels)),
        sample(THREE, x, levels, solver),
        rtol=1e-9,
        atol=1e-9,
    )


def test_an_eps_at_a_level_without_signal_is_remembered():
    def averaging(x, plan, noise):
        past = None
        for t, s in pairwise(plan):
            p = yield x, t
            past = p.eps if past is None else (past + p.eps) / 2
            x = s.signal * p.x0 + s.noise * past
        return x

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(
        sample(THREE, x, BARE, fitted(averaging, BARE)), sample(THREE, x, BARE, averaging)
    )


def test_rows_are_trimmed_to_what_the_solver_remembers():
    levels = plan(linear(), 9)
    for spec, longest in (("ddim", 2), ("ipndm", 5), ("deis:order=2", 3)):
        full = rows_of(build(spec), levels)
        rows = trimmed(full)
        assert max(map(len, rows)) == longest
        for row, whole in zip(rows, full, strict=True):
            assert row == whole[: len(row)]
            assert max(map(abs, whole[len(row) :]), default=0) < 1e-12 * max(map(abs, whole))
        assert trimmed(rows) == rows
    assert trimmed(((0.0, 1.0), (1.0, 0.0, 0.0))) == ((0.0, 1.0), (1.0, 0.0))


def test_ddims_rows_are_its_levels():
    levels = plan(linear(), 5)
    for (a, b, *past), s in zip(rows_of(SOLVERS["ddim"](), levels), levels[1:], strict=True):
        assert (a, b) == pytest.approx((s.signal, s.noise), abs=1e-9)
        assert past == pytest.approx([0.0] * len(past), abs=1e-9)


@pytest.mark.parametrize("spec", ["heun", "dpmpp2s"])
def test_a_solver_that_asks_twice_has_no_rows(spec):
    with pytest.raises(ValueError, match="asks twice"):
        rows_of(build(spec), plan(linear(), 5))


def test_a_solver_that_draws_has_no_rows():
    with pytest.raises(ValueError, match="noise"):
        rows_of(build("ddim:eta=1"), plan(linear(), 5))


def test_an_edited_state_is_gone_on_from():
    levels = plan(linear(), 5)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def ends(solver):
        run = trace(THREE, x, levels, solver)
        level, p = next(run)
        edited = p.x + 0.5
        try:
            run.send(Prediction(edited, (edited - level.noise * p.eps) / level.signal, p.eps))
            while True:
                next(run)
        except StopIteration as end:
            return end.value

    solver = build("deis:order=2")
    torch.testing.assert_close(ends(fitted(solver, levels)), ends(solver), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", ["ddim", "deis:order=2"])
def test_the_end_of_the_plan_begins_without_a_past(spec):
    """DDIM is the same; where eps never changes every row of a consistent solver is exact."""
    levels, x = plan(linear(), 6), torch.linspace(-2, 2, 9, dtype=torch.float64)
    solver = fitted(build(spec), levels)
    if spec == "ddim":
        torch.testing.assert_close(
            sample(THREE, x, levels[2:], solver), sample(THREE, x, levels[2:], build(spec))
        )

    def still(x, level):
        eps = torch.full_like(x, 0.5)
        return Prediction(x, (x - level.noise * eps) / level.signal, eps)

    exact = (x - levels[2].noise * 0.5) / levels[2].signal
    torch.testing.assert_close(sample(still, x, levels[2:], solver), exact)


def test_another_plan_is_refused():
    solver = fitted(build("ddim"), plan(linear(), 5))
    for other in (plan(linear(), 6), plan(linear(), 5, "log_snr"), plan(linear(), 5)[:-1]):
        with pytest.raises(ValueError, match="take the plan of its recipe"):
            sample(THREE, torch.zeros(2), other, solver)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (((1.0, math.nan),), "finite"),
        (((1.0,),), "2 to 2"),
        (((1.0, 0.0, 0.0),), "2 to 2"),
        ((), "one per interval"),
    ],
)
def test_bad_rows_are_refused(rows, says):
    with pytest.raises(ValueError, match=says):
        replace(Fitted((1.0, 0.0), ((1.0, 0.0),)), rows=rows)
