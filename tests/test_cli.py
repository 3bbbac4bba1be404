import json
import re
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
from ddim import cli, ways
from ddim.cli import doctor
from ddim.cli.console import integers
from tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "model"
    ddim.save(tiny_model("v"), folder)
    return folder


def test_a_seed_is_the_same_image_whatever_is_sampled_with_it(run, model, tmp_path):
    options = ("--steps", 5, "--solver", "ddpm")
    assert run("sample", model, "--seeds", "0-6", "-o", "a.npz", *options)[0] == 0
    assert (
        run("sample", model, "--seeds", "5,0-1", "-o", "b.npz", "--batch-size", 2, *options)[0] == 0
    )
    assert run("sample", model, "--seeds", "5", "-o", "c", *options)[0] == 0
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        a, b = dict(first), dict(second)
    assert a["seeds"].tolist() == list(range(7))
    assert b["seeds"].tolist() == [5, 0, 1]
    assert np.abs(a["images"][[5, 0, 1]].astype(int) - b["images"]).max() <= 1
    with Image.open(tmp_path / "c/000005.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - a["images"][5, :, :, 0]).max() <= 1


def test_a_file_has_options_for_commands_and_the_command_line_wins(run, model, tmp_path):
    (tmp_path / "mine.toml").write_text('[sample]\nsteps = 3\nseeds = "4-6"\nout = "x.npz"\n')
    assert run("--config", "mine.toml", "sample", model)[0] == 0
    assert np.load(tmp_path / "x.npz")["seeds"].tolist() == [4, 5, 6]
    assert run("--config", "mine.toml", "sample", model, "--seeds", "9", "--out", "y.npz")[0] == 0
    assert run("sample", model, "--steps", 3, "--seeds", 9, "--out", "z.npz")[0] == 0
    assert (tmp_path / "y.npz").read_bytes() == (tmp_path / "z.npz").read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sample]\nstep = 3", "ddim sample has no --step"),
        ("[paint]\nsteps = 3", "'paint', which is no command"),
        ("steps = 3", "write tables as"),
        ("[sample", "cannot be read as TOML"),
    ],
)
def test_a_file_of_options_is_held_against_them(run, model, tmp_path, text, said):
    (tmp_path / "mine.toml").write_text(text)
    status, _, err = run("--config", "mine.toml", "sample", model)
    assert status == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_trajectory_shows_every_call_and_ends_with_the_images(run, model, tmp_path):
    options = ("--steps", 3, "--solver", "heun", "--seeds", "0-3", "-o", "x.png")
    assert run("sample", model, *options)[0] == 0
    before = (tmp_path / "x.png").read_bytes()
    assert run("sample", model, *options, "--trajectory", "x.gif")[0] == 0
    assert (tmp_path / "x.png").read_bytes() == before
    with Image.open(tmp_path / "x.gif") as film, Image.open(tmp_path / "x.png") as still:
        spans = []
        for frame in range(film.n_frames):  # frames that are the same are one
            film.seek(frame)
            spans.append(film.info["duration"])
        calls = ddim.calls(ddim.Heun(), ddim.load(model).plan(3))
        assert sum(spans) == calls * 100 + 2000
        apart = np.asarray(film.convert("L")).astype(int) - np.asarray(still.convert("L"))
        assert np.abs(apart).max() <= 2  # of its palette
    for words in (("--batch-size", 2, "--trajectory", "x.gif"), ("--trajectory", "x.png")):
        status, _, err = run("sample", model, *options, *words)
        assert status == 2
        assert len(err.splitlines()) == 1


def test_the_command_is_the_python_of_the_readme(run, model, tmp_path):
    assert (
        run(
            "sample",
            model,
            "--seeds",
            "0-3",
            "--steps",
            4,
            "--solver",
            "ddim:eta=0.2",
            "-o",
            "a.npz",
        )[0]
        == 0
    )
    opened = ddim.load(model)
    noise = ddim.Seeded(range(4))
    x = noise.start(opened.shape)
    images = ddim.sample(opened.denoiser(), x, opened.plan(4), ddim.DDIM(eta=0.2), noise)
    pixels = ddim.data.to_pixels(images).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.load(tmp_path / "a.npz")["images"].astype(int) - pixels).max() <= 1


