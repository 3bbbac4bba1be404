"""Gradients through a run are autograd's, in less memory."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ddim
from ddim import Pair, Prediction, Seeded, belm, recompute, sample, sample_reversibly, schedules
from exact import gaussian
from tiny import tiny_model


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within held at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._alive = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._hold(leaf.untyped_storage())
        return out

    def _hold(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key, size):
        self._alive.discard(key)
        self.now -= size


@pytest.fixture(scope="module")
def model():
    model = tiny_model("v")
    model.net.double().requires_grad_(True)
    return model


def slopes(end, x, weights):
    return torch.autograd.grad((end**3).sum(), [x, *weights])


def plainly(denoiser, x, plan):
    """O-BELM, for autograd to follow."""
    p, s = denoiser(x, plan[0]), plan[1]
    return belm.descend(denoiser, Pair(x, s.signal * p.x0 + s.noise * p.eps), plan)


@pytest.mark.parametrize("spec", ["ddim", "unipc", "heun", "ddpm"])
def test_recomputed_gradients_are_autograds(model, spec):
    x = Seeded(range(2)).start(model.shape).double().requires_grad_()
    weights, solver, plan = list(model.net.parameters()), ddim.build(spec), model.plan(20)
    ends = [
        sample(denoiser, x, plan, solver, Seeded(range(2)))
        for denoiser in (model.denoiser(), recompute(model.denoiser()))
    ]
    for a, b in zip(*(slopes(end, x, weights) for end in ends), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert a.abs().max() > 0


def test_reversed_gradients_are_autograds(model):
    x = Seeded(range(2)).start(model.shape).double().requires_grad_()
    weights, plan = list(model.net.parameters()), model.plan(20)
    end = sample_reversibly(model.denoiser(), x, plan, weights)
    expected = plainly(model.denoiser(), x, plan)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-12)
    for a, b in zip(slopes(expected, x, weights), slopes(end, x, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_only_what_wants_a_gradient_is_given_one(model):
    x, plan = Seeded(range(2)).start(model.shape).double(), model.plan(4)
    first, second, *_ = model.net.parameters()
    frozen = second.detach()
    end = sample_reversibly(model.denoiser(), x, plan, (frozen, first))
    (found,) = torch.autograd.grad((end**3).sum(), [first])
    (wanted,) = torch.autograd.grad((plainly(model.denoiser(), x, plan) ** 3).sum(), [first])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    end = sample_reversibly(gaussian(), x.requires_grad_(), plan, (first,))
    assert torch.autograd.grad(end.sum(), [first])[0].abs().max() == 0


@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
@pytest.mark.parametrize("name", ["linear", "cosine", "rectified_flow"])
def test_float32_gradients_are_rebuilt_nearly_as_well(name, spacing):
    model = tiny_model("v")
    model = ddim.Model(model.net, schedules.SCHEDULES[name](), "v", model.shape)
    x = Seeded(range(4)).start(model.shape).requires_grad_()
    plan = model.plan(20, spacing)
    (a,) = torch.autograd.grad(plainly(model.denoiser(), x.double(), plan).square().sum(), x)
    end = sample_reversibly(model.denoiser(), x, plan)
    assert end.dtype == torch.float32
    (b,) = torch.autograd.grad(end.square().sum(), x)
    assert (a - b).norm() < 1e-4 * a.norm()


def test_a_weight_named_twice_counts_once(model):
    x, plan = Seeded(range(2)).start(model.shape).double(), model.plan(4)
    first = next(model.net.parameters())
    found = []
    for weights in ((first,), (first, first)):
        end = sample_reversibly(model.denoiser(), x, plan, weights)
        found.append(torch.autograd.grad(end.sum(), [first])[0])
    assert torch.equal(*found)


def test_what_would_give_wrong_gradients_is_an_error(model):
    x, plan = Seeded(range(2)).start(model.shape).double().requires_grad_(), model.plan(3)
    end = sample_reversibly(model.denoiser(), x, plan)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(end.sum(), x, create_graph=True)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def scaled(x, level):
        return Prediction(x, weight * x, x)

    end = sample_reversibly(scaled, x, plan, (weight,))
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.sum().backward()


def most(model, steps, way):
    """The peak of a forward and a backward pass, in bytes, and the bytes of one state."""
    x = Seeded(range(8)).start(model.shape).double().requires_grad_()
    denoiser, plan = model.denoiser(), model.plan(steps)
    with Peak() as peak:
        if way == "reversed":
            end = sample_reversibly(denoiser, x, plan, list(model.net.parameters()))
        else:
            end = sample(recompute(denoiser) if way == "recomputed" else denoiser, x, plan)
        end.square().sum().backward()
    model.net.zero_grad()
    return peak.most, x.nbytes


def test_memory_is_one_call_and_one_state_a_step_or_none(model):
    few, state = most(model, 10, "recomputed")
    many, _ = most(model, 100, "recomputed")
    assert many <= 1.2 * few + 90 * state
    plain = most(model, 10, "plain")[0]
    assert few < plain / 4
    ten, hundred = (most(model, steps, "reversed")[0] for steps in (10, 100))
    assert hundred <= 1.05 * ten


def test_a_plan_too_short_or_rising_is_refused():
    x = torch.zeros(1, 2)
    for plan, words in (
        (ddim.plan(ddim.schedules.linear(), 1), "give at least 3"),
        (ddim.plan(ddim.schedules.linear(), 5)[::-1], "rises"),
    ):
        with pytest.raises(ValueError, match=words):
            sample_reversibly(gaussian(), x, plan)


def test_a_network_called_again_gives_what_it_gave():
    calls = []

    def counted(x, level):
        calls.append(level.t)
        return Prediction(x, x.sin(), x)

    x = torch.ones(1, 2, requires_grad=True)
    plan = ddim.plan(ddim.schedules.linear(), 3)
    sample(recompute(counted), x, plan).sum().backward()
    assert sorted(calls) == sorted(2 * [level.t for level in plan[:-1]])
