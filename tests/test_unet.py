import json

import pytest
import torch
from diffusers import UNet2DModel

from ddim.nets import NETS, UNet, UNetConfig, small

BASE = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "norm_num_groups": 16,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
VARIANTS = {
    "defaults": {},
    "published": {
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "attention_head_dim": None,
    },
    "classes": {"num_class_embeds": 5, "layers_per_block": 1},
    "scaled": {
        "mid_block_scale_factor": 1.41,
        "center_input_sample": True,
        "attention_head_dim": 16,
    },
    "plain": {
        "add_attention": False,
        "time_embedding_dim": 48,
        "in_channels": 1,
        "out_channels": 2,
    },
    "without a middle": {"mid_block_type": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_is_that_of_diffusers(variant):
    torch.manual_seed(0)
    theirs = UNet2DModel(**{**BASE, **VARIANTS[variant]}).double().eval()
    config = UNetConfig.read(json.loads(theirs.to_json_string()))
    ours = UNet(config).double().eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, config.in_channels, 16, 24, dtype=torch.float64)
    t = torch.tensor([0, 10, 999])
    label = torch.tensor([0, 4, 2]) if "num_class_embeds" in VARIANTS[variant] else None
    with torch.no_grad():
        expected = theirs(x, t, class_labels=label).sample
        torch.testing.assert_close(ours(x, t, label), expected, rtol=0, atol=1e-12)


def test_the_configuration_is_that_of_diffusers_field_by_field():
    theirs = {key: value for key, value in UNet2DModel().config.items() if not key.startswith("_")}
    ours = {key: value for key, value in UNetConfig().written().items() if not key.startswith("_")}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in ours.items()} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items()
    }
    assert UNetConfig.read(json.loads(json.dumps(UNetConfig().written()))) == UNetConfig()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"down_block_types": ("DownBlock2D", "SkipDownBlock2D", "DownBlock2D")},
            "'SkipDownBlock2D' is not in this U-Net",
        ),
        ({"up_block_types": ("UpBlock2D",)}, "one block per width"),
        ({"layers_per_block": 0}, "whole numbers above 0"),
        ({"act_fn": "gelu"}, "act_fn='gelu' .*silu"),
        ({"block_out_channels": (32, 40, 64)}, "multiple of norm_num_groups=16"),
        ({"block_out_channels": (32, 48, 64), "attention_head_dim": 32}, "attention_head_dim=32"),
    ],
)
def test_what_it_lacks_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        UNetConfig.read({**BASE, **change})


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match="'widths' is not an option"):
        UNetConfig.read({"widths": (1, 2)})


def test_images_and_labels_that_do_not_fit_are_refused():
    net, x, t = UNet(UNetConfig.read(BASE)), torch.zeros(1, 3, 16, 16), torch.zeros(1)
    with pytest.raises(ValueError, match="multiples of 4"):
        net(torch.zeros(1, 3, 18, 16), t)
    with pytest.raises(ValueError, match=r"got a label; .*do not give one"):
        net(x, t, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got no label; .*so give one"):
        UNet(UNetConfig.read({**BASE, "num_class_embeds": 3}))(x, t)


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 5, 5), (3, 64, 48), (1, 6, 10)]
)
def test_the_small_network_fits_its_images(shape):
    config = small(shape)
    assert config.shape == shape
    x = torch.randn(2, *shape)
    assert UNet(config)(x, torch.tensor([0, 999])).shape == x.shape
    assert 1.5e5 < sum(p.numel() for p in UNet(config).parameters()) < 7e6


def test_every_network_is_configured_by_json():
    for kind in NETS.values():
        assert kind.config.read(json.loads(json.dumps(kind.config().written()))) == kind.config()
