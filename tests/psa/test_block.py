"""The module: choices and errors, initialisations, released weights, single branches, compile and export."""

import copy
import math

import pytest
import torch
from torch import nn

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

FUNCTIONS = [(form, layout) for form in ("paper", "released") for layout in ("parallel", "sequential")]
IMPLS = ["reference", "collapsed"]
# options that can start as the identity, with the scale that it takes
IDENTITIES = [
    {"layout": "parallel", "form": "paper", "scale": 1},
    {"layout": "sequential", "form": "paper", "scale": 4},
    {"layout": "sequential", "form": "released", "scale": 4},
    {"branches": "channel", "form": "paper", "scale": 2},
    {"branches": "spatial", "form": "paper", "scale": 2},
    {"branches": "channel", "form": "released", "scale": 2},
    {"branches": "spatial", "form": "released", "layout": "sequential", "scale": 2},
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(module):
    return sum(p.numel() for p in module.parameters())


class ReleasedParallel(nn.Module):
    """The published parallel function under the published names, written from its formulas alone."""

    def __init__(self, c):
        super().__init__()
        self.conv_q_right = nn.Conv2d(c, 1, 1, bias=False)
        self.conv_v_right = nn.Conv2d(c, c // 2, 1, bias=False)
        self.conv_up = nn.Conv2d(c // 2, c, 1, bias=False)
        self.conv_q_left = nn.Conv2d(c, c // 2, 1, bias=False)
        self.conv_v_left = nn.Conv2d(c, c // 2, 1, bias=False)

    def channel_gate(self, x):
        weight = self.conv_q_right(x).flatten(1).softmax(1)  # [B, P]
        v = torch.einsum("bjp,bp->bj", self.conv_v_right(x).flatten(2), weight)
        return self.conv_up(v[..., None, None]).sigmoid()

    def spatial_gate(self, x):
        query = self.conv_q_left(x).mean((2, 3))  # [B, h]
        logit = torch.einsum("bj,bjhw->bhw", query, self.conv_v_left(x))
        return logit.flatten(1).softmax(1).sigmoid().view_as(logit)[:, None]

    def forward(self, x):
        return x * self.channel_gate(x) + x * self.spatial_gate(x)


class ReleasedSequential(ReleasedParallel):
    """The published sequential function under the published names."""

    def __init__(self, c):
        super().__init__(c)
        self.conv_up = nn.Sequential(
            nn.Conv2d(c // 2, c // 8, 1), nn.LayerNorm([c // 8, 1, 1]), nn.ReLU(), nn.Conv2d(c // 8, c, 1)
        )

    def spatial_gate(self, x):
        query = self.conv_q_left(x).mean((2, 3))  # [B, h]
        value = self.conv_v_left(x)
        value = value.flatten(2).softmax(2).view_as(value)
        return torch.einsum("bj,bjhw->bhw", query, value).sigmoid()[:, None]

    def forward(self, x):
        y = x * self.channel_gate(x)
        return y * self.spatial_gate(y)


RELEASED = {"parallel": ReleasedParallel, "sequential": ReleasedSequential}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", RELEASED)
def test_released_weights_give_the_released_function(layout, impl):
    theirs = RELEASED[layout](32).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    ours = PolarizedSelfAttention(32, layout, "released", impl).double()
    ours.load_released(theirs.state_dict())
    x = torch.randn(2, 32, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
    assert count(ours) == count(theirs)


def test_released_weights_of_one_branch():
    theirs = ReleasedParallel(8)
    ours = PolarizedSelfAttention(8, form="released", branches="spatial")
    ours.load_released({k: v for k, v in theirs.state_dict().items() if k.endswith("left.weight")})
    x = torch.randn(2, 8, 4, 3)
    torch.testing.assert_close(ours(x), x * theirs.spatial_gate(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("conv_up.weight"), r"missing \['conv_up.weight'\], unexpected \[\]"),
        (lambda d: d.update(conv_down=torch.zeros(1)), r"missing \[\], unexpected \['conv_down'\]"),
        (
            lambda d: d.update({"conv_q_left.weight": torch.zeros(8, 16, 1, 1)}),
            r"conv_q_left.weight is \(8, 16, 1, 1\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_released_weights_that_do_not_fit_change_nothing(change, words):
    block = PolarizedSelfAttention(8, form="released")
    before = copy.deepcopy(block.state_dict())
    weights = ReleasedParallel(8).state_dict()
    change(weights)
    with pytest.raises(InputError, match=words):
        block.load_released(weights)
    assert all(torch.equal(before[k], v) for k, v in block.state_dict().items())


def test_released_weights_of_the_other_layout_or_for_the_paper_form_are_refused():
    with pytest.raises(InputError, match=r"layout 'sequential'.*conv_up\.0\.weight.*unexpected \['conv_up\.weight'\]"):
        PolarizedSelfAttention(16, "sequential", "released").load_released(ReleasedParallel(16).state_dict())
    with pytest.raises(InputError, match="form='released'"):
        PolarizedSelfAttention(16).load_released(ReleasedParallel(16).state_dict())


@pytest.mark.parametrize("c", [16, 48, 64, 256])
def test_parameter_counts(c):
    h, r = c // 2, c // 8
    assert count(PolarizedSelfAttention(c, form="released")) == 2 * c * c + c
    sequential = PolarizedSelfAttention(c, "sequential", "released")
    assert count(sequential) == c + 3 * c * h + (h * r + r) + 2 * r + (r * c + c)
    assert count(sequential) == 27 * c * c // 16 + 2 * c + 3 * r
    paper = (c + 1) + 3 * (c * h + h) + (h * c + c) + 2 * c
    assert count(PolarizedSelfAttention(c)) == count(PolarizedSelfAttention(c, "sequential")) == paper


@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_a_single_branch_holds_only_its_own_parameters_and_is_one_product(form, layout):
    both = PolarizedSelfAttention(16, layout, form, init="torch")
    x = torch.randn(2, 16, 5, 4)
    parts = {}
    for branches in ("channel", "spatial"):
        block = PolarizedSelfAttention(16, layout, form, branches=branches)
        block.load_state_dict({k: v for k, v in both.state_dict().items() if k.startswith(branches)})
        parts[branches] = block
    g, none = parts["channel"].gates(x)
    none_either, s = parts["spatial"].gates(x)
    assert none is None
    assert none_either is None
    torch.testing.assert_close(g, both.gates(x)[0])
    torch.testing.assert_close(parts["channel"](x), x * g)
    torch.testing.assert_close(parts["spatial"](x), x * s)
    assert count(parts["channel"]) + count(parts["spatial"]) == count(both)
    assert all(p.grad is not None for block in parts.values() for p in backward(block, x).parameters())


def backward(block, x):
    block.zero_grad(set_to_none=True)
    block(x).square().sum().backward()
    return block


@pytest.mark.parametrize(("form", "layout"), FUNCTIONS)
def test_published_start(form, layout):
    block = PolarizedSelfAttention(256, layout, form)
    for name, parameter in block.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.001, rel=0.1), name
            assert abs(parameter.mean().item()) < 1e-4, name
    x = torch.randn(2, 256, 16, 12)
    start = x if layout == "parallel" else x / 4
    assert (block(x) - start).abs().max() < 0.15 * x.abs().max()


def test_torch_start_is_that_of_the_convolutions():
    block = PolarizedSelfAttention(64, init="torch")
    bound = 1 / math.sqrt(64)
    weight = block.channel["v"].weight
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.9 * bound


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("options", IDENTITIES, ids=str)
def test_identity_start_is_exact_and_learns(options, impl):
    block = PolarizedSelfAttention(16, init="identity", impl=impl, **options)
    x = 10 * torch.randn(2, 16, 17, 13)
    assert torch.equal(block(x), x)
    for gate in block.gates(x):
        assert gate is None or torch.equal(gate, torch.full_like(gate, 0.5))
    backward(block, x)
    zeroed = [p for name, p in block.named_parameters() if name.endswith("weight") and not p.any()]
    assert zeroed
    assert all(p.grad.any() for p in zeroed)
    # and once these have moved, so does everything else (the query's bias never counts: softmax is shift-invariant)
    with torch.no_grad():
        for p in block.parameters():
            p -= 1e-2 * p.grad / p.grad.norm().clamp(min=1e-12)
    backward(block, x)
    assert all(p.grad.any() for name, p in block.named_parameters() if name != "channel.q.bias")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("options", IDENTITIES[:3], ids=str)
def test_identity_start_is_exact_in_every_dtype(options, memory, dtype):
    block = PolarizedSelfAttention(16, init="identity", **options).to(dtype)
    x = torch.randn(4, 16, 33, 31).to(dtype).contiguous(memory_format=memory)
    x[0] *= 1e-5  # subnormal in fp16: halving would lose the last bit
    assert torch.equal(block(x), x)
    assert block(x).is_contiguous(memory_format=memory)


def test_identity_needs_the_scale_that_goes_with_it():
    with pytest.raises(InputError, match="give scale=4"):
        PolarizedSelfAttention(16, "sequential", init="identity")
    with pytest.raises(InputError, match="give scale=2"):
        PolarizedSelfAttention(16, branches="channel", init="identity")
    with pytest.raises(InputError, match="give scale=1"):
        PolarizedSelfAttention(16, init="identity", scale=4)


@pytest.mark.parametrize("branches", ["both", "spatial"])
def test_the_released_parallel_spatial_gate_has_no_identity(branches):
    with pytest.raises(InputError, match=r"never 0\.5"):
        PolarizedSelfAttention(16, form="released", branches=branches, init="identity", scale=1)


def test_scale_multiplies_the_output_only():
    one = PolarizedSelfAttention(16, "sequential", init="torch")
    four = PolarizedSelfAttention(16, "sequential", scale=4)
    four.load_state_dict(one.state_dict())
    x = torch.randn(2, 16, 5, 4)
    torch.testing.assert_close(four(x), 4 * one(x))
    assert all(torch.equal(a, b) for a, b in zip(four.gates(x), one.gates(x), strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "serial"}, "layout is 'serial': choose one of parallel, sequential"),
        ({"form": "original"}, "form is 'original': choose one of paper, released"),
        ({"impl": "fast"}, "impl is 'fast': choose one of auto, reference, collapsed, loops, fused"),
        ({"init": "zero"}, "init is 'zero': choose one of published, identity, torch"),
        ({"branches": "none"}, "branches is 'none': choose one of both, channel, spatial"),
        ({"impl": "fused", "branches": "channel"}, "use impl='auto'"),
        ({"channels": 1}, "channels is 1: must be even and at least 2"),
        ({"channels": 0}, "channels is 0: must be even and at least 2"),
        ({"channels": 7}, "channels is 7: must be even"),
        ({"channels": 14, "layout": "sequential", "form": "released"}, "channels is 14: .* at least 16"),
    ],
    ids=str,
)
def test_wrong_arguments(options, words):
    with pytest.raises(InputError, match=words):
        PolarizedSelfAttention(**{"channels": 16, **options})


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(4, 3, 3), r"input is \(4, 3, 3\): give \[B, 4, H, W\]"),
        (torch.zeros(1, 6, 3, 3), "input has 6 channels, this block 4"),
        (torch.zeros(1, 4, 3, 3, dtype=torch.uint8), "input is torch.uint8"),
        (torch.zeros(1, 4, 3, 3, dtype=torch.complex64), "input is torch.complex64"),
        (torch.zeros(1, 4, 0, 3), "at least one pixel"),
    ],
    ids=["rank", "channels", "uint8", "complex", "empty"],
)
def test_wrong_input(x, words):
    block = PolarizedSelfAttention(4)
    for call in (block, block.gates):
        with pytest.raises(InputError, match=words):
            call(x)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 2},
        {"channels": 16, "layout": "sequential", "form": "released"},
        {"channels": 18, "layout": "sequential", "form": "released"},
        {"channels": 2, "layout": "sequential", "form": "released", "branches": "spatial"},
    ],
    ids=str,
)
def test_smallest_channels(options):
    block = PolarizedSelfAttention(init="torch", **options)
    x = torch.randn(1, options["channels"], 1, 1)
    assert block(x).shape == x.shape


