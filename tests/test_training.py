import copy
from dataclasses import replace

import pytest
import torch

import ddim
from ddim import Training, schedules, train
from ddim.data import Images
from ddim.losses import loss, variational_gamma
from ddim.training import draw, ema, rate
from tiny import tiny_model

DIGITS = ddim.digits()
FEW = Images(DIGITS.pixels[:5])


@pytest.mark.parametrize("target", ["eps", "x0", "v", "flow"])
def test_the_loss_is_0_for_a_network_that_knows_and_its_weights_count(target):
    schedule = schedules.linear(20)
    x0, eps = torch.randn(2, 6, 3, 2).double()
    t = torch.tensor([1, 2, 7, 7, 19, 20])
    level = schedule.levels(t, x0)
    a, b = ddim.process.row(target, level)

    def knows(x, clock):
        assert torch.equal(clock, t - 1)
        torch.testing.assert_close(x, level.signal * x0 + level.noise * eps)
        return a * x0 + b * eps

    def errs(x, clock):
        return knows(x, clock) + (clock + 1.0).reshape(-1, 1, 1)

    assert loss(knows, schedule, target, (x0, t, eps)).item() == 0
    assert loss(errs, schedule, target, (x0, t, eps)).item() == pytest.approx(
        (t.double() ** 2).mean().item()
    )
    gamma = torch.arange(21.0) ** -2.0
    assert loss(errs, schedule, target, (x0, t, eps), gamma).item() == pytest.approx(1)


def test_sigmas_for_gamma_must_be_admissible():
    with pytest.raises(ValueError, match="20 numbers above 0"):
        variational_gamma(schedules.linear(20), [0.1] * 19)
    with pytest.raises(ValueError, match="signal_T is 0"):
        variational_gamma(schedules.rectified_flow(3), [0.1] * 3)
    with pytest.raises(ValueError, match="at most the noise"):
        variational_gamma(schedules.linear(20), [1.0] * 20)


