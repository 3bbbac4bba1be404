"""A fit to the model's own flow, held against the built-in solvers on seeds that it never saw."""

import itertools
import json
import math
from dataclasses import replace

import numpy
import pytest
import torch
from PIL import Image

import ddim
from ddim.exact import Mixture
from ddim.families import Family, _kept_apart, greedy, refined
from ddim.gains import Curve, figures
from ddim.identity import fingerprint
from ddim.noise import Seeded
from ddim.recipes import load_recipe, recipe_from, save_recipe
from ddim.sampling import calls, sample
from ddim.schedules import cosine, linear, zero_terminal
from ddim.teacher import Teacher, bound
from ddim.tuning import BUILT_IN, Tuning, _passes, _ranked, stands, tune
from tiny import ExactNet, tiny_model

OPTIONS = Tuning(batch_size=4096)


def exact_model(data, shape):
    return ddim.Model(ExactNet(data, linear()), linear(), "eps", shape)


@pytest.fixture
def coarse(monkeypatch):
    """A teacher of few steps, for tests of what is done with it."""
    monkeypatch.setattr(ddim.teacher, "_FIRST", 8)
    monkeypatch.setattr(ddim.teacher, "FINEST", 8)


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
    recipe, x = recipes[count], Seeded(range(2000)).start(mixture.shape).double()
    denoiser = mixture.denoiser()
    exact = sample(denoiser, x, mixture.plan(300, "log_snr"), ddim.DPMpp(order=2))

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
    assert typical < 0.9 * min(error for _, error in built_in)


def test_the_report_is_of_what_the_recipe_does(mixture, recipes):
    recipe = recipes[5]
    said = recipe.report["options"]
    begin = said["first_seed"] + said["fit"] + said["choose"]
    x = Seeded(range(begin, begin + said["judge"])).start(mixture.shape)
    exact = sample(mixture.denoiser(), x, mixture.plan(400, "log_snr"), ddim.UniPC(order=3))
    reached = sample(mixture.denoiser(), x, *recipe.made(mixture))
    error = (reached - exact).square().mean().sqrt().item()
    assert recipe.report["fit"]["rmse"] == pytest.approx(error, rel=0.05)


def test_where_ddim_is_exact_the_built_in_stays():
    model = exact_model(Mixture(torch.tensor([[0.3, -0.4]]), 1e-6), (2,))
    (recipe,) = tune(model, [4], replace(OPTIONS, seeds=32, held_out=32))
    assert not recipe.fitted
    assert recipe.report["built_in"]["rmse"] < 1e-4


def test_a_fit_to_two_noises_is_refused(mixture):
    (recipe,) = tune(mixture, [10], replace(OPTIONS, seeds=2, held_out=512, ridge=0.0))
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
        ends = [taught.reached(*family.made(m)) for m in (member, better, *more)]
        return [taught.error(end) for end in ends], better[4:]

    errors, free = fitted(1e-4)
    assert errors[-1] < 0.5 * errors[0]
    assert fitted(1e12)[1].abs().max() < 1e-6 < free.abs().max()


@pytest.mark.parametrize("counts", [[1], [1001], []])
def test_a_number_of_calls_that_no_plan_has_is_refused(mixture, counts):
    with pytest.raises(ValueError, match=r"choose 2\.\.1000|no number"):
        tune(mixture, counts)


def test_too_few_unseen_images_are_refused():
    with pytest.raises(ValueError, match="held_out from 4"):
        Tuning(held_out=3)


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


def test_a_schedule_without_signal_at_the_top_is_fitted_too():
    schedule = zero_terminal(linear())
    data = Mixture(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), 0.3)
    model = ddim.Model(ExactNet(data, schedule, "v"), schedule, "v", (4,))
    (recipe,) = tune(model, [5], replace(OPTIONS, seeds=256, held_out=256))
    assert recipe.fitted
    assert recipe.report["fit"]["rmse"] < 0.8 * recipe.report["built_in"]["rmse"]
    assert recipe_from(json.loads(json.dumps(recipe.content()))) == recipe
    assert sample(model.denoiser(), torch.ones(2, 4), *recipe.made(model)).isfinite().all()


