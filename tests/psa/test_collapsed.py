"""The collapsed form is the reference: values, gradients, dtypes and memory layouts, without the [h, P] tensors.

Both ways to it: the plain operations, which are exported, and the passes written by hand, which run eagerly.
"""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polarpix.psa import PolarizedSelfAttention, collapsed, passes
from polarpix.psa.block import _weights

FUNCTIONS = [(form, layout) for form in ("paper", "released") for layout in ("parallel", "sequential")]
SHAPES = [
    (2, 48, 17, 13),  # odd in both directions, channels that are no power of two
    (3, 16, 1, 1),  # one pixel: every softmax over P is 1
    (1, 16, 65, 65),  # odd width: rows are not aligned
    (2, 16, 1, 7),  # one row
]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def by_operations(block, x):
    return collapsed.apply_gates(x, *block.gates(x), block.layout, block.scale)


def by_passes(block, x):
    weights = _weights(block.channel), _weights(block.spatial)
    return passes.attend(x, block.form, block.layout, *weights, block.scale)


WAYS = {"operations": by_operations, "passes": by_passes}


def collapse(block, way):
    """The block with its forward taken that way."""
    block.forward = partial(WAYS[way], block)
    return block


def build(way, channels, layout="parallel", form="paper"):
    """An untrained block that goes the way of the reference, or one of the two."""
    block = PolarizedSelfAttention(channels, layout, form, "reference" if way == "reference" else "collapsed")
    return block if way == "reference" else collapse(block, way)


def pair(channels, layout, form, branches="both", scale=1.0, seed=0, way="passes"):
    """The reference and the collapsed block with the same weights, in fp64."""
    torch.manual_seed(seed)
    options = {"layout": layout, "form": form, "init": "torch", "branches": branches, "scale": scale}
    exact = PolarizedSelfAttention(channels, impl="reference", **options).double()
    with torch.no_grad():  # a LayerNorm of ones and zeros would hide its weights
        for parameter in exact.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    other = PolarizedSelfAttention(channels, impl="collapsed", **options).double()
    other.load_state_dict(exact.state_dict())
    return exact, collapse(other, way)


