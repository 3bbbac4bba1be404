"""A fit to the model's own flow, held against the built-in solvers on seeds that it never saw."""

import json
from dataclasses import replace

import pytest
import torch

import ddim
from ddim.exact import Mixture
from ddim.families import Family, greedy, refined
from ddim.noise import Seeded
from ddim.recipes import load_recipe, save_recipe
from ddim.sampling import calls, sample
from ddim.schedules import cosine, linear
from ddim.teacher import Teacher, bound
from ddim.tuning import BUILT_IN, Tuning, tune
from tiny import ExactNet, tiny_model

OPTIONS = Tuning(seeds=1024, held_out=512, batch_size=1024)


def exact_model(data, shape):
    return ddim.Model(ExactNet(data, linear()), linear(), "eps", shape)


@pytest.fixture(scope="module")
def mixture():
    means = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return exact_model(Mixture(means, 0.3), (8,))


@pytest.fixture(scope="module")
def recipes(mixture):
    return {recipe.calls: recipe for recipe in tune(mixture, [5, 8], OPTIONS)}


@pytest.mark.parametrize("count", [5, 8])
def test_the_fit_is_nearer_to_the_flow_than_any_built_in(mixture, recipes, count):
    """On seeds that tune never took, against a finer solution by another solver."""
    recipe, x = recipes[count], Seeded(range(500)).start(mixture.shape).double()
    denoiser = mixture.denoiser()
    exact = sample(denoiser, x, mixture.plan(600, "log_snr"), ddim.DPMpp(order=2))

    def far(plan, solver):
        """Over all points, and the mean of the points' own."""
        each = (sample(denoiser, x, plan, solver) - exact).square().mean(1)
        return each.mean().sqrt().item(), each.sqrt().mean().item()

    plan, solver = recipe.made(mixture)
    built_in = [
        far(mixture.plan(count, spacing), ddim.build(name))
        for name in BUILT_IN
        for spacing in ddim.plans.SPACINGS
    ]
    overall, typical = far(plan, solver)
    assert recipe.fitted
    assert calls(solver, plan) == count
    assert overall < 0.9 * min(error for error, _ in built_in)
    assert typical < 0.7 * min(error for _, error in built_in)


def test_the_report_is_of_what_the_recipe_does(mixture, recipes):
    recipe = recipes[5]
    seeds, held = recipe.report["seeds"], OPTIONS.held_out
    begin = seeds["first"] + seeds["fit"] + held
    x = Seeded(range(begin, begin + held)).start(mixture.shape)
    exact = sample(mixture.denoiser(), x, mixture.plan(600, "log_snr"), ddim.UniPC(order=3))
    reached = sample(mixture.denoiser(), x, *recipe.made(mixture))
    error = (reached - exact).square().mean().sqrt().item()
    assert recipe.report["fit"]["rmse"] == pytest.approx(error, rel=0.05)


def test_where_ddim_is_exact_the_built_in_stays():
    model = exact_model(Mixture(torch.tensor([[0.3, -0.4]]), 1e-6), (2,))
    (recipe,) = tune(model, [4], replace(OPTIONS, seeds=32, held_out=32))
    assert not recipe.fitted
    assert recipe.report["built_in"]["rmse"] < 1e-4


def test_a_fit_to_two_noises_is_refused(mixture):
    (recipe,) = tune(mixture, [10], replace(OPTIONS, seeds=2, ridge=0.0))
    assert not recipe.fitted
    assert recipe.report["fit"]["rmse"] > recipe.report["built_in"]["rmse"]


def test_a_great_ridge_leaves_the_base(mixture):
    bind = bound(mixture, 1.0, None, 16, lambda images: None)
    taught = Teacher(mixture, bind, 64).taught(range(16))
    plan = mixture.plan(5)

    def fitted(ridge):
        family = Family(mixture.schedule, taught.levels, ddim.UniPC(), 5, ridge=ridge)
        member = family.member(plan)
        better, _ = greedy(family, member, taught)
        more = refined(family, better, taught)
        return [taught.error(*family.made(m)) for m in (member, better, *more)], better[4:]

    errors, free = fitted(1e-4)
    assert errors[-1] < 0.5 * errors[0]
    assert fitted(1e12)[1].abs().max() < 1e-6 < free.abs().max()


@pytest.mark.parametrize("counts", [[1], [1001], []])
def test_a_number_of_calls_that_no_plan_has_is_refused(mixture, counts):
    with pytest.raises(ValueError, match=r"choose 2\.\.1000|no number"):
        tune(mixture, counts)


def test_guidance_needs_classes(mixture):
    with pytest.raises(ValueError, match="no classes"):
        tune(mixture, [5], Tuning(guidance=2.0))


def test_a_recipe_survives_a_round_trip(mixture, recipes, tmp_path):
    path = save_recipe(recipes[5], tmp_path)
    assert path == tmp_path / "recipes" / "calls-5.json"
    back = load_recipe(path)
    assert back == recipes[5]
    assert back.made(mixture) == recipes[5].made(mixture)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c: c.update(format=2), "has format 2"),
        (lambda c: c["solver"]["rows"][1].__setitem__(0, 0.5), "was edited"),
        (lambda c: c["solver"]["rows"][1].__setitem__(0, float("nan")), "finite"),
        (lambda c: c["solver"]["rows"].pop(), "one per interval"),
        (lambda c: c.update(times=None), "no recipe"),
        (lambda c: c.pop("report"), "report"),
        (lambda c: c.pop("checksum"), "was edited"),
    ],
)
def test_a_damaged_recipe_is_refused_in_one_sentence(recipes, tmp_path, edit, says):
    path = save_recipe(recipes[5], tmp_path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says) as told:
        load_recipe(path)
    assert "\n" not in str(told.value)


def test_a_recipe_of_another_model_is_refused(mixture, recipes):
    other = ddim.Model(ExactNet(mixture.net.data, cosine()), cosine(), "eps", mixture.shape)
    with pytest.raises(ValueError, match="other weights or another schedule"):
        recipes[5].made(other)


def test_tune_and_sample_by_the_recipe(run, tmp_path):
    model = tmp_path / "model"
    ddim.save(replace(tiny_model(), schedule=linear(50)), model)
    status, out, err = run("tune", model, "--calls", "3", "--seeds", "8", "--held-out", "8")
    assert status == 0, err
    assert "calls-3.json" in out
    images = ("--seeds", "0-1", "-o", tmp_path / "a.npz")
    for how in (("--calls", "3"), ("--steps", "3")):
        status, _, err = run("sample", model, *how, *images)
        assert status == 0
        assert "calls-3.json" in err
        assert "3 network calls each" in err
    status, _, err = run("sample", model, "--calls", "4", *images)
    assert status == 2
    assert "ddim tune" in err
    status, _, err = run("sample", model, "--calls", "3", "--solver", "heun", *images)
    assert status == 0
    assert "calls-3.json" not in err
    assert "3 network calls each" in err