def test_the_teacher_is_linear_in_y_between_its_levels(mixture):
    bind = bound(mixture, 1.0, None, 7, lambda images: None)
    taught = Teacher(mixture, bind, 64).taught(range(16))
    above, below = taught.levels[20:22]
    t = mixture.schedule.level((above.t + below.t) / 2)
    share = (above.ratio - t.ratio) / (above.ratio - below.ratio)
    y = [state / level.signal for state, level in zip(taught.states, taught.levels, strict=True)]
    close = torch.testing.assert_close
    close(taught.at(t), t.signal * ((1 - share) * y[20] + share * y[21]))
    close(taught.at(above), taught.states[20])
    close(taught.at(taught.levels[-1]), taught.end)
    close(Teacher(mixture, bind, 64).taught(range(16), whole=False).end, taught.end)


def test_solvers_go_abreast_as_they_go_alone(mixture):
    """Five images of three classes, so that the copies of a seed keep its class."""
    for model in (mixture, tiny_model(classes=3)):
        bind = bound(model, 1.0, None, 7, lambda images: None)
        taught = Teacher(model, bind, 8).taught(range(5))
        plan, solvers = model.plan(6, "log_snr"), [ddim.build(name) for name in BUILT_IN]
        ends = taught.abreast(plan, solvers)
        for end, solver in zip(ends, solvers, strict=True):
            alone = taught.reached(plan, solver)
            torch.testing.assert_close(end, alone, rtol=1e-4, atol=1e-4)
        assert taught.error(ends[0]) == pytest.approx(taught.far(ends[0]).square().mean().sqrt())


@pytest.mark.parametrize("schedule", [linear(), cosine(), zero_terminal(linear()), linear(20)])
def test_the_levels_of_the_teacher_are_dense_in_t_and_in_log_ratio(schedule):
    model = ddim.Model(torch.nn.Identity(), schedule, "v", (4,))
    plan = Teacher(model, None, 64).plan
    assert plan[0].t == schedule.T
    assert [level.t for level in plan[-2:]] == [1, 0]
    inner = [level for level in plan if 1 <= level.t <= schedule.top]
    assert len(inner) == 64
    lowest, highest = schedule.log_ratio[0], schedule.log_ratio[-1]
    gaps = [above.t - below.t for above, below in itertools.pairwise(inner)]
    for k, (above, below) in enumerate(itertools.pairwise(inner)):
        share = math.log(above.ratio / below.ratio) / (highest - lowest)
        if gaps[k] < 1:
            step = 0.75 * gaps[k] / (schedule.top - 1) + 0.25 * share
            assert step == pytest.approx(1 / 63, rel=0.1)
        else:
            assert gaps[k] <= (schedule.top - 1) / 63 / 0.75 + 1
        if min(gaps[k - 1 : k + 1], default=0) > 1:
            assert above.t == int(above.t)


def test_a_few_seeds_have_classes_far_apart():
    model, seen = tiny_model(classes=101), []
    model = replace(model, notes={**model.notes, "null_label": 100})

    class Spy:
        shape, notes, classes = model.shape, model.notes, model.classes

        def denoiser(self, labels, clip, guidance):
            seen.append(labels)

    bind = bound(Spy(), 1.0, None, 4, lambda images: None)
    bind(range(7, 15))
    labels = [label for batch in seen for label in batch]
    assert [len(batch) for batch in seen] == [4, 4]
    among = sorted(labels)
    assert max(b - a for a, b in itertools.pairwise([*among, among[0] + 100])) < 30
    seen.clear()
    bind([9, 9])
    assert seen == [[labels[2]] * 2]
    seen.clear()
    bind(range(100))
    assert {label for batch in seen for label in batch} == set(range(100))


def test_a_network_that_answers_nonsense_cannot_teach(mixture):
    class Broken(torch.nn.Module):
        def forward(self, x, t):
            return x * math.nan if t.flatten()[0] < 300 else x

    model = replace(mixture, net=Broken())
    with pytest.raises(FloatingPointError, match="not finite, so it cannot teach"):
        tune(model, [4], Tuning(seeds=4, held_out=4))


