"""Checkpoints of others open with the same weights, process and answers as where they come from."""

import json
import logging
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

import ddim
from ddim import Model, schedules
from ddim.convert import SCHEDULERS, from_scheduler_config, grid, scheduler_config
from ddim.ermongroup import open_checkpoint
from ddim.weights import STEM
from tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # their use of numpy
PAPER = Path(__file__).parent / "data/ermongroup-tiny"
TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def answers(path):
    with np.load(path / "expected.npz") as stored:
        return tuple(torch.from_numpy(stored[name]) for name in ("x", "t", "eps"))


def close(a, b, within=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=within)


@pytest.fixture
def paper(tmp_path):
    return Path(shutil.copytree(PAPER, tmp_path / "paper"))


@pytest.fixture
def unet():
    torch.manual_seed(3)
    return UNet2DModel(**TINY).eval()


def same_network(model, net, label=None):
    x, t = torch.randn(2, *model.shape), torch.tensor([3, 700])
    with torch.no_grad():
        close(model.net(x, t, *([] if label is None else [label])), net(x, t, label).sample)


# The paper's own code


@pytest.mark.parametrize("path", [PAPER, PAPER / "ckpt.pth"], ids=["folder", "file"])
def test_the_papers_checkpoint_answers_as_the_papers_code(path):
    model = ddim.load(path)
    x, t, eps = answers(PAPER)
    with torch.no_grad():
        close(model.net(x, t), eps)
    assert torch.equal(model.schedule.signal, schedules.linear().signal)
    assert (model.target, model.shape, model.sampling.spacing) == ("eps", (3, 16, 16), "leading")
    assert model.notes["source"]["weights"] == "ema"
    assert model.notes["source"]["step"] == 12345


def test_raw_takes_the_other_weights():
    assert not torch.equal(
        ddim.load(PAPER, raw=True).net.conv_in.bias, ddim.load(PAPER).net.conv_in.bias
    )
    assert (ddim.load(PAPER, raw=True).net.conv_in.weight == 0.01).all()


def test_without_an_average_the_raw_weights_are_taken_and_said(paper):
    content = torch.load(paper / "ckpt.pth", weights_only=True)
    torch.save(content[:4], paper / "ckpt.pth")
    assert ddim.load(paper).notes["source"]["weights"] == "the only ones"


def test_a_bare_state_dict_needs_its_configuration(paper, tmp_path):
    ema = torch.load(paper / "ckpt.pth", weights_only=True)[4]
    torch.save({**ema, "logvar": torch.zeros(1000)}, tmp_path / "model-790000.ckpt")
    with pytest.raises(ValueError, match="give its YAML file by ddim import --config"):
        ddim.load(tmp_path / "model-790000.ckpt")
    model = ddim.load(tmp_path / "model-790000.ckpt", config=paper / "config.yml")
    x, t, eps = answers(PAPER)
    with torch.no_grad():
        close(model.net(x, t), eps)


def test_the_configuration_that_training_dumps_is_read(paper):
    """It is written as argparse.Namespace objects: read as mappings, and nothing is made."""
    plain = yaml.safe_load((paper / "config.yml").read_text())
    text = "!!python/object:argparse.Namespace\n" + "".join(
        f"{key}: !!python/object:argparse.Namespace {json.dumps(value)}\n"
        for key, value in plain.items()
    )
    (paper / "config.yml").write_text(text)
    assert ddim.load(paper).shape == (3, 16, 16)
    (paper / "config.yml").write_text(text.replace("argparse.Namespace", "subprocess.Popen"))
    with pytest.raises(ValueError, match=r"could not determine a constructor .*subprocess\.Popen"):
        ddim.load(paper)


def changed(paper, part, **fields):
    config = yaml.safe_load((paper / "config.yml").read_text())
    config[part].update(fields)
    (paper / "config.yml").write_text(yaml.safe_dump(config))
    return ddim.load(paper)


