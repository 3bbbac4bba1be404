import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import html5lib
import numpy as np
import pytest
import torch

import ddim
from ddim import Images, cells, engines, schedules
from ddim.cells import Cell, Setting, Subject, reconstructed, sampled
from ddim.data import to_float
from ddim.dispatch import Report
from ddim.evaluation import Sweep, _figures, memorisation
from ddim.features import extractor
from ddim.findings import verdict, warnings
from ddim.metrics import frechet
from ddim.references import Reference, halves
from ddim.significance import Figure, written
from ddim.sketches import sketch
from tiny import tiny_model

QUICK = ("--num", 60, "--calls", "2,4", "--solvers", "ddim:eta=0;ddpm", "--fine", 8)


@pytest.fixture
def model(tmp_path):
    """The folder of a tiny model whose schedule has 20 steps."""
    ddim.save(replace(tiny_model(), schedule=schedules.linear(20)), tmp_path / "model")
    return tmp_path / "model"


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def figures(document):
    return [(row["figures"], row.get("paired")) for row in document["cells"]]


def test_a_sweep_answers_with_a_table_a_verdict_and_a_report(run, model, tmp_path):
    code, out, err = run("evaluate", model, "digits", *QUICK, "--out", "r")
    assert code == 0
    document = results(tmp_path / "r")
    settings = [(row["solver"], row["steps"]) for row in document["cells"]]
    assert settings == [
        ("ddim:eta=0", 8),
        *((s, n) for s in ("ddim:eta=0", "ddpm") for n in (2, 4)),
    ]
    assert [space["name"] for space in document["spaces"]] == ["cnn", "pca"]
    for row in document["cells"]:
        assert row["calls"] == row["steps"]
        assert row["ms_per_image"] == pytest.approx(1000 * row["seconds"] / 60)
        for space in document["spaces"]:
            found = row["figures"][space["name"]]
            assert set(found) - {"balance"} == {
                *("fd", "kd", "sw2", "energy", "precision", "recall", "density", "coverage")
            }
            for name, entry in found.items():
                assert entry["n"] == space["floors"][name]["n"] == 60
                assert entry["low"] <= entry["value"] <= entry["high"]
                assert ("p" in entry) == (name in ("fd", "kd", "sw2", "energy", "balance"))
                assert 0.01 <= entry.get("p", 1) <= 1
    first = document["cells"][1]
    shown = re.search(r"ddim:eta=0 +(\S+) +(\S+) +(\S+)", out)
    assert shown[1] == f"{first['figures']['cnn']['fd']['value']:.3g}"
    assert document["verdict"]["text"] in out
    assert "60 images are few for the 64 dimensions" in err
    assert "1797 images, few enough to be learned by heart" in err
    assert document["command"].startswith("ddim evaluate ")
    assert {"ddim", "torch", "threads", "machine", "wall_seconds", "first_seed"} <= set(document)


def test_the_figures_are_those_of_the_images_on_disk(run, model, tmp_path):
    run("evaluate", model, "digits", *QUICK, "--features", "pixels", "--out", "r")
    document, digits = results(tmp_path / "r"), ddim.digits()
    drawn = [np.load(tmp_path / "r" / row["images"]) for row in document["cells"]]
    real = digits.pixels[halves(digits, 60)[0]]
    loaded = ddim.load(model)
    noise = ddim.Seeded(range(60))
    images = ddim.sample(
        loaded.denoiser(), noise.start((1, 8, 8)), loaded.plan(4), ddim.DDPM(), noise
    )
    assert np.array_equal(drawn[4], ddim.data.to_pixels(images).numpy())
    for row, pixels in zip(document["cells"], drawn, strict=True):
        assert pixels.shape == (60, 1, 8, 8)
        expected = frechet(torch.from_numpy(pixels) / 255, real / 255)
        assert row["figures"]["pixels"]["fd"]["value"] == pytest.approx(expected, rel=1e-6)
    gap = (drawn[3].astype(float) - drawn[0]) / 255
    assert document["cells"][3]["paired"]["value"] == pytest.approx(float((gap**2).mean() ** 0.5))
    assert "paired" not in document["cells"][0]


