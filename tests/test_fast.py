"""The U-Net as it samples against the U-Net as it is written."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from ddim.nets import UNet, UNetConfig, fast, kernels as compiled, packed
from ddim.nets.fast import Fast, attend
from ddim.nets.kernels import Kernels, Norm, kernels, narrow
from ddim.nets.packed import NormConv, Winograd, usable
from test_unet import BASE, VARIANTS

HOW = (
    "as it is",
    "without a compiler",
    "without packed weights",
    "by Winograd",
    "by Winograd, with products of oneDNN",
)


@pytest.fixture(params=HOW)
def how(request, monkeypatch):
    """Every form that the fast network takes, on machines that have more or less."""
    if request.param == "without a compiler":
        for module in (packed, fast):
            monkeypatch.setattr(module, "usable", lambda dtype, device: None)
    if request.param == "without packed weights":
        monkeypatch.setattr(fast, "packs", lambda dtype: False)
    if request.param == "by Winograd, with products of oneDNN":
        monkeypatch.setattr(Kernels, "multiplies", False)
    if "by Winograd" in request.param:
        monkeypatch.setattr(packed, "_LEAST", 1)
        monkeypatch.setattr(packed, "_PIXELS", 1)
        monkeypatch.setattr(packed, "_CHUNK", 1 << 17)
        monkeypatch.setattr(fast, "_CACHE", 1 << 16)  # in parts
    return request.param


def unet(variant):
    net = UNet(UNetConfig(**{**BASE, **VARIANTS[variant]})).eval().requires_grad_(False)
    for weight in net.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    return net


def images(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_answers_as_the_network_that_it_is_made_of(variant, how):
    net = unet(variant)
    quick = Fast(net)
    x = torch.randn(5, net.config.in_channels, 16, 24)
    labels = torch.tensor([0, 4, 2, 2, 1]) if net.config.num_class_embeds else None
    for t in (torch.tensor([0, 10, 999, 500, 2]), torch.full((1,), 300).expand(5)):
        for batch in (5, 1):  # after weights were laid out for another batch
            label = None if labels is None else labels[:batch]
            expected, found = net(x[:batch], t[:batch], label), quick(x[:batch], t[:batch], label)
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_fractional_time_and_a_time_asked_again_are_right():
    net = unet("defaults")
    quick, x = Fast(net), torch.randn(2, 3, 16, 16)
    for t in (0.25, 7.0, 0.25):
        times = torch.full((1,), t).expand(2)
        torch.testing.assert_close(quick(x, times), net(x, times), rtol=0, atol=2e-5)


def test_bfloat16_is_near(how):
    net = unet("published")
    x, t = torch.randn(4, 3, 16, 16), torch.full((4,), 500)
    right, near = net(x, t), Fast(net, torch.bfloat16)(x, t)
    assert near.dtype == torch.float32
    assert 0 < (near - right).norm() / right.norm() < 2e-2


def test_it_takes_nothing_from_its_caller_and_refuses_as_the_network_does():
    net = unet("classes")
    x, t, label = torch.randn(2, 3, 16, 16), torch.full((2,), 9), torch.tensor([1, 2])
    kept, weights = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    Fast(net)(x, t, label)
    assert torch.equal(x, kept)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    with pytest.raises(ValueError, match="multiples of 4"):
        Fast(net)(x[..., :15], t, label)
    with pytest.raises(ValueError, match="got no label"):
        Fast(net)(x, t)


def test_the_kernels_are_compiled_here():
    assert isinstance(kernels(), Kernels)
    assert packed.packs(torch.float32)


@given(
    st.integers(1, 3),
    st.sampled_from([(1, 0), (33, 7), (32, 0), (64, 32), (40, 24)]),
    st.sampled_from([(2, 2), (4, 6), (1, 5)]),
    st.booleans(),
)
def test_a_normalisation_is_torchs_in_double(batch, widths, sides, act):
    total = sum(widths)
    norm = nn.GroupNorm(8 if total % 8 == 0 else 1, total, 1e-6).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    parts = tuple(images(batch, width, *sides) for width in widths if width)
    shift = torch.randn(batch, total)
    exact = norm.double()(torch.cat(parts, 1).double() + shift[:, :, None, None])
    exact = F.silu(exact) if act else exact
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found = kernels().normalise(parts, Norm(norm), shift, act=act, tiled=False)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=3e-5)
    torch.set_num_threads(1)


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's are for CUDA")


@needs_a_gpu
@pytest.mark.parametrize("sides", [(2, 2), (5, 3), (32, 32), (150, 130)])
@pytest.mark.parametrize("widths", [(8, 0), (32, 0), (128, 64), (40, 24), (512, 256)])
def test_a_normalisation_on_a_gpu_is_torchs_in_double(widths, sides):
    gpu = usable(torch.float32, torch.device("cuda"))
    total = sum(widths)
    norm = nn.GroupNorm(8, total, 1e-6).requires_grad_(False).cuda()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    parts = tuple(images(3, width, *sides).cuda() + 4 for width in widths if width)
    for shift in (None, torch.randn(1, total).cuda(), torch.randn(3, total).cuda()):
        x = torch.cat(parts, 1).double()
        exact = deepcopy(norm).double()(x if shift is None else x + shift[:, :, None, None])
        for act in (False, True):
            found = gpu.normalise(parts, Norm(norm), shift, act=act)
            right = F.silu(exact) if act else exact
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=5e-5)
    y, add, bias = torch.randn(3, total, *sides), torch.randn(3, total, *sides), torch.randn(total)
    for other, number in ((None, bias), (add, None), (add, bias)):
        right = y + (0 if other is None else other)
        right += 0 if number is None else number[:, None, None]
        given = (None if each is None else each.cuda() for each in (other, number))
        torch.testing.assert_close(gpu.join(y.cuda(), *given).cpu(), right)


@needs_a_gpu
@pytest.mark.parametrize("kernels_of_triton", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu_it_answers_as_the_network(variant, kernels_of_triton, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if not kernels_of_triton:
        monkeypatch.setattr(packed, "_on_gpu", lambda: None)
    net = unet(variant).cuda()
    x = torch.randn(5, net.config.in_channels, 16, 24).cuda()
    label = torch.tensor([0, 4, 2, 2, 1]).cuda() if net.config.num_class_embeds else None
    for t in (torch.tensor([0, 10, 999, 500, 2]).cuda(), torch.full((1,), 300).cuda().expand(5)):
        right = net(x, t, label)
        torch.testing.assert_close(Fast(net)(x, t, label), right, rtol=0, atol=3e-5)
        for dtype in (torch.bfloat16, torch.float16):
            near = Fast(net, dtype)(x, t, label)
            assert 0 < (near - right).norm() / right.norm() < 2e-2


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 1), (4, 64, 64), (1, 2, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_softmax_is_torchs_in_double(shape, dtype):
    x = (20 * torch.randn(shape)).to(dtype)
    exact = x.double().softmax(-1)
    rtol = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(kernels().softmax(x).double(), exact, rtol=rtol, atol=1e-12)
    extreme = torch.tensor([[1e4, 0.0, -1e4, 3e38, -3e38], [0.0, 1.0, torch.nan, 0.0, 0.0]])
    found = kernels().softmax(extreme.to(dtype))
    assert found[0].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert found[1].isnan().all()


@pytest.mark.parametrize("width", [8, 24, 32])
@pytest.mark.parametrize("sides", [(1, 1), (3, 5), (8, 8), (10, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_narrow_heads_is_torchs_in_double(width, sides, dtype):
    assert narrow(width)
    tokens = 3 * images(2, 3 * 4 * width, *sides)
    tokens = tokens.to(dtype, memory_format=torch.channels_last)
    parts = tokens.double().reshape(2, 3, 4, width, -1).transpose(3, 4)
    exact = F.scaled_dot_product_attention(*parts.unbind(1)).transpose(2, 3)
    tolerance = (
        {"rtol": 1e-5, "atol": 3e-5} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 1e-3}
    )
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found = kernels().attend(tokens, 4)
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), exact.reshape(found.shape), **tolerance)
    torch.set_num_threads(1)


def test_narrow_is_what_the_kernel_can_do_and_the_network_takes_it(monkeypatch):
    assert [width for width in range(1, 70) if narrow(width)] == [8, 16, 24, 32]
    asked, attend = [], Kernels.attend
    monkeypatch.setattr(
        Kernels, "attend", lambda self, *given: asked.append(1) or attend(self, *given)
    )
    for width in (8, 4, 32):
        config = {**BASE, **VARIANTS["defaults"], "attention_head_dim": width}
        net = UNet(UNetConfig(**config)).eval().requires_grad_(False)
        x, t = torch.randn(1, 3, 16, 16), torch.full((1,), 500)
        torch.testing.assert_close(Fast(net)(x, t), net(x, t), rtol=0, atol=2e-5)
        assert bool(asked) == narrow(width)
        asked.clear()


def test_the_cached_kernels_are_of_all_their_sources(tmp_path, monkeypatch):
    before = compiled._key()
    for name in ("_SOURCES", "_HEADERS"):
        kept = getattr(compiled, name)
        for path in kept:
            other = tmp_path / path.name
            other.write_text(path.read_text() + "//")
            monkeypatch.setattr(compiled, name, [other if each == path else each for each in kept])
            assert compiled._key() != before
            monkeypatch.setattr(compiled, name, kept)


def test_attention_bears_great_scores_and_hides_no_nan():
    tokens = torch.zeros(1, 24, 1, 20)
    tokens[0, :8], tokens[0, 8, 0, 3], tokens[0, 16:] = 1e3, 3e5, torch.arange(20.0)
    found = kernels().attend(tokens, 1)
    torch.testing.assert_close(found, torch.full((1, 8, 1, 20), 3.0))
    for nan in (torch.tensor(torch.nan), -torch.tensor(torch.nan)):  # whose bits differ in the sign
        tokens[0, 9, 0, 17] = nan
        assert kernels().attend(tokens, 1).isnan().all()
    tokens[0, 9, 0, 17], tokens[0, 2, 0, 4] = 0.0, nan
    assert kernels().attend(tokens, 1).isnan().all(1).flatten().nonzero().tolist() == [[4]]


def test_silu_is_right_everywhere():
    """Over all magnitudes: a normalisation of two pixels gives ±gamma."""
    sizes = torch.cat([torch.logspace(-30, 38, 1000), torch.tensor([3.3e38])])
    norm = nn.GroupNorm(len(sizes), len(sizes), 0.0).requires_grad_(False)
    norm.weight.copy_(sizes)
    x = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2).expand(1, len(sizes), 1, 2)
    found = kernels().normalise((x,), Norm(norm), None, act=True)[0, :, 0]
    right = F.silu(torch.stack([sizes, -sizes], 1).double())
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-34)
    broken = images(1, 4, 3, 3)
    broken[0, 1, 2, 2] = torch.nan
    every = Norm(nn.GroupNorm(4, 4).requires_grad_(False))
    channels = kernels().normalise((broken,), every, None, act=True).isnan().flatten(2).all(2)
    assert channels.tolist() == [[False, True, False, False]]


def test_a_mean_far_from_zero_costs_no_digits():
    norm = nn.GroupNorm(2, 64).requires_grad_(False)
    x = images(1, 64, 16, 16) + 4096
    exact = norm.double()(x.double())
    found = kernels().normalise((x,), Norm(norm), None, act=False, tiled=False)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)


def test_silu_holds_at_the_ends_and_nan_and_infinity_are_not_hidden():
    norm = nn.GroupNorm(1, 1, 0).requires_grad_(False)
    norm.weight.fill_(1e4)
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    found = kernels().normalise((x,), Norm(norm), None, act=True, tiled=False)
    torch.testing.assert_close(found, F.silu(norm(x)), rtol=1e-6, atol=5e-3)  # of ±17,000
    for bad in (torch.nan, torch.inf):
        x[0, 0, 3, 3] = bad
        for dtype in (torch.float32, torch.bfloat16):
            one = kernels().normalise((x.to(dtype),), Norm(norm), None, act=True, tiled=False)
            assert one.isnan().any()


def test_bfloat16_is_rounded_to_the_nearest():
    norm = nn.GroupNorm(1, 8).requires_grad_(False)
    x = images(2, 8, 4, 4, dtype=torch.bfloat16)
    wide = kernels().normalise((x.float(),), Norm(norm), None, act=False, tiled=False)
    found = kernels().normalise((x,), Norm(norm), None, act=False, tiled=False)
    assert torch.equal(found, wide.bfloat16())


@pytest.mark.parametrize("chunk", [1, 1 << 21])  # an image at a time, and all
@pytest.mark.parametrize("sides", [(2, 2), (4, 6), (8, 2)])
@pytest.mark.parametrize("widths", [(24, 40), (25, 16), (70, 49), (2, 1)])
@pytest.mark.parametrize("by", ["its own products", "oneDNN"])
def test_winograd_is_the_convolution(sides, chunk, widths, by, monkeypatch):
    monkeypatch.setattr(packed, "_CHUNK", chunk)
    if by == "oneDNN":
        monkeypatch.setattr(Kernels, "multiplies", False)
    width, wide = widths
    conv = nn.Conv2d(width, wide, 3, padding=1).requires_grad_(False)
    norm = nn.GroupNorm(1, width).requires_grad_(False)
    x, add = (images(5, each, *sides, dtype=torch.bfloat16) for each in widths)
    shift = torch.randn(5, width)
    exact = conv.double()(F.silu(norm.double()(x.double() + shift.double()[:, :, None, None])))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        whole = Winograd(conv.float(), conv.bias, dtype, kernels())
        for added, expected in ((add, exact + add), (None, exact)):
            for threads in (1, 3):
                torch.set_num_threads(threads)
                given = None if added is None else added.to(dtype)
                found = whole((x.to(dtype),), Norm(norm.float()), shift, given).double()
                assert (found - expected).abs().max() < tolerance * expected.abs().max()
    torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_winograd_is_for_wide_layers_whatever_the_batch(dtype, monkeypatch):
    """Otherwise an image would depend on those beside it."""
    asked = []
    monkeypatch.setattr(Winograd, "__call__", lambda self, images, *more: asked.append(images))
    for channels, side in ((56, 16), (64, 4), (64, 8)):
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        made = NormConv(nn.GroupNorm(8, channels), conv, dtype, packed=True)
        for batch in (1, 20):
            made((images(batch, channels, side, side, dtype=dtype),))
    assert [tuple(given[0].shape) for given in asked] == [(1, 64, 8, 8), (20, 64, 8, 8)]


def test_attention_is_torchs_however_many_there_are(monkeypatch):
    q, k, v = torch.randn(3, 2, 3, 10, 8)
    right = F.scaled_dot_product_attention(q, k, v)
    for by in (None, usable(torch.float32, q.device)):
        torch.testing.assert_close(attend(q, k, v, by), right, rtol=0, atol=1e-6)
    monkeypatch.setattr(fast, "_SCORES", 0)
    for by in (None, usable(torch.float32, q.device)):
        torch.testing.assert_close(attend(q, k, v, by), right, rtol=0, atol=1e-6)


@pytest.fixture
def uncompiled(monkeypatch, tmp_path):
    """As on a machine that has compiled nothing yet."""
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    return compiled.kernels.__wrapped__


def test_the_kernels_are_compiled_once(uncompiled, tmp_path, monkeypatch):
    first = uncompiled()
    assert isinstance(first, Kernels)
    (kept,) = (tmp_path / "kernels").iterdir()
    monkeypatch.setenv("CXX", "false")  # would fail
    assert isinstance(uncompiled(), Kernels)
    kept.unlink()
    assert uncompiled() == "false failed (no reason given)"
    monkeypatch.delenv("CXX")
    kept.write_bytes(b"no library")
    assert isinstance(uncompiled(), Kernels)  # made anew


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("/no/such/c++", "/no/such/c++ did not run"), ("false", "false failed")],
)
def test_without_a_compiler_there_is_a_reason(uncompiled, monkeypatch, compiler, said):
    monkeypatch.setenv("CXX", compiler)
    assert said in uncompiled()


def test_a_large_image_and_a_bright_pixel_cost_no_digits():
    norm = nn.GroupNorm(4, 32).requires_grad_(False)
    x = images(1, 32, 512, 512)
    for brightest in (1.0, 100.0):
        x[:, :, 0, 0] = brightest
        exact = norm.double()(x.double())
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = kernels().normalise((x,), Norm(norm), None, act=False, tiled=False)
            torch.testing.assert_close(found.double(), exact, rtol=3e-6, atol=3e-6)
        torch.set_num_threads(1)


def test_times_and_labels_of_another_length_are_refused():
    net, x = unet("classes"), torch.randn(4, 3, 16, 16)
    for t, label in ((4, 3), (3, 4)):
        with pytest.raises(ValueError, match="for 4 images; give one per image"):
            Fast(net)(x, torch.zeros(t), torch.zeros(label, dtype=torch.long))
