"""Bulk generation killed and continued: the bytes of a run that nobody touched."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ddim
from ddim.bulk import Job
from ddim.cells import Setting
from ddim.engines import Here, Pool
from ddim.generation import generate, verify
from ddim.identity import fingerprint
from ddim.places import Local
from tiny import tiny_model

BENCHMARK = Path(__file__).parents[1] / "benchmarks/bulk_kills.py"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Killed(Pool):
    """A pool whose worker is killed once, with a shard of its own."""

    def submit(self, task):
        super().submit(task)
        if task == 2 and not hasattr(self, "killed"):
            (self.killed,) = multiprocessing.active_children()
            self.killed.kill()


def test_a_killed_worker_changes_no_byte(tmp_path):
    model = tiny_model()
    ddim.save(model, tmp_path / "model")
    setting = Setting("ddim:eta=0.5", "trailing", 3)
    job = Job(str(tmp_path / "model"), fingerprint(model), 40, setting, shard_size=9, format="png")
    whole, broken, pools = Local(tmp_path / "whole"), Local(tmp_path / "broken"), []
    generate(job, whole, lambda shards: Here(job, whole))

    def hire(shards):
        pools.append(Killed(job, broken, 1))
        return pools[0]

    progress = generate(job, broken, hire)
    assert pools[0].killed.exitcode == -9
    assert (progress.done, progress.made, progress.failed) == (40, 40, {})
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert verify(job, broken) == {}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pool", "ray"])
def test_a_run_of_2000_images_killed_again_and_again_ends_with_the_same_bytes(engine):
    """The benchmark that does twenty, with one: a worker, and the parent or the whole group."""
    command = [sys.executable, str(BENCHMARK), "--runs", "1", "--ray", str(int(engine == "ray"))]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| 1 | {engine} |" in done.stdout
    assert "0 faults" in done.stdout