def test_each_image_may_have_its_eta(run, model, tmp_path):
    for name, solver in (("a", "ddim:eta=0/0.5/1"), ("b", "ddim:eta=1")):
        options = ("--steps", 3, "--solver", solver, "-o", f"{name}.npz")
        assert run("sample", model, "--seeds", "0-2", *options)[0] == 0
    a, b = (np.load(tmp_path / f"{name}.npz")["images"] for name in "ab")
    assert np.abs(a[2].astype(int) - b[2]).max() <= 1
    assert np.abs(a[0].astype(int) - b[0]).max() > 9


def test_sample_reports_what_it_did_and_writes_a_grid_by_default(run, model, tmp_path):
    code, out, err = run("sample", model, "--seeds", "3", "--times", "1000,400,0", "--clip", 1)
    assert (code, out) == (0, "")
    assert "1 images, 2 network calls each" in err
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (50, 50)


def test_plan_prints_the_levels_and_sigma(run):
    code, out, _ = run("plan", "--schedule", "linear", "--steps", 20, "--spacing", "trailing")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 22
    assert lines[0].split() == ["t", "α", "signal", "noise", "σ(1)"]
    assert lines[1].split()[:2] == ["1000", "4.03583e-05"]
    assert lines[-1].split() == ["0", "1", "1.000000", "0.000000", "0.000000"]


def test_plan_as_json_gives_sigma_in_full(run, model):
    code, out, _ = run("plan", "--model", model, "--times", "981,961,0", "--eta", 0.5, "--json")
    levels = json.loads(out)["levels"]
    assert code == 0
    assert [level["t"] for level in levels] == [981, 961, 0]
    assert levels[0]["sigma"] is None
    assert levels[1]["sigma"] ** 2 == pytest.approx(0.32460 / 4, abs=1e-5)


def test_info_prints_what_the_folder_holds(run, model):
    code, out, _ = run("info", model)
    assert code == 0
    for words in ("network  UNet", "target  v", "[1, 8, 8]", "T  1000", "spacing trailing"):
        assert words in out
    assert json.loads(run("info", model, "--json")[1])["weights"] == tiny_model().size


