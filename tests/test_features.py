import hashlib

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import ddim
from ddim import Images, extractors as paths, features as feature_spaces
from ddim.classifier import Course, fitted
from ddim.features import extractor, extractors, small_rows, sum_of_moments


def images(n=80, shape=(1, 8, 8), labels=None):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return Images(pixels, labels)


class Net(torch.nn.Module):
    """uint8 images to three features."""

    def forward(self, x):
        y = x.float() / 255
        return torch.stack([y.mean((1, 2, 3)), y.amax((1, 2, 3)), y[:, 0, 0, 0]], 1)


def exported(path, module=None, like=None):
    like = images(2).pixels if like is None else like
    batch = {"x": {0: torch.export.Dim("n")}}
    program = torch.export.export(module or Net(), (like,), dynamic_shapes=batch)
    torch.export.save(program, path)
    return path


def test_pixels_are_rows_from_0_to_1_and_large_images_are_averaged(tmp_path):
    space = extractor("pixels", images(), tmp_path)
    assert torch.equal(space.of(images().pixels), images().pixels.flatten(1) / 255)
    assert space.dimension == 64
    large = images(2, (3, 64, 96))
    expected = torch.nn.functional.avg_pool2d(large.pixels.float() / 255, (2, 3))
    assert torch.allclose(small_rows(large.pixels), expected.flatten(1))
    assert extractor("pixels", large, tmp_path).dimension == 3 * 32 * 32


def test_pca_is_scikit_learns_and_is_fitted_once(tmp_path, monkeypatch):
    data = images()
    space = extractor("pca:5", data, tmp_path)
    known = PCA(5, svd_solver="full").fit(data.pixels.flatten(1).numpy() / 255)
    expected = known.transform(data.pixels.flatten(1).numpy() / 255)
    assert np.allclose(abs(space.of(data.pixels).numpy()), abs(expected), atol=1e-4)
    assert space.name == "pca5"
    monkeypatch.setattr(feature_spaces, "sum_of_moments", None)
    assert extractor("pca:5", data, tmp_path).digest == space.digest
    with pytest.raises(TypeError):
        extractor("pca:6", data, tmp_path)


@pytest.mark.parametrize("spec", ["pca:0", "pca:65", "pca:x", "pca:-1"])
def test_components_that_are_not_there_are_refused(spec, tmp_path):
    with pytest.raises(ValueError, match="write pca:1 to pca:64"):
        extractor(spec, images(), tmp_path)


def test_the_cnn_learns_the_digits(cache):
    digits = ddim.digits()
    space = extractor("cnn", digits, cache)
    assert space.facts["accuracy"] > 0.96
    rows = space.of(digits.pixels)
    assert rows.square().mean() == pytest.approx(1, rel=1e-4)
    right = space.classify(rows) == digits.labels
    assert right.double().mean() > 0.97


def test_a_classifier_is_a_function_of_the_data_alone():
    weights = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        net, accuracy = fitted(ddim.digits(), Course(updates=10))
        weights.append({**net.state_dict(), "accuracy": torch.tensor(accuracy)})
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())


def test_classes_are_the_sorted_labels():
    pixels = images(40).pixels.clone()
    pixels[::2] //= 4
    labels = torch.tensor([30, 7] * 20)
    net, accuracy = fitted(Images(pixels, labels), Course(updates=30))
    assert accuracy == 1
    assert net(ddim.data.to_float(pixels)).argmax(1).tolist() == [1, 0] * 20


