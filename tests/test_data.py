import numpy as np
import pytest
import torch
from PIL import Image

import ddim
from ddim.data import Images, to_float, to_pixels
from ddim.reading import read


def paint(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path, **options)


def test_the_digits_are_those_of_uci():
    digits = ddim.digits()
    assert len(digits) == 1797
    assert digits.shape == (1, 8, 8)
    assert torch.bincount(digits.labels).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    # The original values are 0..16, with a mean of 4.8842 per pixel.
    assert (digits.pixels.double() * 16 / 255).round().mean().item() == pytest.approx(
        4.884164, abs=1e-6
    )
    assert read("digits").fingerprint == digits.fingerprint


def test_pixels_go_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert to_float(pixels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(to_pixels(to_float(pixels)), pixels)
    assert to_pixels(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
    with pytest.raises(FloatingPointError, match="nan"):
        to_pixels(torch.tensor([0.0, torch.nan]))


def test_a_folder_is_read_in_order_of_names_with_its_sub_folders(tmp_path):
    paint(tmp_path / "b.png", np.full((4, 6), 10))
    paint(tmp_path / "a/z.PNG", np.full((4, 6), 20))
    (tmp_path / "notes.txt").write_text("not an image")
    images = read(tmp_path)
    assert images.shape == (1, 4, 6)
    assert images.pixels[:, 0, 0, 0].tolist() == [20, 10]


def test_colour_wins_over_grey_and_alpha_is_dropped(tmp_path):
    paint(tmp_path / "a.png", np.full((2, 2), 7))
    paint(tmp_path / "b.png", np.full((2, 2, 4), (1, 2, 3, 255)))
    assert read(tmp_path).pixels[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


def test_other_kinds_of_pictures_keep_what_is_seen(tmp_path):
    kinds = {
        "deep": Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)),
        "grey with alpha": Image.merge(
            "LA", [Image.new("L", (3, 1), 40), Image.new("L", (3, 1), 255)]
        ),
        "palette": Image.new("L", (3, 1), 90).convert("P"),
        "clear": Image.new("RGBA", (3, 1), (255, 0, 0, 0)),
    }
    seen = {}
    for name, picture in kinds.items():
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "a.png")
        seen[name] = read(tmp_path / name).pixels[0, :, 0].tolist()
    assert seen["deep"] == [[0, 100, 255]]
    assert seen["grey with alpha"] == [[40] * 3]
    assert seen["palette"] == [[90] * 3]
    assert seen["clear"] == [[255] * 3]


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(tmp_path / "a.png", np.arange(6).reshape(2, 3), exif=exif)
    assert read(tmp_path).pixels[0, 0].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_size_crops_the_middle_and_resizes_without_aliasing(tmp_path):
    picture = np.zeros((8, 24), dtype=np.uint8)
    picture[:, 8:16] = 200
    paint(tmp_path / "crop/a.png", picture)
    assert read(tmp_path / "crop", size=8).pixels.tolist() == [[[[200] * 8] * 8]]
    paint(tmp_path / "fine/a.png", np.indices((32, 32)).sum(0) % 2 * 255)
    assert (read(tmp_path / "fine", size=8).pixels.int() - 127).abs().max() <= 1


def test_an_npz_is_read_with_and_without_channels_and_labels(tmp_path):
    grey = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "a.npz", images=grey, labels=np.array([3, 1]))
    images = read(tmp_path / "a.npz")
    assert torch.equal(images.pixels[:, 0], torch.from_numpy(grey))
    assert images.labels.tolist() == [3, 1]
    colour = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "b.npz", images=colour)
    assert read(tmp_path / "b.npz").pixels[1, 2, 3, 0] == colour[1, 3, 0, 2]


def truncated(path):
    paint(path, np.random.default_rng(0).integers(0, 255, (64, 64)))
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "does not exist; give a folder"),
        (lambda p: p.mkdir(), "holds no images"),
        (lambda p: truncated(p / "broken.png"), "broken.png cannot be read as an image"),
        (
            lambda p: (paint(p / "a.png", np.ones((2, 2))), paint(p / "b.png", np.ones((2, 3)))),
            "b.png is 3×2 .*--size N",
        ),
        (lambda p: (p.mkdir(), (p / "a.png").write_text("<svg>")), "a.png cannot be read"),
        (lambda p: p.write_text("x"), "is neither"),
    ],
)
def test_a_folder_that_cannot_be_read_names_the_file(tmp_path, make, words):
    make(tmp_path / "data")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read(tmp_path / "data")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for side in (4, 40):
        paint(tmp_path / f"{side}/a.png", np.ones((side, side)))
        with pytest.raises(ValueError, match="decompression bomb"):
            read(tmp_path / f"{side}")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"pictures": np.zeros((2, 4, 4), np.uint8)},
            "holds pictures; it needs an array called images",
        ),
        ({"images": np.zeros((2, 4, 4))}, "uint8 \\(N, H, W\\)"),
        ({"images": np.zeros((2, 4, 4, 2), np.uint8)}, "C 1 or 3"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)},
            "labels for 2 images",
        ),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array(["a", "b"])},
            "whole numbers",
        ),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "N at least 1"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
    ],
)
def test_an_npz_that_does_not_fit_says_why(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "a.npz")


def test_a_torn_npz_and_a_size_for_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="resize them there"):
        read(tmp_path / "a.npz", size=4)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz"):
        read(tmp_path / "a.npz")


def test_the_fingerprint_is_of_shape_and_pixels():
    pixels = torch.arange(16, dtype=torch.uint8)
    a, b = Images(pixels.reshape(1, 1, 4, 4)), Images(pixels.reshape(4, 1, 2, 2))
    assert a.fingerprint != b.fingerprint
    assert a.fingerprint == Images(pixels.reshape(1, 1, 4, 4).clone()).fingerprint
