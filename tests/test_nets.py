import json
import math
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

import ddim
from ddim import Model
from ddim.nets import (
    NETS,
    MLPConfig,
    UNet,
    UNet1DConfig,
)

VECTORS = MLPConfig(features=3, width=16, depth=2, time_embedding_dim=8)
SIGNALS = UNet1DConfig(
    length=16,
    channels=2,
    block_out_channels=(8, 16),
    attention_level=1,
    attention_head_dim=8,
    norm_num_groups=4,
)
PERIODIC = replace(SIGNALS, periodic=True)
CONFIGS = {"vectors": VECTORS, "signals": SIGNALS, "periodic": PERIODIC}


def awake(config, seed=0):
    """A network with random weights, also where training starts at 0; float64."""
    net = Model.new(config.shape, config=config, seed=seed).net.double()
    torch.manual_seed(seed + 1)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3)
    return net


def given(config, batch=4, labels=None):
    x = torch.randn(batch, *config.shape, dtype=torch.float64)
    return (x, torch.randint(0, 1000, (batch,)), *(() if labels is None else (labels,)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_fresh_network_answers_0(config):
    net = Model.new(config.shape, config=config).net.double()
    assert not net(*given(config)).any()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_fresh_branch_adds_nothing(config):
    """Only the last layer awake: without the residual branches the answer knows no time."""
    net = Model.new(config.shape, config=config).net.double()
    last = net.linear_out if config is VECTORS else net.unet.conv_out
    nn.init.normal_(last.weight)
    x, _ = given(config)
    now, then = (net(x, torch.full((4,), t)) for t in (3, 900))
    if config is VECTORS:
        assert torch.equal(now, then)
        assert now.any()
    branches = [name for name, weight in net.named_parameters() if not weight.any()]
    wanted = ("linear_2",) if config is VECTORS else ("conv2", "to_out")
    assert all(any(part in name for name in branches) for part in wanted)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_time_and_label_reach_the_answer(config):
    config = replace(config, num_class_embeds=3)
    net, (x, t) = awake(config), given(config)
    first = torch.zeros(4, dtype=torch.long)
    base = net(x, t, first)
    assert ((net(x, t + 1, first) - base).abs().flatten(1).amax(1) > 1e-6).all()
    assert ((net(x, t + 0.5, first) - base).abs().flatten(1).amax(1) > 1e-6).all()
    for other in (1, 2):
        assert ((net(x, t, first + other) - base).abs().flatten(1).amax(1) > 1e-3).all()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_sample_is_answered_alone(config):
    config = replace(config, num_class_embeds=5)
    net = awake(config)
    x, t, label = given(config, 5, torch.tensor([4, 0, 3, 1, 2]))
    order = torch.tensor([3, 0, 4, 1, 2])
    whole = net(x, t, label)
    mixed = net(x[order], t[order], label[order])
    torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-12)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_weight_is_trained(config):
    net = awake(replace(config, num_class_embeds=2))
    out = net(*given(config, 4, torch.tensor([0, 1, 1, 0])))
    (out * torch.randn_like(out)).sum().backward()
    for name, weight in net.named_parameters():
        if not name.endswith("to_k.bias"):  # the softmax does not see it
            assert weight.grad.abs().max() > 1e-9, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_dropout_is_of_training_alone(config):
    net, args = awake(replace(config, dropout=0.5)), given(config)
    plain = awake(config)
    assert torch.equal(net.eval()(*args), plain(*args))
    assert not torch.allclose(net.train()(*args), plain(*args), atol=1e-3)


@pytest.mark.parametrize(("level", "attended"), [(0, 2), (1, 1), (None, 0)])
def test_attention_begins_at_its_level(level, attended):
    net = awake(replace(SIGNALS, attention_level=level)).unet
    assert net.mid_block.attentions is not None
    for blocks in (net.down_blocks, reversed(net.up_blocks)):
        has = [block.attentions is not None for block in blocks]
        assert has == [i >= 2 - attended for i in range(2)]


def test_a_periodic_network_commutes_with_shifts():
    net, (x, t) = awake(PERIODIC), given(PERIODIC)
    torch.testing.assert_close(
        net(x.roll(2, -1), t), net(x, t).roll(2, -1), rtol=0, atol=1e-12
    )  # by the stride of its two levels
    ends = awake(SIGNALS)
    assert not torch.allclose(ends(x.roll(2, -1), t), ends(x, t).roll(2, -1), atol=1e-3)


def test_a_signal_is_an_image_whose_rows_are_equal():
    """The U-Net of images, which is held against diffusers, its kernels one row high."""
    net, (x, t) = awake(SIGNALS), given(SIGNALS)
    images = UNet(replace(SIGNALS.parts(), sample_size=16)).double()
    state = {}
    for name, weight in net.unet.state_dict().items():
        wide = images.state_dict()[name]
        if wide.shape == weight.shape:
            state[name] = weight
        else:
            state[name] = torch.zeros_like(wide)
            state[name][:, :, wide.shape[2] // 2] = weight
    images.load_state_dict(state)
    rows = images(x[:, :, None].expand(-1, -1, 16, -1), t)
    torch.testing.assert_close(rows, net(x, t)[:, :, None].expand_as(rows), rtol=0, atol=1e-11)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_is_saved_answers_the_same(config, tmp_path):
    config = replace(config, num_class_embeds=4)
    net = awake(config).float()
    model = Model(net, ddim.schedules.linear(), "eps", config.shape, notes={"null_label": 3})
    ddim.save(model, tmp_path / "m")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "config.json",
        "ddim.json",
        "model.safetensors",
    ]
    again = ddim.load(tmp_path / "m")
    assert again.net.config == config
    assert (again.shape, again.classes, again.labels) == (config.shape, 4, 3)
    x, t, label = given(config, 4, torch.arange(4))
    assert torch.equal(again.net(x.float(), t, label), net.eval()(x.float(), t, label))


def changed(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def dropped(folder, name):
    path = folder / "net/model.safetensors"
    state = safetensors.torch.load_file(path)
    state.pop(name)
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize(
    ("kind", "harm", "words"),
    [
        ("vectors", lambda f: changed(f, "net/config.json", width=65536), "do not belong together"),
        ("vectors", lambda f: changed(f, "net/config.json", features=4), "do not belong together"),
        ("vectors", lambda f: changed(f, "net/config.json", depth=10**9), "depth=1000000000 must"),
        ("vectors", lambda f: changed(f, "net/config.json", widht=3), "'widht' is not an option"),
        ("vectors", lambda f: changed(f, "net/config.json", width="3"), "must be whole number"),
        ("vectors", lambda f: changed(f, "net/config.json", _class_name="MPL"), "MLP"),
        ("vectors", lambda f: changed(f, "ddim.json", shape=[4]), "do not belong together"),
        ("vectors", lambda f: dropped(f, "linear_out.bias"), r"linear_out\.bias is missing"),
        ("signals", lambda f: changed(f, "net/config.json", length=17), "multiple of 2"),
        ("signals", lambda f: dropped(f, "unet.conv_in.bias"), r"conv_in\.bias is missing"),
    ],
)
def test_a_damaged_folder_is_told_in_one_sentence(tmp_path, kind, harm, words):
    config = CONFIGS[kind]
    ddim.save(Model.new(config.shape, config=config), tmp_path / "m")
    harm(tmp_path / "m")
    with pytest.raises(ValueError, match=words) as told:
        ddim.load(tmp_path / "m")
    assert "\n" not in str(told.value)
    shutil.rmtree(tmp_path / "m")


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (VECTORS, {"features": 0}, "features=0 must be whole numbers above 0"),
        (VECTORS, {"depth": 65}, "depth=65 must be .* at most 64"),
        (VECTORS, {"dropout": 1.0}, r"dropout=1\.0 is out of its range"),
        (VECTORS, {"time_embedding_dim": 1}, "time_embedding_dim=1 is out of its range"),
        (VECTORS, {"num_class_embeds": 0}, "num_class_embeds=0 must be"),
        (SIGNALS, {"length": 0}, "length=0 must be"),
        (SIGNALS, {"length": 15}, "length=15 must be a multiple of 2"),
        (SIGNALS, {"channels": -1}, "channels=-1 must be"),
        (SIGNALS, {"attention_level": 2}, "attention_level=2 is out of its range"),
        (SIGNALS, {"attention_level": -1}, "attention_level=-1 is out of its range"),
        (SIGNALS, {"block_out_channels": ()}, "block_out_channels"),
        (SIGNALS, {"block_out_channels": (8, 14)}, "multiple of norm_num_groups=4"),
        (SIGNALS, {"layers_per_block": 0}, "layers_per_block=0 must be"),
    ],
)
def test_a_network_that_cannot_be_is_told_in_one_sentence(config, change, words):
    with pytest.raises(ValueError, match=words):
        replace(config, **change)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_samples_and_labels_that_do_not_fit_are_refused(config):
    net, (x, t), label = awake(config), given(config), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"got a label; .*do not give one"):
        net(x, t, label)
    with pytest.raises(ValueError, match=r"got no label; .*so give one"):
        awake(replace(config, num_class_embeds=2))(x, t)
    with pytest.raises(ValueError, match="this network is for"):
        net(x.repeat(1, 2, *[1] * (x.ndim - 2)), t)
    with pytest.raises(ValueError, match="this network is for"):
        net(x[..., None], t)
    if x.ndim == 3:
        with pytest.raises(ValueError, match=r"sides of 15; .*multiples of 2"):
            net(x[..., 1:], t)


