"""What is exported answers as the model does, without it."""

import json
import re
import sys

import onnxruntime
import pytest
import torch

import ddim
from ddim import Model, schedules
from ddim.export import Sampler, about_network, about_sampler, network_example
from ddim.tracing import export
from test_interop import close
from tiny import tiny_model


def answer(path, **inputs):
    """What a file answers, run by torch or by onnxruntime."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(**inputs).detach()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {k: v.numpy() for k, v in inputs.items()})[0])


def about(path):
    """What a file says of itself."""
    if path.suffix == ".pt2":
        extra = {"ddim.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["ddim.json"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return json.loads(session.get_modelmeta().custom_metadata_map["ddim"])


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_network_with_classes(tmp_path, suffix):
    model, path = tiny_model("v", classes=3), tmp_path / f"net{suffix}"
    apart = export(model.net, network_example(model), path, about_network(model))
    assert apart < 1e-5
    for count in (1, 5):
        x, t = torch.randn(count, 1, 8, 8), torch.randint(0, 1000, (count,))
        label = torch.randint(0, 3, (count,))
        with torch.no_grad():
            close(answer(path, x=x, t=t, label=label), model.net(x, t, label))
    said = about(path)
    assert said["target"] == "v"
    assert said["signal"] == model.schedule.signal.tolist()


@pytest.mark.parametrize(
    ("suffix", "spec"), [(".pt2", "unipc"), (".pt2", "dpmpp2s"), (".onnx", "ddim")]
)
def test_a_whole_sampler(tmp_path, suffix, spec):
    """One file from noise to images, for any batch."""
    model, path = tiny_model("v"), tmp_path / f"sampler{suffix}"
    steps = 5 if suffix == ".onnx" else 2  # to export takes seconds a step
    plan, solver = model.plan(steps), ddim.build(spec)
    export(
        Sampler(model, plan, solver, clip=1.0),
        {"x": network_example(model)["x"]},
        path,
        about_sampler(model, plan, solver),
    )
    for count in (1, 3):
        x = torch.randn(count, 1, 8, 8)
        ours = ddim.sample(model.denoiser(clip=1.0), x, plan, solver)
        close(answer(path, x=x), ours)
    assert about(path)["times"] == [level.t for level in plan]
    assert ddim.build(about(path)["solver"]) == solver


def test_a_label_is_bound_to_a_sampler(tmp_path):
    model, path = tiny_model("v", classes=3), tmp_path / "sampler.pt2"
    x, plan = torch.randn(3, 1, 8, 8), model.plan(2)
    export(Sampler(model, plan, label=2), {"x": x}, path, {})
    close(answer(path, x=x), ddim.sample(model.denoiser(2), x, plan))
    assert not torch.allclose(answer(path, x=x), ddim.sample(model.denoiser(1), x, plan), atol=1e-3)


def test_a_program_that_differs_is_not_written(tmp_path):
    class Fickle(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    with pytest.raises(FloatingPointError, match="nothing was written"):
        export(Fickle(), {"x": torch.ones(2, 1)}, tmp_path / "f.pt2", {})
    assert not list(tmp_path.iterdir())


def test_a_solver_that_draws_is_no_program(tmp_path):
    model = tiny_model("v")
    with pytest.raises(ValueError, match="noise"):
        export(
            Sampler(model, model.plan(3), ddim.DDPM()),
            {"x": torch.randn(2, 1, 8, 8)},
            tmp_path / "f.pt2",
            {},
        )


def test_the_command_exports_both(run, tmp_path):
    model = tiny_model("v")
    ddim.save(model, tmp_path / "m")
    code, _, err = run("export", "m", "net.pt2")
    assert (code, "the network, inputs x, t" in err) == (0, True)
    code, _, err = run("export", "m", "s.pt2", "--steps", 2, "--solver", "unipc")
    assert (code, "2 network calls" in err) == (0, True)
    x = torch.randn(2, 1, 8, 8)
    close(
        answer(tmp_path / "s.pt2", x=x),
        ddim.sample(model.denoiser(), x, model.plan(2), ddim.UniPC()),
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["net.pth"], r"net\.pth is no place for a program; name a \.pt2 or an \.onnx"),
        (["net.pt2", "--solver", "unipc"], "--solver: only for a sampler; give --steps"),
        (["net.pt2", "--steps", 3, "--solver", "ddpm"], "noise"),
        (["net.pt2", "--steps", 0], "steps=0"),
        (["net.pt2", "--times", "500,100"], "let --times fall to 0"),
        (["net.pt2", "--steps", 3, "--label", 1], "do not give one"),
    ],
)
def test_bad_input_to_the_command(run, tmp_path, words, sentence):
    ddim.save(tiny_model("v"), tmp_path / "m")
    code, out, err = run("export", "m", *words)
    assert (code, out) == (2, "")
    assert re.search(sentence, err.strip().splitlines()[-1]), err
    assert not list(tmp_path.glob("net*"))


def test_without_onnx_the_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = Model(tiny_model("v").net, schedules.linear(), "v", (1, 8, 8))
    with pytest.raises(ImportError, match=r'pip install -e "\.\[export\]"'):
        export(model.net, network_example(model), tmp_path / "n.onnx", {})
    assert not list(tmp_path.iterdir())
