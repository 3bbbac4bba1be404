"""Models of vectors and signals through the commands: each works, or says one sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
from ddim import Model
from ddim.card import card
from ddim.evaluation import checked_labels
from ddim.nets import MLPConfig, UNet1DConfig

VECTORS = MLPConfig(features=2, width=16, depth=1, time_embedding_dim=8)
SIGNALS = UNet1DConfig(
    length=8, channels=2, block_out_channels=(8, 16), attention_level=1, attention_head_dim=8
)


def made(config, classes=None):
    config = config if classes is None else replace(config, num_class_embeds=classes + 1)
    model = Model.new(config.shape, config=config, target="v", classes=classes)
    torch.manual_seed(1)
    for weight in model.net.requires_grad_(False).parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    model.net.eval()
    return model


MODELS = {"vectors": made(VECTORS), "signals": made(SIGNALS)}


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    ddim.save(MODELS[request.param], tmp_path / "m")
    return MODELS[request.param]


def test_the_command_writes_what_python_samples(run, model, tmp_path):
    options = ("--steps", 4, "--solver", "ddpm")
    status, out, err = run("sample", "m", "-o", "x.npz", "--seeds", "9,2-4,10-69", *options)
    assert (status, out) == (0, "")
    assert "64 samples, 4 network calls each" in err
    with np.load("x.npz") as file:
        arrays = dict(file)
    seeds = [9, 2, 3, 4, *range(10, 70)]
    assert sorted(arrays) == ["samples", "seeds"]
    assert arrays["samples"].dtype == np.float32
    assert arrays["seeds"].tolist() == seeds
    noise = ddim.Seeded(seeds)
    plan = model.plan(4)
    x = ddim.sample(model.denoiser(), noise.start(model.shape), plan, ddim.DDPM(), noise)
    assert np.array_equal(arrays["samples"], x.numpy())
    assert x.abs().max() > 1  # as they are, not cut to the range of pixels


def test_a_seed_is_the_same_sample_whatever_is_sampled_with_it(run, model, tmp_path):
    options = ("--steps", 4, "--solver", "ddpm")
    assert run("sample", "m", "-o", "a.npz", "--seeds", "0-6", *options)[0] == 0
    assert run("sample", "m", "-o", "b.npz", "--seeds", "5,1", "--batch-size", 1, *options)[0] == 0
    a, b = np.load("a.npz")["samples"], np.load("b.npz")["samples"]
    assert np.abs(a[[5, 1]] - b).max() < 1e-4
    assert np.abs(a[5] - a[1]).max() > 0.1


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "m"),
        ("sample", "m", "-o", "x.png"),
        ("sample", "m", "-o", "folder"),
        ("encode", "m", "digits"),
        ("reconstruct", "m", "digits"),
        ("interpolate", "m", "digits"),
        ("interpolate", "m", "--seeds", "1,2"),
        ("edit", "m", "digits", "--strength", "0.5"),
        ("edit", "m", "digits", "--measure", "blur:std=1"),
        ("likelihood", "m", "digits"),
        ("evaluate", "m", "digits"),
    ],
)
def test_what_is_for_images_says_so_before_it_starts(run, model, tmp_path, words):
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith(f"ddim: samples of this model are {model.shape}, not images (1 or 3, ")
    assert err.count("\n") == 1
    assert ("name an .npz by -o" in err) == (words[0] == "sample")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_for_any_model_works(run, model, tmp_path):
    status, out, _ = run("info", "m", "--json")
    assert status == 0
    assert json.loads(out)["shape"] == list(model.shape)
    assert run("plan", "--model", "m", "--steps", 3)[0] == 0
    status, _, err = run("import", "m", "again")
    assert status == 0
    assert "Next: ddim sample again -o samples.npz" in err
    status, _, err = run("push", "m", "someone/thing")
    assert status == 0
    text = (tmp_path / "m/README.md").read_text()
    assert "-o samples.npz" in text
    assert "image" not in text
    status, _, err = run("tune", "m", "--calls", 3, "--num", 3, "--held-out", 4)
    assert status == 0, err
    status, _, err = run("sample", "m", "--calls", 3, "-o", "x.npz")
    assert status == 0
    assert np.isfinite(np.load("x.npz")["samples"]).all()


@pytest.mark.parametrize("what", [(), ("--steps", 2)])
def test_programs_answer_as_the_model(run, model, tmp_path, what):
    status, _, err = run("export", "m", "program.pt2", *what)
    assert status == 0, err
    program = torch.export.load("program.pt2").module()
    x = torch.randn(3, *model.shape)
    if what:
        right, found = ddim.sample(model.denoiser(), x, model.plan(2)), program(x=x)
    else:
        t = torch.tensor([5, 0, 999])
        right, found = model.net(x, t), program(x=x, t=t)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-4)


def test_latents_of_vectors_are_decoded_to_samples(run, model, tmp_path):
    from ddim.identity import fingerprint
    from ddim.latents import Encoding, save_latents

    plan, x = model.plan(4), torch.randn(3, *model.shape)
    opened = ddim.load(tmp_path / "m")
    latent = ddim.encode(opened.denoiser(), x, plan)
    times = tuple(float(level.t) for level in plan)
    about = Encoding(
        times, "ddim", None, None, 64, fingerprint(opened), opened.target, opened.shape
    )
    save_latents(latent, about, tmp_path / "l.safetensors")
    status, _, err = run("sample", "m", "--from", "l.safetensors", "-o", "back.npz")
    assert status == 0, err
    right = ddim.decode(opened.denoiser(), latent, plan)
    assert np.allclose(np.load("back.npz")["samples"], right.numpy(), atol=1e-6)


def test_the_null_label_is_no_class_of_the_data(tmp_path):
    model = made(VECTORS, classes=3)
    ddim.save(model, tmp_path / "m")
    opened = ddim.load(tmp_path / "m")
    assert (opened.classes, opened.labels) == (4, 3)
    assert "# label: 0..2\n" in card(opened, "someone/thing")
    assert "| classes | 3 |" in card(opened, "someone/thing")
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    known = ddim.Images(pixels, torch.tensor([0, 1, 2, 2]))
    assert checked_labels(opened, known, torch.arange(4)) == (0, 1, 2, 2)
    beyond = ddim.Images(pixels, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="the model's from 0 to 2"):
        checked_labels(opened, beyond, torch.arange(4))


def test_a_label_asks_for_its_class(run, tmp_path):
    model = made(VECTORS, classes=3)
    ddim.save(model, tmp_path / "m")
    options = ("--steps", 3, "--seeds", "0-3", "--guidance", 2)
    assert run("sample", "m", "-o", "x.npz", "--label", 1, *options)[0] == 0
    denoiser = model.denoiser(1, guidance=2)
    x = ddim.sample(denoiser, ddim.Seeded(range(4)).start((2,)), model.plan(3))
    assert np.allclose(np.load("x.npz")["samples"], x.numpy(), atol=1e-5)
    status, _, err = run("sample", "m", "-o", "y.npz", "--label", 4)
    assert status == 2
    assert "choose 0..2, or the null label 3" in err
    drawn = ("--steps", 3, "--seeds", "0-3")
    assert run("sample", "m", "-o", "none.npz", *drawn)[0] == 0
    assert run("sample", "m", "-o", "null.npz", "--label", 3, *drawn)[0] == 0
    none, null = (np.load(name)["samples"] for name in ("none.npz", "null.npz"))
    assert np.array_equal(none, null)
