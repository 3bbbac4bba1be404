import numpy as np
import pytest
import torch
from PIL import Image

from ddim.data import to_float
from ddim.pictures import grid, save_arrays, save_each, save_grid
from ddim.reading import read


def images(b, c=1, h=3, w=5):
    return to_float(torch.arange(b * c * h * w).reshape(b, c, h, w).to(torch.uint8))


def test_a_grid_holds_every_image_in_rows_with_whole_pixels():
    x = images(5)
    canvas = np.asarray(grid(x, columns=3))
    factor = 10  # 48 pixels or a little more for the longer side of 5
    assert canvas.shape == (2 * 31 + 1, 3 * 51 + 1)
    for i in range(5):
        top, left = i // 3 * 31 + 1, i % 3 * 51 + 1
        tile = canvas[top : top + 30, left : left + 50]
        assert (tile[5::factor, 5::factor] == np.arange(15).reshape(3, 5) + 15 * i).all()
        assert (tile[:10, :10] == tile[0, 0]).all()
    assert (canvas[32:, 103:] == 255).all()


def test_large_images_are_not_enlarged_and_colours_stay_in_place():
    x = torch.zeros(1, 3, 64, 48)
    x[0, 2] = 1
    assert np.asarray(grid(x)).shape == (66, 50, 3)
    assert np.asarray(grid(x))[5, 5].tolist() == [128, 128, 255]


def test_files_are_read_back_as_the_same_pixels(tmp_path):
    x = images(3, 3, 4, 4)
    save_arrays(x, [7, 8, 2**63], tmp_path / "x.npz")
    assert torch.equal(to_float(read(tmp_path / "x.npz").pixels), x)
    assert np.load(tmp_path / "x.npz")["seeds"].tolist() == [7, 8, 2**63]
    save_each(x, [7, 1234567, 8], tmp_path / "folder")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "000007.png",
        "000008.png",
        "1234567.png",
    ]
    assert torch.equal(to_float(read(tmp_path / "folder").pixels), x[[0, 2, 1]])
    save_grid(x, tmp_path / "deep/grid.png")
    with Image.open(tmp_path / "deep/grid.png") as picture:
        assert picture.size == (2 * 49 + 1, 2 * 49 + 1)


def test_nothing_is_written_for_images_that_are_not_finite(tmp_path):
    with pytest.raises(FloatingPointError, match="nan"):
        save_grid(torch.full((1, 1, 4, 4), torch.nan), tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())
