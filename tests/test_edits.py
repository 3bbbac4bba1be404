"""The commands that invert, edit and judge images."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import ddim
from ddim.cli import main
from ddim.identity import fingerprint
from ddim.latents import load_latents, save_latents
from ddim.nets import UNet
from tiny import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edits")
    ddim.save(tiny_model("v"), folder / "model")
    ddim.save(tiny_model("eps"), folder / "other")
    pixels = ddim.digits().pixels
    for k in range(3):
        Image.fromarray(pixels[k, 0].numpy()).save(folder / f"{k}.png")
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save(folder / "mask.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "small.png")
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, folder):
    """Run the command in an empty folder, {} standing for the one with the model."""
    monkeypatch.chdir(tmp_path)

    def call(line):
        monkeypatch.setattr(sys, "argv", ["ddim", *line.format(folder).split()])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code or 0, *capsys.readouterr())

    return call


def arrays(path):
    return np.load(path)["images"].astype(int)[..., 0]


@pytest.mark.parametrize("exact", ["lattice", "belm"])
def test_exact_latents_decode_to_the_very_images(run, exact, tmp_path, monkeypatch):
    code, _, err = run(
        f"encode {{0}}/model digits --num 5 --exact {exact} --steps 7 --batch-size 2"
        " -o l.safetensors"
    )
    assert code == 0
    assert "sample" in err
    latent, encoding = load_latents(tmp_path / "l.safetensors")
    assert latent.x.shape == (5, 1, 8, 8)
    assert latent.lattice == (exact == "lattice")
    assert encoding.batch_size == 2
    forward, sizes = UNet.forward, []

    def recorded(net, x, *rest):
        sizes.append(len(x))
        return forward(net, x, *rest)

    monkeypatch.setattr(UNet, "forward", recorded)
    code, _, err = run("sample {0}/model --from l.safetensors -o back.npz")
    assert set(sizes) == {2, 1}  # the batches that were encoded
    assert (code, "5 images, 6 network calls each" in err) == (0, True)
    assert (arrays("back.npz") == ddim.digits().pixels[:5, 0].numpy()).all()


def test_plain_latents_decode_by_the_solver_and_plan_that_encoded_them(run, folder):
    options = "--num 3 --solver unipc --steps 6 --spacing quadratic"
    assert run("encode {0}/model digits -o l.safetensors " + options)[0] == 0
    assert run("sample {0}/model --from l.safetensors -o back.npz")[0] == 0
    model, x = ddim.load(folder / "model"), ddim.data.to_float(ddim.digits().pixels[:3])
    back = ddim.reconstruct(model.denoiser(), x, model.plan(6, "quadratic"), ddim.UniPC())
    expected = ddim.data.to_pixels(back)[:, 0].numpy().astype(int)
    assert np.abs(arrays("back.npz") - expected).max() <= 1


def test_latents_are_decoded_by_their_own_model_only(run, folder, tmp_path):
    run("encode {0}/model digits --num 2 --steps 3 -o l.safetensors")
    code, _, err = run("sample {0}/other --from l.safetensors")
    assert code == 2
    assert "encoded by a model of target v, and this one's is eps" in err
    changed = ddim.load(folder / "model")
    with torch.no_grad():
        next(changed.net.parameters()).add_(1e-3)
    ddim.save(changed, tmp_path / "changed")
    code, _, err = run("sample changed --from l.safetensors")
    assert code == 2
    assert "other weights or another schedule" in err
    assert not (tmp_path / "grid.png").exists()


def test_the_fingerprint_is_of_weights_target_and_schedule():
    model = tiny_model("v")
    assert fingerprint(model) == fingerprint(tiny_model("v"))
    others = (tiny_model("eps"), replace(model, schedule=ddim.schedules.cosine()))
    assert len({fingerprint(each) for each in (model, *others)}) == 3


def test_a_file_that_holds_no_latents_is_refused(run, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    (tmp_path / "b.safetensors").write_bytes(safetensors.torch.save({"x": torch.zeros(2)}))
    (tmp_path / "c.safetensors").write_bytes(
        safetensors.torch.save({"x": torch.zeros(2)}, {"ddim": "{"})
    )
    for name, words in (
        ("a", "cannot be read as safetensors"),
        ("b", "holds no latents"),
        ("c", "holds no latents"),
        ("d", "cannot be read"),
    ):
        code, _, err = run(f"sample {{0}}/model --from {name}.safetensors")
        assert code == 2
        assert words in err


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"batch_size": "8"},
        {"label": "x"},
        {"solver": 3},
        {"times": "abc"},
        {"times": [1000]},
        {"times": [0, 500, 1000]},
        {"exact": "belm"},
        {"exact": "edict"},
        {"format": 2},
        {"bogus": 1},
        {"shape": [1, 8, 4]},
        {"x": torch.zeros(2, 1, 8, 4)},
        {"x": torch.zeros(())},
        {"x": torch.zeros(0, 1, 8, 8)},
        {"x": torch.zeros(2, 1, 8, 8, dtype=torch.int64)},
        {"previous": torch.zeros(2, 1, 8, 8)},
    ],
    ids=lambda change: f"{next(iter(change))}-{str(next(iter(change.values())))[:12]}",
)
def test_a_file_changed_by_hand_is_refused(run, tmp_path, change):
    run("encode {0}/model digits --num 2 --steps 3 -o l.safetensors")
    path = tmp_path / "l.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["ddim"])
        tensors = {"x": file.get_tensor("x")}
    for name, value in change.items():
        (tensors if isinstance(value, torch.Tensor) else about)[name] = value
    path.write_bytes(safetensors.torch.save(tensors, {"ddim": json.dumps(about)}))
    code, _, err = run("sample {0}/model --from l.safetensors")
    assert code == 2
    assert err.startswith("ddim: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "grid.png").exists()


def test_an_output_that_is_a_folder_is_refused_before_the_work(run, tmp_path):
    for line in (
        "encode {0}/model digits -o d.safetensors",
        "reconstruct {0}/model digits -o d.png",
    ):
        (tmp_path / line.split()[-1]).mkdir()
        code, _, err = run(line)
        assert code == 2
        assert "is no place for the output" in err


def test_reconstruct_prints_the_error_of_each_and_of_all(run, tmp_path):
    code, out, err = run("reconstruct {0}/model digits --num 3 --steps 5 --json")
    assert code == 0
    document = json.loads(out)
    x = ddim.data.to_float(ddim.digits().pixels[:3])
    model = tiny_model("v")
    back = ddim.reconstruct(model.denoiser(), x, model.plan(5))
    expected = ((back - x) / 2).square().flatten(1).mean(1)
    assert document["images"] == pytest.approx(expected.tolist(), rel=1e-3)
    assert document["mse"] == pytest.approx(expected.mean().item(), rel=1e-3)
    assert "3 images" in err
    with Image.open(tmp_path / "reconstruct.png") as picture:
        assert picture.size == (3 * 49 + 1, 2 * 49 + 1)
    code, out, _ = run("reconstruct {0}/model {0}/1.png --exact lattice")
    assert out.splitlines()[1].split() == ["0", "0.000e+00", "0"]
    assert out.splitlines()[2].split() == ["all", "0.000e+00", "0"]


def test_reconstruct_by_fixed_point_says_what_was_not_found(run):
    code, out, err = run(
        "reconstruct {0}/model digits --num 2 --steps 3 --exact fixed_point --json"
    )
    document = json.loads(out)
    assert code == 0
    missed = sum(residual > 1e-5 for residual in document["residuals"])
    assert len(document["residuals"]) == 2
    assert (f"{missed} of 2 fixed points were not found" in err) == (missed > 0)


def test_interpolate_draws_a_row_per_pair_with_the_ends_in_it(run, folder, tmp_path):
    code, _, err = run("interpolate {0}/model {0}/0.png {0}/1.png {0}/2.png --num 5 --steps 6")
    assert (code, "2 rows of 5" in err) == (0, True)
    with Image.open(tmp_path / "interpolate.png") as picture:
        grey = np.asarray(picture)
    tile = grey[1:49:6, 1:49:6].astype(int)  # the top left one, every pixel once
    assert np.abs(tile - ddim.digits().pixels[0, 0].numpy()).max() <= 1
    assert run("interpolate {0}/model --seeds 3,7 --num 4 --steps 6 -o s.png")[0] == 0
    model, noise = ddim.load(folder / "model"), ddim.Seeded([3])
    (x,) = ddim.sample(model.denoiser(), noise.start(model.shape), model.plan(6))
    with Image.open(tmp_path / "s.png") as picture:
        tile = np.asarray(picture)[1:49:6, 1:49:6].astype(int)
    assert np.abs(tile - ddim.data.to_pixels(x)[0].numpy()).max() <= 1


def test_edit_keeps_what_the_mask_leaves_black(run, tmp_path):
    code, _, err = run(
        "edit {0}/model {0}/1.png --mask {0}/mask.png --steps 4 --seeds 0-2 -o e.npz"
    )
    assert (code, "3 edits by resample:eta=1,repeats=5" in err) == (0, True)
    found, real = arrays("e.npz"), ddim.digits().pixels[1, 0].numpy().astype(int)
    assert (found[:, :, :4] == real[:, :4]).all()
    assert np.abs(found[:, :, 4:] - real[:, 4:]).max() > 20
    assert np.abs(found[0] - found[1]).max() > 5


def test_edit_enlarges_and_varies(run, folder, tmp_path):
    options = "--seeds 0-1 --steps 8 -o e.npz"
    assert run("edit {0}/model {0}/small.png --measure downsample:factor=2 " + options)[0] == 0
    model, noise = ddim.load(folder / "model"), ddim.Seeded(range(2))
    black = -torch.ones(1, 1, 4, 4)
    denoiser = ddim.project(model.denoiser(clip=1.0), ddim.Downsample(2), black)
    x = ddim.sample(denoiser, noise.start(model.shape), model.plan(8), ddim.DDPM(), noise)
    expected = ddim.data.to_pixels(x)[:, 0].numpy().astype(int)
    assert np.abs(arrays("e.npz") - expected).max() <= 1
    distances = []
    for strength in (0.2, 1.0):
        run(f"edit {{0}}/model digits --index 2 --strength {strength} " + options)
        distances.append(np.abs(arrays("e.npz") - ddim.digits().pixels[2, 0].numpy()).mean())
    assert distances[0] < distances[1] / 2
    assert run("edit {0}/model {0}/1.png --measure blur:std=1 --seeds 0 --steps 3 -o e.png")[0] == 0
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.size == (2 * 49 + 1, 49 + 1)


def test_likelihood_prints_the_bits_and_the_bound(run, tmp_path):
    """Of images of 4×4: the exact trace costs a backward pass for each of their values."""
    small = replace(tiny_model("v").net.config, sample_size=4)
    model = ddim.Model.new((1, 4, 4), ddim.schedules.linear(), "v", small)
    model.net.load_state_dict(tiny_model("v").net.state_dict())
    ddim.save(model, tmp_path / "model")
    pixels = ddim.digits().pixels[:3, :, 2:6, 2:6]
    np.savez("small.npz", images=pixels[:, 0].numpy())
    code, out, _ = run("likelihood model small.npz --num 3 --steps 100 --json --batch-size 2")
    document = json.loads(out)
    assert code == 0
    assert (document["images"], document["probes"]) == (3, 0)
    model, noise = ddim.load("model"), ddim.Seeded(range(3))
    x = ddim.data.to_float(pixels)
    soft = ddim.likelihood.dequantise(x, noise)
    plan = ddim.fine_plan(model.schedule, 100)
    found = ddim.bits_per_dim(model.denoiser(), soft, plan)
    assert document["bits_per_dim"] == pytest.approx(found.bits.mean().item(), rel=1e-3)
    whole = (*plan, model.schedule.level(0))
    bound = ddim.variational_bound(model.denoiser(), x, whole, noise).bits.mean().item()
    assert document["variational_bound"] == pytest.approx(bound, rel=1e-3)
    code, out, _ = run("likelihood {0}/model digits --num 1 --steps 100 --probes 3")
    assert code == 0
    assert "probes  3" in out
    code, out, err = run("likelihood {0}/model digits --num 1 --steps 4 --probes 2")
    assert (code, out) == (1, "")
    assert "take more steps" in err


REFUSED = [
    ("encode {0}/model digits --solver ddpm", "rising plan"),
    ("encode {0}/model digits --exact edict", "--exact edict is unknown; choose one of belm"),
    ("encode {0}/model digits --exact belm --solver unipc", "leave --solver out"),
    ("encode {0}/model digits -o l.png", "name a .safetensors"),
    ("encode {0}/model digits --times 1000,500,1", "let --times fall to 0"),
    ("encode {0}/model digits --size 8", "the digits are 8×8"),
    ("encode {0}/model {0}/small.png", "holds images of 4×4 and 1 channels, the model is for 8×8"),
    ("encode {0}/model {0}/none.png", "does not exist"),
    ("reconstruct {0}/model digits --times 1000,500,10", "from t=1000 to t=10"),
    ("reconstruct {0}/model digits --solver ddim:eta=1", "rising plan"),
    ("reconstruct {0}/model digits -o a.npz", "name a .png"),
    ("interpolate {0}/model", "give either two images or more, or --seeds"),
    ("interpolate {0}/model {0}/1.png --seeds 1,2", "give either two"),
    ("interpolate {0}/model {0}/1.png", "1 images or seeds to go between"),
    ("interpolate {0}/model digits --steps 2", "1797 images or seeds"),
    ("interpolate {0}/model --seeds 1,2 --exact belm", "seeds are latents already"),
    ("interpolate {0}/model --seeds 1,2 -o a.npz", "name a .png"),
    ("interpolate {0}/model --seeds 1,2 --size 8", "--size is for images"),
    ("interpolate {0}/model --seeds 1,2 --times 0,500,1000", "let --times fall to 0"),
    ("interpolate {0}/model {0}/1.png {0}/2.png --times 1000,0", "give at least 3"),
    ("edit {0}/model {0}/small.png --measure downsample", "write downsample:factor="),
    ("edit {0}/model {0}/1.png", "give --mask, --measure or --strength"),
    ("edit {0}/model {0}/1.png --mask {0}/small.png", "is 4×4, the image 8×8"),
    ("edit {0}/model {0}/1.png --mask {0}/mask.png --measure blur", "exclude each other"),
    ("edit {0}/model {0}/1.png --measure sharpen", "choose one of downsample, blur"),
    ("edit {0}/model {0}/1.png --measure downsample:factor=2", "give an image of that shape"),
    ("edit {0}/model {0}/1.png --strength 0", "above 0, up to 1"),
    ("edit {0}/model {0}/1.png --strength 0.001", "leaves no step"),
    ("edit {0}/model digits --index 2000 --strength 1", "there are 1797 images"),
    ("edit {0}/model {0}/1.png --strength 1 -o a.gif", "no place for images"),
    ("sample {0}/model --from l.safetensors --steps 5", "leave all but"),
    ("sample {0}/model --from l.safetensors --batch-size 5", "leave all but"),
    ("sample {0}/model --guidance 2", "need a label"),
    ("sample {0}/model --label 1 --negative 2", "--negative needs --guidance"),
    ("likelihood {0}/model {0}/small.png", "the model is for 8×8"),
    ("likelihood {0}/model digits --probes 1 --num 2", "probes=1"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=lambda text: text.replace("{0}/", ""))
def test_bad_input_is_one_sentence(run, tmp_path, line, words):
    code, _, err = run(line)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not any(tmp_path.iterdir())


def test_a_fixed_point_that_is_not_found_writes_nothing(run, tmp_path):
    line = "encode {0}/other digits --num 2 --steps 1 --exact fixed_point"
    code, _, err = run(line)
    assert code == 1
    assert "the fixed point was not found" in err
    assert not any(tmp_path.iterdir())


def test_latents_round_trip_whatever_their_kind(tmp_path):
    load_and_back(tmp_path, torch.randn(2, 1, 4))
    load_and_back(tmp_path, ddim.Pair(torch.ones(2, 1, 4), torch.zeros(2, 1, 4)), "belm")
    load_and_back(
        tmp_path, ddim.Pair(torch.tensor([[[2**50] * 4]]), torch.tensor([[[-1] * 4]])), "lattice"
    )


def load_and_back(tmp_path, latent, exact=None):
    from ddim.latents import Encoding

    about = Encoding((1000.0, 0.0), "ddim:eta=0", exact, 3, 64, "abc", "v", (1, 4))
    save_latents(latent, about, tmp_path / "l.safetensors")
    found, again = load_latents(tmp_path / "l.safetensors")
    assert again == about
    pairs = (
        [(found.x, latent.x), (found.previous, latent.previous)]
        if isinstance(latent, ddim.Pair)
        else [(found, latent)]
    )
    assert all(torch.equal(a, b) for a, b in pairs)