def test_two_runs_give_the_same_figures_and_batches_change_none(run, model, tmp_path):
    for out, size in (("a", 64), ("b", 64), ("c", 7)):
        code, _, _ = run("evaluate", model, "digits", *QUICK, "--out", out, "--batch-size", size)
        assert code == 0
    a, b, c = (results(tmp_path / out) for out in "abc")
    assert figures(a) == figures(b)
    for one, other in zip(a["cells"], c["cells"], strict=True):
        x, y = (np.load(tmp_path / f / r["images"]) for f, r in (("a", one), ("c", other)))
        assert x.shape == y.shape == (60, 1, 8, 8)
        assert abs(x.astype(int) - y).max() <= 1


class Shuffled:
    """A crew of three in this process whose tasks end in another order, each failing once."""

    size = 3

    def __init__(self, opened):
        self.make, self.tasks, self.failed = opened(), [], set()

    def submit(self, task):
        self.tasks.append(task)

    def wait(self):
        task = self.tasks.pop(-1 if len(self.failed) % 2 else 0)
        if task not in self.failed:
            self.failed.add(task)
            return [Report(task, "lost")]
        return [Report(task, result=self.make(task))]

    def close(self):
        self.tasks = None


def test_what_workers_return_adds_up_to_the_same_figures(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "OnRay", lambda job, out, count, address, opened: Shuffled(opened))
    words = (*QUICK, "--batch-size", 7)
    assert run("evaluate", model, "digits", *words, "--out", "a")[0] == 0
    assert run("evaluate", model, "digits", *words, "--out", "b", "--ray")[0] == 0
    a, b = results(tmp_path / "a"), results(tmp_path / "b")
    for one, other in zip(a["cells"], b["cells"], strict=True):
        x, y = (np.load(tmp_path / f / r["images"]) for f, r in (("a", one), ("b", other)))
        assert abs(x.astype(int) - y).max() <= 1
        for space, found in one["figures"].items():
            for name, figure in found.items():
                near = other["figures"][space][name]["value"]
                assert near == pytest.approx(figure["value"], rel=0.02, abs=0.02), (space, name)


@pytest.mark.slow
def test_ray_evaluates(run, model, tmp_path):
    few = ("--num", 60, "--calls", "2", "--solvers", "ddpm", "--fine", 4, "--features", "pca")
    assert run("evaluate", model, "digits", *few, "--out", "a")[0] == 0
    assert run("evaluate", model, "digits", *few, "--out", "b", "--ray")[0] == 0
    a, b = (results(tmp_path / name)["cells"][1]["figures"]["pca"] for name in "ab")
    assert a["fd"]["value"] == pytest.approx(b["fd"]["value"], rel=0.01)


def test_an_interrupted_sweep_goes_on_where_it_was(run, model, tmp_path, monkeypatch):
    batch, asked = cells._batch, []

    def failing(subject, places, how, tick):
        asked.append(len(places))
        if len(asked) == 6:
            raise ValueError("the power went")
        return batch(subject, places, how, tick)

    words = ("evaluate", model, "digits", *QUICK, "--batch-size", 30, "--out", "r")
    monkeypatch.setattr(cells, "_batch", failing)
    assert run(*words)[0] == 2
    assert len(list((tmp_path / "r" / "cells").iterdir())) == 4  # two cells, whole
    assert run(*words)[0] == 0
    assert len(asked) == 6 + 6  # of ten batches four were kept
    assert run(*words)[0] == 0
    assert len(asked) == 12
    run(*words[:-1], "fresh")
    assert figures(results(tmp_path / "r")) == figures(results(tmp_path / "fresh"))


def test_the_csv_has_a_line_per_setting_space_and_figure(run, model, tmp_path):
    run("evaluate", model, "digits", *QUICK, "--features", "pca", "--out", "r")
    text = (tmp_path / "r" / "results.csv").read_text()
    lines = list(csv.DictReader(text.splitlines()))
    document = results(tmp_path / "r")
    assert len(lines) == 5 * 8 + 4
    line = next(r for r in lines if r["figure"] == "sw2" and r["solver"] == "ddpm")
    found = document["cells"][3]["figures"]["pca"]["sw2"]
    assert float(line["value"]) == found["value"]
    assert float(line["floor_worst"]) == document["spaces"][0]["floors"]["sw2"]["worst"]
    assert [r["figure"] for r in lines].count("paired") == 4


