import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import ddim
from ddim import Training, schedules, train
from ddim.data import Arrays, Images, to_float
from ddim.keeping import told
from ddim.lessons import (
    BATCH,
    HELD,
    MASK,
    ORDER,
    OWN,
    SIDE,
    Lesson,
    lessons,
    numbered,
    seed_of,
)
from ddim.losses import errors, loss, min_snr_gamma, variational_gamma
from ddim.trainer import Trainer
from ddim.training import ema, rate
from tiny import tiny_model

DIGITS = ddim.digits()
PLAIN = Images(DIGITS.pixels)
FEW = Images(DIGITS.pixels[:5])


def draw(images, T, options, step):
    return Lesson(images, T, options).batch(step)[:3]


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


@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_an_update_is_adam_on_the_clipped_gradient_and_the_average_follows(min_snr):
    """The loop in full, against the textbook's on the same batches; with dropout drawn alike."""
    model = ddim.Model(Line().eval(), schedules.cosine(), "v", (1, 8, 8))
    options = Training(6, 4, lr=0.3, warmup=2, ema=0.3, max_grad_norm=0.05, min_snr=min_snr)
    gamma = None if min_snr is None else min_snr_gamma(model.schedule, "v", min_snr)
    nets = [copy.deepcopy(update.model.net) for update in train(model, DIGITS, options)]
    ours = [net.weight for net in nets]
    assert [int(net.seen) for net in nets] == [1, 2, 3, 4, 5, 6]
    line, average, m, v = Line(), None, 0, 0
    for n in range(6):
        torch.manual_seed(seed_of(options, n, 0, MASK))
        (slope,) = torch.autograd.grad(
            loss(line, model.schedule, "v", draw(DIGITS, 1000, options, n), gamma), line.weight
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


def test_the_noise_of_a_batch_is_normal_and_its_order_depends_on_the_seed():
    x0, _, eps = draw(DIGITS, 1000, Training(batch_size=512), 3)
    assert eps.mean().abs() < 5 / eps.numel() ** 0.5
    assert (eps.square().mean() - 1).abs() < 5 * (2 / eps.numel()) ** 0.5
    assert not torch.equal(x0, draw(DIGITS, 1000, Training(batch_size=512, seed=1), 3)[0])


def test_the_same_seed_trains_the_same_model():
    options = Training(steps=3, batch_size=4)
    ends = [list(train(tiny_model(), DIGITS, options))[-1].model.net.state_dict() for _ in range(2)]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


class Poison(torch.autograd.Function):
    """The same, with a gradient that is infinite."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, slope):
        return slope * torch.inf


class Breaking(Line):
    """Breaks the loss, or the gradient alone, at the calls it is told."""

    def __init__(self, broken, what="loss"):
        super().__init__()
        self.broken, self.calls, self.what = broken, 0, what
        self.dropout = torch.nn.Identity()

    def forward(self, x, t):
        self.calls += 1
        out = super().forward(x, t)
        if self.calls - 1 not in self.broken:
            return out
        return Poison.apply(out) if self.what == "gradient" else out * torch.nan


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(what):
    """The others are those of a run that never had it: same data, same rate, nothing averaged."""
    options = Training(steps=6, batch_size=4, lr=0.1, warmup=0)
    model = ddim.Model(Breaking({2, 3}, what).eval(), schedules.cosine(), "v", (1, 8, 8))
    trainer = Trainer(model, PLAIN, options)
    weights = []
    for update in trainer.updates():
        assert update.skipped == (update.step in (3, 4))
        weights.append(copy.deepcopy((trainer.plain.state_dict(), update.model.net.state_dict())))
    for before, after in pairwise(weights):
        moved = [
            not torch.equal(b["weight"], a["weight"]) for b, a in zip(before, after, strict=True)
        ]
        assert moved == (
            [False, False] if after is weights[2] or after is weights[3] else [True] * 2
        )
    assert (trainer.learned, trainer.skipped, trainer.in_row) == (4, 2, 0)


def test_ten_in_a_row_that_are_not_finite_end_the_run_and_nine_do_not():
    for count in (9, 10):
        broken = Breaking(set(range(3, 3 + count)))
        model = ddim.Model(broken.eval(), schedules.cosine(), "v", (1, 8, 8))
        run = train(model, PLAIN, Training(steps=15, batch_size=4, lr=0.1))
        if count == 9:
            assert sum(update.skipped for update in run) == 9
        else:
            with pytest.raises(FloatingPointError, match=r"10 updates in a row.*13; lower lr=0.1"):
                list(run)


def test_images_of_another_shape_and_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="make the model for the data"):
        next(train(tiny_model(), Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))))
    with pytest.raises(ValueError, match="flip is for images"):
        Trainer(ddim.Model.new((6,)), Arrays(torch.zeros(2, 6)), Training(flip=True))
    with pytest.raises(ValueError, match="no learned variance"):
        errors(
            lambda x, t: torch.cat([x, x], 1),
            schedules.linear(),
            "eps",
            draw(FEW, 9, Training(), 0),
        )
    with pytest.raises(ValueError, match="names a decay twice"):
        Training(ema=(0.9, 0.9))
    with pytest.raises(ValueError, match=r"does not divide into 3 processes of 2 parts; .* of 6"):
        Training(batch_size=64, accumulate=2).share(3)
    for bad in (
        {"accumulate": 0},
        {"min_snr": 0.0},
        {"label_dropout": 1.0},
        {"held_out": -1},
        {"decay": "linear"},
        {"precision": "int8"},
        {"ema": ()},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Training(**bad)
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
    with pytest.raises(ValueError, match=r"samples of \(1, 8, 8\), the data has \(1, 16, 16\)"):
        ddim.Model.new((1, 16, 16), config=one.net.config)


def test_min_snr_weighs_the_error_of_x0_alike_for_every_target():
    """An error of x0, as an error of each output at fixed x_t, weighs min(SNR, 5) times itself."""
    schedule = schedules.cosine(40)
    t = torch.arange(1, 41)
    x0, eps = torch.randn(2, 40, 1).double()
    level = schedule.levels(t, x0)
    wrong = x0 + 0.1
    other = eps - level.signal / level.noise * 0.1  # keeps x_t
    snr = (schedule.signal / schedule.noise)[1:] ** 2
    for target in ("eps", "x0", "v", "flow"):
        a, b = ddim.process.row(target, level)
        error = errors(lambda x, c, a=a, b=b: a * wrong + b * other, schedule, target, (x0, t, eps))
        weighed = min_snr_gamma(schedule, target)[1:] * error
        torch.testing.assert_close(weighed, snr.clamp(max=5) * 0.01)
    assert min_snr_gamma(schedule, "eps", 2.0)[1] == pytest.approx(2 / float(snr[0]))
    with pytest.raises(ValueError, match="gives level T no weight"):
        min_snr_gamma(schedules.zero_terminal(schedule), "v")


def test_processes_share_the_batch_of_one():
    options = Training(batch_size=12, flip=True, antithetic=True, label_dropout=0.5)
    whole = lessons(tiny_labelled(), DIGITS, options)[0].batch(3)
    for processes in (2, 3):
        parts = [
            lessons(tiny_labelled(), DIGITS, options)[0].batch(3, r, processes)
            for r in range(processes)
        ]
        for one, shares in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(one, torch.cat(shares))


def tiny_labelled():
    return ddim.Model.new((1, 8, 8), classes=10)


def test_flips_mirror_half_of_the_images_and_labels_are_dropped_as_often_as_asked():
    options = Training(batch_size=1000, flip=True, label_dropout=0.25)
    batch = lessons(tiny_labelled(), DIGITS, options)[0].batch(0)
    without = replace(options, flip=False, label_dropout=0)
    plain = lessons(tiny_labelled(), DIGITS, without)[0].batch(0)
    mirrored = (batch.x0 == plain.x0.flip(-1)).flatten(1).all(1)
    assert (mirrored | (batch.x0 == plain.x0).flatten(1).all(1)).all()
    assert abs(float(mirrored.double().mean()) - 0.5) < 5 * 0.5 / 1000**0.5
    dropped = batch.label == 10
    assert abs(float(dropped.double().mean()) - 0.25) < 5 * 0.433 / 1000**0.5
    assert torch.equal(batch.label[~dropped], plain.label[~dropped])
    both = float((dropped & mirrored).double().mean())  # independent of each other
    assert abs(both - 0.125) < 5 * (0.125 * 0.875 / 1000) ** 0.5
    seen = to_float(DIGITS.pixels)
    for x0, label in zip(plain.x0[:50], plain.label[:50], strict=True):
        assert label in DIGITS.labels[(seen == x0).flatten(1).all(1)]


def test_antithetic_times_are_mirrored():
    t = Lesson(FEW, 1000, Training(batch_size=7, antithetic=True)).batch(0).t
    assert torch.equal(t[:3] + t[4:], torch.full((3,), 1001))


def test_held_out_examples_are_never_trained_on():
    numbers, model = Arrays(torch.arange(50.0).reshape(50, 1)), ddim.Model.new((1,))

    def halves(seed):
        options = Training(batch_size=8, held_out=10, seed=seed)
        seen, held = lessons(model, numbers, options)
        trained = torch.cat([seen.batch(k).x0 for k in range(10)])
        return trained, held.taken(torch.arange(10))[0]

    trained, kept = halves(seed=3)
    assert len(set(trained.flatten().tolist())) == 40
    assert not torch.isin(kept, trained).any()
    assert not torch.equal(kept, halves(seed=4)[1])
    with pytest.raises(ValueError, match="leaves none to train on"):
        lessons(model, numbers, Training(held_out=50))


def test_what_is_held_out_keeps_the_classes_of_the_whole():
    """Though the two that are held out may be of any classes."""
    pixels = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 8, 8)
    data = Images(pixels.contiguous(), torch.arange(100, 110))
    for part in lessons(tiny_labelled(), data, Training(held_out=2)):
        x0, label = part.taken(torch.arange(len(part)))
        assert torch.equal(ddim.data.to_pixels(x0[:, 0, 0, 0]), label.to(torch.uint8))


def test_the_held_out_loss_is_that_of_the_averaged_weights_at_all_times_alike():
    """For a network that answers 0 the error of eps is that of the noise itself, 1 on average."""
    model = ddim.Model.new((1, 8, 8))
    trainer = Trainer(model, PLAIN, Training(held_out=400, batch_size=64))
    assert trainer.held_out_loss() == pytest.approx(1, abs=5 * (2 / (400 * 64)) ** 0.5)
    assert trainer.held_out_loss() == trainer.held_out_loss()
    with torch.no_grad():
        trainer.averages[0].module.conv_out.bias.fill_(2)
        assert trainer.held_out_loss() == pytest.approx(5, abs=0.1)
    assert Trainer(model, PLAIN).held_out_loss() is None


def test_accumulated_parts_give_the_update_of_the_whole_batch():
    weights = []
    for parts in (1, 4):
        options = Training(steps=3, batch_size=16, accumulate=parts, min_snr=5.0)
        last = list(train(tiny_model(), PLAIN, options))[-1]
        weights.append((last.model.net.state_dict(), last.loss, last.quarters))
    for name, weight in weights[0][0].items():
        torch.testing.assert_close(weight, weights[1][0][name], rtol=0, atol=2e-5)
    torch.testing.assert_close(weights[0][1:], weights[1][1:])


def test_the_quarters_add_up_to_the_loss():
    options = Training(steps=2, batch_size=64)
    for update in train(tiny_model(), PLAIN, options):
        assert float(update.quarters[0].sum() / 64) == pytest.approx(float(update.loss), rel=1e-5)
        t = Lesson(PLAIN, 1000, options).batch(update.step - 1).t
        counts = [((t > 250 * i) & (t <= 250 * (i + 1))).sum().item() for i in range(4)]
        assert update.quarters[1].tolist() == counts


def test_several_decays_are_averaged_beside_each_other():
    options = Training(steps=30, batch_size=4, ema=(0.5, 0.0), warmup=0)
    trainer = Trainer(tiny_model(), PLAIN, options)
    list(trainer.updates())
    raw = trainer.plain.state_dict()
    assert all(torch.equal(raw[n], w) for n, w in trainer.averages[1].module.state_dict().items())
    alone = list(train(tiny_model(), PLAIN, replace(options, ema=0.5)))[-1].model.net.state_dict()
    assert all(torch.equal(w, trainer.model.net.state_dict()[n]) for n, w in alone.items())


def test_dropout_is_a_function_of_seed_and_step_and_the_callers_generator_is_left_alone():
    model = ddim.Model(Line().eval(), schedules.cosine(), "v", (1, 8, 8))
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        ends.append(list(train(model, PLAIN, Training(steps=3, batch_size=4)))[-1].model.net.weight)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*ends)


class Jittered(torch.utils.data.Dataset):
    """A user's own, which draws its augmentation from torch's generator."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return to_float(DIGITS.pixels[index]) + 0.1 * torch.randn(1, 8, 8)


def test_worker_processes_change_nothing():
    """Not the order, and not what a Dataset draws for its own augmentation."""
    data = ddim.examples(Jittered())
    ends = []
    for workers in (0, 1, 2):
        run = train(tiny_model(), data, Training(steps=4, batch_size=8), workers=workers)
        ends.append(list(run)[-1].model.net.state_dict())
    for end in ends[1:]:
        assert all(torch.equal(weight, end[name]) for name, weight in ends[0].items())
    batches = [lessons(tiny_model(), data, Training(batch_size=40))[0].batch(k) for k in (0, 1)]
    assert not torch.equal(batches[0].x0.sort(0).values, batches[1].x0.sort(0).values)


def test_a_model_with_classes_learns_them_and_names_them():
    """After a while its loss with the right labels is below that with others."""
    model = ddim.Model.new((1, 8, 8), schedules.cosine(), "v", classes=10)
    options = Training(steps=150, batch_size=64, lr=4e-3, warmup=5, ema=0.9, label_dropout=0.2)
    last = list(train(model, DIGITS, options))[-1].model
    assert last.notes["labels"] == list("0123456789")
    assert last.notes["null_label"] == 10
    batch = lessons(model, DIGITS, Training(batch_size=512, label_dropout=0))[0].batch(10**6)
    right, wrong, none = (
        float(errors(last.net, last.schedule, "v", batch[:3], label).mean())
        for label in (batch.label, (batch.label + 5) % 10, torch.full((512,), 10))
    )
    assert right < 0.97 * none
    assert none < wrong


def test_plain_numbers_of_a_model_without_names_are_kept():
    """A class model of diffusers, fine-tuned on two of its ten classes."""
    pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    model = tiny_model(classes=10)
    assert numbered(Images(pixels, torch.tensor([7, 3, 7])), model).tolist() == [7, 3, 7]
    last = list(train(model, Images(pixels, torch.tensor([7, 3, 7])), Training(1, 2)))[-1].model
    assert last.notes["labels"] == list("0123456789")
    with pytest.raises(ValueError, match=r"classes 0, 1, 2, .* the model 3; give data"):
        numbered(DIGITS, tiny_model(classes=3))


def test_labels_are_matched_by_name():
    """A model fine-tuned on some of its classes keeps their places."""
    model = replace(tiny_labelled(), notes={"null_label": 10, "labels": list("abcdefghij")})
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    few = Images(pixels, torch.tensor([1, 0, 1, 2]), ("d", "b", "j"))
    assert numbered(few, model).tolist() == [1, 3, 1, 9]
    assert numbered(Images(pixels, torch.tensor([70, 30, 30, 90])), tiny_labelled()).tolist() == [
        1,
        0,
        0,
        2,
    ]
    assert numbered(few, tiny_model()) is None
    with pytest.raises(ValueError, match=r"classes x, b, j, and the model 10: a, b"):
        numbered(replace(few, names=("x", "b", "j")), model)
    with pytest.raises(ValueError, match="no labels, which a model with classes needs"):
        next(train(tiny_labelled(), PLAIN))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_float32_does(precision):
    losses = []
    for each in ("float32", precision):
        options = Training(steps=60, batch_size=32, lr=3e-3, warmup=5, precision=each)
        losses.append(
            [float(u.loss) for u in train(tiny_model("v"), PLAIN, options) if not u.skipped]
        )
    first, second = (sum(run[-20:]) / 20 for run in losses)
    assert second == pytest.approx(first, rel=0.05)
    assert losses[0][-1] != losses[1][-1]


def test_a_run_goes_on_with_its_counts_and_its_scale():
    """In float16, in the middle of a streak: the scale was halved, and nothing was averaged."""
    options = Training(steps=8, batch_size=4, lr=0.1, warmup=0, precision="fp16")
    for what, row in (("loss", 2), ("gradient", 0)):  # an overflow is no sign of divergence
        model = ddim.Model(Breaking({3, 4}, what).eval(), schedules.cosine(), "v", (1, 8, 8))
        trainer = Trainer(model, PLAIN, options)
        for update in trainer.updates():
            if update.step == 5:
                break
        again = Trainer(replace(model, net=trainer.model.net), PLAIN, options)
        again.restore(trainer.state())
        for one in (trainer, again):
            assert (one.step, one.learned, one.skipped, one.in_row) == (5, 3, 2, row)
            assert one.scaler.get_scale() == 65536 / 4
            assert int(one.averages[0].n_averaged) == 3


def test_float16_searches_its_scale_for_longer_than_a_run_that_diverges():
    def run(what):
        broken = Breaking(set(range(1, 14)), what)
        model = ddim.Model(broken.eval(), schedules.cosine(), "v", (1, 8, 8))
        options = Training(steps=16, batch_size=4, lr=0.1, precision="fp16")
        return list(train(model, PLAIN, options))

    assert sum(update.skipped for update in run("gradient")) == 13
    with pytest.raises(FloatingPointError, match="10 updates in a row"):
        run("loss")


def test_float16_clips_the_gradient_and_not_its_scaled_one():
    norms = []
    for precision in ("float32", "fp16"):
        options = Training(steps=3, batch_size=16, precision=precision)
        norms.append([update.grad_norm for update in train(tiny_model(), PLAIN, options)])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


class Listening(torch.nn.Module):
    """Answers 0 and keeps the times that it was asked at."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked = []

    def forward(self, x, t):
        self.asked += t.tolist()
        return x * self.weight


def test_held_out_times_are_spread_evenly_whatever_the_order_of_the_examples():
    model = ddim.Model(Listening().eval(), schedules.cosine(), "v", (1, 8, 8))
    trainer = Trainer(model, PLAIN, Training(held_out=50, batch_size=16))
    trainer.held_out_loss()
    asked = trainer.averages[0].module.asked
    assert sorted(t * 50 // 1000 for t in asked) == list(range(50))
    assert asked != sorted(asked)


def test_the_held_out_loss_of_data_that_draws_is_fixed_too():
    trainer = Trainer(tiny_model(), Jittered(), Training(held_out=10, batch_size=4))
    before = torch.get_rng_state()
    assert trainer.held_out_loss() == trainer.held_out_loss()
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_are_distinct():
    assert len({0, ORDER, BATCH, SIDE, HELD, MASK, OWN}) == 7
    seeds = [
        seed_of(Training(seed=seed), step, rank, use)
        for seed in (0, 1)
        for step in (0, 1)
        for rank in (0, 1)
        for use in (MASK, OWN)
    ]
    assert len(set(seeds)) == 16


def test_every_epoch_has_an_order_of_its_own():
    lesson = Lesson(Arrays(torch.arange(50.0).reshape(50, 1)), 9, Training(batch_size=50))
    assert len({tuple(lesson.batch(k).x0.flatten().tolist()) for k in range(6)}) == 6


def test_a_line_of_metrics_leaves_skipped_updates_out():
    model = ddim.Model(Breaking({1}).eval(), schedules.cosine(), "v", (1, 8, 8))
    updates = list(train(model, PLAIN, Training(steps=3, batch_size=4, lr=0.1)))
    line = told(updates)
    for name in ("loss", "grad_norm"):
        kept = [float(getattr(update, name)) for update in (updates[0], updates[2])]
        assert line[name] == pytest.approx(sum(kept) / 2)
    assert told(updates[1:2])["loss"] is None
