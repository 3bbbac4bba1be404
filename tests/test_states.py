"""What a training run saves: whole or not at all, and every bit of it accounted for."""

import errno
import io
import json
import logging
import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddim
from ddim import Keeping, Training, fit, schedules
from ddim.checkpoints import keep, newest, said, steps, sums, verify, write_state
from ddim.data import Arrays
from ddim.keeping import UnsavedError, refuse_unsound
from ddim.nets import MLPConfig
from ddim.trainer import Trainer

DATA = Arrays(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)))
OPTIONS = Training(steps=8, batch_size=4, ema=(0.1, 0.3), held_out=12)
SAVING = Keeping(save_every=2, log_every=1)


def model():
    config = MLPConfig(features=3, width=8, depth=1, dropout=0.5)
    return ddim.Model.new((3,), schedules.cosine(), "v", config)


def ended(out, options=OPTIONS, keeping=SAVING, until=None):
    """The newest state after training in a folder, to the end or to an update."""
    for update in fit(model(), DATA, out, options, keeping):
        if update.step == until:
            break
    return newest(out / "training")


def same(one, other):
    """Whether two states are alike in every bit that the rest of a run depends on."""
    sets = [
        (state.raw, state.optimizer, state.model.net.state_dict(), *state.averages.values())
        for state in (one, other)
    ]
    return all(
        a.keys() == b.keys() and all(torch.equal(weight, b[name]) for name, weight in a.items())
        for a, b in zip(*sets, strict=True)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run."""
    out = tmp_path_factory.mktemp("whole")
    ended(out)
    return out


@pytest.mark.parametrize("until", [1, 2, 3, 5, 7, 8])
def test_a_run_that_was_left_goes_on_to_the_same_bits(whole, tmp_path, until):
    ended(tmp_path, until=until)
    assert same(ended(tmp_path), newest(whole / "training"))
    untimed = [
        [{k: v for k, v in json.loads(line).items() if k != "examples_per_s"} for line in lines]
        for lines in ((out / "metrics.jsonl").read_text().splitlines() for out in (whole, tmp_path))
    ]
    assert untimed[0] == untimed[1]
    assert [row["step"] for row in untimed[0]] == list(range(1, 9))
    for name in ("net/model.safetensors", "ddim.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_the_folder_holds_the_averaged_model_and_the_state_the_raw_weights_too(whole):
    state = newest(whole / "training")
    held = ddim.load(whole).net.state_dict()
    assert all(
        torch.equal(weight, held[name]) for name, weight in state.model.net.state_dict().items()
    )
    assert not all(torch.equal(state.raw[name], weight) for name, weight in held.items())
    assert list(state.averages) == ["0.3"]
    assert state.document["versions"]["torch"] == torch.__version__
    assert state.document["data"]["sha256"] == DATA.fingerprint


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    ended(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["held_out_loss"] for row in rows if "held_out_loss" in row}
    assert sorted(losses) == [2, 4, 6, 8]
    assert set(steps(tmp_path / "training")) == {6, 8, min(losses, key=losses.get)}
    for step, loss in ((6, 0.5), (8, 0.7)):  # made up, so that the best is the oldest
        place = steps(tmp_path / "training")[step] / "state.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), "held_out_loss": loss}))
    for step in (10, 12, 14):
        shutil.copytree(steps(tmp_path / "training")[8], tmp_path / f"training/step-{step:08d}")
    keep(tmp_path / "training")
    assert set(steps(tmp_path / "training")) == {6, 12, 14}


def test_a_thousand_flipped_bits_are_a_thousand_refusals(whole):
    """Before a tensor is read: verify reads bytes alone."""
    place = steps(whole / "training")[8]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    assert {path.suffix for path in files} == {".safetensors", ".json", ""}
    rng = random.Random(7)
    verify(place)
    for count in range(1000):
        path = files[count % len(files)]
        content = path.read_bytes()
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged"):
            verify(place)
        path.write_bytes(content)
    verify(place)


@pytest.mark.parametrize("harm", ["flipped", "truncated", "added", "removed", "no sums"])
def test_a_damaged_newest_state_is_put_aside_and_the_one_before_is_taken(
    whole, tmp_path, caplog, harm
):
    shutil.copytree(whole, tmp_path / "run")
    place = steps(tmp_path / "run/training")[8]
    raw = place / "raw.safetensors"
    content = raw.read_bytes()
    if harm == "flipped":
        raw.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "truncated":
        raw.write_bytes(content[:-1])
    elif harm == "added":
        (place / "more.json").write_text("{}")
    else:
        (raw if harm == "removed" else place / "SHA256SUMS").unlink()
    with caplog.at_level(logging.WARNING, "ddim"):
        state = ended(tmp_path / "run")
    assert "step-00000008 is damaged" in caplog.text
    assert "taking the state before it" in caplog.text
    assert same(state, newest(whole / "training"))
    assert (tmp_path / "run/training/damaged-step-00000008").is_dir()


def test_a_state_that_is_damaged_again_is_put_aside_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for count in (1, 2):
        raw = steps(tmp_path / "run/training")[8] / "raw.safetensors"
        raw.write_bytes(raw.read_bytes()[:-1])
        assert same(ended(tmp_path / "run"), newest(whole / "training"))
        assert len(list((tmp_path / "run/training").glob("damaged-*"))) == count


def test_a_state_of_another_format_is_no_damage(whole, tmp_path):
    """Its bits are right: it stays where it is, and the sentence says what it is."""
    shutil.copytree(whole, tmp_path / "run")
    place = steps(tmp_path / "run/training")[8]
    document = {**json.loads((place / "state.json").read_text()), "format": 2}
    (place / "state.json").write_text(json.dumps(document))
    (place / "SHA256SUMS").write_bytes(sums(place))
    with pytest.raises(ValueError, match="is of format 2 and step 8; this ddim reads format 1"):
        newest(tmp_path / "run/training")
    assert 8 in steps(tmp_path / "run/training")


def test_the_options_of_a_run_are_those_of_a_whole_state(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    place = steps(tmp_path / "run/training")[8] / "state.json"
    place.write_text(place.read_text().replace('"steps": 8', '"steps": 9'))
    assert said(tmp_path / "run/training")["step"] == 6
    assert said(tmp_path / "none") is None


def test_without_a_whole_state_the_run_says_so_and_begins_nothing(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for place in steps(tmp_path / "run/training").values():
        (place / "SHA256SUMS").write_text("")
    with pytest.raises(ValueError, match=r"no state in .* is whole .*--overwrite to begin anew"):
        next(fit(model(), DATA, tmp_path / "run", OPTIONS, SAVING))


def test_the_sums_are_those_of_sha256sum(whole):
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=steps(whole / "training")[8],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Disk:
    """Fails every operation that writes from the k-th on, as a full disk or a dying one does."""

    def __init__(self, monkeypatch, under):
        self.count, self.failing, self.error, self.under = 0, None, errno.ENOSPC, str(under)
        for module, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir")):
            monkeypatch.setattr(module, name, self.watched(getattr(os, name)))
        real = io.open

        def opened(file, mode="r", *rest, **named):
            if not {"w", "a", "x", "+"} & set(mode) or not str(file).startswith(self.under):
                return real(file, mode, *rest, **named)
            self.tick()
            handle = real(file, mode, *rest, **named)
            return Handle(handle, self)

        monkeypatch.setattr(io, "open", opened)

    def watched(self, real):
        def call(*words, **named):
            self.tick()
            return real(*words, **named)

        return call

    def tick(self):
        self.count += 1
        if self.failing is not None and self.count >= self.failing:
            raise OSError(self.error, os.strerror(self.error))


class Handle:
    """An open file whose writes the disk counts."""

    def __init__(self, real, disk):
        self.real, self.disk = real, disk

    def write(self, content):
        self.disk.tick()
        return self.real.write(content)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.real.close()


def attempted(out, disk, failing):
    """Train to update 6, whose save meets a disk that fails at an operation; what it said."""
    run = fit(model(), DATA, out, OPTIONS, SAVING)
    assert next(run).step == 5
    disk.count, disk.failing = 0, failing
    try:
        next(run)
    except UnsavedError as error:
        return error
    finally:
        disk.failing = None
        run.close()
    return None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_write_of_a_save_leaves_the_state_before(
    whole, tmp_path, monkeypatch, error
):
    base = tmp_path / "base"
    ended(base, until=5)
    assert set(steps(base / "training")) >= {4}
    failures = 0
    while True:
        out = tmp_path / f"run-{failures}"
        shutil.copytree(base, out)
        with monkeypatch.context() as patch:
            disk = Disk(patch, tmp_path)
            disk.error = error
            told = attempted(out, disk, failures + 1)
        if told is None:
            break
        assert "could not be saved at update 6" in str(told)
        assert os.strerror(error) in str(told)
        assert told.status == 1
        assert not list(out.rglob("*.tmp"))
        found = steps(out / "training")
        for step in found:
            verify(found[step])
        assert max(found) in (4, 6)
        assert same(ended(out), newest(whole / "training"))
        assert not list(out.rglob("*.tmp"))
        shutil.rmtree(out)
        failures += 1
    assert failures > 40


@pytest.mark.parametrize("part", ["raw", "optimizer", "averages", "model"])
def test_every_tensor_must_be_finite_to_be_saved(whole, part):
    state = newest(whole / "training")
    refuse_unsound(state)
    held = getattr(state, part)
    tensors = {"averages": state.averages["0.3"], "model": state.model.net.state_dict()}
    next(iter(tensors.get(part, held).values())).view(-1)[0] = torch.inf
    with pytest.raises(FloatingPointError, match="is not finite at update 8"):
        refuse_unsound(state)


def test_names_are_synced_after_they_are_given(whole, tmp_path, monkeypatch):
    """Or a loss of power could take the renamed state away after the older one was deleted."""
    events = []
    rename, synced = Path.rename, ddim.checkpoints.sync
    monkeypatch.setattr(Path, "rename", lambda *paths: (events.append("rename"), rename(*paths))[1])
    monkeypatch.setattr(
        "ddim.checkpoints.sync", lambda path: (events.append(path.name), synced(path))
    )
    write_state(newest(whole / "training"), tmp_path)
    assert events[-2:] == ["rename", tmp_path.name]
    assert {".step-00000008.tmp", "model", "net"} <= set(events[:-2])


def test_a_new_decay_starts_with_the_model_and_an_old_one_goes_on(tmp_path):
    """Each average goes on as itself, wherever it stands in the list."""
    accepting = Keeping(save_every=2, log_every=1, accept_changes=True)
    held = ended(tmp_path, until=5)
    trainer = Trainer(held.model, DATA, replace(OPTIONS, ema=(0.3, 0.7)))
    trainer.restore(held)
    first, second = (averaged.module.state_dict() for averaged in trainer.averages)
    for name, weight in held.model.net.state_dict().items():
        assert torch.equal(first[name], held.averages["0.3"][name])
        assert torch.equal(second[name], weight)
    assert list(ended(tmp_path, replace(OPTIONS, ema=(0.3, 0.7)), accepting).averages) == ["0.7"]


def test_an_older_run_goes_once_the_new_one_has_saved(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    run = fit(model(), DATA, tmp_path / "run", OPTIONS, SAVING, overwrite=True)
    assert next(run).step == 1
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert 8 in steps(tmp_path / "run/training")
    assert next(run).step == 2
    assert steps(tmp_path / "run/training").keys() == {2}
    run.close()
    assert same(ended(tmp_path / "run"), newest(whole / "training"))
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


def test_what_killed_processes_left_is_swept(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    ended(tmp_path, until=3)
    left = [tmp_path / f".ddim.json.{process.pid}.tmp", tmp_path / f"net/.x.{process.pid}.1.tmp"]
    mine = tmp_path / f".other.{os.getpid()}.tmp"
    for path in (*left, mine):
        path.write_text("half")
    run = fit(model(), DATA, tmp_path, OPTIONS, SAVING)
    next(run)
    assert not any(path.exists() for path in left)
    assert mine.exists()
    run.close()


def test_a_network_that_cannot_be_written_is_refused_before_it_is_trained(tmp_path):
    foreign = ddim.Model(torch.nn.Linear(3, 3), schedules.cosine(), "v", (3,))
    with pytest.raises(ValueError, match="Linear is not a network that ddim can write"):
        next(fit(foreign, DATA, tmp_path, OPTIONS, SAVING))


def test_two_runs_do_not_share_a_folder(tmp_path):
    run = fit(model(), DATA, tmp_path, OPTIONS, SAVING)
    next(run)
    with pytest.raises(ValueError, match=r"another process trains in .*choose another --out"):
        next(fit(model(), DATA, tmp_path, OPTIONS, SAVING))
    run.close()
    assert next(fit(model(), DATA, tmp_path, OPTIONS, SAVING)).step == 1


@pytest.mark.parametrize(
    ("steps_", "words"),
    [
        (8, "not finite at update 8, so it is not saved"),
        (30, "10 updates in a row, up to update 1"),
    ],
)
def test_nothing_that_is_not_finite_is_saved(whole, tmp_path, steps_, words):
    """Where the rate takes the weights to infinity, the state before that stays the newest."""
    ended(tmp_path, until=5)
    wild = Training(steps=steps_, batch_size=4, ema=(0.1, 0.3), held_out=12, lr=1e200)
    accepting = Keeping(save_every=2, log_every=1, accept_changes=True)
    with pytest.raises(FloatingPointError, match=words) as told:
        for _ in fit(model(), DATA, tmp_path, wild, accepting):
            pass
    assert "is as it was saved at update 4, and goes on from there" in str(told.value)
    assert set(steps(tmp_path / "training")) == {2, 4}
    assert all(
        torch.isfinite(weight).all() for weight in newest(tmp_path / "training").raw.values()
    )
    state = ended(tmp_path, keeping=accepting)
    assert state.step == 8
    assert same(state, newest(whole / "training"))
