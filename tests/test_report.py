"""The report in a browser, and sweeps that are killed: minutes, so in the slow suite."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

import ddim
from ddim import schedules
from tiny import tiny_model

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
WORDS = ("--features", "pca", "--num", "60", "--solvers", "ddim:eta=0;ddpm")


@pytest.fixture
def model(tmp_path):
    ddim.save(replace(tiny_model(), schedule=schedules.linear(100)), tmp_path / "model")
    return tmp_path / "model"


def test_a_browser_opens_the_report_offline_and_reads_it(run, model, tmp_path):
    words = ("evaluate", model, "digits", *WORDS, "--calls", "2,5", "--out", "r")
    assert run(*words)[0] == 0
    assert BROWSER, "no browser here; install chromium, on Debian: apt install chromium"
    document = json.loads((tmp_path / "r" / "results.json").read_text())
    asked, faults = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((tmp_path / "r" / "report.html").as_uri())
        sizes = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth * i.height)")
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        header = page.locator("#quality-1 thead th").all_inner_texts()
        row = page.locator("#quality-1 tbody tr", has_text="ddpm").locator("td").all_inner_texts()
        browser.close()
    assert len(sizes) == 7
    assert min(sizes) > 0
    assert wide <= 0
    assert not faults
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert header == ["solver", "2", "5", "100"]
    found = next(c for c in document["cells"] if (c["solver"], c["calls"]) == ("ddpm", 5))
    assert row[1] == f"{found['figures']['pca']['fd']['value']:.3g}"


def test_a_killed_sweep_loses_one_cell_at_most(model, tmp_path):
    environment = {**os.environ, "DDIM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = ["evaluate", str(model), "digits", *WORDS, "--calls", "5,10,20", "--fine", "90"]
    command = [sys.executable, "-m", "ddim", *words, "--batch-size", "8"]
    whole = {}

    def files(out):
        found = {}
        for path in (tmp_path / out).glob("cells/dd*.json"):
            pixels = np.load(path.with_suffix(".npy"))
            assert pixels.shape == (60, 1, 8, 8)
            found[path.name] = (path.stat().st_mtime_ns, pixels.tobytes())
        return found

    for delay in (0.1, 0.6, 1.1, 0.3):
        begun = len(whole)
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "r")], env=environment, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        while len(files("r")) <= begun and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = files("r")
        assert len(found) > begun
        assert all(found[name] == kept for name, kept in whole.items())  # not sampled again
        whole = found
        if len(whole) == 7:
            break
    for out in ("r", "fresh"):
        subprocess.run([*command, "--out", str(tmp_path / out)], env=environment, check=True)
    killed, fresh = (
        json.loads(Path(tmp_path / out / "results.json").read_text()) for out in ("r", "fresh")
    )
    assert [c["figures"] for c in killed["cells"]] == [c["figures"] for c in fresh["cells"]]
    pixels = [{name: x for name, (_, x) in files(out).items()} for out in ("r", "fresh")]
    assert pixels[0] == pixels[1]
    assert all(files("r")[name] == kept for name, kept in whole.items())
    assert not list((tmp_path / "r" / "cells").glob(".*.tmp"))
