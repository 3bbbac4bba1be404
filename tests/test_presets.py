"""Each preset against its reference: diffusers' schedulers on a table of the visited levels alone.

On such a table neighbours are neighbours, so that `step` cannot take a wrong one.
"""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler

import ddim
from ddim import DDIM, Model, Sampling, schedules
from ddim.exact import Mixture
from ddim.presets import PRESETS, single
from tiny import ExactNet, tiny_model

DATA = Mixture([[0.9, -0.4], [-0.7, 0.8], [0.5, 0.5]], 0.3)


def model(schedule=None, target="eps", sampling=None):
    schedule = schedule or schedules.linear()
    return Model(ExactNet(DATA, schedule, target), schedule, target, (2,), sampling or Sampling())


def start():
    return torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(6, 2)


def respaced(recipe, kind=DDIMScheduler, **options):
    """Its scheduler on the levels of the plan alone, and their network times."""
    levels = recipe.plan[:-1][::-1]
    alphas = torch.tensor([1.0, *(level.signal**2 for level in levels)], dtype=torch.float64)
    betas = 1 - alphas[1:] / alphas[:-1]
    scheduler = kind(
        num_train_timesteps=len(levels),
        trained_betas=betas.tolist(),
        **{"clip_sample": False, **options},
    )
    scheduler.alphas_cumprod = alphas[1:]  # as it is, but not rounded to float32
    scheduler.betas = betas
    scheduler.final_alpha_cumprod = torch.tensor(recipe.plan[-1].signal ** 2, dtype=torch.float64)
    scheduler.set_timesteps(len(levels))
    return scheduler, [level.t - 1 for level in recipe.plan[:-1]]


def follow(recipe, scheduler, times, x, **options):
    net = recipe.model.net
    for index, t in zip(scheduler.timesteps, times, strict=True):
        out = net(x, torch.full((len(x),), t))
        x = scheduler.step(out, index, x, **options).prev_sample
    return x


def ours(recipe, seed=None):
    generator = torch.Generator().manual_seed(seed or 0)

    def noise(like, k):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    drawing = None if seed is None else noise
    return ddim.sample(recipe.denoiser(), start(), recipe.plan, recipe.solver, drawing)


def agree(a, b, within=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=within)


@pytest.mark.parametrize("steps", [1, 5, 10, 30, 100])
@pytest.mark.parametrize("text", ["ermongroup-ddim", "ermongroup-ddim:skip=quad"])
def test_ermongroup_ddim_is_eq_12_on_the_levels_of_its_code(text, steps):
    recipe = ddim.preset(text)(model(), steps)
    scheduler, times = respaced(recipe)
    agree(ours(recipe), follow(recipe, scheduler, times, start()))
    if "quad" in text:
        assert times[0] == (799 if steps > 1 else 0) or times[0] == 800
    else:
        assert [*times] == [*range(0, 1000, 1000 // steps)][::-1]
    assert recipe.plan[-1].noise == 0


def test_ermongroup_ddim_draws_the_noise_of_eta():
    recipe = ddim.preset("ermongroup-ddim:eta=0.7")(model(), 10)
    scheduler, times = respaced(recipe)
    generator = torch.Generator().manual_seed(5)
    agree(
        ours(recipe, seed=5),
        follow(recipe, scheduler, times, start(), eta=0.7, generator=generator),
    )


def test_three_hundred_uniform_steps_of_the_papers_code_are_334():
    recipe = ddim.preset("ermongroup-ddim")(model(), 300)
    assert ddim.calls(recipe.solver, recipe.plan) == 334


@pytest.mark.parametrize("skip", ["uniform", "quad"])
def test_ermongroup_ddpm_is_ancestral_sampling_with_the_large_variance(skip):
    """DDPMScheduler's fixed_large adds β of the step; the mean is that of the small variance."""
    recipe = ddim.preset(f"ermongroup-ddpm:skip={skip}")(model(), 10)
    scheduler, times = respaced(
        recipe, DDPMScheduler, variance_type="fixed_large", clip_sample=True
    )
    generator = torch.Generator().manual_seed(5)
    agree(ours(recipe, seed=5), follow(recipe, scheduler, times, start(), generator=generator))
    assert not torch.allclose(
        ours(recipe, seed=5), ours(replace(recipe, clip=None), seed=5), atol=1e-3
    )


@pytest.mark.parametrize("eta", [0, 1])
def test_guided_diffusion_clips_and_derives_eps_anew(eta):
    recipe = ddim.preset(f"guided-diffusion:eta={eta}")(model(), 25)
    scheduler, times = respaced(recipe, clip_sample=True)
    theirs = follow(
        recipe,
        scheduler,
        times,
        start(),
        eta=float(eta),
        use_clipped_model_output=True,
        generator=torch.Generator().manual_seed(5),
    )
    agree(ours(recipe, seed=5), theirs)
    assert times == [*range(0, 1000, 40)][::-1]


def test_guided_diffusion_refuses_the_steps_that_its_code_refuses():
    feasible = {len(range(0, 1000, stride)) for stride in range(1, 1000)}
    for steps in range(1, 1001):
        if steps in feasible:
            assert len(PRESETS["guided-diffusion"]()(model(), steps).plan) == steps + 1
        else:
            with pytest.raises(ValueError, match=r"no whole stride .*; choose") as refusal:
                PRESETS["guided-diffusion"]()(model(), steps)
            near = [int(word) for word in str(refusal.value).split("choose ")[1].split(" or ")]
            assert set(near) <= feasible
            assert near[0] < steps < near[-1] or steps == 1


@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize("clip", [None, 0.6])
@pytest.mark.parametrize("final", [0, 1])
@pytest.mark.parametrize("offset", [0, 1])
def test_diffusers_is_its_scheduler_with_what_the_folder_asks_for(eta, clip, final, offset):
    own = model(sampling=Sampling("leading", clip, final, offset))
    recipe = ddim.preset(f"diffusers:eta={eta}")(own, 20)
    scheduler = DDIMScheduler(
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        set_alpha_to_one=not final,
        steps_offset=offset,
    )
    scheduler.set_timesteps(20)
    generator, x = torch.Generator().manual_seed(5), start()
    for t in scheduler.timesteps:
        out = own.net(x, torch.full((len(x),), int(t)))
        x = scheduler.step(out, t, x, eta=float(eta), generator=generator).prev_sample
    if clip is None or not final or offset:
        agree(ours(recipe, seed=5), x)
    else:  # its step from level 1 to level 1 changes nothing but by its clip
        agree(ours(recipe, seed=5), x, within=recipe.plan[-1].signal * 0.02)
    assert len(recipe.plan) == 21 - (final and not offset)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "uniform"])