def test_a_batch_is_a_function_of_seed_and_step_and_an_epoch_sees_every_image_once():
    options = Training(batch_size=3)
    for step in (0, 7):
        for one, two in zip(
            draw(FEW, 1000, options, step), draw(FEW, 1000, options, step), strict=True
        ):
            assert torch.equal(one, two)
    other = draw(FEW, 1000, Training(batch_size=3, seed=1), 0)
    assert not torch.equal(other[2], draw(FEW, 1000, options, 0)[2])
    clean = torch.cat([draw(FEW, 1000, options, step)[0] for step in range(10)])
    images = ddim.data.to_float(FEW.pixels)
    seen = [int((images - image).flatten(1).abs().sum(1).argmin()) for image in clean]
    for epoch in range(6):
        assert sorted(seen[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert len({tuple(seen[5 * epoch : 5 * epoch + 5]) for epoch in range(6)}) > 1


def test_times_are_uniform_over_the_trained_levels():
    t = torch.cat([draw(FEW, 4, Training(batch_size=100), step)[1] for step in range(100)])
    counts = torch.bincount(t, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 2500).abs().max() < 5 * 2500**0.5


def test_the_averaged_weights_warm_up_to_their_decay():
    averaged, current = [torch.zeros(2)], [torch.ones(2)]
    ema(0.9)(averaged, current, torch.tensor(2))  # (1 + 2)/(10 + 2) = 1/4
    torch.testing.assert_close(averaged[0], torch.full((2,), 0.75))
    ema(0.9)(averaged, current, torch.tensor(10**6))
    torch.testing.assert_close(averaged[0], torch.full((2,), 0.775))


def test_the_learning_rate_rises_and_falls():
    options = Training(steps=1000, warmup=99)
    assert rate(0, options) == pytest.approx(0.01)
    assert max(rate(n, options) for n in range(1000)) == pytest.approx(rate(99, options), abs=0.01)
    assert rate(500, options) == pytest.approx(0.5)
    assert rate(999, options) < 1e-5


def test_training_learns_and_leaves_the_model_it_was_given():
    model = tiny_model("v")
    before = {name: weight.clone() for name, weight in model.net.state_dict().items()}
    losses = []
    for update in train(
        model, DIGITS, Training(steps=120, batch_size=32, lr=3e-3, warmup=5, ema=0.9)
    ):
        losses.append(float(update.loss))
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert update.step == 120
    assert all(torch.equal(weight, before[name]) for name, weight in model.net.state_dict().items())
    assert not update.model.net.training
    assert not any(weight.requires_grad for weight in update.model.net.parameters())
    assert update.model.notes["data"]["sha256"] == DIGITS.fingerprint
    batch = draw(DIGITS, 1000, Training(batch_size=256), 10**6)
    averaged, untrained = (
        float(loss(m.net, m.schedule, "v", batch)) for m in (update.model, model)
    )
    assert averaged < 0.8 * untrained


class Line(torch.nn.Module):
    """The smallest network: one weight per pixel, with a dropout that tells training from use."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 64).reshape(1, 8, 8))
        self.dropout = torch.nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t):
        self.seen += self.training
        return self.dropout(self.weight * x)


def test_an_update_is_adam_on_the_clipped_gradient_and_the_average_follows():
    """The loop in full, against the textbook's on the same batches; with dropout drawn alike."""
    model = ddim.Model(Line().eval(), schedules.cosine(), "v", (1, 8, 8))
    options = Training(steps=6, batch_size=4, lr=0.3, warmup=2, ema=0.3, max_grad_norm=0.05)
    torch.manual_seed(5)
    nets = [copy.deepcopy(update.model.net) for update in train(model, DIGITS, options)]
    ours = [net.weight for net in nets]
    assert [int(net.seen) for net in nets] == [1, 2, 3, 4, 5, 6]
    torch.manual_seed(5)
    line, average, m, v = Line(), None, 0, 0
    for n in range(6):
        (slope,) = torch.autograd.grad(
            loss(line, model.schedule, "v", draw(DIGITS, 1000, options, n)), line.weight
        )
        slope = slope * min(1, 0.05 / slope.norm())
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        step = m / (1 - 0.9 ** (n + 1)) / ((v / (1 - 0.999 ** (n + 1))).sqrt() + 1e-8)
        with torch.no_grad():
            line.weight -= 0.3 * rate(n, options) * step
        decay = min(0.3, (1 + n) / (10 + n))
        now = line.weight.detach().clone()
        average = now if n == 0 else torch.lerp(now, average, decay)
        torch.testing.assert_close(ours[n], average, rtol=0, atol=1e-5)


def test_training_and_sampling_share_no_noise():
    options = Training(batch_size=64)
    starts = ddim.Seeded([0]).start((1, 8, 8))
    for step in range(4):
        assert not torch.isin(draw(DIGITS, 1000, options, step)[2], starts).any()


def test_a_network_with_classes_is_refused_for_now():
    with pytest.raises(ValueError, match=r"num_class_embeds=3.*set it to null"):
        next(train(tiny_model(classes=3), DIGITS))


def test_the_noise_of_a_batch_is_normal_and_its_order_depends_on_the_seed():
    x0, _, eps = draw(DIGITS, 1000, Training(batch_size=512), 3)
    assert eps.mean().abs() < 5 / eps.numel() ** 0.5
    assert (eps.square().mean() - 1).abs() < 5 * (2 / eps.numel()) ** 0.5
    assert not torch.equal(x0, draw(DIGITS, 1000, Training(batch_size=512, seed=1), 3)[0])


def test_the_same_seed_trains_the_same_model():
    options = Training(steps=3, batch_size=4)
    ends = [list(train(tiny_model(), DIGITS, options))[-1].model.net.state_dict() for _ in range(2)]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_touched():
    model = tiny_model()
    broken = replace(model, net=torch.nn.Sequential())
    broken = replace(model)
    with torch.no_grad():
        broken.net.conv_in.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="loss is nan at update 1; lower lr"):
        next(train(broken, DIGITS, Training(steps=2)))


def test_images_of_another_shape_and_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="make the model for the images"):
        next(train(tiny_model(), Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))))
    for bad in ({"steps": 0}, {"batch_size": 0}, {"lr": 0}, {"ema": 1.0}, {"warmup": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Training(**bad)


def test_a_new_model_is_a_function_of_its_seed_and_starts_by_answering_nothing():
    one, same, other = (ddim.Model.new((1, 8, 8), seed=seed) for seed in (1, 1, 2))
    assert all(
        torch.equal(a, b) for a, b in zip(one.net.parameters(), same.net.parameters(), strict=True)
    )
    assert not torch.equal(one.net.conv_in.weight, other.net.conv_in.weight)
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    ddim.Model.new((1, 8, 8))
    assert torch.equal(torch.rand(1), drawn)
    assert not one.net(torch.randn(1, 1, 8, 8), torch.zeros(1)).any()
    with pytest.raises(ValueError, match=r"images of \(1, 8, 8\), the data has \(1, 16, 16\)"):
        ddim.Model.new((1, 16, 16), config=one.net.config)
