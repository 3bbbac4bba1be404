"""The page in a browser: what a user clicks, uploads, downloads and gets wrong."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

import ddim
from ddim.data import to_pixels

ROOT = Path(__file__).resolve().parents[1]
SHOTS = runpy.run_path(str(ROOT / "benchmarks/screenshots.py"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """The demo's model, a run and a report beside it."""
    folder = tmp_path_factory.mktemp("app") / "runs"
    shutil.copytree(demo, folder / "demo")
    for words in (
        "tune runs/demo --calls 5,10",
        "train digits --out runs/digits --steps 200 --log-every 20 --save-every 100",
        "evaluate runs/demo digits --calls 5,10 --num 64 --features pixels --out runs/report",
    ):
        command = [sys.executable, "-m", "ddim", *words.split()]
        subprocess.run(command, cwd=folder.parent, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(runs):
    """The address of the page, its process, and the file of what it asked of other machines."""
    log = runs.parent / "asked.txt"
    with SHOTS["served"](runs, log) as (address, process):
        yield address, process, log


@pytest.fixture(scope="module")
def browser():
    assert SHOTS["BROWSER"], "no browser here; install chromium, on Debian: apt install chromium"
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=SHOTS["BROWSER"], args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, server):
    """A fresh page; it ends with no request to another machine, from it or from the server."""
    address, process, log = server
    opened, foreign = browser.new_page(viewport={"width": 1280, "height": 900}), []

    def look(request):
        local = request.url.startswith((address, "data:", "blob:"))
        if not local:
            foreign.append(request.url)

    opened.on("request", look)
    opened.goto(address)
    opened.wait_for_selector("#sample")
    yield opened
    opened.close()
    assert foreign == []
    assert log.read_text() == ""
    assert process.poll() is None


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def message(page, text):
    """Wait for a message in the page, and close it."""
    page.wait_for_selector(f".toast-body:has-text({json.dumps(text)})", timeout=60_000)
    page.locator(".toast-close").first.click()