def test_the_figures_of_a_shift_are_known():
    own = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    found = figures(own + 0.1, own)
    assert found["rmse"] == pytest.approx(0.1, rel=1e-5)
    assert found["mean"] == pytest.approx(0.1, rel=1e-5)
    assert found["sw2"] == pytest.approx(0.2 / math.sqrt(4), rel=0.05)  # |shift|/√D
    assert found["fd"] == pytest.approx(4 * 0.1**2, rel=1e-3)
    images = own.view(25, 1, 8, 8)
    assert figures(images, images.flip(0))["fd"] == pytest.approx(0, abs=1e-6)


def test_a_candidate_that_is_not_finite_comes_last():
    assert _ranked("abcd", [3.0, math.nan, 1.0, math.inf]) == ["c", "a", "b", "d"]


def test_what_the_teacher_itself_is_unsure_of_is_not_fitted():
    flat = {"rmse": 0.01, "mean": 0.01, "sw2": 0.01, "fd": 0.01}
    better = {key: value / 2 for key, value in flat.items()}
    teacher = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    assert _passes(better, flat, teacher, 0.004)
    assert not _passes(better, flat, teacher, 0.006)
    for key in ("rmse", "sw2", "fd"):
        assert not _passes({**better, key: 1.0}, flat, teacher, 0.0)


def test_levels_stay_in_order_however_far_they_are_moved(mixture):
    for schedule in (linear(), zero_terminal(linear())):
        model = ddim.Model(torch.nn.Identity(), schedule, "v", (4,))
        family = Family(schedule, Teacher(model, None, 64).plan, ddim.UniPC(), 5)
        member = family.member(model.plan(5))
        member[:4] = torch.tensor([61.0, 61.5, 62.6, 62.9]) + family.first
        for push in (0.9, 5.0, -70.0):
            step = torch.zeros_like(member)
            step[:4] = push
            moved = member + _kept_apart(family, member, step)
            assert (moved[:4].diff() > 0).all()
            family.rows(moved, family.plan(moved))


def test_as_many_calls_of_ddim_are_found_between_those_known(mixture):
    bind = bound(mixture, 1.0, None, 512, lambda images: None)
    curve = Curve(mixture, Teacher(mixture, bind, 128).taught(range(64)))
    own = curve.typical(mixture.plan(24), ddim.DDIM())
    assert curve.calls_for(5, own) == pytest.approx(24, abs=1.5)
    assert list(curve.known) == [4, 8, 16, 32]
    assert curve.calls_for(24, own) == pytest.approx(24, abs=1.5)
    assert curve.calls_for(24, 10 * own) == 24
    assert curve.calls_for(5, 0.0) is None
    assert max(curve.known) == curve.most == 256


