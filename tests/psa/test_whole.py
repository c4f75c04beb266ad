"""The whole block in one call: as exact as eager torch, whatever the threads, and on today's weights."""

import copy
import pickle
import platform

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention, loops, whole
from polarpix.psa.block import _weights

pytestmark = pytest.mark.compiler

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
KINDS = [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")]
SHAPES = {
    "odd": (3, 50, 17, 13),  # rows left over from every unrolled loop
    "pixel": (2, 16, 1, 1),
    "two": (1, 2, 5, 3),
    "samples": (4, 16, 40, 61),  # a thread takes whole samples, of several tiles and a shorter last one
    "matrices": (2, 130, 9, 11),  # threads share the matrices between the passes
    "wide": (1, 1030, 9, 8),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def taken(block, x):
    return whole.places(x, block.form, block.layout, _weights(block.channel), _weights(block.spatial)) is not None


def problem(shape, memory_format="contiguous", dtype=torch.float32):
    x, d = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    return x.contiguous(memory_format=FORMATS[memory_format]), d


def sweep(block, x, d, gradients=True):
    """Output, gradient of x and of each parameter; in float64."""
    if not gradients:
        with torch.no_grad():
            return [block(x).double()]
    x = x.detach().requires_grad_()
    out = block(x)
    return [one.double() for one in (out.detach(), *torch.autograd.grad(out, [x, *block.parameters()], d))]


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("form", "layout"), KINDS)
def test_errs_at_most_twice_as_much_as_eager_torch(form, layout, shape, dtype, build, assert_near):
    channels = SHAPES[shape][1]
    x, d = problem(SHAPES[shape], dtype=dtype)
    block = build(channels, form, layout, dtype)
    truth = build(channels, form, layout, torch.float64, "reference")
    truth.load_state_dict(block.state_dict())  # as rounded
    exact = sweep(truth, x.double(), d.double())
    eager = sweep(build(channels, form, layout, dtype, "reference"), x, d)
    for memory_format in FORMATS.values():
        x = x.contiguous(memory_format=memory_format)
        assert taken(block, x)
        got = sweep(block, x, d)
        assert_near(got, eager, exact, dtype)
        assert torch.equal(sweep(block, x, d, gradients=False)[0], got[0])


def near_eager(shape, build, assert_near, form="paper", dtype=torch.bfloat16):
    """Hold one call on a map with its channels together to twice the error of eager torch, both ways."""
    x, d = problem(shape, "channels_last", dtype)
    block, truth = build(shape[1], form, dtype=dtype), build(shape[1], form, dtype=torch.float64, impl="reference")
    truth.load_state_dict(block.state_dict())  # as rounded
    assert taken(block, x)
    eager = sweep(build(shape[1], form, dtype=dtype, impl="reference"), x, d)
    assert_near(sweep(block, x, d), eager, sweep(truth, x.double(), d.double()), dtype)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("channels", [32, 34, 48, 62, 64, 96, 100, 128, 226, 2048, 2050])
@pytest.mark.parametrize("form", ["paper", "released"])
def test_every_number_of_channels_has_its_vectors(form, channels, build, assert_near):
    near_eager((2, channels, 7, 5), build, assert_near, form)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="options of compilers for x86")
@pytest.mark.usefixtures("_poison", "_fresh")
@pytest.mark.parametrize("without", ["avx512bf16", "avx512f", "avx"])
def test_a_processor_without(without, monkeypatch, build, assert_near):
    monkeypatch.setattr(loops, "FLAGS", (*(flag.replace("-O3", "-O1") for flag in loops.FLAGS), f"-mno-{without}"))
    for dtype in (torch.float32, torch.bfloat16):
        for channels in (16, 50, 96, 130):
            for form in ("paper", "released"):
                near_eager((2, channels, 7, 5), build, assert_near, form, dtype)


@given(
    b=st.integers(1, 4), half=st.integers(1, 40), h=st.integers(1, 40), w=st.integers(1, 40),
    last=st.booleans(), kind=st.sampled_from(KINDS),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_any_shape(b, half, h, w, last, kind, build):
    x, d = problem((b, 2 * half, h, w), "channels_last" if last else "contiguous")
    wanted = sweep(build(2 * half, *kind, torch.float64, "reference"), x.double(), d.double())
    largest = max(truth.abs().max().item() for truth in wanted)
    for one, truth in zip(sweep(build(2 * half, *kind), x, d), wanted, strict=True):
        torch.testing.assert_close(one, truth, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", ["samples", "matrices", "odd"])
@pytest.mark.parametrize(("form", "layout"), KINDS)
def test_threads_and_repetition_change_no_bit(form, layout, shape, memory_format, threads, build):
    block = build(SHAPES[shape][1], form, layout)
    x, d = problem(SHAPES[shape], memory_format)
    results = []
    for count in (1, 1, 2, 3, 4):
        threads(count)
        results.append(sweep(block, x, d))
    for found in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found, results[0], strict=True))