def test_the_report_is_valid_html_of_one_file(run, model, tmp_path):
    run("evaluate", model, "digits", *QUICK, "--out", "r")
    text = (tmp_path / "r" / "report.html").read_text()
    page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    pictures = page.findall(".//img")
    assert len(pictures) == 3 + 2 + 1 + 1  # charts, solvers, a trajectory, the nearest pairs
    assert all(each.get("src").startswith("data:image/") for each in pictures)
    assert all(each.get("alt") for each in pictures)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", text)
    assert not page.findall(".//script")
    assert not page.findall(".//link")
    document = results(tmp_path / "r")
    cell = page.findall(".//table[@id='quality-1']/tbody/tr")[1].findall("td")[0]
    assert cell.text == f"{document['cells'][3]['figures']['cnn']['fd']['value']:.3g}"
    assert page.find(".//p[@id='verdict']").text == document["verdict"]["text"]
    assert page.find(".//pre[@id='command']").text == document["command"]


def test_names_are_escaped(run, model, tmp_path):
    odd = tmp_path / "<b>&x"
    model.rename(odd)
    assert run("evaluate", odd, "digits", *QUICK, "--features", "pca", "--out", "r")[0] == 0
    text = (tmp_path / "r" / "report.html").read_text()
    page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    assert page.find(".//h1").text == str(odd)


def test_table_1_has_the_papers_rows_and_columns(run, model, tmp_path):
    code, out, _ = run("evaluate", model, "digits", "--table", 1, "--num", 60, "--out", "r")
    assert code == 0
    rows = [line.split()[0] for line in out.split("\n\n")[0].splitlines()[2:]]
    etas = ["ddim:eta=0", "ddim:eta=0.2", "ddim:eta=0.5", "ddpm", "ddim:eta=1,added=hat"]
    assert rows == etas
    assert out.splitlines()[1].split() == ["solver", "10", "20"]  # of T = 20
    assert {row["spacing"] for row in results(tmp_path / "r")["cells"]} == {"leading"}


