"""Models run by other programs: the same answers, nothing lost, and what auto takes."""

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

import ddim
from ddim import backends, ways
from ddim.backends import BACKENDS
from ddim.identity import fingerprint
from ddim.nets.optimized import Optimized, answered, trained
from ddim.programs import PRECISIONS, Padded
from ddim.ways import native
from tiny import tiny_model

LIBRARIES = ("openvino", "onnxruntime")
EAGER = ("fp32 eager", "bf16 eager")


def images(model, seeds=range(5), batch_size=5, label=None, guidance=1.0):
    parts = []
    for begin in range(0, len(seeds), batch_size):
        noise = ddim.Seeded(seeds[begin : begin + batch_size])
        denoiser = model.denoiser(label, 1.0, guidance)
        x = noise.start(model.shape)
        parts.append(ddim.sample(denoiser, x, model.plan(5), ddim.DDIM(eta=0.5), noise))
    return torch.cat(parts)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("backend", ["eager", *LIBRARIES])
@pytest.mark.parametrize("classes", [None, 4])
def test_a_seed_means_the_same_image_by_every_backend(backend, classes):
    model, label = tiny_model(classes=classes), None if classes is None else 1
    fast = model.optimize("fp32", backend, batch_size=5)
    assert fast.net.way == f"fp32 {backend}"
    expected = images(model, label=label)
    torch.testing.assert_close(images(fast, label=label), expected, rtol=0, atol=1e-4)
    ragged = images(fast, batch_size=3, label=label)  # 3 and 2, padded
    torch.testing.assert_close(ragged, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", *LIBRARIES])
def test_a_fractional_time_is_not_rounded(backend):
    model = tiny_model()
    program, x = model.optimize("fp32", backend).net.program, torch.randn(2, 1, 8, 8)
    for t in (10, 10.5, 10.96, 999):
        times = torch.full((1,), t).expand(2)
        torch.testing.assert_close(
            program(x, times, None), model.net(x, times), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_bfloat16_keeps_the_image(backend):
    model = tiny_model()
    fast = model.optimize("bf16", backend)
    assert 1e-4 < ways.error(model, fast.net.program) < 0.1
    near, right = images(fast), images(model)
    assert near.dtype == torch.float32
    assert (near - right).norm() / right.norm() < 0.1  # in five steps of a network without sense


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the graphs are CUDA's")
@pytest.mark.parametrize("classes", [None, 4])
def test_on_a_gpu_a_graph_answers_for_every_batch(classes, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = tiny_model(classes=classes)
    model.net.to("cuda")
    fast = model.optimize("fp32", "eager")
    for batch in (6, 2, 6, 1, 7):
        x = torch.randn(batch, *model.shape).cuda()
        t = torch.randint(1000, (batch,)).cuda()
        label = None if classes is None else torch.randint(classes, (batch,)).cuda()
        first, again = (answered(net, x, t, label) for net in (fast.net, fast.net))
        right = answered(model.net, x, t, label)
        torch.testing.assert_close(first, right, rtol=0, atol=2e-5)
        assert torch.equal(first, again)


@pytest.mark.parametrize("config", [None, "1d", "vector"])
def test_networks_that_are_no_unet_are_optimized_too(config):
    shape = {None: (1, 8, 8), "1d": (2, 32), "vector": (5,)}[config]
    model = ddim.Model.new(shape)
    for weight in model.net.requires_grad_(False).parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    right = images(model)
    torch.testing.assert_close(images(model.optimize("fp32", "eager")), right, rtol=0, atol=1e-4)
    near = images(model.optimize("bf16", "eager"))
    assert (near - right).norm() / right.norm() < 3e-2


def test_what_identifies_a_model_and_its_file_stay(tmp_path):
    model = tiny_model()
    fast = model.optimize("bf16", "eager")
    assert isinstance(fast.net, Optimized)
    assert fingerprint(fast) == fingerprint(model)
    assert (fast.size, fast.classes, fast.shape) == (model.size, model.classes, model.shape)
    ddim.save(fast, tmp_path)
    assert fingerprint(ddim.load(tmp_path)) == fingerprint(model)
    again = fast.optimize("fp32", "eager")
    assert trained(again.net) is model.net
    assert again.net.way == "fp32 eager"


def test_a_gradient_with_respect_to_x_is_that_of_the_network():
    model = tiny_model()
    level, x = model.schedule.level(300), torch.randn(2, 1, 8, 8)
    slopes = []
    for each in (model, model.optimize("bf16", "eager")):
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            each.denoiser()(leaf, level).eps.square().sum().backward()
        slopes.append(leaf.grad)
    assert torch.equal(*slopes)


def test_a_batch_is_padded_to_a_size_that_is_there_and_not_to_one_far_larger():
    made = []

    def make(size):
        made.append(size)

        def run(x, t, label):
            assert len(x) == len(t) == len(label) == size
            return x + t[:, None] + label[:, None]

        return run

    program = Padded(make)
    for count in (16, 5, 2, 1, 3, 17):
        x, t, label = torch.randn(count, 4), torch.arange(count), torch.arange(count) * 10
        expected = x + 11 * torch.arange(count)[:, None]
        torch.testing.assert_close(program(x, t, label), expected)
    assert made == [16, 1, 17]


@pytest.mark.parametrize("backend", LIBRARIES)
def test_what_was_traced_is_kept_in_the_cache_and_taken_again(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    model = tiny_model()
    ddim.save(model, tmp_path / "model")
    before = sorted((tmp_path / "model").rglob("*"))
    assert not backends.ready(ways._build(model, "fp32"), backend, 4)
    right = images(model.optimize("fp32", backend))
    assert backends.ready(ways._build(model, "fp32"), backend, 4)
    assert sorted((tmp_path / "model").rglob("*")) == before
    monkeypatch.setattr(torch.export, "export", None)  # would fail
    assert torch.equal(images(tiny_model().optimize("fp32", backend)), right)
    other = tiny_model()
    next(other.net.parameters()).data.add_(0.1)
    with pytest.raises((TypeError, ValueError)):
        other.optimize("fp32", backend)  # other weights have another program


def test_openvino_calls_nobody():
    code = (
        "import sys, socket\n"
        "def refuse(*_): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from tiny import tiny_model\n"
        "tiny_model().optimize('fp32', 'openvino')\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="tests", capture_output=True)


@pytest.mark.parametrize(
    ("precision", "backend", "said"),
    [
        ("fp8", "eager", "precision='fp8'; choose one of auto, fp32, bf16, fp16"),
        ("fp32", "tvm", "backend='tvm'; choose one of auto, eager, compile, openvino, onnxruntime"),
        ("fp16", "eager", "precision=fp16 is for GPUs; on a CPU choose bf16 or fp32"),
        ("bf16", "onnxruntime", "computes in fp32 on a CPU, not in bf16"),
    ],
)
def test_what_this_machine_has_not_is_said(precision, backend, said):
    with pytest.raises(ValueError, match=said):
        tiny_model().optimize(precision, backend)


@pytest.mark.parametrize(("backend", "extra"), [("openvino", "fast"), ("onnxruntime", "export")])
def test_a_missing_library_names_its_extra(backend, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(ImportError, match=rf"backend={backend} needs .*\[{extra}\]"):
        tiny_model().optimize("fp32", backend)


def test_without_a_compiler_one_sentence_says_so(monkeypatch, caplog):
    monkeypatch.setattr(backends, "kernels", lambda: "there is no C++ compiler; install g++")
    tiny_model().optimize("fp32", "eager")
    assert [record.getMessage() for record in caplog.records] == [
        "slower, without compiled kernels: there is no C++ compiler; install g++"
    ]


@pytest.mark.parametrize(
    ("answers", "waits", "taken"),
    [
        ((1, 1, 1), (0.03, 0.001, 0.03), "fp32 openvino"),
        ((1, 1.001, 1), (0.03, 0.001, 0.01), "fp32 onnxruntime"),  # fast, and wrong
        ((1, float("nan"), 1), (0.03, 0.001, 0.01), "fp32 onnxruntime"),
        ((1, 1, 1), (0.01, 0.03, 0.03), "fp32 eager"),
        ((1, 1, 1), (0.03, 0.029, 0.03), "fp32 eager"),  # no gain to speak of
    ],
)
def test_auto_takes_the_fastest_that_is_right(answers, waits, taken, monkeypatch):
    names = ("eager", "openvino", "onnxruntime")
    for name, answer in zip(names, answers, strict=True):
        program = partial(lambda build, by: lambda x, t, label: by * build.net(x, t), by=answer)
        monkeypatch.setitem(BACKENDS, name, program)

    def seconds(programs, *_):
        return {way: waits[names.index(way.backend)] for way in programs}

    monkeypatch.setattr(ways, "seconds", seconds)
    monkeypatch.setattr(ways, "ready", lambda build, name, batch: name in names)
    monkeypatch.setattr(ways, "native", lambda device: ["fp32"])
    assert tiny_model().optimize().net.way == taken


def test_auto_makes_nothing_that_takes_long(monkeypatch, tmp_path):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.export, "export", None)
    way = tiny_model().optimize().net.way
    assert way in EAGER
    assert tiny_model().optimize("bf16").net.way == "bf16 eager"
    assert tiny_model().optimize(backend="eager").net.way in EAGER


def test_the_precisions_of_this_machine_are_in_the_table():
    found = native(torch.device("cpu"))
    assert found[0] == "fp32"
    assert set(found) <= set(PRECISIONS)


@pytest.mark.parametrize("backend", LIBRARIES)
def test_models_that_differ_in_configuration_have_programs_of_their_own(backend):
    base = tiny_model()
    base.optimize("fp32", backend)
    config = replace(base.net.config, norm_eps=0.1)
    other = ddim.Model.new(base.shape, base.schedule, base.target, config)
    other.net.load_state_dict(base.net.state_dict())
    assert fingerprint(other) == fingerprint(base)
    assert ways.error(other, other.optimize("fp32", backend).net.program) < 1e-4


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_broken_file_of_the_cache_is_made_anew(backend, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    model = tiny_model()
    right = images(model.optimize("fp32", backend))
    for path in (tmp_path / "programs").iterdir():
        path.write_bytes(b"garbage")
    assert torch.equal(images(model.optimize("fp32", backend)), right)
    assert "is made anew" in caplog.text


def test_auto_goes_on_without_a_way_that_fails(monkeypatch):
    def failing(build):
        raise RuntimeError("broken")

    monkeypatch.setitem(BACKENDS, "openvino", failing)
    monkeypatch.setattr(ways, "ready", lambda build, name, batch: name in ("eager", "openvino"))
    assert tiny_model().optimize().net.way in EAGER


@pytest.mark.parametrize("backend", ["eager", *LIBRARIES])
def test_threads_an_empty_batch_and_another_dtype_are_served(backend):
    model = tiny_model()
    net = model.optimize("fp32", backend).net
    given = [(torch.randn(2, 1, 8, 8), torch.full((2,), t)) for t in range(0, 900, 30)]
    right = [model.net(*each) for each in given]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda each: net(*each), given * 3))
    for one, expected in zip(found, right * 3, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    assert net(given[0][0][:0], given[0][1][:0]).shape == (0, 1, 8, 8)
    assert net(given[0][0].double(), given[0][1]).dtype == torch.float64


def test_weights_that_changed_are_noticed_and_copies_are_the_trained_network():
    model = tiny_model()
    fast = model.optimize("fp32", "eager")
    assert type(copy.deepcopy(fast.net)) is type(model.net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images(fast)
    next(model.net.parameters()).mul_(1.1)
    with pytest.raises(ValueError, match=r"the weights changed since model.optimize"):
        images(fast)


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_batch_size_is_a_whole_number(size):
    with pytest.raises(ValueError, match="choose a whole number from 1"):
        tiny_model().optimize(batch_size=size)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    ddim.save(tiny_model(), path)
    return path


def arrays(path):
    import numpy as np

    return torch.from_numpy(np.load(path)["images"]).float()


def test_the_command_samples_by_every_way(run, folder):
    common = ["sample", folder, "--seeds", "0-4", "--steps", 4, "--batch-size", 3, "--clip", 1]
    assert run(*common, "-o", "plain.npz")[0] == 0
    for words in (["--backend", "openvino"], ["--precision", "bf16"], ["--precision", "auto"]):
        status, _, said = run(*common, *words, "-o", "other.npz")
        assert status == 0
        assert ("network: " in said) == ("auto" in words)
        apart = (arrays("plain.npz") - arrays("other.npz")).abs().mean()
        assert apart <= (0.05 if "openvino" in words else 4)  # of 255


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "--precision", "half"],
        ["evaluate", "digits", "--precision", "half", "--num", "60"],
        ["interpolate", "--seeds", "1,2", "--precision", "half"],
    ],
)
def test_the_command_names_what_there_is(run, folder, words):
    status, _, said = run(words[0], folder, *words[1:])
    assert status == 2
    assert "choose one of auto, fp32, bf16, fp16" in said
    assert said.count("\n") == 1


def test_latents_are_decoded_by_the_network_that_encoded_them(run, folder):
    status, _, said = run("sample", folder, "--from", "x.safetensors", "--precision", "bf16")
    assert status == 2
    assert "leave all but --output and --device out" in said


def test_bench_measures_and_suggests(run, folder):
    words = ["bench", folder, "--batch-sizes", "1,3", "--backends", "eager,openvino"]
    status, out, said = run(*words)
    assert status == 0
    assert out.count("\n") == 2 + 2 * 2 * len(native(torch.device("cpu")))
    assert "suggested: --precision" in said
    status, out, _ = run(*words, "--precisions", "fp32", "--json")
    document = json.loads(out)
    assert status == 0
    assert [(r["batch"], r["backend"]) for r in document["rows"]] == [
        (1, "eager"),
        (1, "openvino"),
        (3, "eager"),
        (3, "openvino"),
    ]
    for row in document["rows"]:
        assert row["images"] == pytest.approx(1000 * row["batch"] / row["ms"])
        assert row["gflops"] == pytest.approx(document["gflop"] * row["images"])
        assert row["error"] < 1e-4
    assert document["suggested"] in document["rows"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--precisions", "fp64", "--precisions 'fp64'; choose of fp32, bf16, fp16"),
        ("--backends", "tpu", "--backends 'tpu'; choose of eager, compile, openvino, onnxruntime"),
        ("--batch-sizes", "0", "'0' is not a list of batch sizes"),
    ],
)
def test_bench_names_what_there_is(run, folder, option, value, said):
    status, _, words = run("bench", folder, option, value)
    assert status == 2
    assert said in words