def test_the_released_form_where_its_softmax_is_sharp(build, assert_near):
    """Its gradients are differences there: e_p less its weighted mean."""
    x, d = problem((2, 16, 9, 11))
    block, truth = build(16, "released"), build(16, "released", dtype=torch.float64, impl="reference")
    eager = build(16, "released", impl="reference")
    for one in (block, truth, eager):
        with torch.no_grad():
            one.spatial["q"].weight.mul_(30)
    with torch.no_grad():
        assert truth.gates(x.double())[1].max() > 0.7  # of 0.73 = sigmoid(1)
    exact = sweep(truth, x.double(), d.double())
    assert_near(sweep(block, x, d), sweep(eager, x, d), exact, torch.float32)


def test_weights_are_those_of_today(build):
    block, x = build(16), torch.randn(2, 16, 6, 7)
    others = PolarizedSelfAttention(16, init="torch", scale=2.0)

    def holds():
        with torch.no_grad():
            truth = build(16, impl="reference")
            truth.load_state_dict(block.state_dict())
            torch.testing.assert_close(block(x), truth(x))

    holds()
    with torch.no_grad():
        block.channel["v"].weight.mul_(2)
    holds()
    block.spatial["q"].bias = torch.nn.Parameter(torch.randn(8))
    holds()
    block.load_state_dict(others.state_dict(), assign=True)
    holds()
    block.spatial["v"] = torch.nn.Conv2d(16, 8, 1)
    holds()
    block.impl = "auto"
    assert block.double()(x.double()).dtype == torch.float64
    block.float()
    holds()
    block.channel["z"].weight.data = torch.randn(16, 8, 1, 1)  # the same parameter, elsewhere
    holds()
    weights = {name: torch.randn_like(W) for name, W in block.named_parameters()}
    out = torch.func.functional_call(block, weights, x)
    block.load_state_dict(weights)
    assert torch.equal(out, block(x))


def test_second_derivatives(build):
    x, d = problem((2, 16, 4, 5))
    found = []
    for dtype, impl in ((torch.float32, "loops"), (torch.float64, "reference")):
        for kind in KINDS:
            block = build(16, *kind, dtype=dtype, impl=impl)
            one = x.to(dtype).requires_grad_()
            inputs = [one, *block.parameters()]
            firsts = torch.autograd.grad(block(one), inputs, d.to(dtype), create_graph=True)
            norm = sum(first.square().sum() for first in firsts)
            found.append([g.double() for g in torch.autograd.grad(norm, inputs, materialize_grads=True)])
    for got, wanted in zip(found[:3], found[3:], strict=True):
        largest = max(one.abs().max().item() for one in wanted)
        for one, truth in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, truth, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_gradients_only_where_they_are_wanted(form, build):
    x, d = problem((2, 16, 6, 7))
    names = list(dict(build(16, form).named_parameters()))
    _, dx, *every = sweep(build(16, form), x, d)
    for wanted in (["spatial.v.weight", "channel.z.weight"], ["channel.q.weight"], names[:1] + names[2:], []):
        block, one = build(16, form), x.clone().requires_grad_(not wanted)
        for name, W in block.named_parameters():
            W.requires_grad_(name in wanted)
        block(one).backward(d)
        assert {name for name, W in block.named_parameters() if W.grad is not None} == set(wanted)
        for name, dW in zip(names, every, strict=True):
            assert name not in wanted or torch.equal(block.get_parameter(name).grad.double(), dW)
        assert wanted or torch.equal(one.grad.double(), dx)


