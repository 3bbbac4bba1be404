import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import ddim
from ddim import demo
from ddim.cli.demo import show
from tiny import tiny_model

FEW = (("ddpm", 7), ("ddim:eta=0", 3), ("ddim:eta=0", 2))


@pytest.fixture(scope="module")
def results():
    ticks = []
    measured = demo.measured(
        tiny_model("v"), 20, lambda name, units: ticks.append((name, units)), FEW
    )
    assert ticks == [("sampling", 7), ("sampling", 3), ("sampling", 2)]
    return measured


def test_the_document_has_the_rows_and_the_floor(results, tmp_path):
    demo.written(tmp_path, results)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [(row["solver"], row["steps"], row["calls"]) for row in document["rows"]] == [
        (s, n, n) for s, n in FEW
    ]
    assert set(document["rows"][0]) == {
        "solver",
        "steps",
        "calls",
        "ms_per_image",
        "fd_pixels",
        "sliced_w2",
    }
    assert document["floor"]["fd_pixels"] < min(row["fd_pixels"] for row in document["rows"])
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (130 + 16 * 58, 4 * 58)
    with Image.open(tmp_path / "quality.png") as picture:
        assert picture.width > 500


def test_the_distances_are_those_of_the_images_that_these_seeds_give(results):
    model, real = tiny_model("v"), ddim.data.to_float(ddim.digits().pixels)
    noise = ddim.Seeded(range(demo.FIRST_SEED, demo.FIRST_SEED + 20))
    plan = model.plan(3, demo.SPACING)
    images = ddim.sample(model.denoiser(), noise.start(model.shape), plan)
    pixels = ddim.data.to_float(ddim.data.to_pixels(images))
    assert results.rows[1].fd_pixels == pytest.approx(ddim.metrics.frechet(pixels, real), rel=1e-4)
    assert torch.allclose(results.images[1], images, atol=1e-5)


def test_the_floor_falls_as_one_over_n():
    real = ddim.data.to_float(ddim.digits().pixels)
    few, many = (demo.floor(real, n, repeats=5)["fd_pixels"] for n in (100, 400))
    assert few / many == pytest.approx(4, rel=0.25)


def test_the_table_shows_every_row_and_the_floor(results, capsys):
    show(results)
    out = capsys.readouterr().out
    assert out.count("ddim:eta=0") == 2
    assert "speed-up" in out
    assert f"{results.floor['fd_pixels']:.3f}" in out


def test_a_model_trained_in_the_same_way_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAINING", replace(demo.TRAINING, steps=2))
    ticks = []

    def tick(name, units):
        ticks.append(name)

    first = demo.trained(tmp_path, tick)
    again = demo.trained(tmp_path, tick)
    assert ticks == ["training"] * 2
    assert torch.equal(first.net.conv_in.weight, again.net.conv_in.weight)
    demo.trained(tmp_path, tick, retrain=True)
    assert ticks == ["training"] * 4
    monkeypatch.setattr(demo, "TRAINING", replace(demo.TRAINING, lr=1e-5))
    with pytest.raises(ValueError, match="holds another model"):
        demo.trained(tmp_path, tick)
    ddim.save(tiny_model(), tmp_path / "mine")
    with pytest.raises(ValueError, match="holds another model"):
        demo.trained(tmp_path / "mine", tick)
    assert ticks == ["training"] * 4
