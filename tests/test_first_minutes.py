"""The page First ten minutes: its commands run, and what it quotes is said."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddim
from tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/first-ten-minutes.md"
SMALLER = {
    "--size 32": "--size 16",
    "--steps 1200": "--steps 3",
    "--num 16 --held-out 16": "--num 4 --held-out 4",
    "--num 500": "--num 3",
    "--calls 10": "--calls 3",
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "first_ten_minutes", ROOT / "benchmarks/first_ten_minutes.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photos(folder, count=8, size=(20, 24)):
    folder.mkdir(parents=True)
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")


def test_from_nothing_to_images_are_six_commands_at_most(script):
    lines = script.commands()
    assert len(lines) <= 6
    assert lines[0] == "python3 run.py demo"
    assert lines[-1].startswith("ddim generate ")
    assert [line.split()[1] for line in lines[2:]] == ["train", "tune", "sample", "generate"]


def test_the_commands_end_in_images_like_the_pictures(script, tmp_path):
    """All but the demo, which has a test of its own, at a size for tests."""
    photos(tmp_path / "photos")
    page = "\n".join(script.commands()[1:])
    for usual, small in SMALLER.items():
        assert usual in page
        page = page.replace(usual, small)
    lines = page.splitlines()
    if not Path(sys.prefix, "bin/activate").exists():  # where the tests run in no environment
        lines = lines[1:]
    variables = {**script.environment(tmp_path, new=False), "OMP_NUM_THREADS": "1"}
    done = list(script.walked(lines, tmp_path, variables))
    assert [(each.command, each.status) for each in done] == [(line, 0) for line in lines]
    assert re.search(r"\d weights", done[-4].left)
    assert "as near as" in done[-3].left
    assert [each.left for each in done[-2:]] == ["grid.png, 197×197", "3 images"]
    assert (tmp_path / "runs/mine/recipes/calls-3.json").exists()
    assert 0.5 < float(re.search(r"is ([\d.]+) times", script.likeness(tmp_path, 16))[1]) < 2


def test_a_picture_itself_is_no_distance_from_the_pictures(script, tmp_path):
    photos(tmp_path / "photos", size=(32, 32))
    (tmp_path / "many").mkdir()
    for i in range(3):
        with Image.open(tmp_path / f"photos/{i}.png") as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"many/{i}.png")
    assert "is 0.00 times as far" in script.likeness(tmp_path, 32)


def test_the_walk_ends_where_a_command_fails_or_leaves_nothing(script, tmp_path):
    idle = tmp_path / "ddim"
    idle.write_text("#!/bin/sh\n")
    idle.chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def statuses(*lines):
        return [each.status for each in script.walked(lines, tmp_path, variables)]

    assert statuses("true", "exit 3", "true") == [0, 3]
    assert statuses("true", "ddim sample x -o grid.png", "true") == [0, 1]


def said():
    """The sentences in the first column of the page's table."""
    return re.findall(r"^\| `([^`]+)`", PAGE.read_text(), re.MULTILINE)


def sentence(beginning):
    """Of the page, the one that begins so; its parts, between what is left out."""
    (found,) = [each for each in said() if each.startswith(beginning)]
    return [part for part in found.split("…") if part.strip()]


def test_what_the_page_quotes_is_said(run, tmp_path):
    photos(tmp_path / "photos", size=(32, 32))
    photos(tmp_path / "mixed", 1, size=(32, 32))
    Image.new("RGB", (48, 32)).save(tmp_path / "mixed/b.png")
    photos(tmp_path / "bad")
    (tmp_path / "bad/x.png").write_text("no picture")
    mine = ("--out", "runs/mine", "--model", "tiny", "--steps", 1)

    def refused(beginning, *words):
        code, _, err = run(*words)
        assert code == 2
        for part in sentence(beginning):
            assert part in err, err

    (tmp_path / "photos").rename(tmp_path / "away")
    refused("photos does not exist", "train", "photos", *mine)
    (tmp_path / "away").rename(tmp_path / "photos")
    refused("… is 48×32", "train", "mixed", *mine)
    refused("… images cannot be read", "train", "bad", *mine)
    ddim.save(tiny_model(), tmp_path / "runs/mine")
    refused("runs/mine holds a model", "train", "photos", *mine)
    refused("there is no runs/mine/recipes", "sample", "runs/mine", "--calls", 10)
    assert run("train", "photos", *mine, "--batch-size", 16, "--overwrite", "--size", 8)[0] == 0
    refused("the run in runs/mine had", "train", "photos", *mine, "--batch-size", 32, "--size", 8)
    refused("the run in runs/mine has another", "train", "photos", *mine, "--size", 16)


def test_the_longer_run_of_the_page_goes_on_where_the_first_ended(run, tmp_path):
    photos(tmp_path / "photos")
    options = "--model tiny --target v --schedule cosine --flip --batch-size 16 --ema 0.995"
    first = ("train", "photos", "--out", "runs/mine", "--size", "8", *options.split())
    assert f"--size 32 {options.partition('--batch')[0]}" in PAGE.read_text()
    assert run(*first, "--steps", 2)[0] == 0
    code, _, err = run("train", "photos", "--out", "runs/mine", "--size", 8, "--steps", 3)
    assert (code, "2 updates done" in err) == (0, True)
    assert ddim.load(tmp_path / "runs/mine").notes["updates"] == 3