def test_train_makes_a_folder_that_samples(run, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(5):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(
            tmp_path / f"data/{k}.png"
        )
    options = (
        "--steps",
        3,
        "--batch-size",
        2,
        "--size",
        8,
        "--schedule",
        "cosine",
        "--target",
        "v",
    )
    code, _, err = run("train", "data", "--out", "runs/it", *options)
    assert code == 0
    assert "5 images of (3, 8, 8)" in err
    trained = ddim.load(tmp_path / "runs/it")
    assert trained.target == "v"
    assert torch.equal(trained.schedule.signal, ddim.schedules.cosine().signal)
    assert trained.notes["training"]["steps"] == 3
    assert run("sample", "runs/it", "--seeds", "0", "--steps", 2)[0] == 0
    ddim.save(trained, tmp_path / "runs/other")
    code, _, err = run("train", "data", "--out", "runs/other", *options)
    assert code == 2
    assert "holds a model already" in err
    assert run("train", "data", "--out", "runs/other", *options, "--overwrite")[0] == 0


def test_train_reads_the_network_from_a_file(run, tmp_path):
    config = {**tiny_model().net.config.written(), "layers_per_block": 2}
    (tmp_path / "net.json").write_text(json.dumps(config))
    assert (
        run(
            "train",
            "digits",
            "--out",
            "it",
            "--model",
            "net.json",
            "--steps",
            1,
            "--target",
            "flow",
            "--schedule",
            "rectified_flow",
        )[0]
        == 0
    )
    trained = ddim.load(tmp_path / "it")
    assert trained.net.config.layers_per_block == 2
    assert trained.target == "flow"


def harmed(path):
    path.mkdir()
    Image.new("L", (8, 8)).save(path / "good.png")
    (path / "bad.png").write_bytes((path / "good.png").read_bytes()[:40])
    return path


BAD = {
    "missing folder": (["sample", "nowhere"], "nowhere does not exist; give a folder"),
    "missing data": (["train", "nowhere", "--out", "x"], "nowhere does not exist; give a folder"),
    "steps 0": (["sample", "MODEL", "--steps", "0"], "steps=0 .*choose 1..1000"),
    "steps 1001": (["sample", "MODEL", "--steps", "1001"], "steps=1001 .*choose 1..1000"),
    "plan steps": (["plan", "--steps", "0"], "steps=0 .*choose 1..1000"),
    "eta -1": (["sample", "MODEL", "--solver", "ddim:eta=-1"], "eta=-1; choose 0"),
    "eta 2": (["sample", "MODEL", "--solver", "ddim:eta=2"], "eta=2 asks for more .*choose 0 to 1"),
    "plan eta": (["plan", "--eta", "2"], "eta=2 is not admissible .*choose 0 to 1"),
    "solver": (["sample", "MODEL", "--solver", "euler"], "'euler' is unknown; choose one of ddim"),
    "spacing": (
        ["sample", "MODEL", "--spacing", "even"],
        "'even' is unknown; choose one of trailing",
    ),
    "times": (["sample", "MODEL", "--times", "1000,1,5"], "strictly monotone"),
    "words for times": (["sample", "MODEL", "--times", "many"], "'many' is not a list of t; write"),
    "upward": (["sample", "MODEL", "--times", "500,1000"], "let --times fall to 0"),
    "short of 0": (["sample", "MODEL", "--times", "1000,500"], "let --times fall to 0"),
    "two plans": (
        ["sample", "MODEL", "--times", "9,0", "--steps", "2"],
        "--steps and --times exclude",
    ),
    "two schedules": (["plan", "--model", "MODEL", "--schedule", "cosine"], "exclude each other"),
    "seed twice": (["sample", "MODEL", "--seeds", "1-3,2"], "names a seed twice"),
    "too many seeds": (["sample", "MODEL", "--seeds", "0-99999999999"], "than 1,000,000 seeds"),
    "jpg": (["sample", "MODEL", "-o", "x.jpg"], "x.jpg is no place for images; name a .png"),
    "png is a folder": (["sample", "MODEL", "-o", "EMPTY.png"], "EMPTY.png is no place for images"),
    "T": (["plan", "--schedule", "linear:T=1e9"], "T=1000000000.0; choose a whole number"),
    "beta": (["plan", "--schedule", "linear:beta_start=0"], "beta_start=0, .*above 0"),
    "training seed": (["train", "digits", "--out", "x", "--seed", "-1"], "seed=-1; choose 0"),
    "classes": (
        ["train", "digits", "--out", "x", "--model", "CLASSES"],
        "classes 0, 1, 2, .* the model 3; give",
    ),
    "wrong kinds": (
        ["train", "digits", "--out", "x", "--model", "KINDS"],
        "a list of whole numbers",
    ),
    "seeds": (["sample", "MODEL", "--seeds", "9-1"], "'9-1' is not a list of seeds; write"),
    "device": (["sample", "MODEL", "--device", "tpu"], "device='tpu' is not here; choose auto"),
    "label": (["sample", "MODEL", "--label", "3"], "do not give one"),
    "clip": (["sample", "MODEL", "--clip", "0"], "choose a number above 0"),
    "below a file": (
        ["sample", "MODEL", "-o", "FILE/grid.png"],
        "is not a folder that you may write to",
    ),
    "out below a file": (
        ["train", "digits", "--out", "FILE/run"],
        "is not a folder that you may write to",
    ),
    "demo below a file": (["demo", "--out", "FILE/run"], "is not a folder that you may write to"),
    "corrupt image": (
        ["train", "HARMED", "--out", "x"],
        "^ddim: 1 of 2 images cannot be read: bad.png .*--skip-bad",
    ),
    "empty folder": (
        ["train", "EMPTY", "--out", "x"],
        "EMPTY holds no images; it needs files ending in",
    ),
    "target": (
        ["train", "digits", "--out", "x", "--target", "score"],
        "'score' is unknown; choose one of eps",
    ),
    "singular": (
        ["train", "digits", "--out", "x", "--schedule", "rectified_flow"],
        "eps target .*choose another target",
    ),
    "schedule": (
        ["train", "digits", "--out", "x", "--schedule", "jsd"],
        "'jsd' is unknown; choose one of linear",
    ),
    "batch": (
        ["train", "digits", "--out", "x", "--batch-size", "0"],
        "batch_size=0; choose a number above 0",
    ),
    "network": (
        ["train", "digits", "--out", "x", "--model", "FILE"],
        "FILE cannot be read as JSON",
    ),
    "a model as data": (["info", "EMPTY"], "EMPTY holds no model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_status_2_and_nothing_written(run, model, tmp_path, case):
    words, expected = BAD[case]
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY.png").mkdir()
    classes = tiny_model(classes=3).net.config.written()
    (tmp_path / "CLASSES").write_text(json.dumps(classes))
    (tmp_path / "KINDS").write_text('{"block_out_channels": ["64", 64, 64, 64]}')
    harmed(tmp_path / "HARMED")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*(model if word == "MODEL" else word for word in words))
    assert code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert "Traceback" not in err
    assert len(lines) == 1 + lines[0].endswith("weights"), err
    assert re.search(expected, lines[-1]), err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_names_the_command_that_installs_it(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("demo")
    assert code == 2
    assert 'pip install -e ".[viz]" -c constraints.txt' in err
    assert not list(tmp_path.iterdir())


def test_help_and_version(run):
    code, out, _ = run("--help")
    assert code == 0
    names = [name for group in cli._COMMANDS.values() for name, _, _ in group]
    assert re.findall(r"^  ([a-z]+)  ", out, re.MULTILINE) == names
    examples = [example for group in cli._COMMANDS.values() for _, _, example in group]
    assert re.findall(r"^ +\$ (.*)$", out, re.MULTILINE) == examples
    assert max(map(len, out.splitlines())) <= 80
    assert run() == (0, out, "")
    assert "75 stopped" in out
    assert run("--version")[1].strip() == ddim.__version__
    code, _, err = run("sample")
    assert code == 2
    assert "Missing argument 'model'" in err


@pytest.mark.parametrize(
    ("name", "example"), [(n, words) for g in cli._COMMANDS.values() for n, _, words in g]
)
def test_the_example_of_a_command_has_options_that_it_takes(run, name, example):
    out = run(name, "--help")[1]
    assert f"Example: {example}" in " ".join(out.split())
    program, command, *words = shlex.split(example)
    assert (program, command) == ("ddim", name)
    listed = out.partition("Options:")[2].partition("Example:")[0]
    taken = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", listed))
    assert {word for word in words if word.startswith("-")} <= taken


def test_the_doctor_says_what_is_here(run, monkeypatch):
    status, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["packages"]["torch"] == torch.__version__
    assert found["missing"]["diffusers"] == []
    assert found["precisions"] == ways.native(torch.device("cpu"))
    monkeypatch.setitem(doctor.EXTRAS, "fast", ("openvino", "no-such-library"))
    lines = run("doctor")[1].splitlines()
    (line,) = [each for each in lines if each.startswith("[fast]")]
    assert line.endswith('lacks no-such-library: pip install -e ".[fast]" -c constraints.txt')


def test_lists_of_seeds():
    assert integers("0-3,7, 9-9") == [0, 1, 2, 3, 7, 9]
    for bad in ("", "a", "3-", "-3", "1,,2", "5-4", "1.5"):
        with pytest.raises(ValueError, match="numbers and ranges"):
            integers(bad)