@pytest.mark.parametrize("shape", [(2,), (1, 8), (1, 8, 8)])
def test_a_model_of_classes_has_a_null_label_beside_them(shape):
    model = Model.new(shape, classes=3)
    assert (model.classes, model.labels, dict(model.notes)) == (4, 3, {"null_label": 3})
    torch.manual_seed(3)
    for weight in model.net.requires_grad_(False).parameters():
        nn.init.normal_(weight, std=0.1)
    x, level = torch.randn(2, *shape), model.schedule.level(500)
    towards, away = (model.denoiser(label)(x, level).eps for label in (1, 3))
    led = model.denoiser(1, guidance=3)(x, level).eps
    torch.testing.assert_close(led, away + 3 * (towards - away), rtol=0, atol=1e-4)
    assert not torch.allclose(led, towards, atol=1e-3)
    with pytest.raises(ValueError, match=r"choose 0\.\.2, or the null label 3"):
        model.denoiser(4)


def test_a_model_takes_the_network_of_its_configuration():
    for config in CONFIGS.values():
        net = Model.new(config.shape, config=config).net
        assert type(net) is NETS[config.written()["_class_name"]].network
        assert net.config == config
    with pytest.raises(ValueError, match=r"is for samples of \(3,\), the data has \(2,\)"):
        Model.new((2,), config=VECTORS)
    with pytest.raises(ValueError, match=r"num_class_embeds=None, but 5 classes .* need 6"):
        Model.new((3,), config=VECTORS, classes=5)
    assert Model.new((3,), config=replace(VECTORS, num_class_embeds=6), classes=5).labels == 5


def test_weights_are_a_function_of_the_seed():
    one, same, other = (Model.new((2,), seed=seed).net.linear_in.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert math.isclose(one.std().item(), other.std().item(), rel_tol=0.2)