def memory(process):
    """Resident bytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return 1024 * int(found[1])


def source(page, where):
    return page.locator(f"{where} img").first.get_attribute("src")


def test_a_downloaded_png_has_the_pixels_of_the_command_and_of_the_program(page, runs, tmp_path):
    page.fill("#steps input", "7")
    page.fill("#seeds textarea, #seeds input", "3-6")
    begin = time.monotonic()
    page.click("#sample")
    page.wait_for_selector("#images img", timeout=60_000)
    first = time.monotonic() - begin
    SHOTS["told"](page, "#status", "ms an image")
    print(f"the first frame after {first:.2f} s, all after {time.monotonic() - begin:.2f} s")
    with page.expect_download() as download:
        page.click("#png")
    download.value.save_as(tmp_path / "page.png")
    command, program = (
        page.locator(f"#{name} .cm-content").inner_text()
        for name in (
            "command",
            "python",
        )
    )
    assert command.startswith("ddim sample runs/demo --steps 7 ")
    (tmp_path / "runs").symlink_to(runs)
    words = [sys.executable, "-m", *shlex.split(command)]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    shutil.move(tmp_path / "grid.png", tmp_path / "command.png")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    seen = [
        np.asarray(Image.open(tmp_path / name)) for name in ("page.png", "command.png", "grid.png")
    ]
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])
    assert seen[0].std() > 50
    for name, suffix in (("gif", ".gif"), ("npz", ".npz")):
        with page.expect_download() as download:
            page.click(f"#{name}")
        assert download.value.suggested_filename.endswith(suffix)


def test_the_page_answers_while_it_samples(page):
    page.fill("#steps input", "1000")
    page.click("#sample")
    SHOTS["told"](page, "#status", "call")
    slowest = 0.0
    for _ in range(10):
        begin = time.monotonic()
        tab(page, "Runs")
        tab(page, "Sample")
        slowest = max(slowest, time.monotonic() - begin)
    running = page.locator("#status").inner_text()
    page.click("#stop")
    SHOTS["told"](page, "#status", "stopped")
    print(f"two clicks took at most {slowest:.2f} s while it sampled")
    assert running.startswith("call ")


def test_an_uploaded_digit_comes_back_and_the_slider_moves_along_the_path(page, tmp_path):
    ddim.pictures.write_png(ddim.pictures.picture(ddim.digits().pixels[5]), tmp_path / "five.png")
    tab(page, "Edit")
    page.set_input_files("#first input[type=file]", tmp_path / "five.png")
    page.wait_for_selector("#first img")
    page.click("#encode")
    SHOTS["told"](page, "#error", "mean square error")
    page.wait_for_selector("#middle img")
    assert re.findall(r"error (\S+) of", page.locator("#error").inner_text()) == ["0.000e+00"] * 2
    before = source(page, "#middle")
    slider = page.locator("#weight input[type=range]")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    slider.dispatch_event("pointerup")
    page.wait_for_function(
        f"document.querySelector('#middle img').src != {json.dumps(before)}", timeout=60_000
    )
    page.locator("#exact input").click()
    page.get_by_role("option", name="ddim").click()
    page.click("#encode")
    page.wait_for_function("!document.querySelector('#error').innerText.includes('0.000e+00')")
    errors = re.findall(r"error (\S+) of", page.locator("#error").inner_text())
    assert all(0 < float(error) < 0.02 for error in errors)


def test_what_is_edited_stops_and_the_next_begins(page):
    tab(page, "Edit")
    page.fill("#edit-steps input", "1000")
    page.click("#encode")
    SHOTS["told"](page, "#error", "network call")
    page.click("#edit-stop")
    SHOTS["told"](page, "#error", "stopped")
    page.fill("#edit-steps input", "5")
    for _ in range(60):
        if page.locator("#error").inner_text() == "stopped":  # the page may not have heard of it
            page.click("#encode")
            page.wait_for_timeout(500)
    SHOTS["told"](page, "#error", "mean square error")
    assert page.locator(".toast-body").count() == 0


def test_a_painted_mask_is_made_anew(page):
    tab(page, "Edit")
    page.click("#paint")
    message(page, "there is no image yet")
    page.click("#encode")
    page.wait_for_selector("#middle img", timeout=60_000)
    page.click("#paint")
    message(page, "nothing is painted")
    SHOTS["stroke"](page)
    page.click("#paint")
    page.wait_for_selector("#painted img", timeout=60_000)


def test_fewer_steps_are_compared_with_the_fine_solution(page):
    tab(page, "Steps")
    page.fill("#steps-seeds textarea, #steps-seeds input", "0-1")
    SHOTS["compare"](page)
    rows = page.locator("#steps-table tr").all()
    assert rows[0].inner_text().split("\t")[1:3] == ["fine solution", "1000 calls"]
    errors = [[float(x) for x in re.findall(r"\d+\.\d", row.inner_text())] for row in rows[1:3]]
    assert errors[0] == sorted(errors[0])  # DDIM: 1000, 50, 20, 10, 5 calls
    assert len(errors[0]) == len(errors[1]) == 5


def test_a_run_is_watched_as_it_goes_on_and_a_report_is_shown(page, runs):
    tab(page, "Runs")
    SHOTS["told"](page, "#run-status", "Update 200")
    with (runs / "digits" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 220, "loss": 0.5, "lr": 1e-3, "grad_norm": 1.0}) + "\n")
    SHOTS["told"](page, "#run-status", "Update 220, loss 0.5")
    SHOTS["watch"](page)
    frame = page.frame_locator("iframe.report")
    assert "ddim" in frame.locator("body").inner_text()


def test_wrong_fields_are_messages(page):
    for value, told in (("1000000000", "steps is 1e+09; choose 1 to 1000"), ("", "steps is empty")):
        page.fill("#steps input", value)
        page.click("#sample")
        message(page, told)
    page.fill("#steps input", "3")
    page.fill("#seeds textarea, #seeds input", "0-999")
    page.click("#sample")
    message(page, "more than 64 seeds")
    page.fill("#seeds textarea, #seeds input", "0-3")
    page.click("#sample")
    SHOTS["told"](page, "#status", "3 network calls")


def call(address, name, data):
    """What the server says to an event that no page would send."""
    with urllib.request.urlopen(f"{address}config") as answer:
        config = json.load(answer)
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == name)
    body = {"data": data, "fn_index": number, "session_hash": "hostile", "trigger_id": None}
    request = urllib.request.Request(
        f"{address}gradio_api/queue/join",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=60).close()
        stream = f"{address}gradio_api/queue/data?session_hash=hostile"
        with urllib.request.urlopen(stream, timeout=60) as lines:
            for line in lines:
                if b"process_completed" in line:
                    return json.loads(line.removeprefix(b"data: "))["output"]["error"]
    except urllib.error.HTTPError as error:
        return f"refused with {error.code}"
    return None


def test_what_no_page_would_send_is_answered_in_words(page, server, runs):
    address, process, _ = server
    usual = ["demo", 3, "ddim", "trailing", 0, "0-3", "none", 1]
    for name in ("../../etc", "/etc", "demo/../../..", "", None, ["demo"]):
        assert re.search(
            "is not in|choose one of", str(call(address, "sample", [name, *usual[1:]]))
        )
    for place, value in ((1, float("nan")), (1, 10**400), (2, "x" * 10**6), (5, "0-" + "9" * 5000)):
        data = [*usual]
        data[place] = value
        assert call(address, "sample", data)
    for path in ("/etc/passwd", str(runs / "demo" / "ddim.json"), str(ROOT / "pyproject.toml")):
        with pytest.raises(urllib.error.HTTPError, match=r"40[034]"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
    assert process.poll() is None
    page.click("#sample")
    SHOTS["told"](page, "#status", "ms an image")


def test_another_name_and_another_page_are_turned_away(server):
    address, process, _ = server
    for head, value, status in (
        ("Host", "evil.com", 400),
        ("Origin", "http://evil.com", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
    ):
        for path in ("config", "gradio_api/upload"):
            request = urllib.request.Request(f"{address}{path}", headers={head: value})
            with pytest.raises(urllib.error.HTTPError, match=str(status)):
                urllib.request.urlopen(request)
    before = memory(process)
    request = urllib.request.Request(f"{address}gradio_api/queue/join", b"x" * (9 << 20))
    with pytest.raises((urllib.error.HTTPError, OSError)):
        urllib.request.urlopen(request)
    assert memory(process) - before < 30 << 20


def test_a_report_loads_nothing_from_outside(page, runs):
    """The page's own fixture sees to it that no request leaves."""
    (runs / "evil").mkdir()
    (runs / "evil" / "report.html").write_text(
        '<img src="http://192.0.2.1/x.png"><link rel="stylesheet" href="http://192.0.2.1/x.css">'
        "<script>document.title = 'evil'</script><p>the report</p>"
    )
    tab(page, "Runs")
    page.click("#report input")
    page.get_by_role("option", name="evil").click()
    frame = page.frame_locator("iframe.report")
    frame.locator("p").wait_for()
    page.wait_for_timeout(500)
    shutil.rmtree(runs / "evil")
    assert page.title() == "ddim"


