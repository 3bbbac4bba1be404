"""A training run by the command: options, signals, several processes, what it shows."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
from ddim import Images, Keeping, Training, fit
from ddim.checkpoints import newest, steps
from ddim.curves import cut, drawn, rows
from ddim.lessons import lessons
from ddim.losses import errors
from tiny import tiny_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DIGITS = ddim.digits()
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_model().net.config.written()))
    return path


@pytest.fixture
def train(run, network):
    """ddim train of the tiny network on the digits; more words override."""

    def call(*words, data="digits"):
        steps_ = () if "--steps" in words else ("--steps", 4)
        small = ("--batch-size", 4, "--save-every", 2, "--log-every", 1, "--held-out", 20)
        return run("train", data, "--out", "it", "--model", network, *small, *steps_, *words)

    return call


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_finished_run_goes_on_with_more_steps_and_says_so_without(run, train, tmp_path):
    assert train()[0] == 0
    code, _, err = run("train", "digits", "--out", "it")
    assert code == 0
    assert "has its 4 updates; more with --steps" in err
    code, _, err = run("train", "digits", "--out", "it", "--steps", 6)
    assert (code, "4 updates done" in err) == (0, True)
    assert ddim.load(tmp_path / "it").notes["updates"] == 6
    assert [row["step"] for row in lines(tmp_path / "it")] == [1, 2, 3, 4, 6]


CHANGES = {
    "lr": (("--lr", 1e-4), r"lr 0\.002, now 0\.0001"),
    "batch": (("--batch-size", 8), "batch_size 4, now 8"),
    "seed": (("--seed", 1), "seed 0, now 1"),
    "steps": (("--steps", 9), "steps 4, now 9"),
}


@pytest.mark.parametrize(("words", "told"), CHANGES.values(), ids=CHANGES)
def test_changed_options_are_refused_or_accepted_and_noted(train, tmp_path, words, told):
    for update in fit(tiny_model(), DIGITS, tmp_path / "it", OPTIONS, KEEPING):
        if update.step == 2:
            break
    code, _, err = train(*words)
    assert code == 2
    assert re.search(f"the run in it had {told}; go on as it was, or with --accept-changes", err)
    assert steps(tmp_path / "it/training").keys() == {2}
    assert train(*words, "--accept-changes")[0] == 0
    (change,) = newest(tmp_path / "it/training").document["changes"]
    assert change["step"] == 2
    assert re.fullmatch(told, change["changes"][0])


OPTIONS = Training(steps=4, batch_size=4, held_out=20)
KEEPING = Keeping(save_every=2, log_every=1)


def test_changed_data_and_versions_are_refused(train, run, tmp_path):
    assert train()[0] == 0
    np.savez(tmp_path / "other.npz", images=DIGITS.pixels[:1796, 0].numpy())
    code, _, err = train("--steps", 6, data="other.npz")
    assert code == 2
    assert re.search("data images 1797, now 1796; data sha256 [0-9a-f]+, now [0-9a-f]+; go on", err)
    for place in steps(tmp_path / "it/training").values():
        document = json.loads((place / "state.json").read_text())
        document["versions"]["torch"] = "2.0"
        (place / "state.json").write_text(json.dumps(document))
        from ddim.checkpoints import SUMS, sums

        (place / SUMS).write_bytes(sums(place))
    code, _, err = train("--steps", 6)
    assert code == 2
    assert re.search(r"versions torch 2\.0, now 2\.\d+", err)
    assert train("--steps", 6, "--accept-changes")[0] == 0


def test_a_run_without_a_whole_state_is_not_taken_for_a_bare_model(train, tmp_path):
    """Or --overwrite would be the advice where a backup may still help."""
    assert train()[0] == 0
    for place in steps(tmp_path / "it/training").values():
        (place / "raw.safetensors").write_bytes(b"")
    for _ in range(2):
        code, _, err = train()
        assert code == 2
        assert "no state in it/training is whole (damaged-step-00000002, damaged-step-" in err


def test_another_model_is_refused_in_the_folder_of_a_run(run, train):
    assert train()[0] == 0
    for words, name in (
        (("--target", "v"), "target"),
        (("--schedule", "cosine"), "schedule"),
        (("--model", "small"), "network"),
    ):
        code, _, err = train(*words)
        assert code == 2
        assert f"the run in it has another {name}; choose another --out, or --overwrite" in err
    code, _, err = train("--target", "v", "--overwrite", "--steps", 2)
    assert code == 0
    assert "updates done" not in err


def test_overwrite_deletes_nothing_until_the_new_run_stands(train, tmp_path):
    assert train()[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "it").rglob("*") if path.is_file()}
    for words, data in (
        (("--overwrite",), "nowhere"),
        (("--overwrite", "--held-out", 9999), "digits"),
    ):
        assert train(*words, data=data)[0] == 2
        assert {path: path.read_bytes() for path in before} == before
    assert train("--overwrite", "--batch-size", 10**15)[0] == 1
    assert {path: path.read_bytes() for path in before} == before
    assert train("--overwrite", "--steps", 1)[0] == 0
    assert steps(tmp_path / "it/training").keys() == {1}
    assert [row["step"] for row in lines(tmp_path / "it")] == [1]
    assert [path.name for path in (tmp_path / "it/samples").iterdir()] == ["step-00000001.png"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_update_finish_saves_and_the_run_goes_on(tmp_path, network, number):
    command = [sys.executable, "-m", "ddim", "train", "digits", "--out", "it", "--model"]
    command += [str(network), "--steps", "100000", "--save-every", "100000", "--log-every", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )
    while not (tmp_path / "it/metrics.jsonl").exists() or not lines(tmp_path / "it"):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    (step,) = map(int, re.findall(r"stopped and saved after (\d+) of 100000 updates", err))
    assert steps(tmp_path / "it/training").keys() == {step}
    assert ddim.load(tmp_path / "it").notes["updates"] == step
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_cannot_be_saved_ends_with_status_1_and_one_sentence(train, monkeypatch):
    def full(state, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddim.keeping.write_state", full)
    code, _, err = train()
    assert code == 1
    assert err.splitlines()[-1] == (
        "ddim: the run in it could not be saved at update 2 (No space left on device); no state "
        "was yet: mend that and run the same command again"
    )
    assert train()[0] == 1
    monkeypatch.undo()


def test_three_kills_change_no_bit():
    """The benchmark that does fifty, with three: inside a save, at the start, in training."""
    command = [sys.executable, str(BENCHMARKS / "kills.py"), "--kills", "3", "--updates", "120"]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit-identical") == 5


def test_two_processes_train_as_one_does_and_each_goes_on_from_the_other(tmp_path, network):
    """Same order of the data, losses within 1e-4 for 50 updates, in float32."""
    options = ["--model", str(network), "--batch-size", "64", "--log-every", "1"]
    options += ["--save-every", "50", "--sample-every", "0", "--held-out", "0"]
    one = [sys.executable, "-m", "ddim", "train"]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two += ["-m", "ddim", "train"]

    def losses(out):
        return np.array([row["loss"] for row in lines(tmp_path / out)])

    for command, out in ((one, "a"), (two, "b")):
        subprocess.run(
            [*command, "digits", "--out", out, "--steps", "50", "--decay", "constant", *options],
            cwd=tmp_path,
            env=ONE_THREAD,
            check=True,
            capture_output=True,
        )
    np.testing.assert_allclose(losses("b"), losses("a"), rtol=1e-4)
    assert newest(tmp_path / "b/training").document["processes"] == 2
    for command, out in ((two, "a"), (one, "b")):
        subprocess.run(
            [*command, "digits", "--out", out, "--steps", "60", *options],
            cwd=tmp_path,
            env=ONE_THREAD,
            check=True,
            capture_output=True,
        )
    assert len(losses("a")) == len(losses("b")) == 60
    np.testing.assert_allclose(losses("b"), losses("a"), rtol=1e-4)
    ends = [newest(tmp_path / out / "training") for out in ("a", "b")]
    assert [end.document["processes"] for end in ends] == [2, 1]
    for name, weight in ends[0].raw.items():
        torch.testing.assert_close(weight, ends[1].raw[name], rtol=1e-3, atol=1e-4)


def test_processes_that_found_different_states_do_not_train_together(tmp_path, network):
    """One of them sees no state, as on a folder that is shared late."""
    (tmp_path / "apart.py").write_text(APART)
    small = ["--model", str(network), "--batch-size", "4", "--save-every", "2", "--steps", "2"]
    single = [sys.executable, "-m", "ddim", "train", "digits", "--out", "it", *small]
    subprocess.run(single, cwd=tmp_path, env=ONE_THREAD, check=True, capture_output=True)
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*two, "apart.py"],
        cwd=tmp_path,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.count("the processes have found states of updates 0, 2; start them") == 2


APART = """
import ddim
from ddim import fitting
from ddim.trainer import engine

