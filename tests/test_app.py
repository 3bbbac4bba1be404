"""What the page does between a click and a picture, without a browser."""

import asyncio
import io
import json
import math
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

import ddim
from ddim.app import asked as asking, guard, painting, runs, sampling, steps, there_and_back
from ddim.app.asked import TUNED, Asked, Film, asked, ranges, small
from ddim.app.handlers import beside, sentence, told, told_each
from ddim.app.home import Home
from ddim.data import to_pixels
from tiny import tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of runs: a model, one with classes, one of vectors, a recipe."""
    root = tmp_path_factory.mktemp("runs")
    ddim.save(tiny_model("v"), root / "plain")
    learned = ddim.Model.new((1, 8, 8), classes=3)
    for weight in learned.net.requires_grad_(False).parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    ddim.save(learned, root / "deep" / "classes")
    ddim.save(ddim.Model.new((5,)), root / "vectors")
    plain = ddim.load(root / "plain")
    plan = plain.plan(3, "log_snr")
    fitted = ddim.Recipe(
        3,
        tuple(level.t for level in plan),
        ddim.Fitted(tuple(level.ratio for level in plan), ddim.rows_of(ddim.UniPC(), plan)),
        ddim.identity.fingerprint(plain),
    )
    ddim.save_recipe(fitted, root / "plain")
    return Home(root, str(root), tmp_path_factory.mktemp("made"))


def finished(wanted, home):
    return list(wanted.frames(home))[-1].images


FIELDS = [
    ("plain", {"steps": 4}),
    ("plain", {"steps": 3, "solver": "dpmpp:order=2", "eta": 0.4, "seeds": "7,3-4"}),
    ("plain", {"steps": 5, "eta": 0.5, "spacing": "quadratic", "clip": 0.8}),
    ("plain", {"steps": 3, "solver": TUNED}),
    ("deep/classes", {"steps": 3, "label": "2", "guidance": 2.5, "seeds": "1"}),
]


@pytest.mark.parametrize(("name", "fields"), FIELDS)
def test_the_command_and_the_program_make_the_images_of_the_page(home, run, name, fields):
    wanted = asked(home, name, fields)
    images = finished(wanted, home)
    code, _, err = run(*shlex.split(wanted.command(home))[1:])
    assert code == 0, err
    file = io.BytesIO()
    ddim.pictures.grid(images).save(file, "PNG")
    with Image.open("grid.png") as drawn, Image.open(file) as shown:
        assert np.array_equal(np.asarray(drawn), np.asarray(shown))
    names = {}
    exec(wanted.python(home), names)
    assert torch.equal(to_pixels(names["images"]), to_pixels(images))


def test_every_call_is_a_picture_and_the_last_has_the_images(home):
    frames = list(asked(home, "plain", {"steps": 4, "solver": "heun"}).frames(home))
    assert [frame.done for frame in frames] == [1, 2, 3, 4, 5, 5]
    assert [frame.images is None for frame in frames] == [True] * 5 + [False]
    assert len({frame.picture.tobytes() for frame in frames[:-1]}) == 5


def test_images_that_are_not_finite_are_told_and_not_shown(tmp_path):
    wild = tiny_model()
    for weight in wild.net.parameters():
        weight.mul_(1e30)
    ddim.save(wild, tmp_path / "wild")
    home = Home(tmp_path, "runs", tmp_path)
    with pytest.raises(FloatingPointError, match="holds a nan or an infinity"):
        finished(asked(home, "wild", {"steps": 2}), home)


WRONG = {
    "steps": [1e9, math.nan, math.inf, 0, -3, 2.5, None, "", "ten", [], 10**400],
    "seeds": ["", "x", "5-1", "0-64", "1,1", "-3", "0-99999999999999999999", "1e3", None],
    "eta": [math.nan, 2, -1, None, "a"],
    "guidance": [math.nan, -1, 1e9, 3],
    "solver": ["euler", "ddim:eta=nan", "unipc:order=99", "__import__('os')", "ddim:x=1"],
    "spacing": ["even", 3],
    "label": [0, "9", math.nan],
    "clip": [math.nan, -1, "x"],
}


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, vs in WRONG.items() for v in vs])
def test_a_wrong_field_is_one_sentence(home, field, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        asked(home, "plain", {field: value}).made(home, home.model("plain"))
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_an_eta_goes_to_the_solvers_that_have_one(home):
    def solver(**fields):
        return asked(home, "plain", fields).solver

    assert ddim.build(solver(eta=0.5)) == ddim.DDIM(eta=0.5)
    assert ddim.build(solver(solver="dpmpp:order=3", eta=0.5)) == ddim.DPMpp(order=3, eta=0.5)
    assert solver(solver="unipc") == "unipc"
    assert ddim.build(solver(solver="resample", eta=0)) == ddim.Resample(eta=0.0)
    assert solver(solver="resample", eta=1) == solver(solver="resample") == "resample"
    assert solver(solver="ddpm", eta=0) == "ddpm"
    for other, why in (("unipc", "takes no"), ("ddpm", "takes no"), ("ddim:eta=0.2", "itself")):
        with pytest.raises(ValueError, match=why):
            solver(solver=other, eta=0.5)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc", "..", "plain/../../secret", "link", "absent", "", None, 3, ["plain"]],
)
def test_nothing_outside_the_folder_is_opened(tmp_path, name):
    ddim.save(tiny_model(), tmp_path / "secret")
    ddim.save(tiny_model(), tmp_path / "runs" / "plain")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "secret")
    home = Home(tmp_path / "runs", "runs", tmp_path)
    assert home.names("model") == ["plain"]
    with pytest.raises(ValueError, match="choose one of plain"):
        home.model(name)
    (tmp_path / "secret" / "report.html").write_text("secret")
    (tmp_path / "secret" / "metrics.jsonl").write_text("{}")
    assert home.names("run") == home.names("report") == []
    if name is not None:
        with pytest.raises(ValueError, match="there is no report in it now"):
            runs.read(home, name)


def test_a_model_that_trains_on_is_opened_anew_and_few_stay_open(tmp_path):
    home = Home(tmp_path, "here", tmp_path)
    for k in range(4):
        ddim.save(tiny_model(), tmp_path / f"run{k}")
        home.model(f"run{k}")
    assert len(home._models) == 2
    first = home.model("run3")
    assert home.model("run3") is first
    ddim.save(tiny_model("x0"), tmp_path / "run3")
    assert home.model("run3").target == "x0"


def test_a_folder_that_is_a_model_is_its_own_name(home):
    one = Home(home.root / "plain", "runs/plain/", home.made)
    assert one.names("model") == ["."]
    command = asked(one, ".", {"steps": 2}).command(one)
    assert command.startswith("ddim sample runs/plain/ --steps 2 ")


def test_vectors_are_refused_and_seeds_are_written_as_they_are_read(home):
    with pytest.raises(ValueError, match="not images"):
        asked(home, "vectors", {})
    for text in ("0-15", "3", "1-2", "1-3,7,9-12", "5,3,4"):
        assert (
            asked(home, "plain", {"seeds": text}).seeds
            == asked(
                home, "plain", {"seeds": ranges(asked(home, "plain", {"seeds": text}).seeds)}
            ).seeds
        )
    assert ranges((0, 1, 2, 3, 7, 9, 10)) == "0-3,7,9-10"


def test_a_film_is_short_and_even_and_of_small_pictures():
    film, first = Film(), Image.new("L", (2000, 10))
    for k in range(1000):
        first.putpixel((0, 0), k % 256)
        film.add(first)
    assert 50 <= len(film.pictures) <= 100
    assert {each.size for each in film.pictures} == {(1024, 5)}
    assert small(Image.new("L", (5, 7))).size == (5, 7)
    few = Film()
    for k in range(7):
        few.add(Image.new("L", (1, 1), k))
    assert [each.getpixel((0, 0)) for each in few.pictures] == list(range(7))


def test_downloads_are_what_the_command_writes(home, tmp_path):
    wanted = asked(home, "plain", {"steps": 3, "seeds": "4-6"})
    *before, last = wanted.frames(home)
    png, gif, npz = sampling.written(tmp_path, wanted, last, [f.picture for f in before])
    with np.load(npz) as arrays:
        assert arrays["seeds"].tolist() == [4, 5, 6]
        assert np.array_equal(arrays["images"][..., 0], to_pixels(last.images)[:, 0])
    with Image.open(gif) as moving:
        assert moving.n_frames == 3  # the last call foresees the image itself
    ddim.save_grid(last.images, tmp_path / "other.png")
    assert (tmp_path / "other.png").read_bytes() == Path(png).read_bytes()


def test_old_downloads_go(home):
    folders = [home.scratch() for _ in range(40)]
    assert [folder.exists() for folder in folders] == [False] * 8 + [True] * 32


def test_errors_are_told_as_text_and_faults_are_not_hidden():
    @told
    def one(what):
        raise what

    @told_each
    def each(what):
        yield 1
        raise what

    for call in (one, lambda what: list(each(what))):
        with pytest.raises(gr.Error) as error:
            call(ValueError("<script>alert(1)</script> " + "x" * 1000))
        assert error.value.message.startswith("&lt;script&gt;")
        assert len(error.value.message) < 500
        with pytest.raises(ZeroDivisionError):
            call(ZeroDivisionError())
    assert "memory" in sentence(MemoryError()).message
    assert list(told_each(lambda: iter((1, 2)))()) == [1, 2]


def test_few_steps_come_nearer_the_fine_solution_with_each_column(home):
    *_, (done, fine) = steps.compared(home, "plain", "unipc", {"seeds": "0-1"})
    far = [steps.distance(done["unipc", calls].images, fine) for calls in (5, 10, 50)]
    assert far[0] > far[1] > far[2]
    near, away = (steps.distance(done["ddim", calls].images, fine) for calls in (1000, 5))
    assert near < away
    assert done[TUNED, 5].images is None
    html = steps.drawn(done, fine)
    assert html.count("<img") == 11  # two solvers by five, and the fine solution
    assert html.count("none fitted") == 5
    assert f">{far[0]:.1f}</td>" in html


def test_what_has_no_distance_says_why(home):
    *_, (done, fine) = steps.compared(home, "plain", "resample:repeats=3", {"seeds": "0"})
    short, long = done["resample:repeats=3", 5], done["resample:repeats=3", 10]
    assert (short.images, short.word) == (None, "too few") or short.word == "drew noise"
    assert long.word == "drew noise"
    *_, (done, fine) = steps.compared(home, "plain", "ddpm", {"seeds": "0"})
    assert {done["ddpm", calls].word for calls in steps.COUNTS} == {"drew noise"}
    assert done["ddim", 10].word == ""
    assert ">drew noise</td>" in steps.drawn(done, fine)


def test_the_last_cell_is_shown_too(home):
    shown = [len(done) for done, _ in steps.compared(home, "plain", "unipc", {"seeds": "0"})]
    assert shown[-1] == 3 * len(steps.COUNTS)  # the last has no recipe fitted


def test_the_program_is_for_the_device_of_the_page(home):
    elsewhere = Home(home.root, "runs", home.made, "cuda")
    program = asked(home, "plain", {"steps": 2}).python(elsewhere)
    assert "ddim.load('runs/plain', 'cuda').optimize" in program
    assert "noise.start(model.shape, 'cuda')" in program


def test_the_table_names_a_solver_as_text(home):
    assert "<b>" not in steps.drawn({("<b>", 5): steps.Cell(None, "too few", "<i>")}, None)
    assert "<i>" not in steps.drawn({("<b>", 5): steps.Cell(None, "too few", "<i>")}, None)
    with pytest.raises(ValueError, match="unknown"):
        list(steps.compared(home, "plain", "<b>", {"seeds": "0"}))
    with pytest.raises(ValueError, match="count of seeds is 17"):
        list(steps.compared(home, "plain", "unipc", {"seeds": "0-16"}))


ENDS, TOLD = (None, "0", None, "1"), []


def encoded(home, *ends, exact="lattice", name="plain"):
    return there_and_back.encoded_ends(home, name, (4, exact, "none"), ends, TOLD.append)


def test_an_uploaded_digit_comes_back_and_the_path_begins_and_ends_at_the_images(home, tmp_path):
    digit = ddim.digits().pixels[3]
    ddim.pictures.write_png(ddim.pictures.picture(digit), tmp_path / "digit.png")
    found, back = encoded(home, str(tmp_path / "digit.png"), "0", None, "1")
    assert torch.equal(to_pixels(found.images[0]), digit)
    assert torch.equal(back, found.images)  # to the bit
    for weight, end in ((0, 0), (1, 1)):
        assert torch.equal(
            to_pixels(there_and_back.along(home, found, weight, TOLD.append))[0],
            to_pixels(found.images)[end],
        )
    assert there_and_back.errors(back[0], back[0]).startswith("mean square error 0.000e+00")
    assert "the worst 255 of 255" in there_and_back.errors(back[0] * 0 - 1, back[0] * 0 + 1)
    _, plain = encoded(home, str(tmp_path / "digit.png"), "0", None, "1", exact="ddim")
    assert not torch.equal(plain, found.images)


def test_what_cannot_be_encoded_is_a_sentence(home, tmp_path):
    for what in ({"exact": "best"}, {"name": "vectors"}):
        with pytest.raises(ValueError, match="choose"):
            encoded(home, None, "0", None, "1", **what)
    with pytest.raises(ValueError, match="needs at least 2"):
        there_and_back.encoded_ends(home, "plain", (1, "belm", "none"), ENDS, TOLD.append)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read: it is no PNG"):
        encoded(home, str(tmp_path / "x.png"), "0", None, "1")
    huge = Image.new("1", (60_000, 2_000))
    huge.save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="decompression bomb"):
        encoded(home, str(tmp_path / "huge.png"), "0", None, "1")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 1), ("L", 3), ("RGBA", 1), ("L", 1)])
def test_a_picture_takes_the_channels_of_the_model(tmp_path, mode, channels):
    colour = (255, 0, 0, 255)[: len(mode)] if mode != "L" else 90
    Image.new(mode, (30, 20), colour).save(tmp_path / "p.png")
    image = there_and_back.uploaded(str(tmp_path / "p.png"), (channels, 8, 8))
    assert image.shape == (1, channels, 8, 8)
    expected = 90 if mode == "L" else 76  # 0.299 of 255
    assert (to_pixels(image) == expected).all()


def stroke(height, width, box, factor=40):
    layer = Image.new("RGBA", (width * factor, height * factor))
    left, top, right, bottom = (factor * side for side in box)
    layer.paste((255, 0, 0, 255), (left, top, right, bottom))
    return {"background": None, "layers": [layer], "composite": layer}


def test_what_is_painted_is_made_anew_and_nothing_else(home):
    found, _ = encoded(home, None, "0", None, "1")
    drawing = stroke(8, 8, (2, 3, 5, 8))
    mask = painting.strokes(drawing, 8, 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[3:8, 2:5] = True
    assert torch.equal(mask, expected)
    images = list(painting.repainted(home, found, drawing, "0-3"))[-1]
    kept = to_pixels(found.images[0, 0])
    assert len(images) == 4
    for each in to_pixels(images)[:, 0]:
        assert torch.equal(each[~mask], kept[~mask])
        assert not torch.equal(each[mask], kept[mask])
    for empty in (None, {}, {"layers": []}, {"layers": None}, stroke(8, 8, (0, 0, 0, 0))):
        with pytest.raises(ValueError, match="nothing is painted"):
            painting.strokes(empty, 8, 8)


def test_the_editor_shows_pixels_enlarged_whole():
    canvas = painting.on_canvas(torch.linspace(-1, 1, 64).reshape(1, 8, 8))["background"]
    assert canvas.size == (512, 512)
    pixels = np.asarray(canvas)[..., 0]
    assert (pixels[:64, :64] == pixels[0, 0]).all()


def run_of(folder, lines=()):
    (folder / "samples").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Home(folder.parent, "runs", folder.parent)


def test_a_run_is_told_drawn_and_shown(tmp_path):
    folder = tmp_path / "run"
    home = run_of(folder)
    assert runs.said(home, folder, []) == "Nothing is logged yet."
    assert runs.pictures_of(home, folder, []) == (None, None)
    lines = [
        {"step": k, "loss": 1 / (k + 1), "lr": 1e-3, "grad_norm": 1.0, "examples_per_s": 9.5}
        for k in range(5)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = runs.rows_of(home, folder)
    assert runs.said(home, folder, found).startswith("Update 4, loss 0.2, 9.5 examples/s; logged ")
    picture, grid = runs.pictures_of(home, folder, found)
    assert grid is None
    assert np.asarray(picture).std() > 1
    for k in (2, 12):
        Image.new("L", (k, k)).save(folder / "samples" / f"step-{k:08d}.png")
    (folder / "samples" / "step-last.png").write_bytes(b"no picture")
    assert runs.said(home, folder, found).endswith("The samples are of update 12.")
    assert runs.pictures_of(home, folder, found)[1].size == (12, 12)


def test_a_long_run_is_drawn_by_some_of_its_lines(tmp_path):
    home = run_of(tmp_path / "run", ({"step": k, "examples_per_s": "fast"} for k in range(30_000)))
    found = runs.rows_of(home, tmp_path / "run")
    assert len(found) <= 2001
    assert [row["step"] for row in (found[0], found[-1])] == [0, 29_999]
    assert runs.said(home, tmp_path / "run", found).startswith("Update 29,999; logged")


def test_links_to_files_outside_are_not_read(tmp_path):
    (tmp_path / "secret").write_text('{"step": 1, "secret": 1}')
    home = run_of(tmp_path / "runs" / "evil")
    evil = home.root / "evil"
    (evil / "samples/step-00000001.png").symlink_to(tmp_path / "secret")
    assert "samples" not in runs.said(home, evil, [{"step": 1}])
    (evil / "metrics.jsonl").unlink()
    for name in ("metrics.jsonl", "report.html"):
        (evil / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="leads out of runs"):
        runs.rows_of(home, evil)
    with pytest.raises(ValueError, match="leads out of runs"):
        runs.read(home, "evil")


def test_a_model_whose_weights_lie_outside_is_not_opened(tmp_path):
    ddim.save(tiny_model(), tmp_path / "runs" / "m")
    (weights,) = (tmp_path / "runs/m").rglob("*.safetensors")
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    with pytest.raises(ValueError, match="leads out of here"):
        Home(tmp_path / "runs", "here", tmp_path).model("m")


def test_a_model_that_changed_since_it_encoded_is_told(tmp_path):
    ddim.save(tiny_model("v"), tmp_path / "m")
    home = Home(tmp_path, "here", tmp_path)
    found, _ = there_and_back.encoded_ends(home, "m", (3, "lattice", "none"), ENDS, TOLD.append)
    there_and_back.along(home, found, 0.5, TOLD.append)
    ddim.save(tiny_model("x0"), tmp_path / "m")
    with pytest.raises(ValueError, match="has changed"):
        there_and_back.along(home, found, 0.5, TOLD.append)
    with pytest.raises(ValueError, match="has changed"):
        list(painting.repainted(home, found, stroke(8, 8, (2, 2, 6, 6)), "0"))


def test_no_solver_goes_on_without_end(home):
    for text in ("resample:repeats=20000000", "resample:repeats=90"):
        with pytest.raises(ValueError, match="too much for a page"):
            asked(home, "plain", {"solver": text, "steps": 1000})
    with pytest.raises(ValueError, match="too much for a page"):
        list(steps.compared(home, "plain", "resample:repeats=20000000", {"seeds": "0"}))


def answer(own, headers, path="/gradio_api/queue/join"):
    """The status that the guard lets through or gives."""

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def asked_by(scope):
        sent = []

        async def send(part):
            sent.append(part)

        await guard.Guard(page, own=own)(scope, None, send)
        return sent[0]["status"]

    heads = [(k.encode(), v.encode()) for k, v in headers.items()]
    return asyncio.run(asked_by({"type": "http", "path": path, "headers": heads}))


def test_other_pages_and_large_requests_are_turned_away():
    here = {"host": "127.0.0.1:7860"}
    assert answer(True, here) == 200
    assert answer(True, {**here, "origin": "http://127.0.0.1:7860"}) == 200
    for origin in ("http://evil.com:7860", "http://127.0.0.1:9", "null"):
        assert answer(True, {**here, "origin": origin}) == 403
    assert answer(True, {**here, "sec-fetch-site": "cross-site"}) == 403
    assert answer(False, {**here, "origin": "http://proxy"}) == 200
    large = {**here, "content-length": str(100 << 20)}
    assert answer(False, large) == answer(True, large) == 413
    assert answer(True, large, "/gradio_api/upload") == 200
    assert answer(True, {**here, "content-length": "x"}) == 413


def test_an_address_may_try_ten_passwords_in_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    refused = guard.Guard(None, own=False)._refusal

    def tried(address, path="/login"):
        found = refused({"path": path, "headers": [], "client": (address, 5000)})
        return found and found.status_code

    assert [tried("a") for _ in range(12)] == [None] * 10 + [429] * 2
    assert tried("a", "/login/") == 429
    assert tried("b") is None
    assert tried("a", "/gradio_api/queue/join") is None
    now[0] = 59.0
    assert tried("a") == 429
    now[0] = 61.0
    assert tried("a") is None


def test_work_beside_tells_of_its_calls_and_ends_at_the_next_when_nobody_waits(monkeypatch):
    monkeypatch.setattr("ddim.app.handlers.PAUSE", 0.01)
    calls, results, ended, enough = [], [], threading.Event(), threading.Event()

    def kept(run):
        results.append((yield from run))

    def work(tick):
        try:
            while not enough.wait(0.005):
                calls.append(tick(1))
            return "done"
        finally:
            ended.set()

    run = beside(work, lambda count: f"call {count}")
    told = [next(run) for _ in range(5)]
    assert told == sorted(told, key=lambda text: int(text.removeprefix("call ")))
    enough.set()
    list(kept(run))
    assert results == ["done"]
    enough.clear()
    ended.clear()
    run = beside(work, str)
    next(run)
    run.close()
    assert ended.wait(30)
    with pytest.raises(ValueError, match="no latents"):
        list(beside(lambda tick: int("no latents"), str))


BUILT = """
import sys
from pathlib import Path
import gradio as gr
from ddim.app.home import Home
from ddim.app.page import page
blocks = page(Home(Path(sys.argv[1]), sys.argv[1], Path()))
print([each.label for each in blocks.blocks.values() if isinstance(each, gr.Tab)])
print({fn.api_visibility for fn in blocks.fns.values()}, blocks.analytics_enabled)
"""


def test_the_page_has_four_tabs_and_no_open_door(home):
    words = [sys.executable, "-c", BUILT, str(home.root)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['Sample', 'Steps', 'Edit', 'Runs']", "{'private'} False"]


def test_the_command_refuses_what_it_cannot_show(run, tmp_path, monkeypatch):
    monkeypatch.delenv("DDIM_APP_PASSWORD", raising=False)
    (tmp_path / "empty").mkdir()
    for words, expected in (
        (["absent"], "is no folder"),
        (["empty"], "holds no model"),
        (["empty", "--host", "0.0.0.0"], "DDIM_APP_PASSWORD"),
        (["empty", "--port", "0"], "give at least 1"),
    ):
        code, out, err = run("app", *words)
        assert (code, out) == (2, "")
        assert expected in err


def test_the_fields_of_asked_are_those_of_the_command():
    assert asking.MOST_SEEDS == 64  # one batch of ddim sample, so that the bits are the same
    assert Asked("m", "ddim", 2, "trailing", (1,)).command(Home(Path("r"), "r", Path())) == (
        "ddim sample r/m --steps 2 --solver ddim --spacing trailing --seeds 1 -o grid.png"
    )