def test_its_scheduler_agrees_on_any_grid_once_it_is_given_the_neighbours(spacing):
    for steps in (5, 7, 10, 33, 250):
        recipe = ddim.preset("diffusers")(model(sampling=Sampling(spacing)), steps)
        agree(ours(recipe), follow(recipe, *respaced(recipe), start()))


def test_a_last_step_between_equal_levels_is_left_out():
    recipe = ddim.preset("diffusers")(model(sampling=Sampling("leading", None, 1)), 10)
    assert [level.t for level in recipe.plan][-2:] == [101, 1]


def test_sd1_is_diffusers_with_its_configuration():
    own = model(schedules.scaled_linear(1000, 0.00085, 0.012))
    asked = replace(own, sampling=Sampling("leading", None, 1, 1))
    a, b = ddim.preset("sd1")(own, 30), ddim.preset("diffusers")(asked, 30)
    assert a.plan == b.plan
    assert [level.t for level in a.plan][-2:] == [2, 1]
    assert torch.equal(ours(a), ours(b))
    with pytest.raises(ValueError, match="for models trained on scaled_linear"):
        ddim.preset("sd1")(model(), 30)


def test_the_single_table_is_that_of_diffusers():
    theirs = DDIMScheduler().alphas_cumprod
    table = single(model()).schedule.alpha_bar[1:]
    assert (table - theirs.double()).abs().max() < 4e-7 * theirs.max()
    exact = schedules.linear().alpha_bar[1:]
    assert abs((1 - table[0]) / (1 - exact[0]) - 1) > 1e-5  # what float32 costs at the clean end


@pytest.mark.parametrize("steps", [5, 10, 20, 50, 250])
@pytest.mark.parametrize(("target", "clip"), [("eps", 1.0), ("v", None)])
def test_the_images_of_its_pipeline_are_ours(steps, target, clip, tmp_path):
    """A folder written here, sampled by DDIMPipeline and by us: leading, T divisible by S.

    In float64, where the two networks answer the same to rounding; in float32 the clip of a random
    network makes much of the last digit.
    """
    made = replace(tiny_model(target), sampling=Sampling("leading", clip))
    ddim.save(made, tmp_path)
    pipe = DDIMPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.double()
    images = pipe(
        batch_size=2,
        generator=torch.Generator().manual_seed(1),
        num_inference_steps=steps,
        output_type="np",
    ).images
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    opened = ddim.load(tmp_path)
    opened.net.double()
    recipe = ddim.preset("diffusers")(opened, steps)
    own = ddim.sample(recipe.denoiser(), x, recipe.plan, recipe.solver)
    within = (own / 2 + 0.5).clamp(0, 1)
    agree(within.permute(0, 2, 3, 1), torch.from_numpy(images))
    assert ((within > 0) & (within < 1)).float().mean() > 0.3  # most of it is not cut off


def test_what_a_preset_does_not_know_is_named():
    for text, words in (
        ("sd3", "choose one of ermongroup-ddim, ermongroup-ddpm"),
        ("sd1:skip=quad", "does not take 'skip=quad'"),
        ("ermongroup-ddim:eta=-1", "eta=-1"),
        ("ermongroup-ddim:skip=cubic", "choose uniform or quad"),
    ):
        with pytest.raises(ValueError, match=words):
            ddim.preset(text)(model(schedules.scaled_linear(1000, 0.00085, 0.012)), 10)
    for name in PRESETS:
        for steps in (0, 1001, 2.5):
            with pytest.raises(ValueError, match=f"steps={steps}"):
                ddim.preset(name)(model(schedules.scaled_linear(1000, 0.00085, 0.012)), steps)
    with pytest.raises(ValueError, match="spacing='rho', which diffusers does not have"):
        ddim.preset("diffusers")(model(sampling=Sampling("rho")), 10)


def test_kept_eps_breaks_the_invariant_and_the_other_clip_does_not():
    own = model()
    level = own.schedule.level(500)
    for keep in (False, True):
        p = ddim.clip(own.denoiser(), 0.2, keep_eps=keep)(start(), level)
        off = (p.x - level.signal * p.x0 - level.noise * p.eps).abs().max()
        assert off > 0.01 if keep else off < 1e-12
        assert p.x0.abs().max() <= 0.2
    assert isinstance(ddim.preset("diffusers")(own, 5).solver, DDIM)
