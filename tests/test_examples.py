"""The examples run as they stand, and print figures that hold."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = ("guidance", "inpainting", "own_images", "signals", "stable_diffusion")
NUMBER = r"(\d+\.?\d*)"


def read(path):
    """A grey picture as numbers."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(int)


def tiles(path, rows, columns):
    """The pictures of a grid, (rows, columns, H, W), without the lines between them."""
    pixels = read(path)
    high, wide = (pixels.shape[0] - 1) // rows, (pixels.shape[1] - 1) // columns
    cut = pixels[1:, 1:].reshape(rows, high, columns, wide).swapaxes(1, 2)
    return cut[..., :-1, :-1]


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def brief(monkeypatch, tmp_path, capsys):
    """Run an example in an empty folder with these options and constants; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *options, **constants):
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        example = loaded(name)
        for constant, value in constants.items():
            assert hasattr(example, constant)
            setattr(example, constant, value)
        example.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def whole(tmp_path):
    """Run an example in full, as its docstring says; what it printed."""

    def run(name):
        script = EXAMPLES / f"{name}.py"
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def figures(pattern, text):
    """The numbers that a pattern finds, a row each."""
    return [tuple(map(float, row.groups())) for row in re.finditer(pattern, text)]


OWN = rf"calls: {NUMBER} from the folder, nearest {NUMBER}"
GUIDED = rf"guidance (\d): {NUMBER}% nearest to the class asked for, spread {NUMBER}"
CHANGED = r"a known pixel changed by (\d+) of 255"
APART = rf"{NUMBER} of its size from the fine solution"
WAVES = rf"power apart +{NUMBER}% +peak {NUMBER} +late energy {NUMBER}"


def test_every_example_is_tested_and_says_how_to_run_it():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(NAMES)
    for name in NAMES:
        text = (EXAMPLES / f"{name}.py").read_text()
        assert f"\n    python examples/{name}.py" in text
        assert f"test_{name}_in_full" in Path(__file__).read_text()


def test_own_images_leaves_a_model_and_a_picture_of_the_folder(brief, tmp_path):
    for i in range(12):
        shade = Image.new("RGB", (20, 16), (20 * i, 255 - 20 * i, 99))
        (tmp_path / "photos").mkdir(exist_ok=True)
        shade.save(tmp_path / f"photos/{i:02}.png")
    out = brief("own_images", "photos", "--size", 8, "--updates", 3, "--out", "mine", DRAWN=12)
    assert "12 pictures of (3, 8, 8)" in out
    assert len(figures(OWN, out)) == 2
    assert figures(rf"{NUMBER} from themselves", out)[0] > (0,)  # drawn, and not the folder itself
    shown = tiles(tmp_path / "mine/samples.png", 3, 12)
    assert (np.ptp(shown[0], axis=(-2, -1)) == 0).all()  # the folder's, each of one shade
    assert (np.ptp(shown[1:], axis=(-2, -1)) > 50).all()  # hardly trained: noise
    assert (tmp_path / "mine/model/model_index.json").exists()


def test_own_images_without_a_folder_makes_one_of_digits(brief, tmp_path):
    assert "1797 pictures of (1, 8, 8)" in brief(
        "own_images", "--updates", 2, "--out", "mine", DRAWN=12
    )
    assert len(list((tmp_path / "mine/pictures").iterdir())) == 1797


def test_guidance_asks_for_every_class_at_every_scale(brief, tmp_path):
    rows = figures(GUIDED, brief("guidance", "--updates", 3, EACH=2))
    assert [scale for scale, _, _ in rows] == [0, 1, 2, 4]
    assert tiles(tmp_path / "guidance.png", 4, 10).shape[:2] == (4, 10)


def test_guidance_needs_labels(brief, tmp_path, capsys):
    np.savez(tmp_path / "bare.npz", images=np.zeros((40, 8, 8), np.uint8))
    with pytest.raises(SystemExit):
        brief("guidance", "bare.npz")
    assert "has no labels; put each class into a sub-folder" in capsys.readouterr().err


def test_inpainting_keeps_the_left_and_paints_the_right(brief, tmp_path):
    assert figures(CHANGED, brief("inpainting", "--updates", 3, UNSEEN=12)) == [(0,), (0,)]
    picture, blank, *painted = tiles(tmp_path / "inpainting.png", 4, 12)
    for row in (blank, *painted):
        assert (row[..., :24] == picture[..., :24]).all()
    assert (np.abs(blank[..., 24:] - 127.5) < 1).all()
    assert all((row[..., 24:] != picture[..., 24:]).mean() > 0.5 for row in painted)


def test_signals_are_read_from_a_file_too(brief, tmp_path):
    np.save(tmp_path / "waves.npy", np.random.default_rng(0).normal(0, 7, (40, 2, 16)))
    rows = figures(WAVES, brief("signals", "waves.npy", "--updates", 3))
    assert rows[0][0] == 0  # the data against itself
    assert 10 < rows[0][1] < 28  # and in its own units
    assert rows[1][0] > 0  # drawn from it, and not the data itself
    assert read(tmp_path / "signals.png").shape == (600, 1100)


def test_signals_statistics_are_those_of_the_signals():
    signals = loaded("signals")
    t = torch.arange(64.0)
    wave = 3 * torch.sin(2 * torch.pi * 5 * t / 64 + 0.7)[None, None]
    assert float(signals.peaks(wave)) == pytest.approx(3, abs=0.02)
    assert float(signals.tails(wave)) == pytest.approx(0.5, abs=0.01)
    assert float(signals.power(wave)[5]) == pytest.approx((3 * 32) ** 2)
    assert signals.power_apart(2 * wave, wave) == pytest.approx(3)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # in diffusers' UniPC
def test_stable_diffusion_shows_four_schedulers_beside_the_fine_solution(brief, tmp_path):
    out = brief("stable_diffusion", "--fine", 10)
    as_it_comes, trailing, ours, theirs = (row[0] for row in figures(APART, out))
    assert trailing == 0 < min(as_it_comes, ours, theirs)  # for that is the fine one now
    assert tiles(tmp_path / "stable_diffusion.png", 3, 5).shape[:2] == (3, 5)


@pytest.mark.slow
def test_own_images_in_full(whole):
    out = whole("own_images")
    (floor,) = figures(rf"{NUMBER} from themselves", out)[0]
    (twenty, nearest), (five, _) = figures(OWN, out)
    assert floor < twenty < five < 3 * floor
    assert 0.9 < nearest < 1.4  # new, and near


@pytest.mark.slow
def test_guidance_in_full(whole):
    out = whole("guidance")
    real, spread = figures(rf"real pictures: {NUMBER}% .* spread {NUMBER}", out)[0]
    none, asked, twice, most = figures(GUIDED, out)
    assert real > 97
    assert none[1] < 25  # chance is 10
    assert 80 < asked[1] <= twice[1] <= most[1]
    assert most[1] > 97
    assert asked[2] == pytest.approx(spread, rel=0.2)
    assert most[2] < twice[2] < asked[2]


@pytest.mark.slow
def test_inpainting_in_full(whole):
    out = whole("inpainting")
    assert figures(CHANGED, out) == [(0,), (0,)]
    rows = figures(rf"{NUMBER} from the nearest +{NUMBER}% of the hidden parts", out)
    as_they_were, other, ddim, resample = (share for _, share in rows)
    assert other < 20  # chance is 10
    assert 1.2 * other < ddim < resample < as_they_were
    near, far, by_ddim, by_resample = (apart for apart, _ in rows)
    assert 0.9 * near < by_resample < by_ddim < far


@pytest.mark.slow
def test_signals_in_full(whole):
    data, others, drawn = figures(WAVES, whole("signals"))
    assert drawn[0] < 3 * others[0]
    assert drawn[1] == pytest.approx(data[1], rel=0.06)
    assert drawn[2] == pytest.approx(data[2], rel=0.25)


@pytest.mark.slow
def test_stable_diffusion_in_full(whole):
    as_it_comes, trailing, ours, theirs = (
        row[0] for row in figures(APART, whole("stable_diffusion"))
    )
    assert 2 * ours < trailing < as_it_comes
    assert ours == pytest.approx(theirs, rel=0.1)