def test_auto_is_collapsed_and_the_repr_says_what_it_computes():
    auto = PolarizedSelfAttention(16, init="torch")
    collapsed = copy.deepcopy(auto)
    collapsed.impl = "collapsed"
    x = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(auto(x), collapsed(x))
    assert torch.equal(auto.double()(x.double()), collapsed.double()(x.double()))  # for which there are no loops
    assert "16, layout='parallel', form='paper', impl='auto', branches='both', scale=1" in repr(auto)


@pytest.mark.parametrize("impl", IMPLS)
def test_runs_on_the_meta_device(impl):
    block = PolarizedSelfAttention(16, impl=impl).to("meta")
    assert block(torch.empty(2, 16, 4, 4, device="meta")).shape == (2, 16, 4, 4)


TRACED = [(form, layout, "collapsed") for form, layout in FUNCTIONS] + [("paper", "sequential", "reference")]


@pytest.mark.parametrize(("form", "layout", "impl"), TRACED)
def test_compiles_as_one_graph(form, layout, impl):
    block = PolarizedSelfAttention(16, layout, form, impl, init="torch")
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    x = torch.randn(2, 16, 9, 8, requires_grad=True)
    try:
        out, expected = compiled(x), block(x)
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x), torch.autograd.grad(expected.sum(), x))


def test_compiles_forward_and_backward_under_autocast_in_channels_last():
    block = PolarizedSelfAttention(16, init="torch")
    # aot_eager traces the backward pass too, as every real backend does, and needs no C compiler
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 16, 9, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, expected = compiled(x), block(x)
        got, wanted = (torch.autograd.grad(y.sum(), x)[0] for y in (out, expected))
    finally:
        torch.compiler.reset()
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)  # a compiled backward pass runs under autocast too


@pytest.mark.parametrize(("form", "layout", "impl"), TRACED)
def test_exports_with_dynamic_batch_height_and_width(form, layout, impl):
    block = PolarizedSelfAttention(16, layout, form, impl, init="torch").eval()
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(block, (torch.randn(2, 16, 9, 8),), dynamic_shapes=(free,)).module()
    for shape in [(1, 16, 17, 13), (3, 16, 5, 1), (2, 16, 1, 1)]:
        x = torch.randn(shape)
        for memory in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(exported(x.contiguous(memory_format=memory)), block(x))