@pytest.mark.parametrize(
    ("labels", "says"),
    [(None, "no labels"), (torch.zeros(80, dtype=torch.int64), "2 classes")],
)
def test_a_cnn_without_labels_to_learn_from_is_refused(labels, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        extractor("cnn", images(labels=labels), tmp_path)


def test_a_pt2_of_the_users_is_a_space_by_its_own_name(tmp_path):
    space = extractor(str(exported(tmp_path / "mine.pt2")), images(), tmp_path)
    assert torch.allclose(space.of(images().pixels), Net()(images().pixels))
    assert (space.name, space.dimension, space.title("fd")) == ("mine", 3, "FD[mine]")
    assert not space.inception


def test_a_pt2_that_would_run_something_is_refused(tmp_path):
    import zipfile

    path, harmful = exported(tmp_path / "mine.pt2"), tmp_path / "harm.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(harmful, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("mine/data/constants/custom_obj_0", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="nothing was run"):
        extractor(str(harmful), images(), tmp_path)
    (tmp_path / "torn.pt2").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"no \.pt2 of plain tensors"):
        extractor(str(tmp_path / "torn.pt2"), images(), tmp_path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_onnx_gives_the_features_that_torch_does(tmp_path):
    path = tmp_path / "mine.onnx"
    torch.onnx.export(
        Net().eval(),
        (images(2).pixels,),
        path,
        dynamo=True,
        dynamic_shapes={"x": {0: torch.export.Dim("n")}},
        verbose=False,
    )
    space = extractor(str(path), images(), tmp_path)
    assert torch.allclose(space.of(images().pixels), Net()(images().pixels), atol=1e-6)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as ONNX"):
        extractor(str(path), images(), tmp_path)


def test_an_extractor_that_answers_no_rows_or_takes_other_images_is_said(tmp_path):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.float().mean((1, 2, 3))

    path = exported(tmp_path / "flat.pt2", Flat())
    with pytest.raises(ValueError, match="one row of features per image"):
        extractor(str(path), images(), tmp_path)
    path = exported(tmp_path / "mine.pt2")
    with pytest.raises(ValueError, match="does not take images"):
        extractor(str(path), images(shape=(3, 8, 8)), tmp_path)


def test_a_folder_of_dinov2_is_a_space(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    net = Dinov2Model(
        Dinov2Config(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
    ).eval()
    net.save_pretrained(tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2]}'
    )
    data = images(4, (1, 28, 28))
    space = extractor(str(tmp_path / "dino"), data, tmp_path)
    mean = torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1)
    x = (data.pixels.float().expand(-1, 3, -1, -1) / 255 - mean) / 0.2
    with torch.no_grad():
        assert torch.allclose(space.of(data.pixels), net(x).pooler_output, atol=1e-5)
    assert (space.name, space.dimension) == ("dino", 8)


def test_a_folder_of_clip_is_a_space_of_its_images(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = CLIPConfig(
        vision_config={**small, "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
        text_config={**small, "num_attention_heads": 2, "vocab_size": 20},
        projection_dim=6,
    )
    net = CLIPModel(config).eval()
    net.save_pretrained(tmp_path / "clip")
    data = images(4, (3, 16, 16))
    space = extractor(str(tmp_path / "clip"), data, tmp_path)
    x = (data.pixels.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        answer = net.get_image_features(pixel_values=x)
    expected = getattr(answer, "pooler_output", answer)
    assert torch.allclose(space.of(data.pixels), expected, atol=1e-5)
    assert space.dimension == 6


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a transformers folder with safetensors"):
        extractor(str(tmp_path / "empty"), images(), tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fid_and_kid_are_said_with_inceptions_own_file_alone(tmp_path, monkeypatch):
    class Fake(torch.nn.Module):
        def forward(self, x, return_features: bool = False):
            return x.float().flatten(1)[:, :4]

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(FileNotFoundError, match="nothing is downloaded here; put it into"):
        extractor("inception", images(), tmp_path)
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.save(torch.jit.script(Fake()), path)
    with pytest.raises(ValueError, match="the only TorchScript that is opened"):
        extractor("inception", images(), tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(paths, "INCEPTION", digest)
    monkeypatch.setattr(feature_spaces, "INCEPTION", digest)
    for spec in ("inception", str(path)):
        space = extractor(spec, images(), tmp_path)
        assert (space.title("fd"), space.title("kd")) == ("FID", "KID")
        assert space.title("sw2") == "SW2[inception]"
        assert space.of(images().pixels).shape == (80, 4)


@pytest.mark.parametrize(
    ("spec", "kind", "says"),
    [
        ("resnet", FileNotFoundError, "no feature space and no file"),
        ("a.txt", ValueError, "no extractor"),
        ("a.pt", ValueError, "the only TorchScript"),
    ],
)
def test_what_is_no_feature_space_is_said(spec, kind, says, tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.pt").write_text("")
    with pytest.raises(kind, match=says):
        extractor(str(tmp_path / spec) if "." in spec else spec, images(), tmp_path)


def test_a_list_names_each_space_once(tmp_path):
    assert [s.name for s in extractors("pixels, pca", images(), tmp_path)] == ["pixels", "pca"]
    for specs in ("pixels,pixels", " , "):
        with pytest.raises(ValueError, match="name one space twice, or none"):
            extractors(specs, images(), tmp_path)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"needs onnxruntime; install .*\[eval\]"):
        extractor(str(tmp_path / "a.onnx"), images(), tmp_path)


def test_there_are_no_moments_of_nothing():
    with pytest.raises(ValueError, match="no images"):
        sum_of_moments([])
