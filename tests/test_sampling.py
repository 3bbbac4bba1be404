import math
import weakref
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ddim
from ddim import DDIM, DDPM, Prediction, Seeded, calls, sample, trace
from ddim.rows import Fitted, rows_of
from ddim.solvers import SOLVERS
from exact import gaussian
from tiny import tiny_model

LINEAR = ddim.schedules.linear()
PLAN = ddim.plan(LINEAR, 6)
SPECS = [*SOLVERS, "ddim:eta=0.5", "ddim:eta=1,added=hat"]
DETERMINISTIC = {
    **{spec: ddim.build(spec) for spec in SOLVERS if spec not in ("ddpm", "resample")},
    "deis:order=4": ddim.build("deis:order=4"),
    "fitted": Fitted(
        tuple(level.ratio for level in PLAN),
        tuple(row[:4] for row in rows_of(ddim.build("ipndm:order=3"), PLAN)),
    ),
}


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 1, 8), (2, 3, 4, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("spec", SPECS)
def test_every_shape_is_sampled_element_by_element(spec, shape):
    noise = Seeded(range(shape[0]))
    x = noise.start(shape[1:])
    flat = sample(
        gaussian(0.1), x.flatten(), PLAN, ddim.build(spec), lambda like, k: noise(x, k).flatten()
    )
    whole = sample(gaussian(0.1), x, PLAN, ddim.build(spec), noise)
    assert whole.shape == shape
    torch.testing.assert_close(whole.flatten(), flat)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
def test_the_state_is_float32_or_wider_and_the_result_has_the_dtype_given(spec, dtype):
    seen = []
    noise, denoise = Seeded([0, 1]), gaussian(0.1)

    def watch(x, level):
        seen.append(x.dtype)
        return denoise(x, level)

    x = noise.start((64,)).to(dtype)
    end = sample(watch, x, PLAN, ddim.build(spec), noise)
    assert end.dtype == dtype
    assert set(seen) == {torch.promote_types(dtype, torch.float32)}
    exact = sample(denoise, x.double(), PLAN, ddim.build(spec), noise)
    torch.testing.assert_close(end.double(), exact, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_reach_the_start_through_every_step(spec):
    noise = Seeded([0])
    x = noise.start((4,)).double().requires_grad_()

    def end(x):
        return sample(gaussian(0.1), x, PLAN, ddim.build(spec), noise)

    assert torch.autograd.gradcheck(end, x)


@pytest.mark.parametrize("spec", SPECS)
def test_a_run_is_made_on_the_device_of_x_and_never_reads_its_values(spec):
    x = torch.empty(2, 3, device="meta")  # has no values: a look at one raises
    end = sample(gaussian(), x, PLAN, ddim.build(spec), lambda like, k: torch.empty_like(like))
    assert end.device == x.device


@pytest.mark.parametrize(
    "spec", ["ddim", "ddpm", "ddim:eta=0.5", "ddim:eta=1,added=hat", "heun", "dpmpp2s"]
)
def test_an_edited_state_is_where_a_solver_without_memory_goes_on(spec):
    """A driver that sets the state at one level: the rest must be the run that starts there.

    Solvers with a memory are in test_solvers.
    """
    noise, solver, edited = Seeded([0, 1]), ddim.build(spec), torch.full((2, 3), 0.3).double()
    denoise = gaussian(0.1)

    def inpaint(x, level):
        return denoise(edited if level == PLAN[3] else x, level)

    whole = sample(inpaint, noise.start((3,)).double(), PLAN, solver, noise)
    rest = sample(denoise, edited, PLAN[3:], solver, lambda like, k: noise(like, k + 3))
    torch.testing.assert_close(whole, rest, rtol=0, atol=1e-12)


def test_a_prediction_sent_back_replaces_the_one_yielded():
    run = trace(gaussian(), torch.ones(1, 2).double(), PLAN)
    next(run)
    swapped = Prediction(
        torch.zeros(1, 2).double(), torch.zeros(1, 2).double(), torch.zeros(1, 2).double()
    )
    _, p = run.send(swapped)
    assert not p.x.any()


def test_trace_shows_every_call_and_returns_what_sample_returns():
    x, shown = torch.linspace(-1, 1, 5).double(), []
    run = trace(gaussian(0.2), x, PLAN)
    while True:
        try:
            shown.append(next(run))
        except StopIteration as stop:
            end = stop.value
            break
    assert [level for level, _ in shown] == list(PLAN[:-1])
    assert torch.equal(shown[0][1].x, x)
    assert torch.equal(end, sample(gaussian(0.2), x, PLAN))


def test_one_eta_per_image_is_each_image_with_its_eta():
    etas = (0.0, 0.3, 1.0)
    noise = Seeded(range(3))
    x = noise.start((2, 4)).double()
    together = sample(gaussian(0.1), x, PLAN, DDIM(eta=etas), noise)
    seen = [p.x.dtype for _, p in trace(gaussian(), x.float(), PLAN, DDIM(eta=etas), noise)]
    assert set(seen) == {torch.float32}
    for i, eta in enumerate(etas):
        alone = sample(gaussian(0.1), x[i : i + 1], PLAN, DDIM(eta=eta), Seeded([i]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_sigmas_of_eta_are_that_eta():
    from itertools import pairwise

    from ddim.solvers.ddim import sigma

    noise = Seeded([5])
    x = noise.start((6,)).double()
    sigmas = tuple(sigma(t, s, 0.6) for t, s in pairwise(PLAN))
    by_sigma = sample(gaussian(), x, PLAN, DDIM(sigmas=sigmas), noise)
    torch.testing.assert_close(
        by_sigma, sample(gaussian(), x, PLAN, DDIM(eta=0.6), noise), rtol=0, atol=1e-12
    )


def test_deterministic_solvers_draw_nothing_and_others_say_that_they_need_noise():
    x = torch.ones(2, 3)
    sample(gaussian(), x, PLAN, DDIM(eta=(0.0, 0.0)))
    sample(gaussian(), x, PLAN, DDIM(sigmas=(0.0,) * 6))
    with pytest.raises(ValueError, match=r"pass noise=ddim\.Seeded"):
        sample(gaussian(), x, PLAN, DDPM())


@pytest.mark.parametrize("spec", SPECS)
def test_calls_counts_the_network_calls(spec):
    # two per interval but for the step into clean data, and for heun the longest, from T
    assert calls(ddim.build(spec), PLAN) == {"heun": 10, "dpmpp2s": 11, "resample": 60}.get(spec, 6)
    assert calls(DDIM(eta=(0.1, 0.2)), PLAN, batch=2) == 6
    assert calls(ddim.Heun(), PLAN[::-1]) == 12  # clean data has a slope to start from


def test_a_plan_of_one_level_is_the_identity():
    x = torch.ones(2, 3)
    assert torch.equal(sample(gaussian(), x, PLAN[:1]), x)


def test_a_plan_that_turns_back_is_refused_before_the_network_is_asked():
    with pytest.raises(ValueError, match="strictly monotone"):
        sample(gaussian(), torch.ones(1), (PLAN[0], PLAN[3], PLAN[1]))


def test_whole_numbers_are_no_images():
    with pytest.raises(ValueError, match=r"torch\.int64; give floating-point"):
        sample(gaussian(), torch.ones(1, 2, dtype=torch.int64), PLAN)


def test_half_a_plan_goes_half_the_way():
    x = torch.linspace(-1, 1, 5).double()
    half = sample(gaussian(0.2), x, PLAN[:4])
    assert torch.equal(sample(gaussian(0.2), half, PLAN[3:]), sample(gaussian(0.2), x, PLAN))


@dataclass(frozen=True)
class Nothing:
    def __call__(self, x, plan, noise):
        return x
        yield


def test_a_solver_may_ask_nothing():
    assert calls(Nothing(), PLAN) == 0
    assert math.isclose(sample(gaussian(), torch.ones(1), PLAN, Nothing()).item(), 1)


# What a step costs


class Stored(torch.nn.Module):
    """Answers a tensor of its own, or the x that it was given; keeps weak references to both."""

    def __init__(self, own=None, fresh=False):
        super().__init__()
        self.own, self.fresh, self.seen, self.alive = own, fresh, [], []

    def forward(self, x, t):
        out = x if self.own is None else self.own + 0 if self.fresh else self.own
        self.alive.append(
            [sum(each() is not None for each in pair) for pair in zip(*self.seen, strict=True)]
        )
        self.seen.append((weakref.ref(x), weakref.ref(out)))
        return out


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_nothing_that_the_network_or_the_caller_holds_is_written_over(solver, target):
    x = torch.randn(2, 3)
    for own in (torch.randn(2, 3), None):
        net = Stored(own)
        denoiser = ddim.Model(net, LINEAR, target, (3,)).denoiser()
        watched = [t for t in (x, own) if t is not None]
        kept, versions = [t.clone() for t in watched], [t._version for t in watched]
        seen = [(p, p.x.clone()) for _, p in trace(denoiser, x, PLAN, solver)]
        end = sample(denoiser, x, PLAN, solver)
        assert [t._version for t in watched] == versions
        assert all(map(torch.equal, watched, kept))
        assert all(torch.equal(p.x, then) for p, then in seen)
        assert end.data_ptr() not in [t.data_ptr() for t in watched]


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_the_memory_of_a_run_does_not_grow_with_its_steps(solver, target):
    """While the network works there are, of all it was asked and said, what later steps need."""
    net = Stored(torch.randn(2, 3), fresh=True)
    denoiser = ddim.Model(net, LINEAR, target, (3,)).denoiser()
    most = {"DDIM": 0, "Heun": 1, "DPMpp2S": 1, "DPMpp": 1, "UniPC": 2, "IPNDM": 3, "Fitted": 2}
    most["DEIS"] = getattr(solver, "order", 1) - 1
    with torch.no_grad():
        sample(denoiser, torch.randn(2, 3), PLAN, solver)
    states, answers = zip(*net.alive[1:], strict=True)
    assert max(states) == 1  # the start, which is the caller's
    assert max(answers) <= most[type(solver).__name__]


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_gradients_of_a_run_of_a_model_are_right(solver, target):
    class Sine(torch.nn.Module):
        def forward(self, x, t):
            return (x + weight).sin()

    def end(x):
        return sample(ddim.Model(Sine(), LINEAR, target, (2,)).denoiser(), x, PLAN, solver)

    weight, x = torch.tensor(0.3).double(), torch.tensor([[0.3, -0.8]]).double().requires_grad_()
    assert torch.autograd.gradcheck(end, x)
    assert torch.autograd.gradgradcheck(end, x)


class Crossings(TorchDispatchMode):
    """The operations between devices."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
        if len({t.device for t in tensors}) > 1:
            self.found.append(str(func))
        return out


@pytest.mark.parametrize("bound", [{}, {"label": [1, 0]}, {"label": 1, "guidance": 2.0}])
@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_no_step_waits_for_the_device(solver, bound):
    """On the meta device nothing has a value: reading one raises, and copies are counted."""
    model = tiny_model(classes=4)
    model = replace(model, net=model.net.to("meta"), notes={"null_label": 3})
    denoiser, x = model.denoiser(**bound), torch.empty(2, 1, 8, 8, device="meta")
    with Crossings() as crossings, torch.no_grad():
        sample(denoiser, x, PLAN, solver)
    assert crossings.found == []
    with Crossings() as crossings:
        torch.ones(1).to("meta")
    assert len(crossings.found) == 1  # it would be seen


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="CUDA counts its waits; above, meta does",
)
@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_no_step_waits_for_the_gpu(solver):
    model = tiny_model(classes=4)
    model = replace(model, net=model.net.to("cuda"), notes={"null_label": 3})
    denoiser, x = model.denoiser(1, guidance=2.0), torch.randn(2, 1, 8, 8, device="cuda")
    with torch.no_grad():
        sample(denoiser, x, PLAN, solver)  # which compiles and allocates
        torch.cuda.synchronize()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        ) as profile:
            sample(denoiser, x, PLAN, solver)
    names = [event.name for event in profile.events()]
    assert any("LaunchKernel" in name for name in names)
    waits = ("cudaStreamSync", "cudaMemcpy ", "Memcpy DtoH", "Memcpy HtoD", "aten::item")
    assert not [name for name in names if name.startswith(waits)]