def test_table_2_is_the_error_of_the_round_trip(run, model, tmp_path):
    words = ("evaluate", model, "digits", "--table", 2, "--num", 9, "--batch-size", 4, "--out", "r")
    code, out, _ = run(*words)
    assert code == 0
    found = results(tmp_path / "r")["reconstruction"]
    assert [(row["steps"], row["n"]) for row in found] == [(10, 9), (20, 9)]
    loaded, x = ddim.load(model), to_float(ddim.digits().pixels[:9])
    back = ddim.reconstruct(loaded.denoiser(), x, loaded.plan(10, "leading"))
    errors = ((back - x) / 2).square().flatten(1).mean(1)
    assert found[0]["mse"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert found[0]["standard_error"] == pytest.approx(float(errors.std()) / 3, rel=1e-4)
    assert f"{found[0]['mse']:.2g}" in out
    page = (tmp_path / "r" / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    assert 'id="reconstruction"' in page


def test_reconstruction_is_of_the_model_without_guidance_or_clip(tmp_path):
    subject = Subject(tiny_model(), 4, clip=1.0)
    with pytest.raises(ValueError, match="leave guidance and clip out"):
        reconstructed(subject, ddim.digits(), 2, tmp_path, lambda n: None)


def test_figures_4_and_5_are_pictures_and_numbers(run, model, tmp_path):
    for figure, name, word in ((4, "seconds.svg", "Seconds"), (5, "consistency.png", "same seeds")):
        code, out, _ = run(
            "evaluate", model, "digits", "--figure", figure, "--num", 60, "--out", "r"
        )
        assert code == 0
        assert word in out.splitlines()[0]
        assert (tmp_path / "r" / name).stat().st_size > 500
    assert out.splitlines()[1].split() == ["solver", "10", "20"]


def test_a_model_with_classes_is_asked_for_the_labels_of_the_real_images(run, tmp_path):
    ddim.save(replace(tiny_model(classes=10), schedule=schedules.linear(20)), tmp_path / "m")
    code, _, _ = run("evaluate", "m", "digits", *QUICK, "--out", "r")
    assert code == 0
    document, digits = results(tmp_path / "r"), ddim.digits()
    labels = digits.labels[halves(digits, 60)[0]].tolist()
    record = json.loads(next((tmp_path / "r" / "cells").glob("ddpm*-4-*.json")).read_text())
    assert record["labels"] == labels
    loaded, noise = ddim.load(tmp_path / "m"), ddim.Seeded(range(60))
    images = ddim.sample(
        loaded.denoiser(labels), noise.start((1, 8, 8)), loaded.plan(4), ddim.DDPM(), noise
    )
    row = document["cells"][4]
    drawn = np.load(tmp_path / "r" / row["images"])
    assert abs(ddim.data.to_pixels(images).numpy().astype(int) - drawn).max() <= 1
    assert 0 <= row["figures"]["cnn"]["agreement"]["value"] <= 1
    assert "agreement" not in row["figures"]["pca"]


@pytest.mark.parametrize("num", [200, 1300])
def test_agreement_is_full_for_images_of_their_labels(num, tmp_path, cache):
    digits = ddim.digits()
    space = extractor("cnn", digits, cache)
    twice = Images(digits.pixels.repeat(2, 1, 1, 1), digits.labels.repeat(2))
    places, _ = halves(twice, num)
    pixels, labels = twice.pixels[places], twice.labels[places]
    against = Reference(space, sketch(space, pixels.split(256), num), {})
    setting = Setting("ddim:eta=0", "trailing", 2)
    for name, asked, low, high in (("a", labels, 0.97, 1), ("b", (labels + 1) % 10, 0, 0.03)):
        subject = Subject(tiny_model(classes=10), num, labels=tuple(asked.tolist()))
        sweep = Sweep(subject, (setting,), (against,), twice, tmp_path / name)
        np.save(tmp_path / f"{name}.npy", pixels.numpy())
        found = _figures(sweep, Cell(tmp_path / f"{name}.npy", {}), against)
        assert low <= found["agreement"]["value"] <= high
        assert found["agreement"]["n"] == min(num, 1000)
        assert found["balance"]["value"] == 0


def test_the_halves_are_disjoint_and_the_same_every_time():
    digits = ddim.digits()
    a, b = halves(digits, 898)
    assert len({*a.tolist(), *b.tolist()}) == 2 * 898
    assert torch.equal(a, halves(digits, 898)[0])
    assert torch.equal(a[:60], halves(digits, 60)[0])


def npz(path, pixels, labels=None):
    arrays = {"images": pixels.permute(0, 2, 3, 1).numpy()}
    np.savez(path, **arrays, **({} if labels is None else {"labels": labels.numpy()}))
    return path


WRONG = {
    "colour data": (("colour.npz",), "3 channels"),
    "too many": (("digits", "--num", 899), "choose --num 60 to 898"),
    "too few": (("digits", "--num", 59), "choose --num 60 to 898"),
    "small data": (("small.npz",), "the data has 100; give it more"),
    "no labels": (("grey.npz", "--features", "cnn"), "no labels"),
    "no extractor": (("digits", "--features", "vgg"), "no feature space"),
    "no inception": (("digits", "--features", "inception"), "put it into"),
    "no solver": (("digits", "--solvers", ""), "the value after --solvers is empty"),
    "no calls": (("digits", "--calls", ""), "the value after --calls is empty"),
    "solver": (("digits", "--solvers", "magic"), "magic"),
    "calls": (("digits", "--calls", "5,x"), "write it as 5,10,20"),
    "budget": (("digits", "--solvers", "resample", "--calls", "1"), "too few for resample"),
    "spacing": (("digits", "--spacings", "odd"), "choose one of trailing"),
    "fine": (("digits", "--fine", 1001), "choose 1..20"),
    "both": (("digits", "--table", 1, "--calls", "5"), "leave"),
    "guidance": (("digits", "--guidance", 2), "needs a model with classes"),
    "reconstruct": (("digits", "--reconstruct", 2000), "choose a number from 1"),
    "no data": (("nowhere",), "nowhere"),
    "in a file": (("digits", "--out", "grey.npz/r"), "not a folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case, run, model, tmp_path):
    digits = ddim.digits()
    npz(tmp_path / "colour.npz", digits.pixels[:300].expand(-1, 3, -1, -1))
    npz(tmp_path / "grey.npz", digits.pixels[:300])
    npz(tmp_path / "small.npz", digits.pixels[:100])
    words, says = WRONG[case]
    if not {"--table", "--calls"} & set(words):
        words = (*words, "--calls", "2")
    if "--out" not in words:
        words = (*words, "--out", "r")
    code, out, err = run("evaluate", model, *words)
    assert code == 2
    assert not out
    assert err.startswith("ddim: ") or "Invalid value" in err
    assert len(err.splitlines()) == 1
    assert says in err
    assert not (tmp_path / "r" / "results.json").exists()


def test_a_model_of_classes_wants_labelled_data(run, tmp_path):
    ddim.save(tiny_model(classes=10), tmp_path / "m")
    npz(tmp_path / "grey.npz", ddim.digits().pixels[:300])
    npz(tmp_path / "other.npz", ddim.digits().pixels[:300], ddim.digits().labels[:300] + 5)
    for data, says in (("grey.npz", "the data has none"), ("other.npz", "the model's from 0 to 9")):
        code, _, err = run("evaluate", "m", data, *QUICK, "--out", "r")
        assert code == 2
        assert says in err


def test_images_that_hold_a_nan_are_refused_and_no_cell_is_left(run, tmp_path):
    broken = tiny_model()
    next(broken.net.parameters()).data.fill_(3e38)
    ddim.save(broken, tmp_path / "m")
    code, _, err = run("evaluate", "m", "digits", *QUICK, "--out", "r")
    assert code == 1
    assert "ddim:eta=0 in 8 steps (trailing) made an image with a nan" in err
    assert not list((tmp_path / "r" / "cells").iterdir())
    code, _, err = run("evaluate", "m", "digits", "--table", 2, "--num", 4, "--out", "r")
    assert code == 1
    assert "nan" in err
    assert run("tune", "m", "--calls", 4, "--num", 4)[0] == 1


class Trying(Shuffled):
    """Whose tasks may fail, as Ray's may."""

    def wait(self):
        return [engines.tried(self.make, self.tasks.pop(), "here")]


def test_samples_that_fail_on_ray_are_a_failure(run, tmp_path, monkeypatch):
    broken = tiny_model()
    next(broken.net.parameters()).data.fill_(3e38)
    ddim.save(broken, tmp_path / "m")
    monkeypatch.setattr(engines, "OnRay", lambda job, out, count, address, opened: Trying(opened))
    code, out, err = run("evaluate", "m", "digits", *QUICK, "--out", "r", "--ray")
    assert (code, out) == (1, "")
    assert re.search(r"ddim:eta=0 in 8 steps: samples 0, .* hold a nan", err)


def test_a_damaged_cell_says_what_to_do(run, model, tmp_path):
    words = ("evaluate", model, "digits", *QUICK, "--features", "pca", "--out", "r")
    run(*words)
    for path in (tmp_path / "r" / "cells").glob("ddpm*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    for path in (tmp_path / "r" / "figures").iterdir():
        path.unlink()
    code, _, err = run(*words)
    assert code == 2
    assert "delete it, to sample it again" in err


def test_statistics_are_those_of_numpy_and_stand_in_for_the_images(run, model, tmp_path):
    code, _, err = run("statistics", "digits", "-o", "s.npz")
    assert code == 0
    assert "1797 images in pixels" in err
    rows = ddim.digits().pixels.flatten(1).double().numpy() / 255
    with np.load(tmp_path / "s.npz") as known:
        assert np.allclose(known["mu"], rows.mean(0), atol=1e-7)
        assert np.allclose(known["sigma"], np.cov(rows.T), atol=1e-6)
    code, out, err = run("evaluate", model, "s.npz", *QUICK, "--out", "r")
    assert code == 0
    document = results(tmp_path / "r")
    drawn = torch.from_numpy(np.load(tmp_path / "r" / document["cells"][0]["images"])) / 255
    expected = frechet(drawn, ddim.digits().pixels / 255)
    found = document["cells"][0]["figures"]["pixels"]["fd"]
    assert found["value"] == pytest.approx(expected, rel=1e-5)
    assert found["low"] < found["value"] < found["high"]
    assert "Without a floor" in out
    assert "statistics alone give no floor" in err
    html5lib.HTMLParser(strict=True).parse((tmp_path / "r" / "report.html").read_text())


@pytest.mark.parametrize(
    ("arrays", "words", "says"),
    [
        ({}, ("--features", "pca"), "pca is fitted to images"),
        ({"name": "", "digest": ""}, (), "do not name their features; name their space"),
        ({"mu": np.zeros(5), "sigma": np.eye(5)}, (), "are of 5 features"),
        ({"digest": "other"}, (), "called pixels, and pixels has 64 of its own"),
        ({"mu": np.full(64, np.nan)}, (), "give a finite mean"),
        ({"sigma": np.triu(np.ones((64, 64)))}, (), "a symmetric covariance"),
        ({}, ("--table", 2), "--table 2 needs images"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(arrays, words, says, run, model, tmp_path):
    run("statistics", "digits", "-o", "s.npz")
    with np.load(tmp_path / "s.npz") as known:
        np.savez(tmp_path / "s.npz", **{**known, **arrays})
    quick = QUICK if "--table" not in words else ()
    code, _, err = run("evaluate", model, "s.npz", *quick, *words, "--out", "r")
    assert code == 2
    assert says in err


def test_two_evaluations_are_compared_with_intervals(run, model, tmp_path):
    other = replace(tiny_model("v"), schedule=schedules.linear(20))
    ddim.save(other, tmp_path / "other")
    for folder, out, seed in ((model, "a", 0), ("other", "b", 0), (model, "c", 500)):
        words = (*QUICK, "--features", "pca,pixels", "--first-seed", seed, "--out", out)
        assert run("evaluate", folder, "digits", *words)[0] == 0
    code, out, _ = run("compare", "a", "b/results.json", "--json")
    assert code == 0
    rows, a, b = json.loads(out), results(tmp_path / "a"), results(tmp_path / "b")
    assert len(rows) == 5 * 2
    one, two = (d["cells"][0]["figures"]["pca"]["fd"]["value"] for d in (a, b))
    first = rows[0]
    assert (first["a"], first["b"]) == (one, two)
    assert first["difference"] == pytest.approx(two - one)
    assert first["low"] < two - one < first["high"]
    assert first["paired"]
    unpaired = json.loads(run("compare", "a", "c", "--json")[1])
    assert not unpaired[0]["paired"]
    table = run("compare", "a", "a")[1]
    assert "+0 to +0" in table
    assert "*" not in table.splitlines()[2]


def test_evaluations_that_cannot_be_compared_are_refused(run, model, tmp_path):
    npz(tmp_path / "part.npz", ddim.digits().pixels[:200])
    for data, out, more in (
        ("digits", "a", ()),
        ("part.npz", "b", ()),
        ("digits", "c", ("--num", 61)),
        ("digits", "d", ("--features", "pixels")),
    ):
        words = ("evaluate", model, data, *QUICK, "--features", "pca", *more, "--out", out)
        assert run(*words)[0] == 0
    for other, says in (
        ("b", "another data"),
        ("c", "another number of images (60 and 61)"),
        ("d", "no setting in a feature space in common"),
        ("model/ddim.json", "no evaluation"),
        ("nowhere", "missing"),
    ):
        code, _, err = run("compare", "a", other)
        assert code == 2
        assert says in err


def document(**fd):
    """An evaluation of a fine run and some settings, each as (value, error of a block)."""

    def entry(value, error):
        left_out = tuple(value + error * (-1) ** k for k in range(10))
        return {"fd": written("fd", Figure(value, 60, left_out))}

    space = {"name": "pca", "titles": {"fd": "FD[pca]"}, "floors": {"fd": {"spread": 0.1}}}
    rows = [
        {
            "solver": name,
            "spacing": "trailing",
            "steps": int(name[1:]),
            "calls": int(name[1:]),
            "figures": {"pca": entry(*numbers)},
        }
        for name, numbers in fd.items()
    ]
    return {"cells": rows, "spaces": [space]}


def test_the_verdict_is_the_fewest_calls_shown_to_be_within_the_spread():
    found = verdict(document(a1000=(1.0, 0), a20=(1.02, 0), a10=(1.05, 1e-4), a5=(1.2, 0)))
    assert found["best"]["solver"] == "a10"
    assert "10 calls of a10 (trailing) are within the floor's spread of 1000 steps" in found["text"]
    noisy = verdict(document(a1000=(1.0, 0), a20=(1.02, 0), a10=(1.05, 0.05)))
    assert noisy["best"]["solver"] == "a20"
    better = verdict(document(a1000=(1.0, 0), a20=(0.5, 0)))
    assert better["best"]["difference"] == pytest.approx(-0.5)
    none = verdict(document(a1000=(1.0, 0), a20=(1.3, 0), a10=(1.5, 0)))
    assert "best" not in none
    assert "the nearest is 20 calls of a20" in none["text"]
    assert verdict(document(a1000=(1.0, 0)))["text"].startswith("No other setting")


def test_a_fine_run_that_real_images_do_not_resemble_is_said():
    space = {
        "name": "pca",
        "dimension": 2,
        "titles": {"fd": "FD[pca]"},
        "floors": {"fd": {"mean": 0.5}},
    }
    for p, said in ((0.01, 1), (0.05, 1), (0.06, 0)):
        figures = {"pca": {"fd": {"value": 3.0, "p": p}}}
        found = warnings(
            {
                "num": 60,
                "spaces": [space],
                "cells": [{"steps": 1000, "figures": figures}],
                "memorisation": None,
            },
            False,
        )
        assert len([w for w in found if "1000 steps itself is told from real" in w]) == said


def cell(path, pixels):
    np.save(path, pixels.numpy())
    return Cell(path, {"num": len(pixels)})


def test_copies_of_the_data_are_found_and_fresh_images_are_not(tmp_path):
    digits = ddim.digits()
    known, fresh = Images(digits.pixels[:1000]), digits.pixels[1000:1400]
    copied = digits.pixels[:400].clone()
    copied[0, 0, 0, 0] += 1
    found = memorisation(cell(tmp_path / "copied.npy", copied), known)
    assert found["share"] == 1
    assert found["copies"] >= 399
    assert found["pairs"][0]["sample"] == found["pairs"][0]["image"]
    new = memorisation(cell(tmp_path / "fresh.npy", fresh), known)
    assert new["share"] < 0.12
    assert new["copies"] == 0
    assert new["samples"] == pytest.approx(new["real"], rel=0.15)
    blank = {"num": 60, "spaces": [], "cells": []}
    assert any("may be copies" in w for w in warnings({**blank, "memorisation": found}, False))
    assert not any("may be copies" in w for w in warnings({**blank, "memorisation": new}, False))
    assert any("trained on" in w for w in warnings({**blank, "memorisation": new}, True))


def test_a_cell_is_kept_by_all_that_its_images_depend_on(tmp_path):
    model, setting = tiny_model(), Setting("ddim:eta=0", "trailing", 2)
    changed = tiny_model()
    next(changed.net.parameters()).data.mul_(1.1)
    subjects = [
        Subject(model, 3),
        Subject(model, 4),
        Subject(model, 3, first_seed=1),
        Subject(model, 3, clip=1.0),
        Subject(changed, 3),
    ]
    paths = {sampled(s, setting, tmp_path, lambda n: None).path for s in subjects}
    assert len(paths) == len(subjects)
    same = sampled(Subject(model, 3, batch_size=2), setting, tmp_path, lambda n: None)
    assert same.path in paths


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp2s", "resample:repeats=2"])
@pytest.mark.parametrize("budget", [2, 5, 6, 17])
def test_a_budget_is_the_most_steps_that_it_pays_for(solver, budget):
    model = tiny_model()
    (found,) = cells.parsed(model, solver, [budget], ["trailing"])
    assert found.calls(model) <= budget
    assert replace(found, steps=found.steps + 1).calls(model) > budget