def test_every_beta_schedule_of_the_papers_code(paper):
    """By what each must satisfy, not by its formula."""
    start, end, T = 2e-4, 0.03, 500

    def betas(name):
        ends = {"beta_start": start, "beta_end": end, "num_diffusion_timesteps": T}
        alpha = changed(paper, "diffusion", beta_schedule=name, **ends).schedule.alpha_bar
        return 1 - alpha[1:] / alpha[:-1]

    for name, curve in (("linear", lambda b: b), ("quad", torch.sqrt)):
        values = betas(name)
        assert (float(values[0]), float(values[-1])) == pytest.approx((start, end))
        close(curve(values).diff().diff(), torch.zeros(T - 2, dtype=torch.float64), 1e-11)
    close(betas("const"), torch.full((T,), end, dtype=torch.float64), 1e-11)
    sigmoid = betas("sigmoid")
    close(sigmoid + sigmoid.flip(0), torch.full((T,), start + end, dtype=torch.float64), 1e-11)
    rise = ((sigmoid - start) / (end - sigmoid)).log()
    assert (float(rise[0]), float(rise[-1])) == pytest.approx((-6, 6))
    with pytest.raises(ValueError, match=r"eps target .*t=500"):
        betas("jsd")  # its last β is 1


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("model", {"ch": 64}, "do not belong together"),
        ("model", {"ch_mult": [1, 2, 2]}, "do not belong together"),
        ("model", {"ch_mult": [1]}, "is no weight of the U-Net"),
        ("model", {"resamp_with_conv": False}, "resamp_with_conv"),
        ("model", {"num_res_blocks": 10**9}, "at most 64"),
        ("model", {"num_res_blocks": "two"}, "must be whole number"),
        ("data", {"image_size": 2**40}, "image_size"),
        ("data", {"logit_transform": True}, "logits"),
        ("data", {"rescaled": False}, r"\[0, 1\]"),
        ("diffusion", {"beta_schedule": "cosine"}, "known are linear, quad, const, jsd, sigmoid"),
        ("diffusion", {"beta_end": 7}, "beta_end"),
        ("diffusion", {"num_diffusion_timesteps": 0}, "T=0"),
    ],
)
def test_a_configuration_that_is_not_the_checkpoints_is_named(paper, part, fields, words):
    with pytest.raises(ValueError, match=words):
        changed(paper, part, **fields)


def test_a_checkpoint_of_something_else_is_named(paper):
    for content, words in (
        ({"state": 3}, "not the named weights"),
        ({}, "an empty dict"),
        ([1, 2, 3], "a checkpoint of ermongroup/ddim is"),
        (torch.zeros(3), "holds a Tensor"),
        ([{"conv_in.weight": torch.zeros(2)}, {}, 1, 2], "do not belong together"),
        ([{"net.0.weight": torch.zeros(2)}, {}, 1, 2], "'net.0.weight' is no weight"),
    ):
        torch.save(content, paper / "ckpt.pth")
        with pytest.raises(ValueError, match=words):
            ddim.load(paper)


def test_an_imported_checkpoint_opens_in_diffusers_and_comes_back(tmp_path):
    model = ddim.load(PAPER)
    ddim.save(model, tmp_path / "ours")
    pipe = DDIMPipeline.from_pretrained(tmp_path / "ours")
    x, t, eps = answers(PAPER)
    with torch.no_grad():
        close(pipe.unet(x, t).sample, eps)
    pipe.save_pretrained(tmp_path / "theirs")
    again = ddim.load(tmp_path / "theirs")
    for name, weight in model.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], weight)
    assert again.sampling == model.sampling


# diffusers


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"SolverScheduler"}))
@pytest.mark.parametrize("options", [{}, {"beta_schedule": "squaredcos_cap_v2"}])
def test_every_scheduler_says_what_diffusers_reads(name, options):
    """A configuration with nothing but the class: what is absent has the defaults of that class."""
    theirs = getattr(diffusers, name)(**options)
    schedule, target, sampling = from_scheduler_config({"_class_name": name, **options})
    table = theirs.alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha_bar[1:], table, rtol=1e-3, atol=1e-6)
    assert target == "eps"
    assert (
        sampling.spacing
        == {"leading": "leading", "linspace": "uniform"}[
            theirs.config.get("timestep_spacing", "linspace")
        ]
    )
    assert (sampling.clip is not None) == theirs.config.get("clip_sample", False)
    if hasattr(theirs, "sigmas"):
        theirs.set_timesteps(10)
        assert sampling.final == (0 if theirs.sigmas[-1] == 0 else 1)
    else:
        assert sampling.final == (0 if theirs.config.get("set_alpha_to_one", True) else 1)
    carried = {"_class_name": name, **options, "clip_sample": True, "set_alpha_to_one": False}
    _, _, again = from_scheduler_config(carried)
    if "set_alpha_to_one" not in theirs.config:
        assert again.final == sampling.final
    if "clip_sample" not in theirs.config:
        assert again.clip is None


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "sigmoid"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"trained_betas": [0.01 * n / 300 for n in range(1, 1001)]},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"num_train_timesteps": 400, "beta_end": 0.05},
    ],
)
def test_the_tables_are_those_of_diffusers(options):
    theirs = DDPMScheduler(**options)
    schedule, target, _ = from_scheduler_config({"_class_name": "DDPMScheduler", **options})
    table = theirs.alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha_bar[1:], table, rtol=1e-3, atol=1e-6)
    assert target == ("v" if "prediction_type" in options else "eps")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("T", [1000, 777, 50])