def test_a_gradient_that_lies_otherwise(build):
    block = build(16)
    x, d = problem((2, 16, 6, 7), "channels_last")
    expanded = torch.ones(()).expand(x.shape)
    for one in (d, d[:, :, :1].expand(x.shape), expanded):
        for got, wanted in zip(sweep(block, x, one), sweep(block, x, one.clone()), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_default_dtype_of_torch_is_of_no_concern(memory_format, build):
    block, (x, d) = build(16), problem((2, 16, 6, 7), memory_format)
    wanted = sweep(block, x, d)
    torch.set_default_dtype(torch.float16)
    try:
        got = sweep(block, x, d)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_changed_in_place_between_forward_and_backward_is_an_error(build):
    block, (x, d) = build(16), problem((2, 16, 6, 7))
    out = block(x)
    with torch.no_grad():
        block.spatial["q"].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward(d)


def test_weights_that_move_between_forward_and_backward(build):
    x, d = problem((2, 16, 6, 7))
    wanted = sweep(build(16), x, d)[2:]
    block = build(16)
    out = block(x)
    for W in block.parameters():
        old, W.data = W.data, W.data.clone()
        old.fill_(float("nan"))
    for W, dW in zip(torch.autograd.grad(out, [*block.parameters()], d), wanted, strict=True):
        assert torch.equal(W.double(), dW)
    out = block(x)
    block.spatial["q"].weight.data = block.spatial["q"].weight.data.bfloat16()
    with pytest.raises(RuntimeError, match="converted or moved"):
        out.backward(d)


@pytest.mark.parametrize(("form", "layout"), KINDS)
def test_a_graph_that_is_kept_gives_the_same_again(form, layout, build):
    block, (x, d) = build(16, form, layout), problem((2, 16, 6, 7))
    inputs = [x.requires_grad_(), *block.parameters()]
    out = block(x)
    first = torch.autograd.grad(out, inputs, d, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(out, inputs, d)))


@pytest.mark.parametrize("form", ["paper", "released"])
def test_keeps_two_rows_of_pixels_beside_the_map(form, build):
    block, x = build(16, form), torch.randn(2, 16, 40, 50, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        block(x)
    own = [one for one in kept if one is not x and not any(one is W for W in block.parameters())]
    assert sum(one.nbytes for one in own) <= 2 * (2 * 2000 + 20 * 16) * 4


def test_what_it_leaves_to_the_passes(build):
    block, x = build(16), torch.randn(2, 16, 6, 7)
    assert taken(block, x)
    assert not taken(build(16, "released", "sequential"), x)
    assert not taken(block, x.bfloat16())
    block.channel["v"].weight = torch.nn.Parameter(torch.randn(16, 8, 1, 1).transpose(0, 1))
    assert not taken(block, x)
    truth = build(16, impl="reference")
    truth.load_state_dict(block.state_dict())
    torch.testing.assert_close(block(x), truth(x))
    many = torch.randn(3, 2, 16, 6, 7)
    auto = build(16, impl="auto")
    together = torch.func.vmap(auto)(many)
    torch.testing.assert_close(together, torch.stack([auto(one) for one in many]))


def test_weights_are_looked_at_once_while_they_stay(build):
    block, x = build(16), torch.randn(2, 16, 6, 7)
    with torch.no_grad():
        block(x)
        first = block._places
        block(torch.randn(1, 16, 3, 3))
        assert first is not None
        assert block._places is first
        block.channel["v"].weight.data = block.channel["v"].weight.data.clone()
        block(x)
        assert block._places is not first
        weights = _weights(block.channel), _weights(block.spatial)
        found = whole.places(x.bfloat16(), "paper", "parallel", *weights)
        assert found is None  # weights of another dtype than the map
        assert not block._places.hold([W for one in weights for W in one.values()], torch.bfloat16)
        block.spatial["v"].weight = torch.nn.Parameter(block.spatial["v"].weight[:4])  # at the same place
        weights = _weights(block.channel), _weights(block.spatial)
        assert not block._places.hold([W for one in weights for W in one.values()], x.dtype)
        assert whole.places(x, "paper", "parallel", *weights) is None


def test_a_copy_of_a_block_that_has_run(build):
    block, x = build(16), torch.randn(2, 16, 6, 7)
    out = block(x)
    for copied in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(copied(x), out)
        with torch.no_grad():
            copied.spatial["v"].bias.add_(1)
        assert not torch.equal(copied(x), out)
    assert torch.equal(block(x), out)
    assert "_places" not in block.state_dict()


def test_weights_of_another_size_never_reach_the_loops(build):
    block = build(16)
    block(torch.randn(2, 16, 6, 7))
    block.spatial["v"] = torch.nn.Conv2d(16, 4, 1)
    with pytest.raises((InputError, RuntimeError)):
        block(torch.randn(2, 16, 6, 7))
