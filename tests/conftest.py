import os
import signal
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before diffusers is imported: no test uses the network

import pytest
import torch
from hypothesis import settings

from ddim.cli import main

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("same every time")
torch.set_num_threads(1)  # the networks here are too small to share
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_tests(tmp_path_factory):
    """Nothing is kept in the user's own cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DDIM_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def cache(_cache_of_tests):
    """Where what can be made anew is kept, once for all tests."""
    return _cache_of_tests


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of a whole `ddim demo`, made once for all slow tests."""
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, "-m", "ddim", "demo"], cwd=folder, check=True)
    return folder / "runs/demo"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, cache):
    """Run the command in an empty folder; the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDIM_CACHE", str(cache))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ddim", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code or 0, *capsys.readouterr())

    return call