if engine().process_index == 1:
    fitting.newest = lambda folder: None
    fitting.steps = lambda folder: {}
model = ddim.load("it")
options = ddim.Training(steps=4, batch_size=4, held_out=35)
try:
    for update in ddim.fit(model, ddim.digits(), "it", options, ddim.Keeping(accept_changes=True)):
        pass
except ValueError as error:
    print(error, flush=True)
"""


def test_classes_are_learned_from_sub_folders_named_and_sampled(run, tmp_path):
    for name, digit in (("ones", 1), ("zeros", 0)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in (DIGITS.labels == digit).nonzero()[:12, 0].tolist():
            Image.fromarray(DIGITS.pixels[i, 0].numpy()).save(tmp_path / f"data/{name}/{i}.png")
    small = ("--steps", 3, "--batch-size", 4, "--save-every", 3, "--held-out", 4)
    assert run("train", "data", "--out", "it", "--conditional", *small)[0] == 0
    model = ddim.load(tmp_path / "it")
    assert (model.labels, model.notes["null_label"]) == (2, 2)
    assert model.notes["labels"] == ["ones", "zeros"]
    sampled = ("--seeds", "0-1", "--steps", 2, "--label", 1, "--guidance", 2, "-o", "x.npz")
    assert run("sample", "it", *sampled)[0] == 0
    assert run("train", "digits", "--out", "new", "--init", "it", *small)[0] == 2
    code, _, err = run("train", "data", "--out", "new", "--init", "it", "--target", "v", *small)
    assert code == 2
    assert "--init brings its own --target; leave them out" in err


def test_another_beginning_is_refused(run, tmp_path):
    """A run goes on from the model that it began with, or from none."""
    for name in ("one", "two"):
        model = tiny_model("v")
        model.net.conv_in.bias.fill_(ord(name[0]))
        ddim.save(model, tmp_path / name)
    options = ("--steps", 2, "--batch-size", 4, "--held-out", 0)
    assert run("train", "digits", "--out", "it", "--init", "one", *options)[0] == 0
    assert run("train", "digits", "--out", "it", "--init", "one", *options)[0] == 0
    code, _, err = run("train", "digits", "--out", "it", "--init", "two", *options)
    assert code == 2
    assert "the run in it has another beginning (--init)" in err
    code, _, err = run("train", "digits", "--out", "c", "--init", "one", "--conditional", *options)
    assert code == 2
    assert "one has no classes, so --conditional cannot teach it any" in err


def test_fine_tuning_begins_with_the_weights_of_the_model(run, tmp_path):
    ddim.save(tiny_model("v"), tmp_path / "old")
    options = ("--steps", 2, "--batch-size", 64, "--log-every", 1, "--held-out", 0)
    assert run("train", "digits", "--out", "new", "--init", "old", *options)[0] == 0
    old, new = ddim.load(tmp_path / "old"), ddim.load(tmp_path / "new")
    assert new.target == "v"
    batch = lessons(old, DIGITS, Training(batch_size=64))[0].batch(0)
    loss = errors(old.net, old.schedule, "v", batch[:3]).mean()
    assert lines(tmp_path / "new")[0]["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_bad_images_are_named_and_left_out_only_when_asked(run, tmp_path, network):
    (tmp_path / "data").mkdir()
    for i in range(9):
        Image.fromarray(DIGITS.pixels[i, 0].numpy()).save(tmp_path / f"data/{i}.png")
    (tmp_path / "data/bad.png").write_text("<svg>")
    words = ("train", "data", "--out", "it", "--model", network, "--steps", 1, "--batch-size", 4)
    code, _, err = run(*words)
    assert code == 2
    assert "1 of 10 images cannot be read: bad.png" in err
    assert not (tmp_path / "it/training").exists() or not steps(tmp_path / "it/training")
    code, _, err = run(*words, "--skip-bad")
    assert code == 0
    assert "1 images left out, named in it/skipped.txt" in err
    assert (tmp_path / "it/skipped.txt").read_text().startswith("bad.png")


def test_pictures_and_curves_are_shown(train, run, tmp_path):
    assert train("--sample-every", 1)[0] == 0
    pictures = sorted((tmp_path / "it/samples").iterdir())
    assert [path.name for path in pictures] == [f"step-{k:08d}.png" for k in range(1, 5)]
    seen = []
    for path in pictures:
        with Image.open(path) as picture:
            seen.append(picture.tobytes())
    assert len(set(seen)) == 4
    code, out, _ = run("info", "it", "--curves", "curves.png")
    assert code == 0
    for name in ("loss", "held_out_loss", "grad_norm", "lr", "examples_per_s"):
        assert re.search(rf"^ *{name}  [▁▂▃▄▅▆▇█]+  \S+ … \S+, least", out, re.M)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1080, 720)
    metrics = json.loads(run("info", "it", "--json")[1])["metrics"]
    assert metrics == rows(tmp_path / "it/metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert run("info", "it", "--curves", "curves.pdf")[0] == 2


def test_bars_run_from_the_least_to_the_most():
    assert drawn([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert drawn([5.0, 5.0]) == "▁▁"
    assert drawn([0, 2, 8, 6], width=2) == "▁█"


def test_a_run_that_goes_on_drops_lines_that_a_loss_of_power_made(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 2}\n{"step": 3}\n')
    cut(path, 2)
    assert rows(path) == [{"step": 1}, {"step": 2}]


def test_metrics_of_something_else_are_left_alone(train, tmp_path):
    (tmp_path / "it").mkdir()
    (tmp_path / "it/metrics.jsonl").write_text('{"step": 99, "mine": 1}\n')
    code, _, err = train()
    assert code == 2
    assert "it/metrics.jsonl is there already, and not of a run of ddim" in err
    assert (tmp_path / "it/metrics.jsonl").read_text() == '{"step": 99, "mine": 1}\n'


def test_the_run_is_kept_out_of_its_data(run, tmp_path):
    (tmp_path / "data").mkdir()
    code, _, err = run("train", "data", "--out", "data/run")
    assert code == 2
    assert "--out data/run is inside data, whose images it would add to" in err


def test_a_batch_beyond_memory_is_one_sentence(train):
    code, out, err = train("--batch-size", 10**15)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "ddim: it does not fit in memory; lower the batch size"


def test_a_torn_last_line_of_metrics_is_left_out_and_another_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert rows(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2, is no line of metrics"):
        rows(path)
    assert rows(tmp_path / "none") == []


def test_tensorboard_gets_the_metrics(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("--log", "tensorboard")[0] == 0
    events = EventAccumulator(str(tmp_path / "it/ddim")).Reload()
    loss = [(event.step, event.value) for event in events.Scalars("loss")]
    wanted = [(row["step"], pytest.approx(row["loss"])) for row in lines(tmp_path / "it")]
    assert loss == wanted
    code, _, err = train("--log", "nowhere", "--overwrite")
    assert code == 2
    assert "log='nowhere'; choose from" in err


def test_a_tracker_that_is_not_installed_names_the_command(train):
    code, _, err = train("--log", "mlflow")
    assert code == 2
    assert "--log mlflow needs mlflow; install it: pip install mlflow" in err


def test_any_data_trains_in_a_folder(tmp_path):
    """A tensor of vectors, a torch Dataset; the options of a run are kept beside them."""
    values = torch.randn(40, 3)
    pairs = torch.utils.data.TensorDataset(values, torch.arange(40) % 2)
    for name, data, classes in (("a", values, None), ("b", pairs, 2)):
        model = ddim.Model.new((3,), classes=classes)
        for update in fit(model, data, tmp_path / name, Training(steps=3, batch_size=8)):
            assert update.grad_norm > 0
        assert ddim.load(tmp_path / name).labels == classes


def test_images_of_a_size_that_no_network_fits_are_refused_before_anything_is_written(tmp_path):
    data = Images(torch.zeros(4, 1, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="make the model for the data"):
        next(fit(tiny_model(), data, tmp_path / "it"))
    assert not list((tmp_path / "it").rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own, as it loads
def test_a_compiled_network_learns_what_it_does_plain():
    ends = []
    for compiled in (False, True):
        options = Training(steps=3, batch_size=16, compile=compiled)
        ends.append(list(ddim.train(tiny_model(), DIGITS, options))[-1].model.net.state_dict())
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=1e-3, atol=1e-4)