def test_a_teacher_of_many_numbers_keeps_fewer_states(mixture, monkeypatch):
    bind = bound(mixture, 1.0, None, 16, lambda images: None)
    whole = Teacher(mixture, bind, 64).taught(range(16))
    monkeypatch.setattr(ddim.teacher, "_ROOM", whole.states.nbytes // 3)
    few = Teacher(mixture, bind, 64).taught(range(16))
    assert len(whole.states) / 4 < len(few.states) <= len(whole.states) / 3 + 3
    kept = [whole.levels.index(level) for level in few.levels]
    torch.testing.assert_close(few.states, whole.states[kept])


def test_a_finer_teacher_is_taken_where_the_tolerance_asks_for_it(mixture, monkeypatch):
    monkeypatch.setattr(ddim.teacher, "_FIRST", 8)
    bind = bound(mixture, 1.0, None, 16, lambda images: None)
    loose, strict = (Teacher.of(mixture, bind, 0, tolerance) for tolerance in (1.0, 1e-3))
    assert loose.steps == 8 < strict.steps
    assert strict.change <= 1e-3 < loose.change


def by_hand(model, folder, **options):
    """A recipe that is DEIS on levels of its own."""
    times = (1000, 640, 230, 0)
    plan = model.plan(times)
    solver = ddim.Fitted(
        tuple(float(s.ratio) for s in plan), ddim.rows_of(ddim.build("deis"), plan)
    )
    recipe = ddim.Recipe(3, times, solver, fingerprint(model), **options)
    save_recipe(recipe, folder)
    return recipe


def test_labels_and_guidance_have_recipes_of_their_own(run, tmp_path, coarse):
    model, folder = tiny_model(classes=3), tmp_path / "m"
    model = replace(model, schedule=linear(20), notes={**model.notes, "null_label": 2})
    ddim.save(model, folder)
    status, out, err = run(
        *("tune", folder, "--calls", "3", "--guidance", "2"),
        *("--num", "3", "--held-out", "4", "--batch-size", "2"),
    )
    assert status == 0, err
    assert "calls-3-w2.0.json" in out
    images = ("--seeds", "0-1", "--label", "1", "-o", "a.npz")
    status, _, err = run("sample", folder, "--calls", "3", "--guidance", "2", *images)
    assert status == 0
    assert "calls-3-w2.0.json" in err
    status, _, err = run("sample", folder, "--calls", "3", *images)
    assert status == 2


def test_a_stale_recipe_is_left_out_unless_it_is_asked_for(run, tmp_path):
    folder = tmp_path / "m"
    ddim.save(tiny_model(), folder)
    by_hand(tiny_model("v"), folder)
    images = ("--seeds", "0", "-o", "a.npz")
    status, _, err = run("sample", folder, "--steps", "3", *images)
    assert status == 0
    assert "other weights" in err
    status, _, err = run("sample", folder, "--calls", "3", *images)
    assert status == 2
    assert "other weights" in err


def test_a_broken_recipe_is_left_out_unless_it_is_asked_for(run, tmp_path):
    folder = tmp_path / "m"
    ddim.save(tiny_model(), folder)
    by_hand(tiny_model(), folder)
    (folder / "recipes" / "calls-3.json").write_text("{")
    images = ("--seeds", "0", "-o", "a.npz")
    status, _, err = run("sample", folder, "--steps", "3", *images)
    assert status == 0
    assert "without" in err
    status, _, err = run("sample", folder, "--calls", "3", *images)
    assert status == 2
    assert "fit it anew with ddim tune" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--calls", "3", "--spacing", "trailing"), "leave --spacing and --negative out"),
        (("--steps", "0"), "steps=0"),
    ],
)
def test_what_a_recipe_leaves_no_room_for_is_refused(run, tmp_path, words, says):
    folder = tmp_path / "m"
    ddim.save(tiny_model(), folder)
    by_hand(tiny_model(), folder)
    status, _, err = run("sample", folder, *words, "--seeds", "0", "-o", "a.npz")
    assert status == 2
    assert says in err


def test_a_model_that_is_no_folder_has_no_recipes(run, tmp_path):
    with pytest.raises(ValueError, match="make one with ddim import"):
        ddim.find_recipe(tmp_path / "model.ckpt", 3)
    status, _, err = run("tune", tmp_path / "model.ckpt", "--calls", "3")
    assert status == 2
    assert "no folder" in err


def test_evaluation_knows_recipes(run, tmp_path):
    folder = tmp_path / "m"
    ddim.save(tiny_model(), folder)
    recipe = by_hand(tiny_model(), folder)
    words = ("digits", "--num", "60", "--features", "pixels", "--fine", "4", "--out", "r")
    status, _, err = run("evaluate", folder, *words, "--solvers", "tuned;ddim", "--calls", "3")
    assert status == 0, err
    cells = json.loads((tmp_path / "r" / "results.json").read_text())["cells"]
    (row,) = [row for row in cells if row["solver"] == "tuned"]
    assert (row["spacing"], row["steps"], row["calls"]) == ("recipe", 3, 3)
    x = Seeded(range(60)).start((1, 8, 8))
    with torch.no_grad():
        images = sample(tiny_model().denoiser(), x, *recipe.made(tiny_model()))
    stored = numpy.load(tmp_path / "r" / row["images"])
    assert abs(stored.astype(int) - ddim.data.to_pixels(images).numpy()).max() <= 1
    status, _, err = run("evaluate", folder, *words, "--solvers", "tuned", "--calls", "4")
    assert status == 2
    assert "ddim tune" in err


