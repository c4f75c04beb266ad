"""The fused forms: as exact as eager torch. Without a GPU, in the interpreter.

However torch calls them: test_under_torch.py. What only large maps and a GPU show: test_on_gpu.py.
"""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention, launch, plans, steps
from polarpix.psa.block import _weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED = [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# (map, reason): each in one launch and, where it says so, also cut into splits
SHAPES = {
    "odd": (2, 48, 17, 13),  # C is no power of two, P is odd
    "pixel": (2, 16, 1, 1),
    "aligned": (1, 20, 8, 8),
    "two": (1, 2, 5, 3),  # h = 1
    "one row": (1, 6, 1, 65),
}


GRID = {
    **SHAPES,
    "65": (2, 64, 65, 65),
    "batch": (32, 64, 64, 48),
    "512": (2, 512, 33, 33),
    "2048": (2, 2048, 16, 12),
    "720": (1, 720, 32, 64),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def cut(monkeypatch):
    """Cuts every sample into about three splits, as large maps are."""
    real = launch.plan
    monkeypatch.setattr(launch, "plan", lambda *args: dataclasses.replace(real(*args), small=False, BS=2))
    monkeypatch.setattr(plans.Plan, "split", three_splits)


def three_splits(one, kernel, B, programs=None):
    """In place of what a device has room for."""
    pieces = -(-one.P // one.tiles_of(kernel).BP)
    tiles = max(1, pieces // 3)
    return tiles, -(-pieces // tiles)


@pytest.fixture
def _poison(monkeypatch):
    """Fresh memory holds NaN, so that what a kernel does not write shows."""

    def fill(make):
        return lambda *args, **kwargs: make(*args, **kwargs).fill_(float("nan"))

    monkeypatch.setattr(torch, "empty_like", fill(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", fill(torch.Tensor.new_empty))


@pytest.fixture
def _exact_convolutions(monkeypatch):
    """Eager torch without TF32 on GPUs: what it errs is what the kernels may."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def build(channels, form, layout, impl="fused", dtype=torch.float32, scale=1.0):
    """A block whose every weight matters: gates spread over 0 .. 1, LayerNorm weights around 1."""
    block = PolarizedSelfAttention(channels, layout, form, impl, init="torch", scale=scale)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else channels**-0.5))
    return block.to(DEVICE, dtype)


def sweep(block, x, d):
    """Output, gradient of x and of each parameter."""
    x = x.detach().requires_grad_()
    out = block(x)
    return [out, *torch.autograd.grad(out, [x, *block.parameters()], d)]


def other(block, impl, dtype):
    """The same weights in another form and dtype."""
    twin = copy.deepcopy(block).to(dtype)
    twin.impl = impl
    return twin


def check(form, layout, shape, dtype, memory, scale=1.0, gradient=None):
    """The kernels err at most twice as much as eager torch does, where exact is the reference in float64.

    Args:
        gradient: memory format of the output's gradient, if not that of the map.
    """
    block = build(shape[1], form, layout, dtype=dtype, scale=scale)
    x = torch.randn(shape, device=DEVICE, dtype=dtype).contiguous(memory_format=FORMATS[memory])
    d = torch.randn(shape, device=DEVICE, dtype=dtype).contiguous(memory_format=FORMATS[gradient or memory])
    exact = sweep(other(block, "reference", torch.float64), x.double(), d.double())
    eager = sweep(other(block, "reference", dtype), x, d)
    found = sweep(block, x, d)
    assert found[0].stride() == x.stride()
    assert found[1].stride() == x.stride()
    dust = (1e-13 if dtype == torch.float64 else 1e-6) * max(float(one.detach().abs().max()) for one in exact)
    names = ["out", "x", *(name for name, _ in block.named_parameters())]
    for name, truth, plain, ours in zip(names, exact, eager, found, strict=True):
        assert ours.dtype == plain.dtype
        # Sums that cancel leave dust of float32 (in float64: the truth is no more exact), whatever eager torch leaves.
        rounding = torch.finfo(dtype).eps / 2 * float(truth.detach().abs().max())
        allowed = 2 * (plain.double() - truth).abs().max() + rounding + dust
        error = (ours.double() - truth).abs().max()
        assert error <= allowed, f"{name}: {error:.2e}, allowed {allowed:.2e}"


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = [
    ("paper", "parallel", "odd", torch.float64, "contiguous"),
    ("paper", "sequential", "odd", torch.float64, "channels_last"),
    ("released", "parallel", "odd", torch.float64, "contiguous"),
    ("paper", "parallel", "aligned", torch.bfloat16, "channels_last"),
    ("paper", "sequential", "two", torch.float32, "contiguous"),
    ("paper", "sequential", "one row", torch.float16, "contiguous"),
    ("released", "parallel", "two", torch.bfloat16, "contiguous"),
]


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize(("form", "layout", "shape", "dtype", "memory"), CASES)
def test_small_maps_in_one_launch(form, layout, shape, dtype, memory):
    check(form, layout, SHAPES[shape], dtype, memory, scale=1.5)


@pytest.mark.usefixtures("_poison", "cut")
@pytest.mark.parametrize(("form", "layout", "shape", "dtype", "memory"), CASES)
def test_maps_cut_into_splits(form, layout, shape, dtype, memory):
    check(form, layout, SHAPES[shape], dtype, memory, scale=0.5)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["odd", "pixel", "65"])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_every_form_dtype_and_memory_format(form, layout, shape, dtype, memory, request):
    """The odd map and the pixel both in one launch and cut into splits; the large map is cut by itself."""
    shape = {**SHAPES, "65": (1, 48, 65, 65)}[shape]
    check(form, layout, shape, dtype, memory)
    if shape[1] * shape[2] * shape[3] <= plans.SMALL:
        request.getfixturevalue("cut")
        check(form, layout, shape, dtype, memory)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize(
    ("together", "small", "memory"),
    [
        (1, True, "channels_last"),
        (2, False, "contiguous"),
        (2, True, "contiguous"),
        (8, False, "channels_last"),
        (8, True, "contiguous"),
    ],
)
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_programs_that_share_a_sample(form, layout, memory, together, small, monkeypatch):
    """Between the passes each makes its part of every vector; more of them than there is work, too."""

    def plan(*args):
        one = real(*args)
        return dataclasses.replace(
            one, S=together, BR=2, BZ=min(2, max(16, one.BC // together)), BU=2, BS=2, small=small
        )

    real = launch.plan
    monkeypatch.setattr(launch, "plan", plan)
    if not small:
        monkeypatch.setattr(plans.Plan, "split", three_splits)
    check(form, layout, SHAPES["odd"], torch.float32, memory)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize(("memory", "gradient"), [("contiguous", "channels_last"), ("channels_last", "contiguous")])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_a_gradient_in_the_other_memory_format_is_read_as_it_lies(form, layout, memory, gradient, splits, request):
    if splits:
        request.getfixturevalue("cut")
    check(form, layout, (2, 12, 7, 5), torch.float32, memory, gradient=gradient)


@pytest.mark.gpu
@pytest.mark.usefixtures("_poison", "_exact_convolutions")
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", GRID)
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_whole_grid(form, layout, shape, dtype, memory):
    check(form, layout, GRID[shape], dtype, memory)


@pytest.mark.gpu
@pytest.mark.usefixtures("_poison", "_exact_convolutions")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["odd", "65", "batch", "512", "720"])
@pytest.mark.parametrize(("memory", "gradient"), [("contiguous", "channels_last"), ("channels_last", "contiguous")])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_whole_grid_with_the_gradient_in_the_other_memory_format(form, layout, memory, gradient, shape, dtype):
    check(form, layout, GRID[shape], dtype, memory, gradient=gradient)


@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_two_runs_are_bit_equal(form, layout, cut):
    block = build(6, form, layout)
    x, d = torch.randn(2, 2, 6, 9, 7, device=DEVICE).unbind()
    for one, two in zip(sweep(block, x, d), sweep(block, x, d), strict=True):
        assert torch.equal(one, two)


def test_logits_of_ten_thousand_do_not_overflow():
    block = build(4, "paper", "parallel", dtype=torch.float16)
    with torch.no_grad():
        block.channel["q"].weight.fill_(100.0)
        block.spatial["v"].weight.fill_(100.0)
    x = torch.full((1, 4, 3, 3), 25.0, device=DEVICE, dtype=torch.float16)
    assert all(torch.isfinite(value).all() for value in sweep(block, x, torch.ones_like(x)))


def operands(form, layout):
    """What the operator takes."""
    block = build(4, form, layout)
    spatial = {f"{name}2": value for name, value in _weights(block.spatial).items()}
    weights = _weights(block.channel) | spatial
    x = torch.randn(2, 4, 3, 3, device=DEVICE, requires_grad=True)
    return x, [weights[name] for name in launch.PARAMETERS[form]]


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_torch_accepts_the_operators(form, layout, memory):
    x, weights = operands(form, layout)
    x = x.detach().contiguous(memory_format=FORMATS[memory]).requires_grad_()
    torch.library.opcheck(torch.ops.polarpix.psa.default, (x, weights, form, layout, 2.0))
    out, state = torch.ops.polarpix.psa(x, weights, form, layout, 2.0)
    given = [one.detach() for one in (torch.randn_like(out), x, state)]
    weights = [one.detach() for one in weights]
    torch.library.opcheck(torch.ops.polarpix.psa_backward.default, (*given, weights, form, layout, 2.0))


def test_no_kernel_no_fused():
    with pytest.raises(InputError, match=r"'released', layout 'sequential' has no kernels.*use impl='auto'"):
        PolarizedSelfAttention(16, "sequential", "released", "fused")
    with pytest.raises(InputError, match="branches 'channel' has no kernels"):
        PolarizedSelfAttention(16, impl="fused", branches="channel")
    with pytest.raises(InputError, match="at most 2048 channels, not 4096"):
        PolarizedSelfAttention(4096, impl="fused")


def test_a_map_on_the_cpu_without_interpreter(monkeypatch):
    block = PolarizedSelfAttention(4, impl="fused")
    monkeypatch.setattr(steps, "interpreted", lambda: False)
    with pytest.raises(InputError, match="needs a CUDA device, the input is on cpu: use impl='auto'"):
        block(torch.zeros(1, 4, 3, 3))


class Small(nn.Module):
    """A network that learns in thirty steps."""

    def __init__(self, form, layout, outputs):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.psa = PolarizedSelfAttention(8, layout, form, init="torch")
        self.head = nn.Conv2d(8, outputs, 1)

    def forward(self, x):
        return self.head(self.psa(torch.relu(self.stem(x))))


LEARNT = zip(FUSED, ["keypoints", "masks", "masks"], strict=True)


@pytest.mark.parametrize(("form", "layout", "task"), [(*function, task) for function, task in LEARNT])
def test_three_implementations_learn_alike(form, layout, task):
    """Thirty steps: the loss curves of reference, collapsed and fused coincide."""
    image = torch.randn(2, 3, 8, 6, device=DEVICE)
    heat = torch.rand(2, 4, 8, 6, device=DEVICE)
    loss = {
        "keypoints": lambda out: nn.functional.mse_loss(out, heat),
        "masks": lambda out: nn.functional.cross_entropy(out, heat.argmax(1)),
    }[task]
    start = Small(form, layout, 4).to(DEVICE)
    curves = {}
    for impl in ("reference", "collapsed", "fused"):
        network = copy.deepcopy(start)
        network.psa.impl = impl
        optimizer = torch.optim.AdamW(network.parameters(), 0.01)
        curves[impl] = []
        for _ in range(30):
            value = loss(network(image))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            curves[impl].append(value.item())
    assert curves["reference"][-1] < 0.9 * curves["reference"][0]
    for impl in ("collapsed", "fused"):
        assert curves[impl] == pytest.approx(curves["reference"], rel=1e-3)
