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
from ddim.dispatch import HOPELESS, LOSSES, TRIES, Report, Rest, StoppedError, dispatch
from ddim.generation import generate
from ddim.places import place

SIMULATION = Path(__file__).parents[1] / "benchmarks/bulk_simulation.py"
FAILED, LOST = {"error": "it failed"}, {"error": "its worker was lost", "lost": True}
FATAL = {"error": "the disk is full", "fatal": True}
FATES = st.lists(
    st.sampled_from([FAILED, LOST]), max_size=4
)  # how a task's tries end, first of all
TASKS = st.lists(FATES, max_size=7)  # so few that 30 failures in a row are never reached
SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any)
SEEDS = st.integers(0, 2**32)


def tries(fates):
    """How many a task gets, and whether it fails by the last: 3 failures, 20 losses, or both."""
    spent = 0
    for count, fate in enumerate(fates, 1):
        spent += TRIES if "lost" in fate else LOSSES
        if spent >= TRIES * LOSSES:
            return count, True
    return len(fates) + 1, False


class Flaky:
    """Workers whose tasks end in any order: the tries of task t as fates[t] says, and then well.

    sizes: how many there are, by chance after every wait, as they are lost and come back.
    make: what is done of a task that ends well.   It holds `dispatch` to what it may ask of a crew.
    """

    def __init__(self, fates, sizes=(3,), seed=0, make=lambda task: None):
        self.fates, self.sizes, self.make = fates, sizes, make
        self.size, self.random = max(sizes), random.Random(seed)
        self.flying, self.given, self.over = [], [], set()
        self.stopped = self.closed = False

    def submit(self, task):
        assert not self.stopped
        assert task not in self.flying
        assert len(self.flying) < self.size
        self.flying.append(task)
        self.given.append(task)

    def wait(self):
        assert not self.stopped
        left = len(self.fates) - len(self.over)
        assert left, "nothing is left to wait for"
        assert len(self.flying) == min(self.size, left), "a worker is idle while a task waits"
        ended = self.random.sample(self.flying, self.random.randint(0, len(self.flying)))
        self.flying = [task for task in self.flying if task not in ended]
        self.size = max(self.random.choice(self.sizes), len(self.flying))
        return [self.end(task) for task in ended]

    def end(self, task):
        count = self.given.count(task)
        if count == tries(self.fates[task])[0]:
            self.over.add(task)
        if count > len(self.fates[task]):
            self.make(task)
            return Report(task)
        report = Report(task, **self.fates[task][count - 1])
        self.stopped |= report.fatal
        return report

    def close(self):
        self.closed = True


@given(TASKS, SIZES, SEEDS)
def test_every_task_is_reported_once_and_failed_only_after_three_tries(fates, sizes, seed):
    crew = Flaky(fates, sizes, seed)
    reports = list(dispatch(crew, range(len(fates))))
    assert sorted(each.task for each in reports) == list(range(len(fates)))
    for each in reports:
        count, failed = tries(fates[each.task])
        assert crew.given.count(each.task) == count
        assert each.error == (fates[each.task][count - 1]["error"] if failed else None)


@given(st.lists(st.sampled_from([FAILED, LOST]), max_size=HOPELESS - 1))
def test_twenty_workers_that_are_lost_with_a_task_are_three_failures_of_it(fates):
    crew = Flaky([fates])
    (report,) = dispatch(crew, [0])
    assert (len(crew.given), report.error is not None) == tries(fates)
    assert tries([LOST] * 19) == (20, False)
    assert tries([LOST] * 20) == (20, True)


@given(TASKS, SIZES, SEEDS, FATES.filter(lambda fates: len(fates) < TRIES), TASKS)
def test_a_fatal_failure_stops_at_once_and_nothing_more_is_submitted(b, sizes, seed, fates, after):
    before, deadly, reports = b[:3], len(b[:3]), []
    crew = Flaky([*before, [*fates, FATAL], *after[:3]], sizes, seed)
    with pytest.raises(StoppedError, match=r"^the disk is full$"):
        reports.extend(dispatch(crew, range(len(crew.fates))))
    assert all((each.error is None) != tries(crew.fates[each.task])[1] for each in reports)
    assert {each.task for each in reports} <= crew.over - {deadly}


@given(TASKS)
def test_one_worker_takes_all_in_turn_and_then_what_failed_in_the_same_order(fates):
    crew = Flaky(fates, sizes=(1,))
    list(dispatch(crew, iter(range(len(fates)))))
    rounds = range(max([tries(each)[0] for each in fates], default=0))
    assert crew.given == [t for k in rounds for t, each in enumerate(fates) if tries(each)[0] > k]


@pytest.mark.parametrize(("size", "most"), [(1, 30), (10, 30), (20, 60)])
@pytest.mark.parametrize("fate", [FAILED, LOST])
def test_failures_without_a_success_stop_after_thirty_or_three_for_each_worker(size, most, fate):
    crew = Flaky([[fate] * 20] * 100, sizes=(size,))
    with pytest.raises(
        StoppedError, match=f"^{most} tasks in a row failed, the last: {fate['error']}"
    ):
        list(dispatch(crew, range(100)))
    assert most <= len(crew.given) <= most + size


@pytest.mark.parametrize(("others", "stops"), [(HOPELESS - 1, False), (HOPELESS, True)])
def test_one_success_in_time_is_enough_to_go_on(others, stops):
    crew = Flaky([*([[FAILED]] * others), [], *([[FAILED]] * others), []], sizes=(1,))
    found = []
    try:
        found.extend(dispatch(crew, range(len(crew.fates))))
    except StoppedError:
        assert stops
    assert len(found) == (0 if stops else 2 * HOPELESS)


def test_a_worker_rests_longer_with_each_failure_and_not_after_a_success():
    rest, now, rests = Rest(), 0.0, []
    for _ in range(9):
        rest.ended(7, failed=True, now=now)
        assert rest.resting(now) == {7}
        begin = now
        while rest.resting(now):
            now += 0.25
        rests.append(now - begin)
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    rest.ended(7, failed=False, now=now)
    rest.ended(8, failed=True, now=now)
    assert rest.resting(now) == {8}
    rest.ended(7, failed=True, now=now)
    assert rest.resting(now + 0.75) == {7, 8}
    assert rest.resting(now + 1) == set()


def test_what_is_there_and_what_failed_is_counted_in_samples_and_the_crew_is_closed(tmp_path):
    """Shard 2 is reported as done by a worker that wrote it elsewhere."""
    job, out = small(), place(tmp_path / "out")

    def make(shard):
        files = [*job.names(shard), job.sidecar(shard)]
        (out if shard != 2 else place(tmp_path / "elsewhere")).write(dict.fromkeys(files, b""))

    crew = Flaky([[], [FAILED] * 3, [FAILED], [FAILED], [FAILED] * 3], make=make)
    state = generate(job, out, lambda shards: crew)
    gone = f"{job.sidecar(2)} is not in {out.name} as this process sees it"
    assert state.failed == {1: "it failed", 2: gone, 4: "it failed"}
    assert (state.total, state.done, state.made) == (9, 4, 4)
    assert crew.closed


def test_a_crew_is_closed_when_a_run_is_broken_off(tmp_path):
    def stop(state):
        if state.made:
            raise KeyboardInterrupt

    crews = Flaky([[FAILED], [FAILED], [FATAL], [], []]), Flaky([[FAILED]] * 5)
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
