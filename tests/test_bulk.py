"""Many samples: the same bytes whatever makes them, files that tools read, damage mended."""

import errno
import gc
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

import ddim
from ddim import bulk, engines, generation
from ddim.bulk import Job, Worker
from ddim.cells import Setting
from ddim.dispatch import StoppedError
from ddim.identity import fingerprint
from ddim.packing import FORMATS, Part
from ddim.places import Local, Remote, place
from tiny import tiny_model

SETTING = Setting("ddim:eta=1", "trailing", 3)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    ddim.save(tiny_model(), path)
    return path


@pytest.fixture(scope="session")
def with_classes(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "classes"
    ddim.save(tiny_model(classes=4), path)
    return path


def job_of(folder, num=50, **changed):
    model = ddim.load(folder)
    usual = {"batch_size": 4, "shard_size": 20}
    return Job(str(folder), fingerprint(model), num, SETTING, **{**usual, **changed})


def made(job, path, hire=None):
    out = place(path)
    return generation.generate(job, out, hire or (lambda shards: engines.Here(job, out)))


def content(path):
    """Every file of a folder."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def pixels(path):
    parts = [np.load(each)["arr_0"] for each in sorted(Path(path).glob("*.npz"))]
    return np.concatenate(parts)


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40))
def test_a_sample_is_the_same_in_every_set(folder, shard_size, num, seed):
    """Alone, in any shard and at any place among others: one batch decides it."""
    whole = Worker(job_of(folder, 70)).samples(0, 70)
    job = job_of(folder, num, shard_size=shard_size)
    worker = Worker(job)
    for shard in range(job.shards):
        begin, end = job.span(shard)
        assert torch.equal(worker.samples(begin, end), whole[begin:end])
    one = Worker(job_of(folder, 70)).samples(seed, seed + 1)
    assert torch.equal(one[0], whole[seed])


def test_it_is_that_of_its_seed(folder):
    """One of a set from seed 5 on, and those of ddim.sample, within a grey level."""
    model = ddim.load(folder)
    found = Worker(job_of(folder, 9, seed=5)).samples(0, 9)
    noise = ddim.Seeded(range(5, 14))
    plan = model.plan(SETTING.steps)
    with torch.no_grad():
        x = ddim.sample(model.denoiser(), noise.start(model.shape), plan, ddim.DDIM(eta=1), noise)
    apart = (found.int() - ddim.data.to_pixels(x).int()).abs()
    assert apart.max() <= 1
    assert len(found.unique(dim=0)) == 9


def test_labels_take_turns(with_classes):
    model = ddim.load(with_classes)
    job = job_of(with_classes, 10, labels=(2, 0, 3), batch_size=4, shard_size=7)
    found = Worker(job).samples(0, 10)
    noise, asked = ddim.Seeded(range(10)), [2, 0, 3, 2, 0, 3, 2, 0, 3, 2]
    with torch.no_grad():
        start, plan = noise.start(model.shape), model.plan(3)
        x = ddim.sample(model.denoiser(asked), start, plan, ddim.DDIM(eta=1), noise)
    assert (found.int() - ddim.data.to_pixels(x).int()).abs().max() <= 1
    other = Worker(replace(job, labels=(1,))).samples(0, 10)
    assert not torch.equal(found, other)


@pytest.mark.parametrize("kind", FORMATS)
def test_workers_and_engines_leave_the_same_folder(kind, folder, tmp_path):
    job = job_of(folder, format=kind)
    made(job, tmp_path / "here")
    out = place(tmp_path / "pool")
    state = made(job, tmp_path / "pool", lambda shards: engines.Pool(job, out, 2))
    assert (state.done, state.made, state.failed) == (50, 50, {})
    assert content(tmp_path / "here") == content(tmp_path / "pool")
    again = made(job, tmp_path / "pool")
    assert (again.done, again.made) == (50, 0)
    assert generation.verify(job, out) == {}


def test_images_do_not_change_with_the_size_of_shards(folder, tmp_path):
    for size in (7, 50, 1000):
        made(job_of(folder, shard_size=size), tmp_path / str(size))
    assert np.array_equal(pixels(tmp_path / "7"), pixels(tmp_path / "50"))
    assert np.array_equal(pixels(tmp_path / "7"), pixels(tmp_path / "1000"))


def test_fsspecs_places_hold_the_same(folder, tmp_path):
    job = job_of(folder)
    made(job, tmp_path / "local")
    made(job, "memory://sets/a")
    there = place("memory://sets/a")
    assert isinstance(there, Remote)
    assert {name: there.read(name) for name in there.names()} == content(tmp_path / "local")
    assert generation.verify(Job.of(there), there) == {}
    assert isinstance(place(f"file://{tmp_path}"), Local)


def part_of(colours, labels=None):
    images = torch.randint(0, 256, (5, 3 if colours else 1, 6, 8), dtype=torch.uint8)
    return images, Part(20, images, range(120, 125), labels)


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("labels", [None, (3, 1, 0, 2, 1)])
def test_the_tools_of_the_field_read_every_format(colours, labels, tmp_path):
    images, part = part_of(colours, labels)
    for pack in FORMATS.values():
        for name, data in pack("set", part).items():
            (tmp_path / name).write_bytes(data)
            assert pack("set", part)[name] == data  # no time in it, no name of a machine
    right = images.permute(0, 2, 3, 1).numpy()
    with np.load(tmp_path / "set.npz") as arrays:
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_0"], right)
        assert labels is None or arrays["arr_1"].tolist() == list(labels)
    for j in range(5):
        found = np.asarray(Image.open(tmp_path / f"{20 + j:08d}.png"))
        assert np.array_equal(found.reshape(right[j].shape), right[j])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it closes no file
def test_webdataset_reads_the_tar(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    images, part = part_of(True, (3, 1, 0, 2, 1))
    (tmp_path / "set.tar").write_bytes(FORMATS["webdataset"]("set", part)["set.tar"])
    rows = list(webdataset.WebDataset(str(tmp_path / "set.tar"), shardshuffle=False).decode("rgb8"))
    assert [row["__key__"] for row in rows] == part.keys
    assert [row["cls"] for row in rows] == list(part.labels)
    assert [row["json"]["seed"] for row in rows] == list(part.seeds)
    for row, image in zip(rows, images, strict=True):
        assert np.array_equal(row["png"], image.permute(1, 2, 0).numpy())


def test_datasets_reads_the_parquet_and_the_pngs_as_images(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    images, part = part_of(True, (3, 1, 0, 2, 1))
    for kind in ("parquet", "png"):
        (tmp_path / kind).mkdir()
        for name, data in FORMATS[kind]("set", part).items():
            (tmp_path / kind / name).write_bytes(data)
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    found = datasets.load_dataset("parquet", data_files=str(tmp_path / "parquet/*"), **options)
    assert found["label"] == list(part.labels)
    assert found["seed"] == list(part.seeds)
    plain = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "png"), **options)
    for rows in (found, plain):
        for row, image in zip(rows, images, strict=True):
            assert np.array_equal(np.asarray(row["image"]), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_damaged_byte_is_found_and_mended(kind, folder, tmp_path):
    """250 bytes for each format, of files and of sidecars, one at a time."""
    job, rng = job_of(folder, format=kind), random.Random(kind)
    made(job, tmp_path)
    before, out = content(tmp_path), place(tmp_path)
    names = [name for name in sorted(before) if name != bulk.MANIFEST]
    for _ in range(250):
        name = rng.choice(names)
        data = bytearray(before[name])
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        (tmp_path / name).write_bytes(data)
        assert len(generation.verify(job, out)) == 1, name
        (tmp_path / name).write_bytes(before[name])
    for name in rng.sample(names, 3):
        (tmp_path / name).write_bytes(before[name][:-1])
    (tmp_path / rng.choice(names)).unlink()
    assert generation.verify(job, out)
    made(job, tmp_path)
    assert content(tmp_path) == before


def test_a_damaged_manifest_is_told_from_another(folder, tmp_path):
    job = job_of(folder)
    made(job, tmp_path)
    path = tmp_path / bulk.MANIFEST
    whole = path.read_bytes()
    assert Job.of(place(tmp_path)) == job
    for at in range(0, len(whole) - 2, 7):  # the last is a newline
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            Job.of(place(tmp_path))
    path.unlink()
    made(job, tmp_path)  # which finds its shards
    assert path.read_bytes() == whole


CHANGES = [
    ("num", {"num": 51}),
    ("seed", {"seed": 1}),
    ("steps", {"setting": Setting("ddim:eta=1", "trailing", 4)}),
    ("batch_size", {"batch_size": 8}),
    ("threads", {"threads": 2}),
    ("shard_size", {"shard_size": 10}),
    ("format", {"format": "png"}),
    ("weights", {"weights": "0" * 64}),
    ("made_by", {"made_by": "ddim 0.0.1"}),
    ("device", {"device": "cuda"}),
    ("way", {"way": ("bf16", "eager")}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_other_settings_are_refused_and_nothing_is_touched(name, change, folder, tmp_path):
    job = job_of(folder)
    made(job, tmp_path)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"was made with {name}="):
        made(replace(job, **change), tmp_path)
    assert content(tmp_path) == before


def test_files_of_another_set_are_not_mixed_in(folder, tmp_path):
    made(job_of(folder), tmp_path)
    (tmp_path / bulk.MANIFEST).unlink()
    with pytest.raises(ValueError, match="not of this set"):
        made(job_of(folder, shard_size=10), tmp_path)
    (tmp_path / "README.md").write_text("mine")  # which no reader of images takes for one
    made(job_of(folder), tmp_path)
    out = place(tmp_path)
    assert generation.strangers(job_of(folder), out.names()) == []
    (tmp_path / "samples-00003-of-00004.npz").write_bytes(b"")
    assert generation.strangers(job_of(folder), out.names()) == ["samples-00003-of-00004.npz"]


class Failing(Local):
    """A folder in which the k-th write, and all after it, fail."""

    def __init__(self, folder, k, number):
        super().__init__(folder)
        self.left, self.number = k, number

    def write(self, files):
        self.left -= 1
        if self.left < 0:
            raise OSError(self.number, os.strerror(self.number))
        super().write(files)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_where_nothing_can_be_written_it_stops_at_once_and_goes_on_later(number, folder, tmp_path):
    job = job_of(folder)
    made(job, tmp_path / "whole")
    for k in range(1, 7):
        out = Failing(tmp_path / str(k), k, number)
        with pytest.raises(StoppedError, match="what is there stays"):
            generation.generate(job, out, lambda shards, out=out: engines.Here(job, out))
        assert out.left == -1  # no second try
        assert not list((tmp_path / str(k)).rglob("*.tmp"))
        made(job, tmp_path / str(k))
        assert content(tmp_path / "whole") == content(tmp_path / str(k))


def test_two_runs_at_once_are_one(folder, tmp_path):
    job = job_of(folder)
    with place(tmp_path).locked(), pytest.raises(BlockingIOError, match="another run writes"):
        made(job, tmp_path)
    assert content(tmp_path) == {}
    made(job, tmp_path)
    assert generation.verify(job, place(tmp_path)) == {}


def test_what_is_not_finite_is_named_and_not_written(folder, tmp_path, monkeypatch):
    job, right = job_of(folder, shard_size=10), tmp_path / "right"
    made(job, right)

    class Poisoned(Worker):
        def _batch(self, first):
            batch = super()._batch(first)
            if first <= 23 < first + len(batch):
                batch[23 - first, 0, 3, 3] = float("nan")
            return batch

    monkeypatch.setattr(engines, "Worker", Poisoned)
    state = made(job, tmp_path / "poisoned")
    assert list(state.failed) == [2]
    assert "sample 23 (seed 23) holds a nan" in state.failed[2]
    there = content(tmp_path / "poisoned")
    assert set(content(right)) - set(there) == {job.names(2)[0], job.sidecar(2)}
    monkeypatch.undo()
    made(job, tmp_path / "poisoned")
    assert content(tmp_path / "poisoned") == content(right)


def test_ranks_share_the_work(folder, tmp_path):
    job, out = job_of(folder, shard_size=8), place(tmp_path / "ranks")
    made(job, tmp_path / "one")
    states = [
        generation.generate(job, out, lambda shards: engines.Here(job, out), rank=(rank, 3))
        for rank in range(3)
    ]
    assert sum(state.done for state in states) == 50
    assert [state.made for state in states] == [18, 16, 16]
    assert content(tmp_path / "ranks") == content(tmp_path / "one")


def test_another_model_than_the_jobs_makes_nothing(folder, with_classes):
    with pytest.raises(ValueError, match="other weights"):
        Worker(replace(job_of(folder), model=str(with_classes)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num": 0}, "num=0"),
        ({"seed": 2**64 - 3}, "seed="),
        ({"format": "jpg"}, "format='jpg'; choose one of npz"),
        ({"images": False, "format": "png"}, "is for images; choose npz"),
        ({"labels": ()}, "labels"),
        ({"threads": 0}, "threads=0"),
        ({"clip": float("inf")}, "clip=inf"),
        ({"guidance": float("nan")}, "guidance=nan"),
    ],
)
def test_a_job_is_checked_when_it_is_made(change, said, folder):
    with pytest.raises(ValueError, match=said):
        replace(job_of(folder), **change)


def test_another_software_or_configuration_makes_nothing(folder, tmp_path):
    job = job_of(folder)
    with pytest.raises(ValueError, match=r"made by ddim 0\.0\.1.*install those"):
        Worker(replace(job, made_by="ddim 0.0.1"))
    with pytest.raises(ValueError, match="other weights"):
        Worker(replace(job, config="0" * 16))
    Worker(replace(job, config=bulk.configured(ddim.load(folder))))


def test_names_sort_as_numbers_do(folder):
    job = job_of(folder, 10**9)
    for name in (job.stem, job.sidecar):
        assert sorted(map(name, (99_999, 100_000, 5))) == [name(k) for k in (5, 99_999, 100_000)]
    assert replace(job, format="png").names(0)[0] == "0000000000.png"


@pytest.mark.parametrize("kind", FORMATS)
def test_the_names_of_a_job_are_known_without_a_list(kind, folder):
    job = job_of(folder, format=kind)
    known = generation.Names(job)
    names = [bulk.MANIFEST, *(job.sidecar(k) for k in range(3))]
    names += [name for k in range(3) for name in job.names(k)]
    assert all(name in known for name in names)
    others = [job.names(0)[0][1:], job.sidecar(3), "00000050.png", "a.png", "shards", "7", ""]
    others += [f"more/{job.names(0)[0]}", job.stem(3) + ".npz", "samples-00000-of-00004.npz"]
    assert not any(name in known for name in others)


def test_what_is_not_of_the_set_is_never_deleted(folder, tmp_path):
    job = job_of(folder)
    mine = [".thesis.tmp", "sub/deep/.thesis.1.tmp", "sub/.samples-00000-of-00003.npz.1.tmp"]
    theirs = [".samples-00001-of-00003.npz.12.tmp", "shards/.00002.sidecar.9.tmp"]
    for name in (*mine, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    made(job, tmp_path)
    assert all((tmp_path / name).exists() for name in mine)
    assert not any((tmp_path / name).exists() for name in theirs)


def test_a_place_that_workers_do_not_share_is_noticed(folder):
    job, out = job_of(folder), place("memory://lost")
    state = generation.generate(job, out, lambda shards: engines.Pool(job, out, 2))
    assert state.done == 0
    assert "is not in memory://lost" in state.failed[1]


def test_what_cannot_be_read_is_one_wrong_shard(folder, tmp_path):
    job, out = job_of(folder), place(tmp_path)
    made(job, tmp_path)
    path = tmp_path / job.names(1)[0]
    path.unlink()
    path.symlink_to("/proc/self/mem")
    assert list(generation.verify(job, out)) == [1]


@pytest.mark.parametrize(
    "said",
    [{"WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}],
)
def test_half_of_what_torchrun_says_is_refused(run, folder, monkeypatch, said):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    status, _, err = run("generate", folder, "-n", 40, "--out", "a")
    assert status == 2
    assert "set both" in err
    assert not Path("a").exists()


def test_auto_is_chosen_once(run, folder, tmp_path, monkeypatch):
    words = ("generate", folder, "-n", 9, "--steps", 2, "--workers", 1, "--precision", "auto")
    assert run(*words, "--out", "a")[0] == 0
    taken = Job.of(place(tmp_path / "a")).way
    monkeypatch.setattr(ddim.Model, "optimize", None)  # nothing is timed
    monkeypatch.setattr(engines, "Here", None)
    assert f"network: {' '.join(taken)}" in run(*words, "--out", "a")[2]


def test_the_last_seeds_there_are_can_be_asked_for(folder):
    found = Worker(job_of(folder, 3, seed=2**64 - 3)).samples(0, 3)
    assert len(found.unique(dim=0)) == 3


def test_vectors_are_kept_as_they_are(tmp_path):
    net = ddim.nets.NETS["MLP"]
    model = ddim.Model.new((2,), ddim.schedules.linear(), "eps", net.config(features=2))
    ddim.save(model, tmp_path / "model")
    job = job_of(tmp_path / "model", 30, images=False)
    made(job, tmp_path / "out")
    arrays = pixels(tmp_path / "out")
    assert arrays.shape == (30, 2)
    assert arrays.dtype == np.float32


def test_the_command_makes_goes_on_checks_and_mends(run, folder, tmp_path):
    words = ["generate", folder, "-n", 30, "--steps", 3, "--shard-size", 8, "--batch-size", 4]
    status, out, err = run(*words, "--out", "a", "--workers", 1)
    assert (status, out) == (0, "")
    assert "30 of 30 images, 30 of them made" in err
    status, _, err = run(*words, "--out", "a", "--workers", 1)
    assert status == 0
    assert "30 of 30 images, 0 of them made" in err
    assert run("verify", "a")[0] == 0
    before = content(tmp_path / "a")
    damaged = tmp_path / "a/samples-00002-of-00004.npz"
    damaged.write_bytes(before[damaged.name][:100])
    (tmp_path / "a/shards/00000.sidecar").unlink()
    status, out, _ = run("verify", "a")
    assert status == 1
    assert out.splitlines() == [
        "images 0 to 7: shards/00000.sidecar is missing",
        "images 16 to 23: samples-00002-of-00004.npz is damaged",
    ]
    said = json.loads(run("verify", "a", "--json")[1])
    assert [each["begin"] for each in said["wrong"]] == [0, 16]
    assert run("verify", "a", "--repair", "--workers", 1)[0] == 0
    assert content(tmp_path / "a") == before
    (tmp_path / "a/other.npz").write_bytes(b"")
    assert run("verify", "a")[:2] == (1, "other.npz: not of this set\n")


def test_any_of_them_again_by_the_command(run, folder, tmp_path):
    options = ["--steps", 3, "--solver", "ddim:eta=1"]
    run("generate", folder, "-n", 40, *options, "--seed", 100, "--out", "set", "--workers", 1)
    all_of_them = pixels(tmp_path / "set")
    assert run("sample", folder, "--like", "set", "--seeds", "139,100,117", "-o", "x.npz")[0] == 0
    again = np.load(tmp_path / "x.npz")["images"]
    assert np.array_equal(again, all_of_them[[39, 0, 17]])
    assert run("sample", folder, *options, "--seeds", "139,100,117", "-o", "y.npz")[0] == 0
    near = np.load(tmp_path / "y.npz")["images"].astype(int)
    assert abs(near - all_of_them[[39, 0, 17]]).max() <= 1
    status, _, err = run("sample", folder, "--like", "set", "--seeds", "99")
    assert status == 2
    assert "seeds 100 to 139" in err
    out = place(tmp_path / "set")
    out.write({bulk.MANIFEST: replace(Job.of(out), device="cuda").manifest()})
    status, _, err = run("sample", folder, "--like", "set", "--seeds", "100")
    assert (status, err) == (2, "ddim: set was made on cuda; choose it by --device\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "jpg"), "choose one of npz"),
        (("--labels", "0-3"), "classes"),
        (("--guidance", "2"), "--labels"),
        (("--steps", "5", "--calls", "5"), "exclude each other"),
        (("--calls", "5", "--spacing", "quadratic"), "name a --solver"),
        (("--out", "nowhere://a"), "nowhere"),
        (("--seed", str(2**64 - 5)), "seed="),
        (("--precision", "fp16"), "GPU"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, folder, words, said):
    status, out, err = run("generate", folder, "-n", 30, "--out", "a", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_classes_want_labels(run, with_classes, tmp_path):
    assert "give --labels" in run("generate", with_classes, "-n", 9, "--out", "a")[2]
    np.save(tmp_path / "few.npy", np.arange(3))
    assert (
        "give 9 whole"
        in run("generate", with_classes, "-n", 9, "--out", "a", "--labels", "few.npy")[2]
    )
    np.save(tmp_path / "all.npy", np.arange(9) % 4)
    words = ("--steps", 2, "--labels", "all.npy", "--out", "a", "--workers", 1)
    status, _, err = run("generate", with_classes, "-n", 9, *words, "--guidance", "1.5")
    assert status == 2
    assert "null label" in err
    assert not (tmp_path / "a").exists()
    assert run("generate", with_classes, "-n", 9, *words)[0] == 0
    with np.load(tmp_path / "a/samples-00000-of-00001.npz") as arrays:
        assert arrays["arr_1"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_without_ray_one_sentence_names_its_extra(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, err = run("generate", folder, "-n", 9, "--out", "a", "--ray")
    assert status == 2
    assert ".[scale]" in err


def test_a_stopped_run_ends_with_status_75_and_goes_on(folder, tmp_path):
    words = ["generate", folder, "-n", 4000, "--steps", 20, "--shard-size", 20, "--out", "a"]
    command = [sys.executable, "-m", "ddim", *map(str, words), "--workers", "2"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for _ in iter(lambda: len(list((tmp_path / "a").glob("*.npz"))) < 2, False):
        assert running.poll() is None
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert err.splitlines() == ["ddim: stopped; the same command goes on in a"]
    assert running.returncode == 75
    assert not list((tmp_path / "a").rglob("*.tmp"))
    job, out = Job.of(place(tmp_path / "a")), place(tmp_path / "a")
    kept = len(list((tmp_path / "a").glob("*.npz")))
    assert 0 < kept < job.shards
    assert job.shards - kept <= len(generation.verify(job, out)) <= job.shards - kept + 2


def test_the_settings_decide_the_hash(folder):
    one = job_of(folder)
    assert replace(one, model="/elsewhere").settings == one.settings
    hashes = {replace(one, **change).settings for _, change in CHANGES}
    assert len(hashes | {one.settings}) == len(CHANGES) + 1
    entries = json.loads(one.manifest())
    stored = entries.pop("sha256")
    assert stored == hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


@pytest.mark.slow
def test_ray_leaves_the_same_folder(folder, tmp_path):
    job, out = job_of(folder, 256, shard_size=64), place(tmp_path / "ray")
    made(job, tmp_path / "here")
    state = made(job, tmp_path / "ray", lambda shards: engines.OnRay(job, out.name, 2))
    assert (state.done, state.failed) == (256, {})
    assert content(tmp_path / "ray") == content(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.parametrize("small", [0, 1 << 16], ids=["stored", "inline"])
def test_ray_workers_that_all_die_start_again(folder, tmp_path, monkeypatch, small):
    monkeypatch.setattr(engines, "_SMALL", small)
    job, out = job_of(folder, 40, shard_size=5), place(tmp_path / "ray")

    class Dying(engines.OnRay):
        def submit(self, task):
            if task == 2 and not hasattr(self, "killed"):
                self.killed = gc.collect()
                time.sleep(3)  # Ray lets go of what nobody holds once a second
                for actor in self._actors:
                    self._ray.kill(actor, no_restart=False)
            super().submit(task)

    made(job, tmp_path / "here")
    state = made(job, tmp_path / "ray", lambda shards: Dying(job, out.name, 2))
    assert (state.done, state.failed) == (40, {})
    assert content(tmp_path / "ray") == content(tmp_path / "here")
