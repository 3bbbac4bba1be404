"""Our solvers inside diffusers' pipelines, and anybody's network as a denoiser."""

import subprocess
import sys

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

import ddim
from ddim import DDIM, Model, sample, schedules
from ddim.exact import Mixture
from ddim.interop import denoiser_from
from ddim.interop.diffusers import SolverScheduler
from ddim.solvers import SOLVERS
from test_checkpoints import TINY, close
from tiny import ExactNet

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
DATA = Mixture([[0.9, -0.4], [-0.7, 0.8], [0.5, 0.5]], 0.3)
SPECS = ("ddim", "heun", "ipndm", "deis", "dpmpp", "dpmpp2s", "unipc")


def start(dtype=torch.float64):
    return torch.linspace(-2, 2, 12, dtype=dtype).reshape(6, 2)


def drive(scheduler, net, x, begin=0, edit=None, **options):
    """The loop of a pipeline."""
    for k, t in enumerate(scheduler.timesteps[begin:]):
        out = net(scheduler.scale_model_input(x, t), t.expand(len(x)))
        x = scheduler.step(out, t, x, **options).prev_sample
        x = x if edit is None else edit(k, x)
    return x


def exact(scheduler, target="eps"):
    return ExactNet(DATA, scheduler.schedule, target)


def denoiser_of(scheduler, target="eps"):
    net = exact(scheduler, target)
    return Model(net, scheduler.schedule, target, (2,)).denoiser()


# SolverScheduler, driven by hand


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "log_snr"])
def test_stepping_is_sampling(spec, spacing):
    scheduler = SolverScheduler(solver=spec, timestep_spacing=spacing)
    scheduler.set_timesteps(12)
    ours = sample(denoiser_of(scheduler), start(), scheduler.plan, ddim.build(spec))
    close(drive(scheduler, exact(scheduler), start()), ours, 1e-12)
    assert len(scheduler.timesteps) == ddim.calls(ddim.build(spec), scheduler.plan)


def test_every_solver_has_a_place():
    assert set(SPECS) | {"ddpm", "resample"} == set(SOLVERS)