def test_the_grids_are_those_of_diffusers(spacing, T):
    """At every number of steps; without its timestep −1 of trailing, and from noise at one step."""
    theirs = DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    for steps in range(2, T + 1):
        theirs.set_timesteps(steps)
        wanted = [t for t in theirs.timesteps.tolist() if t >= 0][:steps]
        assert grid(spacing, T, steps) == wanted
    assert grid("linspace", T, 1) == [T - 1]
    with pytest.raises(ValueError, match="choose fewer steps"):
        grid("leading", T, T, offset=1)


def test_what_a_folder_asks_for_survives_a_round_trip():
    config = {
        **scheduler_config(schedules.cosine(300), "v", ddim.Sampling("leading", 2.0, 1, 1)),
        "_class_name": "DDIMScheduler",
    }
    schedule, target, sampling = from_scheduler_config(json.loads(json.dumps(config)))
    assert (target, sampling) == ("v", ddim.Sampling("leading", 2.0, 1, 1))
    assert torch.equal(schedule.signal, schedules.cosine(300).signal)
    assert DDIMScheduler.from_config(config).config.steps_offset == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "FlowMatchEulerDiscreteScheduler is not read here",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"_class_name": ["DDIMScheduler"]}, "are: DDIMScheduler"),
        ({"prediction_type": "flow"}, "prediction_type='flow' is unknown"),
        ({"beta_schedule": "laplace"}, "beta_schedule='laplace' is unknown"),
        ({"timestep_spacing": 3}, "timestep_spacing=3 must be text"),
        ({"clip_sample": "yes"}, "clip_sample='yes' must be true or false"),
        ({"steps_offset": -1}, "steps_offset=-1"),
        ({"beta_start": True}, "beta_start=True must be number"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps=1000.0 must be whole number"),
        ({"trained_betas": [0.1, "b"]}, "must be a list of numbers or null"),
        ({"num_train_timesteps": 10**12}, "T=1000000000000"),
        ({"beta_end": float("inf")}, "beta_end=inf must be number"),
    ],
)
def test_a_scheduler_that_is_not_known_is_named(config, words):
    with pytest.raises(ValueError, match=words):
        from_scheduler_config(config)


def pipeline(unet, folder, scheduler=None, kind=DDIMPipeline, **options):
    kind(unet, scheduler or DDIMScheduler()).save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("kind", [DDIMPipeline, DDPMPipeline])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_pipeline_opens_without_diffusers(unet, tmp_path, kind, safe):
    folder = pipeline(unet, tmp_path / "p", kind=kind, safe_serialization=safe)
    assert not list(folder.rglob("*.bin" if safe else "*.safetensors"))
    same_network(ddim.load(folder), unet)
    code = (
        "import sys; sys.modules['diffusers'] = None; import ddim; "
        f"m = ddim.load({str(folder)!r}); n = ddim.Seeded([0]); "
        "print(ddim.sample(m.denoiser(), n.start(m.shape), m.plan(2)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[1, 1, 8, 8]" in done.stdout


def test_a_variant_is_taken_where_it_is_named(unet, tmp_path):
    half = UNet2DModel.from_config(unet.config).half()
    half.load_state_dict({k: v.half() for k, v in unet.state_dict().items()})
    folder = pipeline(half, tmp_path / "p", variant="fp16")
    with pytest.raises(ValueError, match="it has the variant fp16: ddim import --variant"):
        ddim.load(folder)
    model = ddim.load(folder, variant="fp16")
    same_network(model, half.float())
    assert next(model.net.parameters()).dtype == torch.float32


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_put_together(unet, tmp_path, safe, variant):
    unet.save_pretrained(
        tmp_path / "p/unet", max_shard_size="10KB", safe_serialization=safe, variant=variant
    )
    DDIMScheduler().save_pretrained(tmp_path / "p/scheduler")
    assert len(list((tmp_path / "p/unet").glob(f"{STEM}*"))) > 3
    same_network(ddim.load(tmp_path / "p", variant=variant), unet)


def test_an_index_that_is_wrong_is_named(unet, tmp_path):
    unet.save_pretrained(tmp_path / "p/unet", max_shard_size="10KB")
    DDIMScheduler().save_pretrained(tmp_path / "p/scheduler")
    path = tmp_path / f"p/unet/{STEM}.safetensors.index.json"
    right = json.loads(path.read_text())
    names, files = list(right["weight_map"]), list(right["weight_map"].values())
    other = next(name for name in files if name != files[0])
    for name, file, words in (
        (names[0], "../../../etc/passwd", "no file of weights beside it"),
        (names[0], "/etc/passwd", "no file of weights beside it"),
        (names[0], other, "they do not agree"),
        (names[0], "missing.safetensors", "they do not agree"),
        ("surplus", files[0], "says that 'surplus' is in"),
    ):
        wrong = {**right, "weight_map": {**right["weight_map"], name: file}}
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=words):
            ddim.load(tmp_path / "p")
    path.write_text("{}")
    with pytest.raises(ValueError, match="no weight_map"):
        ddim.load(tmp_path / "p")