def values_and_gradients(block, x, d):
    """Output and the gradients of the input and of every parameter, by name."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = block(x)
    names = ["x", *(name for name, _ in block.named_parameters())]
    gradients = torch.autograd.grad(out, [x, *block.parameters()], d.to(out.dtype))
    return {"out": out.detach(), **dict(zip(names, gradients, strict=True))}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_equals_the_reference_in_fp64(form, layout, shape, memory, way):
    exact, other = pair(shape[1], layout, form, way=way)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=LAYOUTS[memory])
    d = torch.randn(shape, dtype=torch.float64)
    expected, got = values_and_gradients(exact, x, d), values_and_gradients(other, x, d)
    assert got["out"].is_contiguous(memory_format=LAYOUTS[memory])
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for gate, expected_gate in zip(other.gates(x), exact.gates(x), strict=True):
        torch.testing.assert_close(gate, expected_gate, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    function=st.sampled_from(FUNCTIONS),
    branches=st.sampled_from(["both", "channel", "spatial"]),
    half=st.integers(8, 20),
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.sampled_from([1.0, 4.0]),
    strided=st.booleans(),
    seed=st.integers(0, 1000),
    way=st.sampled_from(list(WAYS)),
)
def test_equals_the_reference_for_any_size(function, branches, half, batch, height, width, scale, strided, seed, way):
    form, layout = function
    exact, other = pair(2 * half, layout, form, branches, scale, seed, way)
    x = torch.randn(batch, 2 * half, height, width, dtype=torch.float64)
    if strided:  # a window of a larger map: neither of the two memory layouts
        x = torch.nn.functional.pad(x, (1, 2, 0, 1))[:, :, :height, 1 : 1 + width]
    torch.testing.assert_close(other(x), exact(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["reference", *WAYS])
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_gradcheck(form, layout, way):
    channels = 16 if (form, layout) == ("released", "sequential") else 4
    block = pair(channels, layout, form)[0] if way == "reference" else pair(channels, layout, form, way=way)[1]
    x = torch.randn(2, channels, 2, 3, dtype=torch.float64, requires_grad=True)
    names = list(dict(block.named_parameters()))

    def function(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    parameters = tuple(p.detach().clone().requires_grad_() for p in block.parameters())
    # fast mode projects on random vectors: a wrong entry anywhere still shows
    assert torch.autograd.gradcheck(function, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("memory", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_errs_at_most_twice_as_much_as_the_reference_in_the_same_dtype(form, layout, shape, dtype, memory):
    """Root mean square errors over four draws, against fp64 on the same rounded numbers.

    On top comes one rounding of the result and, for sums over P that are taken in another order, sqrt(P) of fp32.
    """
    if (form, layout) == ("released", "sequential"):
        # Its LayerNorm is over C/8 channels; of two it is nearly a sign, and what passes back mostly rounding.
        within_bound(form, layout, shape, dtype, memory, ("out", "x"))
        shape = shape[0], max(64, shape[1]), *shape[2:]
    within_bound(form, layout, shape, dtype, memory)


def within_bound(form, layout, shape, dtype, memory, names=None):
    """The bound for these results and gradients; for all by default."""
    errors = {}
    for seed in range(4):
        exact, _ = pair(shape[1], layout, form, seed=seed)
        exact = exact.to(dtype).double()
        x = torch.randn(shape).to(dtype).contiguous(memory_format=LAYOUTS[memory])
        d = torch.randn(shape).to(dtype)
        truth = values_and_gradients(exact, x.double(), d)
        for way in ("reference", *WAYS):
            block = build(way, shape[1], layout, form)
            block.load_state_dict(exact.state_dict())
            got = values_and_gradients(block.to(dtype), x, d)
            assert got["out"].dtype == dtype
            assert got["out"].is_contiguous(memory_format=LAYOUTS[memory])
            for name, value in got.items():
                row = errors.setdefault(name, dict.fromkeys(["reference", *WAYS], 0.0) | {"size": 0.0})
                row[way] += (value.double() - truth[name]).pow(2).mean().item()
                row["size"] += truth[name].pow(2).mean().item() / 3
    # this gradient is zero (softmax is shift-invariant): what is left is rounding, measured by its neighbour
    if "channel.q.bias" in errors:
        errors["channel.q.bias"]["size"] = errors["channel.q.weight"]["size"]
    pixels = shape[2] * shape[3]
    slack = torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * math.sqrt(pixels)
    for name in names or errors:
        row = errors[name]
        bound = 2 * math.sqrt(row["reference"]) + slack * math.sqrt(row["size"])
        assert math.sqrt(max(row[way] for way in WAYS)) <= bound, (name, row)


@pytest.mark.parametrize("way", ["reference", *WAYS])
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_logits_of_1e4_in_fp16_do_not_overflow(form, layout, way):
    exact, _ = pair(16, layout, form)
    x = torch.randn(2, 16, 9, 7).half()
    # what goes into a softmax; the released spatial query does not, it is a plain factor
    logits = ["channel.q", "spatial.v", *(["spatial.q"] if form == "paper" else [])]
    with torch.no_grad():
        for name in logits:
            conv = exact.get_submodule(name)
            conv.weight *= 1e4 / torch.nn.functional.conv2d(x.double(), conv.weight).abs().max()
        exact = exact.half().double()
    half = build(way, 16, layout, form)
    half.load_state_dict(exact.state_dict())
    half.half()
    out, (g, s) = half(x), half.gates(x)
    assert out.dtype == g.dtype == s.dtype == torch.float16
    for value in (out, g, s):
        assert value.isfinite().all()
    # the softmax over pixels has become a maximum, which half precision finds too
    torch.testing.assert_close(g.double(), exact.gates(x.double())[0], rtol=0, atol=0.02)


@pytest.mark.parametrize("way", ["reference", *WAYS])
@pytest.mark.parametrize("incoming", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_autocast_keeps_the_dtype_of_the_input_and_stays_close(form, layout, incoming, way):
    exact, _ = pair(32, layout, form)
    block = build(way, 32, layout, form)
    block.load_state_dict(exact.state_dict())
    x = torch.randn(2, 32, 9, 8).to(incoming).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x)
    assert out.dtype == incoming
    torch.testing.assert_close(out.double(), exact(x.double()), rtol=0.02, atol=0.02)
    out.float().sum().backward()
    assert x.grad.dtype == incoming
    assert all(p.grad.dtype == torch.float32 for p in block.parameters())


def test_under_autocast_the_small_vectors_stay_in_float32():
    """With a map in bf16 only the products with it are rounded: closer to fp64 than the convolutions are."""
    exact, _ = pair(64, "parallel", "paper")
    x = torch.randn(2, 64, 16, 12).bfloat16()
    error = {}
    for way in ("reference", *WAYS):
        block = build(way, 64)
        block.load_state_dict(exact.state_dict())
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            out = block(x)
        error[way] = (out.double() - exact(x.double())).pow(2).mean().sqrt().item()
    assert max(error[way] for way in WAYS) <= 1.2 * error["reference"]


class Seen(TorchDispatchMode):
    """Remembers shape and strides of everything that an operation gives."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.seen += [(tuple(leaf.shape), leaf.stride()) for leaf in leaves]
        return out

    def sizes(self):
        return {math.prod(shape) for shape, _ in self.seen}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("form", "layout"), [f for f in FUNCTIONS if f != ("released", "sequential")])
def test_makes_no_tensor_of_half_the_channels_by_pixels(form, layout, way):
    exact, other = (block.requires_grad_(False) for block in pair(48, layout, form, way=way))
    x = torch.randn(2, 48, 17, 13, dtype=torch.float64)
    half_map = 2 * 24 * 17 * 13
    with Seen() as convs:
        exact(x)
    assert half_map in convs.sizes()
    for memory in LAYOUTS.values():
        with Seen() as collapsed:
            other(x.contiguous(memory_format=memory))
        assert half_map not in collapsed.sizes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", LAYOUTS)
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_never_converts_the_memory_layout(form, layout, memory, way):
    _, other = pair(48, layout, form, way=way)
    other.requires_grad_(False)
    x = torch.randn(2, 48, 17, 13, dtype=torch.float64).contiguous(memory_format=LAYOUTS[memory])
    with Seen() as maps:
        other(x)
    strides = {stride[shape.index(48)] for shape, stride in maps.seen if math.prod(shape) == x.numel()}
    assert strides == {x.stride(1)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_two_runs_are_bit_equal(form, layout, way):
    _, other = pair(48, layout, form, way=way)
    other.float()
    x, d = torch.randn(2, 48, 17, 13), torch.randn(2, 48, 17, 13)
    first, second = values_and_gradients(other, x, d), values_and_gradients(other, x, d)
    assert all(torch.equal(first[name], second[name]) for name in first)