@pytest.mark.parametrize(
    "spec", ["ddpm", "ddim:eta=0.5", "dpmpp:order=2,eta=1", "resample:repeats=2"]
)
def test_solvers_that_draw_take_the_generator(spec):
    scheduler = SolverScheduler(solver=spec, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    drawn = drive(scheduler, exact(scheduler), start(), generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)

    def noise(like, k):
        return torch.randn(like.shape, generator=generator).to(like)

    ours = sample(denoiser_of(scheduler), start(), scheduler.plan, ddim.build(spec), noise)
    close(drawn, ours, 1e-12)


@pytest.mark.parametrize(("kind", "target"), [("v_prediction", "v"), ("sample", "x0")])
def test_other_targets_end_at_the_same_images(kind, target):
    ends = []
    for prediction, row in (("epsilon", "eps"), (kind, target)):
        scheduler = SolverScheduler(prediction_type=prediction, solver="unipc")
        scheduler.set_timesteps(10)
        ends.append(drive(scheduler, exact(scheduler, row), start()))
    close(*ends, 1e-9)


def test_without_signal_at_the_top_it_begins_from_pure_noise():
    scheduler = SolverScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        solver="unipc",
    )
    scheduler.set_timesteps(10)
    assert scheduler.plan[0].signal == 0
    ours = sample(denoiser_of(scheduler, "v"), start(), scheduler.plan, ddim.UniPC())
    close(drive(scheduler, exact(scheduler, "v"), start()), ours, 1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_image_to_image_begins_at_a_later_step(spec):
    scheduler = SolverScheduler(solver=spec, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    ours = sample(denoiser_of(scheduler), start(), scheduler.plan[4:], ddim.build(spec))
    begin = 4 * scheduler.order
    scheduler.set_begin_index(begin)
    close(drive(scheduler, exact(scheduler), start(), begin), ours, 1e-12)
    scheduler.set_timesteps(10)  # and where nobody says so, the first timestep does
    close(drive(scheduler, exact(scheduler), start(), begin), ours, 1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_an_edit_between_steps_is_honoured(spec):
    """What inpainting pipelines do: at every level part of the state is set anew."""
    scheduler = SolverScheduler(solver=spec, timestep_spacing="trailing")
    scheduler.set_timesteps(8)

    def set_first(x):
        return torch.cat([torch.full_like(x[:, :1], 0.25), x[:, 1:]], dim=1)

    stepped = drive(
        scheduler,
        exact(scheduler),
        set_first(start()),
        edit=lambda k, x: set_first(x) if k < len(scheduler.timesteps) - 1 else x,
    )
    denoiser = denoiser_of(scheduler)
    run = ddim.trace(denoiser, start(), scheduler.plan, ddim.build(spec))
    close(stepped, edited(run, lambda level, p: denoiser(set_first(p.x), level)), 1e-12)


def edited(run, change):
    """The end of a trace whose every prediction is replaced."""
    level, p = next(run)
    while True:
        try:
            level, p = run.send(change(level, p))
        except StopIteration as end:
            return end.value


def test_one_scheduler_serves_many_runs():
    scheduler = SolverScheduler(solver="unipc")
    scheduler.set_timesteps(10)
    ends = [drive(scheduler, exact(scheduler), start()) for _ in range(2)]
    assert torch.equal(*ends)
    first = scheduler.timesteps[0]
    scheduler.step(start(), first, start())  # a run that is given up
    assert scheduler.step_index == 1
    scheduler.set_timesteps(10)
    assert scheduler.step_index is None
    assert torch.equal(drive(scheduler, exact(scheduler), start()), ends[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_a_step(dtype):
    scheduler = SolverScheduler(solver="unipc", timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    wide = drive(scheduler, exact(scheduler), start())
    half = drive(scheduler, exact(scheduler), start(dtype))
    assert half.dtype == dtype
    close(half.double(), wide, 0.02 if dtype == torch.float16 else 0.1)


def test_timesteps_may_be_given():
    scheduler = SolverScheduler()
    scheduler.set_timesteps(timesteps=[999, 500, 100])
    assert [level.t for level in scheduler.plan] == [1000, 501, 101, 0]
    assert scheduler.timesteps.tolist() == [999, 500, 100]
    assert scheduler.num_inference_steps == 3
    scheduler = SolverScheduler(set_alpha_to_one=False)
    scheduler.set_timesteps(timesteps=[999, 500, 0])  # which ends at level 1 already
    assert [level.t for level in scheduler.plan] == [1000, 501, 1]


def test_noise_is_added_as_by_diffusers():
    ours, theirs = SolverScheduler(), DDPMScheduler()
    x0, eps, t = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor([0, 10, 999])
    close(ours.add_noise(x0, eps, t), theirs.add_noise(x0, eps, t))
    close(ours.get_velocity(x0, eps, t), theirs.get_velocity(x0, eps, t))
    close(ours.alphas_cumprod, theirs.alphas_cumprod)
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    low, middle, high = (float(ours.add_noise(one, none, torch.tensor([t]))) for t in (9, 9.5, 10))
    assert high < middle < low
    assert ours.add_noise(x0.half(), eps.half(), t).dtype == torch.float16
    assert (len(ours), ours.init_noise_sigma) == (1000, 1.0)


def test_the_clip_keeps_eps_only_where_it_is_told():
    for keep in (False, True):
        ours = SolverScheduler(clip_sample=True, clip_sample_range=0.6, clip_keeps_eps=keep)
        theirs = DDIMScheduler(clip_sample=True, clip_sample_range=0.6)
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(10)
        net = exact(ours)
        a, b = drive(ours, net, start()), start()
        for t in theirs.timesteps:
            out = net(b, t.expand(6))
            b = theirs.step(out, t, b, use_clipped_model_output=not keep).prev_sample
        close(a, b)


def test_thresholding_is_that_of_diffusers():
    options = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    ours, theirs = SolverScheduler(**options), DDIMScheduler(**options, clip_sample=False)
    net = exact(ours)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    x, t = 2 * start().reshape(6, 2, 1, 1), ours.timesteps[0]
    a, b = (each.step(net(x, t.expand(6)), t, x) for each in (ours, theirs))
    close(a.pred_original_sample, b.pred_original_sample)
    assert not torch.equal(a.pred_original_sample, DATA(x, ours.plan[0]).x0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda s: s.step(start(), 555, start()), "timestep 555 and its turn is 900"),
        (lambda s: s.set_timesteps(0), "steps=0"),
        (
            lambda s: SolverScheduler(set_alpha_to_one=False).set_timesteps(timesteps=[0]),
            "there is no step",
        ),
        (lambda s: SolverScheduler(rescale_betas_zero_snr=True), "eps target"),
        (
            lambda s: SolverScheduler.from_config({"use_beta_sigmas": True}),
            "use_beta_sigmas is not here",
        ),
        (lambda s: s.set_timesteps(2.7), "num_inference_steps=2.7; give a whole number"),
        (lambda s: s.set_timesteps(timesteps=[]), "timesteps is empty"),
        (lambda s: SolverScheduler(solver=ddim.Heun()), "give text such as 'unipc'"),
        (
            lambda s: s.add_noise(start(), start(), s.timesteps[:0]),
            "no timesteps are left; give more steps",
        ),
        (
            lambda s: SolverScheduler(thresholding=True, clip_keeps_eps=True),
            "for ddim alone and a clip",
        ),
        (lambda s: s.set_timesteps(), "give num_inference_steps or timesteps"),
        (lambda s: s.set_timesteps(10, timesteps=[3]), "give num_inference_steps or timesteps"),
        (lambda s: s.set_timesteps(timesteps=[3, 5]), "turns back"),
        (lambda s: s.step(start(), 900, torch.zeros(6, 2, dtype=torch.int64)), "int64"),
        (lambda s: s.step(start()[:3], 900, start()), "it must keep the shape"),
        (lambda s: SolverScheduler(solver="euler"), "'euler' is unknown"),
        (lambda s: SolverScheduler(timestep_spacing="even"), "timestep_spacing='even' is unknown"),
        (lambda s: SolverScheduler(solver="unipc", clip_keeps_eps=True), "for ddim alone"),
        (lambda s: SolverScheduler(beta_schedule="cosine"), "beta_schedule='cosine' is unknown"),
    ],
)
def test_what_does_not_go_is_said(wrong, words):
    scheduler = SolverScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match=words):
        wrong(scheduler)


def test_the_middle_of_an_interval_is_no_place_to_begin():
    scheduler = SolverScheduler(solver="heun")
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(3)
    with pytest.raises(ValueError, match="they begin at 0, 2, 4, 6"):
        drive(scheduler, exact(scheduler), start(), 3)


def test_without_diffusers_the_sentence_names_the_extra():
    code = "import sys; sys.modules['diffusers'] = None; import ddim.interop.diffusers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install -e ".[diffusers]"' in done.stderr.splitlines()[-1]


# Inside pipelines


def sd1_scheduler():
    """As Stable Diffusion 1 comes."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )


@pytest.fixture(scope="module")
def stable():
    torch.manual_seed(0)
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
        ).eval(),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(16, 32),
            norm_num_groups=8,
        ).eval(),
        "scheduler": sd1_scheduler(),
    }
    parts["unet"].double()
    empty = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(**parts, **empty, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


WORDS = torch.linspace(-1, 1, 8 * 16, dtype=torch.float64).reshape(1, 8, 16)
CONFIG = ["beta_start", "beta_end", "beta_schedule", "steps_offset", "set_alpha_to_one"]


def latents(pipe, scheduler, steps, seed=3, **options):
    pipe.scheduler = scheduler
    return pipe(
        prompt_embeds=WORDS,
        negative_prompt_embeds=-WORDS,
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **{"height": 16, "width": 16, **options},
    ).images


@pytest.fixture
def config():
    return sd1_scheduler().config


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_ddim_in_stable_diffusion_is_diffusers_ddim(stable, config, steps):
    theirs = latents(stable, DDIMScheduler.from_config(config, clip_sample=False), steps)
    ours = latents(stable, SolverScheduler.from_config(config), steps)
    assert ours.abs().max() > 1
    close(ours, theirs, 1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("spec", ["unipc", "heun", "dpmpp2s", "dpmpp:order=2"])
def test_solvers_in_stable_diffusion_are_sampling_by_hand(stable, config, spec):
    scheduler = SolverScheduler.from_config(config, solver=spec)
    piped = latents(stable, scheduler, 10)

    def bound(*words):
        embedded = torch.cat([each.expand(1, -1, -1) for each in words])
        return denoiser_from(stable.unet, scheduler, encoder_hidden_states=embedded)

    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    guided = ddim.guide(bound(WORDS), bound(WORDS, -WORDS), 3.0)
    with torch.no_grad():
        by_hand = sample(guided, x, scheduler.plan, ddim.build(spec))
    close(piped, by_hand, 1e-5 * by_hand.abs().max().item())


def test_a_saved_scheduler_gives_the_same_latents(stable, config, tmp_path):
    scheduler = SolverScheduler.from_config(config, solver="unipc:order=2")
    before = latents(stable, scheduler, 5)
    scheduler.save_pretrained(tmp_path / "s")
    again = SolverScheduler.from_pretrained(tmp_path / "s")
    assert {**scheduler.config, "_use_default_values": None} == {
        **again.config,
        "_use_default_values": None,
    }
    assert torch.equal(latents(stable, again, 5), before)
    back = DDIMScheduler.from_config(again.config)
    assert all(back.config[key] == config[key] for key in CONFIG)


def test_a_pipeline_is_saved_with_its_scheduler(tmp_path):
    pipe = DDPMPipeline(
        UNet2DModel(**TINY), SolverScheduler(solver="heun", trained_betas=[0.01] * 999 + [0.5])
    )
    pipe.save_pretrained(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(again.scheduler, SolverScheduler)
    assert again.scheduler.solver == ddim.Heun()
    again.scheduler.set_timesteps(5)
    assert len(again.scheduler.timesteps) == 9
    # and it opens here, with the process of the scheduler
    assert torch.equal(ddim.load(tmp_path).schedule.signal, pipe.scheduler.schedule.signal)


@pytest.mark.parametrize("spec", ["ddim", "heun"])
def test_image_to_image_in_a_pipeline(stable, config, spec):
    pipe = StableDiffusionImg2ImgPipeline(**stable.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.double()
    picture = torch.linspace(0, 1, 3 * 16 * 16, dtype=torch.float64).reshape(1, 3, 16, 16)
    calls = []

    def run(scheduler):
        pipe.scheduler = scheduler
        calls.clear()
        return pipe(
            image=picture,
            strength=0.5,
            prompt_embeds=WORDS,
            negative_prompt_embeds=-WORDS,
            num_inference_steps=10,
            generator=torch.Generator().manual_seed(3),
            output_type="latent",
        ).images

    scheduler = SolverScheduler.from_config(config, solver=spec)
    with pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1)):
        out = run(scheduler)
    assert len(calls) == ddim.calls(ddim.build(spec), scheduler.plan[5:])
    if spec == "ddim":
        theirs = run(DDIMScheduler.from_config(config, clip_sample=False))
        close(out, theirs, 1e-5 * theirs.abs().max().item())


def test_in_a_ddpm_pipeline():
    torch.manual_seed(0)
    unet = UNet2DModel(**TINY).double().eval()
    scheduler = SolverScheduler(solver="dpmpp:order=2", clip_sample=True)
    pipe = DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        batch_size=2,
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    denoiser = ddim.clip(denoiser_from(unet, scheduler))
    with torch.no_grad():
        ours = sample(denoiser, x, scheduler.plan, ddim.build("dpmpp:order=2"))
    close(torch.from_numpy(images), (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), 1e-9)


def test_in_a_dit_pipeline():
    """Class labels, guidance over a doubled batch, and a learned variance that is left aside."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    ).eval()
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.2)
    vae = AutoencoderKL(block_out_channels=(32,)).eval()
    ends = []
    for scheduler in (DDIMScheduler(clip_sample=False), SolverScheduler()):
        pipe = DiTPipeline(transformer, vae, scheduler)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        ends.append(pipe([7], num_inference_steps=10, generator=generator, output_type="np").images)
    close(*map(torch.from_numpy, ends))
    assert ends[0].std() > 0.05
    pipe.scheduler = SolverScheduler(solver="unipc")
    assert pipe([7], num_inference_steps=5, output_type="np").images.shape == (1, 8, 8, 3)


# denoiser_from


def test_a_function_of_x_and_t_is_asked_at_its_own_clock():
    schedule, asked = schedules.linear(), []

    def eps(x, t):
        asked.append(t.tolist())
        return ExactNet(DATA, schedule)(x, t)

    plan = ddim.plan(schedule, 4)
    close(
        sample(denoiser_from(eps, schedule), start(), plan),
        sample(DATA, start(), plan),
        1e-12,
    )
    assert asked == [[999] * 6, [749] * 6, [499] * 6, [249] * 6]


def test_a_network_of_sigma_as_of_k_diffusion():
    """x + sigma·z in, x0 out: on any plan, here one of a variance preserving schedule."""
    plan = ddim.plan(schedules.linear(), 6)

    def network(y, sigma):
        assert sigma.shape == (len(y),)
        return DATA(y, ddim.Level(float("nan"), 1.0, float(sigma[0]))).x0

    denoiser = denoiser_from(network, takes="sigma")
    close(sample(denoiser, start(), plan), sample(DATA, start(), plan), 1e-9)
    with pytest.raises(ValueError, match="no sigma; give schedule="):
        sample(denoiser, start(), plan[::-1])
    up = denoiser_from(network, schedules.linear(), takes="sigma")
    p, q = up(start(), plan[-1]), up(start(), schedules.linear().level(1))
    assert torch.equal(p.x0, start())
    assert torch.equal(p.eps, q.eps)
    nothing = schedules.rectified_flow().level(1000)
    with pytest.raises(ValueError, match="infinite where the signal is 0"):
        up(start(), nothing)


def test_a_network_of_diffusers_with_its_scheduler():
    torch.manual_seed(0)
    unet = UNet2DModel(**{**TINY, "num_class_embeds": 3}).eval()
    scheduler = EulerDiscreteScheduler(prediction_type="v_prediction")
    denoiser = denoiser_from(unet, scheduler, class_labels=torch.tensor([0, 2]))
    level = schedules.linear().level(300)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        out = unet(x, 299, class_labels=torch.tensor([0, 2])).sample
        close(denoiser(x, level).x0, ddim.split(out, x, level, "v").x0)


def test_the_first_half_of_twice_the_channels_counts():
    def network(x, t):
        return (torch.cat([x, torch.full_like(x, 9)], dim=1),)

    x, level = torch.randn(2, 3, 4, 4), schedules.linear().level(10)
    assert torch.equal(denoiser_from(network, schedules.linear())(x, level).eps, x)
    asked = []

    def of_sigma(y, sigma):
        asked.append(sigma.dtype)
        return torch.cat([y, y], dim=1)

    denoiser = denoiser_from(of_sigma, takes="sigma")
    close(denoiser(x, level).x0, x / level.signal)
    assert asked == [torch.float32]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: denoiser_from(len), "needs the schedule it was trained on"),
        (lambda: denoiser_from(len, 7), "schedule is a int"),
        (lambda: denoiser_from(len, takes="time"), "choose 't' or 'sigma'"),
        (lambda: denoiser_from(len, takes="sigma", target="eps"), "answers x0"),
        (lambda: denoiser_from(len, DDIMScheduler(), "v"), "the scheduler says 'eps'"),
        (
            lambda: denoiser_from(lambda x, t: 3, schedules.linear())(
                start(), schedules.linear().level(3)
            ),
            "answered a int",
        ),
    ],
)
def test_what_does_not_go_together_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (HeunDiscreteScheduler, ("beta_start", "beta_end", "timestep_spacing")),
        (PNDMScheduler, ("set_alpha_to_one", "timestep_spacing")),
        (DDIMScheduler, ("clip_sample", "timestep_spacing")),
        (EulerDiscreteScheduler, ("timestep_spacing",)),
    ],
)
def test_what_another_scheduler_left_at_its_defaults_is_taken_too(kind, kept):
    source = kind()
    ours = SolverScheduler.from_config(source.config, solver="unipc")
    for key in kept:
        assert ours.config[key] == source.config[key]