def test_attention_of_old_files_has_its_present_names(unet, tmp_path):
    folder = pipeline(unet, tmp_path / "p")
    path = folder / f"unet/{STEM}.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = safetensors.torch.load_file(path)
    present = re.compile("(" + "|".join(map(re.escape, old)) + ")")
    renamed = {present.sub(lambda m: old[m[1]], name): state[name] for name in state}
    assert renamed.keys() != state.keys()
    safetensors.torch.save_file(renamed, path)
    same_network(ddim.load(folder), unet)


def test_a_flat_repository_opens(unet, tmp_path):
    """All files at the root, as the first published DDPM models have them."""
    unet.save_pretrained(tmp_path)
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]})
    )
    model = ddim.load(tmp_path)
    same_network(model, unet)
    assert torch.equal(model.schedule.signal, schedules.cosine().signal)


def test_a_checkpoint_of_training_gives_its_averaged_weights(unet, tmp_path):
    average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    unet.save_pretrained(tmp_path / "c/unet")
    for weight in average.shadow_params:
        weight.mul_(0.5)
    average.save_pretrained(tmp_path / "c/unet_ema")
    with pytest.raises(ValueError, match=r"not say its schedule; give .* ddim import --config"):
        ddim.load(tmp_path / "c")
    DDPMScheduler().save_pretrained(tmp_path / "s")
    config = tmp_path / "s/scheduler_config.json"
    model, raw = (ddim.load(tmp_path / "c", config=config, raw=raw) for raw in (False, True))
    assert torch.equal(raw.net.conv_in.weight, unet.conv_in.weight)
    assert torch.equal(model.net.conv_in.weight, unet.conv_in.weight / 2)
    assert (model.notes["source"]["weights"], raw.notes["source"]["weights"]) == ("ema", "raw")


def test_there_is_no_raw_where_there_is_one(unet, tmp_path):
    with pytest.raises(ValueError, match="so there is no raw one"):
        ddim.load(pipeline(unet, tmp_path / "p"), raw=True)


BORROWED = {
    "skip": {
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    },
    "scale_shift": {"resnet_time_scale_shift": "scale_shift"},
    "resnet": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "gelu": {"act_fn": "gelu"},
}


@pytest.mark.parametrize("variant", BORROWED)
def test_a_block_that_ours_lacks_is_lent_by_diffusers(variant, tmp_path, caplog):
    torch.manual_seed(3)
    wide = {"block_out_channels": (32, 64), "in_channels": 3, "out_channels": 3}  # for skip blocks
    theirs = UNet2DModel(**{**TINY, **wide, **BORROWED[variant]}).eval()
    folder = pipeline(theirs, tmp_path / "p")
    with caplog.at_level(logging.WARNING):
        model = ddim.load(folder)
    assert "taking the network of diffusers" in caplog.text
    same_network(model, theirs)
    ddim.save(model, tmp_path / "q")
    again = ddim.load(tmp_path / "q")
    same_network(again, theirs)
    same_network(again, DDIMPipeline.from_pretrained(tmp_path / "q").unet)


def test_what_a_lent_network_makes_for_itself_is_made(tmp_path):
    """Its K blocks have filters that are not stored."""
    lent = {"down_block_types": ("KDownBlock2D",) * 2, "up_block_types": ("KUpBlock2D",) * 2}
    theirs = UNet2DModel(**{**TINY, "block_out_channels": (32, 64), **lent})
    model = ddim.load(pipeline(theirs, tmp_path / "p"))
    named = dict(theirs.named_buffers())
    assert named
    for name, buffer in model.net.net.named_buffers():
        assert torch.equal(buffer, named[name])