def test_labels_are_there_when_the_page_opens_and_a_run_that_goes_is_told_once(browser, tmp_path):
    ddim.save(ddim.Model.new((1, 8, 8), classes=3), tmp_path / "runs/classes")
    (tmp_path / "runs/run").mkdir()
    (tmp_path / "runs/run/metrics.jsonl").write_text('{"step": 7}\n')
    with SHOTS["served"](tmp_path / "runs", tmp_path / "asked.txt") as (address, _):
        page = browser.new_page()
        page.goto(address)
        tab(page, "Runs")
        SHOTS["told"](page, "#run-status", "Update 7")
        shutil.rmtree(tmp_path / "runs/run")
        SHOTS["told"](page, "#run-status", "is no run in runs")
        tab(page, "Sample")
        page.wait_for_timeout(9000)  # two looks at what is not there
        assert page.locator(".toast-body").count() == 0
        page.click("#label input")
        page.get_by_role("option", name="2").click()
        page.fill("#steps input", "3")
        page.click("#sample")
        SHOTS["told"](page, "#status", "3 network calls")
        assert "--label 2" in page.locator("#command .cm-content").inner_text()
        page.close()


def test_large_uploads_are_taken_or_refused_and_memory_returns(page, server, tmp_path):
    _, process, _ = server
    tab(page, "Edit")
    Image.new("L", (10_000, 5_000), 90).save(tmp_path / "large.png")
    (tmp_path / "heavy.png").write_bytes(os.urandom(100 << 20))
    page.set_input_files("#first input[type=file]", tmp_path / "large.png")
    page.wait_for_selector("#first img", timeout=60_000)
    page.click("#encode")
    SHOTS["told"](page, "#error", "mean square error")
    before = memory(process)
    for seed in range(10, 18):
        shown = source(page, "#back")
        page.fill("#second-seed textarea, #second-seed input", str(seed))
        page.click("#encode")
        changed = f"document.querySelector('#back img').src != {json.dumps(shown)}"
        page.wait_for_function(changed, timeout=60_000)
    assert memory(process) - before < 50 << 20
    page.set_input_files("#second input[type=file]", tmp_path / "heavy.png")
    message(page, "size")
    assert memory(process) - before < 100 << 20


