import json
import shutil

import pytest
import safetensors.torch
import torch
from diffusers import DDIMPipeline, DDIMScheduler

import ddim
from ddim import Model, Sampling, schedules
from ddim.convert import from_scheduler_config, scheduler_config
from ddim.files import write
from tiny import tiny_model


def same(a: Model, b: Model):
    x = torch.randn(2, *a.shape)
    assert a.target == b.target
    assert a.shape == b.shape
    assert a.sampling == b.sampling
    assert torch.equal(a.schedule.signal, b.schedule.signal)
    assert torch.equal(a.schedule.noise, b.schedule.noise)
    for t in (3, 700):
        level = a.schedule.level(t)
        assert torch.equal(a.denoiser()(x, level).eps, b.denoiser()(x, level).eps)


@pytest.mark.parametrize("target", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize(
    "schedule", [schedules.linear(), schedules.cosine(800), schedules.rectified_flow()]
)
def test_what_is_saved_is_loaded_again(tmp_path, target, schedule):
    if target == "eps" and schedule.signal[-1] == 0:
        schedule = schedules.from_betas(
            schedules.linear(900).alpha_bar[1:]
        )  # some table without a name
    model = Model(
        tiny_model().net,
        schedule,
        target,
        (1, 8, 8),
        Sampling("leading", 1.5, 1),
        {"data": {"images": 3}},
    )
    ddim.save(model, tmp_path / "m")
    again = ddim.load(tmp_path / "m")
    same(model, again)
    assert again.notes == {"data": {"images": 3}}
    assert not again.net.training
    assert not any(p.requires_grad for p in again.net.parameters())
    pipeline = target != "flow" and schedule.variance_preserving
    assert (tmp_path / "m/model_index.json").exists() == pipeline
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("target", ["eps", "v", "x0"])
def test_diffusers_opens_our_folder_and_sees_the_same_process(tmp_path, target):
    model = Model(tiny_model().net, schedules.cosine(), target, (1, 8, 8))
    ddim.save(model, tmp_path)
    pipe = DDIMPipeline.from_pretrained(tmp_path)
    x, t = torch.randn(2, 1, 8, 8), 500
    with torch.no_grad():
        torch.testing.assert_close(
            pipe.unet(x, t - 1).sample, model.net(x, torch.full((2,), t - 1)), rtol=0, atol=1e-5
        )
    p = model.denoiser()(x, model.schedule.level(t))
    pipe.scheduler.set_timesteps(1000)
    out = pipe.scheduler.step(pipe.unet(x, t - 1).sample.detach(), t - 1, x)
    torch.testing.assert_close(out.pred_original_sample, p.x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["eps", "v"])
def test_we_open_the_folder_of_diffusers_without_our_file(tmp_path, target):
    model = Model(
        tiny_model().net, schedules.scaled_linear(), target, (1, 8, 8), Sampling("leading", 1.0, 0)
    )
    ddim.save(model, tmp_path)
    DDIMPipeline.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs/ddim.json").exists()
    opened = ddim.load(tmp_path / "theirs")
    torch.testing.assert_close(opened.schedule.signal, model.schedule.signal, rtol=1e-9, atol=0)
    same(model, Model(opened.net, model.schedule, opened.target, opened.shape, opened.sampling))


def test_a_folder_may_be_written_over_by_a_model_of_another_layout(tmp_path):
    flow = Model(tiny_model().net, schedules.linear(), "flow", (1, 8, 8))
    flow.net.conv_in.weight.add_(1)
    for model in (tiny_model(), flow) * 2:
        ddim.save(model, tmp_path)
        same(model, ddim.load(tmp_path))
        assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_every_field_of_the_scheduler_is_written_out():
    theirs = set(DDIMScheduler().config)
    ours = scheduler_config(schedules.linear(), "eps", Sampling())
    assert theirs - {"_use_default_values"} <= set(ours)
    assert ours["beta_schedule"] == "linear"
    assert (ours["beta_start"], ours["beta_end"], ours["trained_betas"]) == (1e-4, 0.02, None)


@pytest.mark.parametrize("T", [1500, 4000])
def test_long_schedules_are_written(T):
    for schedule, name in (
        (schedules.cosine(T), "squaredcos_cap_v2"),
        (schedules.sigmoid(T), "linear"),
        (schedules.zero_terminal(schedules.linear(T)), "linear"),
    ):
        config = scheduler_config(schedule, "v", Sampling())
        assert config["beta_schedule"] == name
        assert (config["trained_betas"] is None) == (name != "linear")
        again, _, _ = from_scheduler_config(config)
        torch.testing.assert_close(again.signal, schedule.signal, rtol=1e-9, atol=1e-12)


def test_a_table_without_a_name_travels_as_betas():
    odd = schedules.zero_terminal(schedules.linear())
    config = scheduler_config(odd, "v", Sampling())
    table = DDIMScheduler.from_config(config).alphas_cumprod.double()
    torch.testing.assert_close(table, odd.alpha_bar[1:], rtol=2e-4, atol=2e-7)


@pytest.fixture
def folder(tmp_path):
    ddim.save(tiny_model(), tmp_path / "m")
    return tmp_path / "m"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_weight(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(path)
    state.pop("conv_in.bias")
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (shutil.rmtree, "does not exist; give a folder"),
        (
            lambda f: shutil.rmtree(f / "unet") or (f / "model_index.json").unlink(),
            "holds no model",
        ),
        (lambda f: (f / "unet/config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "unet/config.json").write_text("{"), "config.json cannot be read as JSON"),
        (lambda f: (f / "ddim.json").write_text("[]"), "holds a list"),
        (lambda f: edit(f / "unet/config.json", _class_name="DiT"), "'DiT' is not a network"),
        (lambda f: edit(f / "unet/config.json", layers_per_block=2), "do not belong together"),
        (lambda f: edit(f / "unet/config.json", block_out_channels="wide"), "unet/config.json"),
        (drop_weight, "conv_in.bias is missing"),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x02abc"),
            "safetensors",
        ),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(),
            "safetensors is missing",
        ),
        (lambda f: edit(f / "ddim.json", target="score"), "score"),
        (lambda f: edit(f / "ddim.json", shape=[1, 9, 9]), "the network is for"),
        (lambda f: edit(f / "ddim.json", signal=[1.0, 0.5]), "does not describe a model"),
        (
            lambda f: (
                (f / "ddim.json").unlink(),
                edit(f / "scheduler/scheduler_config.json", beta_schedule="jsd"),
            ),
            "'jsd' is unknown",
        ),
        (
            lambda f: (
                (f / "ddim.json").unlink(),
                edit(f / "scheduler/scheduler_config.json", beta_end=7),
            ),
            "scheduler_config.json",
        ),
    ],
)
def test_a_damaged_folder_is_named_with_what_is_wrong(folder, harm, words):
    harm(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ddim.load(folder)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, b"old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_network_of_ones_own_is_refused_before_anything_is_written(tmp_path):
    model = Model(torch.nn.Conv2d(1, 1, 1), schedules.linear(), "eps", (1, 8, 8))
    with pytest.raises(ValueError, match="Conv2d is not a network that ddim can write"):
        ddim.save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_singular_target_is_refused_when_the_model_is_made():
    with pytest.raises(ValueError, match=r"eps target .*t=1000"):
        Model(tiny_model().net, schedules.rectified_flow(), "eps", (1, 8, 8))
    with pytest.raises(ValueError, match="choose one of eps, x0, v, flow"):
        Model(tiny_model().net, schedules.linear(), "score", (1, 8, 8))


def test_a_denoiser_at_level_0_answers_x_and_the_eps_of_level_1():
    for target in ("eps", "v"):
        model = tiny_model(target)
        x = torch.randn(2, 1, 8, 8)
        p = model.denoiser()(x, model.schedule.level(0))
        assert torch.equal(p.x0, x)
        assert torch.equal(p.eps, model.denoiser()(x, model.schedule.level(1)).eps)


def test_a_level_without_a_time_is_placed_by_its_ratio():
    model = tiny_model()
    x, level = torch.randn(2, 1, 8, 8), model.schedule.level(321)
    by_hand = ddim.Level(float("nan"), level.signal, level.noise)
    torch.testing.assert_close(model.denoiser()(x, by_hand).eps, model.denoiser()(x, level).eps)
    with pytest.raises(ValueError, match="outside the trained levels"):
        model.denoiser()(x, ddim.Level(float("nan"), 1.0, 1e-6))


def test_the_network_runs_in_its_own_dtype_and_the_state_keeps_its_own():
    model = tiny_model("v")
    half = Model(tiny_model("v").net.bfloat16(), model.schedule, "v", (1, 8, 8))
    x, level = torch.randn(2, 1, 8, 8, dtype=torch.float64), model.schedule.level(600)
    p = half.denoiser()(x, level)
    assert p.eps.dtype == torch.float64
    torch.testing.assert_close(p.eps, model.denoiser()(x, level).eps, rtol=0, atol=0.1)


def test_a_level_of_another_scale_is_the_same_image():
    """y = x/signal has the ratio of x, so the variance exploding plan is the same flow."""
    model = tiny_model("v")
    x, level = torch.randn(2, 1, 8, 8), model.schedule.level(321)
    exploding = ddim.Level(float("nan"), 1.0, level.ratio)
    p, q = model.denoiser()(x, level), model.denoiser()(x / level.signal, exploding)
    torch.testing.assert_close(q.x0, p.x0, rtol=0, atol=1e-4)
    torch.testing.assert_close(q.x0 + level.ratio * q.eps, q.x, rtol=0, atol=1e-4)


def test_a_plan_of_another_schedule_is_refused():
    model = tiny_model()
    noise = ddim.Seeded([0])
    for foreign in (schedules.cosine(), schedules.linear(4000)):
        with pytest.raises(ValueError, match=r"with model\.plan|outside the schedule"):
            ddim.sample(model.denoiser(), noise.start(model.shape), ddim.plan(foreign, 5))


def test_a_network_may_look_its_time_up_and_need_no_weights():
    table = torch.randn(1000)

    class Table(torch.nn.Module):
        def forward(self, x, t):
            return x * table[t].reshape(-1, 1)

    model = Model(Table(), schedules.linear(), "eps", (3,))
    x = torch.randn(2, 3)
    p = model.denoiser()(x, model.schedule.level(7))
    torch.testing.assert_close(p.eps, x * table[6])


def test_labels_that_were_not_trained_are_refused():
    model = tiny_model(classes=3)
    for wrong in (3, -1, [0, 5]):
        with pytest.raises(ValueError, match=r"choose 0\.\.2"):
            model.denoiser(wrong)
    with pytest.raises(ValueError, match="2 labels for a batch of 3"):
        model.denoiser([0, 1])(torch.zeros(3, 1, 8, 8), model.schedule.level(5))


def test_labels_reach_the_network():
    model = tiny_model(classes=3)
    x, level = torch.randn(2, 1, 8, 8), model.schedule.level(600)
    with torch.no_grad():
        both = model.denoiser([0, 2])(x, level).eps
        for i, label in enumerate((0, 2)):
            alone = model.denoiser(label)(x[i : i + 1], level).eps
            torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=1e-5)
        assert not torch.allclose(both[:1], model.denoiser(1)(x[:1], level).eps, atol=1e-3)