def test_a_recipe_is_exported(run, tmp_path):
    model, folder = tiny_model(), tmp_path / "m"
    ddim.save(model, folder)
    recipe = by_hand(model, folder)
    status, _, err = run("export", folder, "s.pt2", "--calls", "3")
    assert status == 0, err
    assert "3 network calls" in err
    program = torch.export.load(tmp_path / "s.pt2")
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        program.module()(x=x), sample(model.denoiser(), x, *recipe.made(model)), rtol=0, atol=1e-5
    )
    status, _, err = run("export", folder, "s.pt2", "--calls", "3", "--solver", "unipc")
    assert status == 2
    assert "leave --solver" in err


def test_a_scheduler_of_diffusers_steps_by_a_recipe(tmp_path):
    from ddim.interop.diffusers import SolverScheduler

    model = tiny_model()
    recipe = by_hand(model, tmp_path)
    scheduler = SolverScheduler.from_config(
        {"beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}, **recipe.scheduler
    )
    scheduler.save_pretrained(tmp_path / "s")
    scheduler = SolverScheduler.from_pretrained(tmp_path / "s")
    scheduler.set_timesteps(3)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plan, solver = recipe.made(model)
    with torch.no_grad():
        for begin in (0, 1):
            state = x
            scheduler.set_begin_index(begin)
            for t in scheduler.timesteps[begin:]:
                state = scheduler.step(model.net(state, t.expand(2)), t, state).prev_sample
            torch.testing.assert_close(
                state, sample(model.denoiser(), x, plan[begin:], solver), rtol=0, atol=1e-5
            )
    with pytest.raises(ValueError, match="the recipe has 3"):
        scheduler.set_timesteps(4)


def test_an_interrupted_tune_goes_on(run, tmp_path, coarse):
    folder = tmp_path / "m"
    model = replace(tiny_model(), schedule=linear(20))
    ddim.save(model, folder)
    words = ("tune", folder, "--num", "2", "--held-out", "4", "--calls")
    assert run(*words, "2")[0] == 0
    status, out, err = run(*words, "2,3")
    assert status == 0, err
    assert [line.endswith("(as it was)") for line in out.splitlines()] == [True, False]
    assert "taught by" in err
    assert all((folder / "recipes" / name).exists() for name in ("tuning.png", "tuning.svg"))
    status, out, err = run(*words, "2,3")
    assert out.count("(as it was)") == 2
    assert "taught by" not in err
    pictures = [folder / "recipes" / name for name in ("tuning.png", "tuning.svg")]
    whole = pictures[0].read_bytes()
    with Image.open(pictures[0]) as image:
        assert image.height == 49 * (1 + 3 + 3) + 1
    pictures[0].unlink()
    assert run(*words, "3,2")[0] == 0
    assert pictures[0].read_bytes() == whole
    before = (folder / "recipes" / "calls-2.json").read_bytes()
    status, _, err = run("tune", folder, "--num", "3", "--held-out", "4", "--calls", "4,2")
    assert status == 2
    assert "calls-2.json was fitted with other options" in err
    assert (folder / "recipes" / "calls-2.json").read_bytes() == before
    assert "(as it was)" not in run(*words, "2", "--again")[1]
    recipe, options = ddim.find_recipe(folder, 2), Tuning(seeds=2, held_out=4)
    assert stands(recipe, model, options)
    assert not stands(recipe, model, replace(options, seeds=3))
    assert not stands(recipe, model, replace(options, clip=1.0))
    assert not stands(recipe, tiny_model(), options)


def test_tune_and_sample_by_the_recipe(run, tmp_path, coarse):
    model = tmp_path / "model"
    ddim.save(replace(tiny_model(), schedule=linear(20)), model)
    status, out, err = run("tune", model, "--calls", "3", "--num", "3", "--held-out", "4")
    assert status == 0, err
    assert "calls-3.json" in out
    again = run("tune", model, "--calls", "3", "--num", "3", "--held-out", "4", "--json")
    (told,) = json.loads(again[1])["recipes"]
    assert (again[0], told["calls"], told["kept"]) == (0, 3, True)
    assert "(as it was)" in again[2]
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
