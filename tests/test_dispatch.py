"""Tasks and workers that fail: what `dispatch` promises of any crew, and a cluster, played."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ddim.bulk import Job
from ddim.cells import Setting
from ddim.dispatch import TRIES, Report, StoppedError, dispatch
from ddim.generation import generate
from ddim.places import place

SIMULATION = Path(__file__).parents[1] / "benchmarks/bulk_simulation.py"
FAILURES = st.lists(st.integers(0, TRIES + 1), max_size=20)
SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any)
SEEDS = st.integers(0, 2**32)


class Flaky:
    """Workers whose tasks end in any order; those of task t fail at its first failures[t] tries.

    sizes: how many there are, by chance after every wait, as they are lost and come back.
    deadly: a task whose last failure is fatal.   It holds `dispatch` to what it may ask of a crew.
    """

    def __init__(self, failures, sizes=(3,), seed=0, deadly=None):
        self.failures, self.sizes, self.deadly = failures, sizes, deadly
        self.size, self.random = max(sizes), random.Random(seed)
        self.flying, self.given, self.over, self.stopped, self.closed = [], [], set(), False, False

    def submit(self, task):
        assert not self.stopped
        assert task not in self.flying
        assert len(self.flying) < self.size
        self.flying.append(task)
        self.given.append(task)

    def wait(self):
        assert not self.stopped
        left = len(self.failures) - len(self.over)
        assert len(self.flying) == min(self.size, left), "a worker is idle while a task waits"
        ended = self.random.sample(self.flying, self.random.randint(0, len(self.flying)))
        self.flying = [task for task in self.flying if task not in ended]
        self.size = max(self.random.choice(self.sizes), len(self.flying))
        return [self.end(task) for task in ended]

    def end(self, task):
        tried = self.given.count(task)
        failed = tried <= self.failures[task]
        if not failed or tried == TRIES:
            self.over.add(task)
        fatal = task == self.deadly and tried == self.failures[task]
        self.stopped |= fatal
        return Report(task, f"try {tried} of {task}" if failed else None, fatal)

    def close(self):
        self.closed = True


@given(FAILURES, SIZES, SEEDS)
def test_every_task_is_reported_once_and_failed_only_if_three_tries_were(failures, sizes, seed):
    crew, tasks = Flaky(failures, sizes, seed), range(len(failures))
    reports = list(dispatch(crew, tasks))
    assert sorted(report.task for report in reports) == list(tasks)
    for task, error, fatal in ((each.task, each.error, each.fatal) for each in reports):
        assert error == (f"try 3 of {task}" if failures[task] >= 3 else None)
        assert crew.given.count(task) == min(failures[task] + 1, 3)
        assert not fatal


@given(FAILURES, SIZES, SEEDS, st.integers(1, TRIES), FAILURES)
def test_a_fatal_failure_stops_at_once_and_nothing_more_is_submitted(
    before, sizes, seed, tries, after
):
    failures, deadly, reports = [*before, tries, *after], len(before), []
    crew = Flaky(failures, sizes, seed, deadly)
    with pytest.raises(StoppedError, match=f"^try {tries} of {deadly}$"):
        reports.extend(dispatch(crew, range(len(failures))))
    assert all((each.error is None) == (failures[each.task] < TRIES) for each in reports)
    assert {each.task for each in reports} <= crew.over - {deadly}


@given(FAILURES)
def test_one_worker_takes_all_in_turn_and_then_what_failed_in_the_same_order(failures):
    crew = Flaky(failures, sizes=(1,))
    list(dispatch(crew, iter(range(len(failures)))))
    assert crew.given == [t for tries in range(3) for t, n in enumerate(failures) if n >= tries]


def test_what_is_done_and_what_failed_is_counted_in_samples_and_the_crew_is_closed(tmp_path):
    job, crew = small(), Flaky([0, 3, 1, 0, 4])
    state = generate(job, place(tmp_path), lambda shards: crew)
    assert state.failed == {1: "try 3 of 1", 4: "try 3 of 4"}
    assert (state.total, state.done, state.made) == (9, 6, 6)
    assert crew.closed


def test_a_crew_is_closed_when_a_run_is_broken_off(tmp_path):
    def stop(state):
        if state.made:
            raise KeyboardInterrupt

    crews = Flaky([1] * 5, deadly=2), Flaky([1] * 5)
    with pytest.raises(StoppedError):
        generate(small(), place(tmp_path), lambda shards: crews[0])
    with pytest.raises(KeyboardInterrupt):
        generate(small(), place(tmp_path), lambda shards: crews[1], stop)
    assert all(crew.closed for crew in crews)


def small():
    """A job of five shards, the last of one sample."""
    return Job("none", "none", 9, Setting("ddim", "trailing", 1), shard_size=2)


def test_a_set_that_went_through_failures_has_the_bytes_of_one_that_did_not():
    """The benchmark of a million images and a thousand workers, with 4,096 and 50."""
    words = ["--num", "4096", "--shard-size", "8", "--workers", "50", "--failures", "0.2"]
    command = [sys.executable, str(SIMULATION), *words]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=threads, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("^ yes  ", done.stdout, re.MULTILINE)) == 5
    assert "run 2: " in done.stdout  # some shards failed three times