def test_fifty_clicks_in_a_second_are_one_run_and_the_server_lives(page, server):
    address, _, _ = server
    page.fill("#steps input", "50")
    page.evaluate(
        "for (let i = 0; i < 50; i++) setTimeout(() => document.querySelector('#sample').click(),"
        " 20 * i)"
    )
    SHOTS["told"](page, "#status", "50 network calls")
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.status == 200
    page.fill("#steps input", "4")
    page.wait_for_timeout(1500)
    page.click("#sample")
    SHOTS["told"](page, "#status", "4 network calls")


def test_a_password_is_asked_for_and_what_ends_the_page_leaves_nothing(runs, tmp_path):
    words = [sys.executable, "-m", "ddim", "app", str(runs), "--port"]
    scratch = {**os.environ, "TMPDIR": str(tmp_path), "DDIM_APP_PASSWORD": "secret"}
    for port, end in (("7971", signal.SIGINT), ("7972", signal.SIGTERM)):
        with subprocess.Popen(
            [*words, port], env=scratch, stderr=subprocess.PIPE, text=True
        ) as own:
            address = own.stderr.readline().split()[0]
            for place in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    urllib.request.urlopen(f"{address}{place}")
            other = subprocess.run([*words, port], capture_output=True, text=True, check=False)
            assert other.returncode == 2
            assert other.stderr.splitlines()[-1] == (
                f"ddim: port {port} of 127.0.0.1 cannot be had; choose another by --port"
            )
            own.send_signal(end)
            assert own.wait(20) == 0
        assert not list(tmp_path.glob("ddim-app-*"))


@pytest.mark.parametrize("width", [1280, 390])
def test_every_tab_fits_its_width(page, tmp_path, width):
    SHOTS["taken"](page, tmp_path, width)
    for name in SHOTS["TABS"]:
        with Image.open(tmp_path / f"app-{name.lower()}-{width}.png") as shot:
            assert shot.width == width  # nothing sticks out
            assert np.asarray(shot.convert("L")).std() > 10


def test_the_demo_samples_digits(demo):
    """What the pictures of this file are of: the page is of no use with noise."""
    model = ddim.load(demo)
    start = ddim.Seeded(range(16)).start(model.shape)
    with torch.no_grad():
        images = ddim.sample(model.denoiser(), start, model.plan(20))
    real = ddim.digits().pixels.flatten(1).float()
    near = torch.cdist(to_pixels(images).flatten(1).float(), real).amin(1).mean()
    assert near < 0.7 * torch.cdist(real, real).mean()