def test_the_sigmas_of_another_scheduler_are_ours_or_refused():
    options = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    ours = SolverScheduler.from_config(DPMSolverMultistepScheduler(**options).config)
    ours.set_timesteps(5)
    assert SolverScheduler(num_train_timesteps=20, steps_offset=1, beta_end=0.5).order == 1
    assert ours.timesteps.tolist() == [999, 843, 593, 142]
    assert ours.plan[-1].t == 1
    flow = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="use_flow_sigmas is not here"):
        SolverScheduler.from_config(flow.config)
    with pytest.raises(ValueError, match="sovler is no option"):
        SolverScheduler.from_config(DDIMScheduler().config, sovler="heun")


def test_a_bare_name_of_a_scheduler_stands_for_its_defaults():
    for kind in (HeunDiscreteScheduler, PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler):
        ours = SolverScheduler.from_config({"_class_name": kind.__name__}).config
        theirs = kind().config
        assert all(theirs.get(key, ours[key]) == ours[key] for key in ours if key[0] != "_")


def test_double_precision_stays_double():
    ours, level = SolverScheduler(), schedules.linear().level(501)
    a, e = (torch.full((1, 1), value, dtype=torch.float64) for value in (1 / 3, 0.7))
    t = torch.tensor([500])
    close(ours.add_noise(a, e, t), level.signal * a + level.noise * e, 1e-16)
    close(ours.get_velocity(a, e, t), level.signal * e - level.noise * a, 1e-16)


def test_in_a_ddim_pipeline_eta_stays_with_the_solver():
    unet = UNet2DModel(**TINY).eval()
    pipe = DDIMPipeline(unet, DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SolverScheduler(solver="heun", clip_sample=True)
    assert pipe(num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match=r"belongs to the solver, 'ddim:eta=0\.5'"):
        pipe(num_inference_steps=3, eta=0.5)


def test_eta_of_a_scheduler_is_in_its_solver():
    assert SolverScheduler(solver="ddim:eta=0.3").solver == DDIM(eta=0.3)
