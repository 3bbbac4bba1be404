from dataclasses import replace

import pytest
import torch

from ddim.nets import SIZES, UNetConfig, network, sized

SIDES = (8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)


def laid_out(config):
    with torch.device("meta"):
        return network(config.written())


def test_cifar10_is_the_network_of_the_paper():
    published = {
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": False,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 32,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    }
    ours = sized("cifar10", (3, 32, 32))
    assert ours == replace(UNetConfig.read(published), dropout=0.1)
    assert sum(weight.numel() for weight in laid_out(ours).parameters()) == 35_746_307


@pytest.mark.parametrize("name", SIZES)
def test_a_size_serves_every_side_it_promises(name):
    served = {"tiny": SIDES, "small": SIDES, "base": [s for s in SIDES if s >= 16]}
    for side in served.get(name, [s for s in SIDES if not s % 8]):
        config = sized(name, (3, side, side), 10)
        assert config.shape == (3, side, side)
        assert config.num_class_embeds == 11
        net = laid_out(config)
        x = torch.zeros(2, 3, side, side, device="meta")
        assert net(x, x[:, 0, 0, 0], x[:, 0, 0, 0].long()).shape == x.shape
        if name == "base":
            sides = [side >> level for level in range(len(config.block_out_channels))]
            attended = ["Attn" in block for block in config.down_block_types]
            assert attended == [each <= 16 for each in sides]
            assert max(attended)


@pytest.mark.parametrize(
    ("side", "least", "most"), [(32, 35e6, 60e6), (64, 35e6, 60e6), (256, 1e8, 1.2e8)]
)
def test_base_has_the_weights_that_its_images_need(side, least, most):
    net = laid_out(sized("base", (3, side, side)))
    assert least < sum(weight.numel() for weight in net.parameters()) < most


@pytest.mark.parametrize(
    "shape", [(1,), (2,), (784,), (3000,), (1, 8), (2, 33), (1, 4096), (1, 65536)]
)
@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_a_size_serves_vectors_and_signals(name, shape):
    config = sized(name, shape, 2)
    assert (config.shape, config.num_class_embeds) == (shape, 3)
    x = torch.zeros(2, *shape, device="meta")
    t = torch.zeros(2, device="meta")
    assert laid_out(config)(x, t, t.long()).shape == x.shape
    if len(shape) == 2:
        lengths = [shape[1] >> level for level in range(len(config.block_out_channels))]
        attended = [i for i, length in enumerate(lengths) if length <= 128]
        assert config.attention_level == min(attended, default=None)
    if name == "base":
        small = laid_out(sized("small", shape)).parameters()
        large = laid_out(config).parameters()
        assert sum(map(torch.numel, large)) > 4 * sum(map(torch.numel, small))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "words"),
    [
        (
            "huge",
            (3, 32, 32),
            None,
            "size='huge' is unknown; choose one of tiny, small, base, cifar10",
        ),
        ("base", (3, 8, 8), None, "images of 8×8; the size base is for sides from 16 to 256"),
        ("base", (3, 33, 33), None, "images of 33×33; .*halve evenly"),
        ("base", (3, 100, 100), None, "images of 100×100; .*halve evenly"),
        ("base", (3, 512, 512), None, "images of 512×512; .*sides from 16 to 256"),
        ("cifar10", (3, 28, 28), None, "multiples of 8; take small"),
        ("cifar10", (2,), None, "multiples of 8; take small"),
        ("small", (1, 2, 3, 4), None, r"samples of \(1, 2, 3, 4\); networks are for vectors"),
        ("small", (), None, "networks are for vectors"),
        ("small", (0,), None, "of 1 and more"),
        ("small", (2,), 0, "classes=0; give 1 or more"),
    ],
)
def test_what_no_size_serves_is_told_in_one_sentence(name, shape, classes, words):
    with pytest.raises(ValueError, match=words):
        sized(name, shape, classes)