def test_without_diffusers_the_error_names_the_block_and_the_extra(tmp_path, monkeypatch):
    theirs = UNet2DModel(**{**TINY, "act_fn": "mish"})
    folder = pipeline(theirs, tmp_path / "p")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"act_fn='mish' .*pip install -e \"\.\[diffusers\]\""):
        ddim.load(folder)


def test_a_learned_variance_is_left_aside(tmp_path):
    torch.manual_seed(3)
    theirs = UNet2DModel(**{**TINY, "out_channels": 2}).eval()
    model = ddim.load(pipeline(theirs, tmp_path / "p"))
    assert model.shape == (1, 8, 8)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        eps = theirs(x, 499).sample[:, :1]
        close(model.denoiser()(x, model.schedule.level(500)).eps, eps)


def test_classes_come_along(tmp_path):
    torch.manual_seed(3)
    theirs = UNet2DModel(**{**TINY, "num_class_embeds": 3}).eval()
    model = ddim.load(pipeline(theirs, tmp_path / "p"))
    assert model.classes == 3
    same_network(model, theirs, torch.tensor([0, 2]))


def test_a_latent_pipeline_is_sent_to_the_scheduler(tmp_path):
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"StableDiffusionPipeline.*SolverScheduler"):
        ddim.load(tmp_path)


def test_a_model_saved_by_diffusers_into_its_own_folder_opens(tmp_path):
    model = tiny_model()
    ddim.save(model, tmp_path)
    DDIMPipeline.from_pretrained(tmp_path).save_pretrained(tmp_path)
    again = ddim.load(tmp_path)
    for name, weight in model.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], weight)


def test_weights_that_are_no_finite_numbers_are_refused(tmp_path):
    model = tiny_model()
    ddim.save(model, tmp_path)
    path = tmp_path / f"unet/{STEM}.safetensors"
    state = safetensors.torch.load_file(path)
    for wrong, words in (
        (torch.full((8,), math.nan), "what is no finite number"),
        (torch.zeros(8, dtype=torch.int32), "int32; weights are"),
        (torch.zeros(8).to(torch.float8_e4m3fn), "float8_e4m3fn; weights are"),
    ):
        safetensors.torch.save_file({**state, "conv_in.bias": wrong}, path)
        with pytest.raises(ValueError, match=rf"conv_in\.bias holds {words}"):
            ddim.load(tmp_path)


def test_opening_changes_nothing_on_disk():
    before = {path: path.read_bytes() for path in PAPER.iterdir()}
    open_checkpoint(PAPER / "ckpt.pth")
    assert {path: path.read_bytes() for path in PAPER.iterdir()} == before


def test_a_name_like_that_of_the_hub_gets_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"or hf:google/ddpm for the hub"):
        ddim.load("google/ddpm")
    assert isinstance(tiny_model(), Model)


def test_dynamic_thresholding_is_kept_and_no_preset_pretends(unet, tmp_path):
    theirs = DDIMScheduler(thresholding=True, sample_max_value=1.5)
    model = ddim.load(pipeline(unet, tmp_path / "p", theirs))
    assert model.sampling.threshold == (0.995, 1.5)
    with pytest.raises(ValueError, match="no preset does"):
        ddim.preset("diffusers")(model, 5)
    ddim.save(model, tmp_path / "q")
    back = DDIMScheduler.from_pretrained(tmp_path / "q/scheduler")
    assert (back.config.thresholding, back.config.sample_max_value) == (True, 1.5)
    assert ddim.load(tmp_path / "q").sampling == model.sampling


def test_our_own_file_says_which_weights_are_the_models(unet, tmp_path):
    """A unet_ema that an older checkpoint left beside is not taken for them."""
    UNet2DModel(**TINY).save_pretrained(tmp_path / "unet_ema")
    model = tiny_model()
    ddim.save(model, tmp_path)
    assert torch.equal(ddim.load(tmp_path).net.conv_in.weight, model.net.conv_in.weight)


def test_options_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="variant='fp16'"):
        ddim.load(PAPER, variant="fp16")
    ddim.save(Model(tiny_model().net, schedules.linear(), "flow", (1, 8, 8)), tmp_path)
    with pytest.raises(ValueError, match="leave config, raw and variant out"):
        ddim.load(tmp_path, raw=True)


def test_a_file_that_is_no_checkpoint_is_said_to_be_none(tmp_path):
    (tmp_path / "grid.png").write_bytes(b"PNG")
    with pytest.raises(ValueError, match=r"grid\.png is no checkpoint \(\.pth, \.pt"):
        ddim.load(tmp_path / "grid.png")
    with pytest.raises(ValueError, match=r"nothere\.yml is no file"):
        ddim.load(PAPER, config=tmp_path / "nothere.yml")
