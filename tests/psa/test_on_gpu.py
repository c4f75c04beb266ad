"""What only a GPU shows: launches and memory as the driver counts them, CUDA graphs, maps beyond 2^31 numbers.

Each test has a body for both places. Without a GPU it runs in the interpreter on a tiny map, with a stand-in for what
only CUDA has, so that it still runs on the day when there is one.
"""

import dataclasses
from collections import Counter
from contextlib import nullcontext

import pytest
import torch

from polarpix.bench.counting import free_memory, launches, peak_memory
from polarpix.psa import launch, plans

FUSED = [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# (shape, whether a sample is small: one launch makes gates and second pass; in the interpreter as the test says)
SHAPES = {
    "cpu": [((2, 6, 5, 3), True), ((1, 16, 40, 41), False)],
    "cuda": [
        ((32, 256, 16, 12), True),
        ((32, 64, 64, 48), False),
        ((2, 2048, 16, 12), False),
        ((8, 512, 65, 65), False),
    ],
}
COMPILERS = {"cpu": "aot_eager", "cuda": "inductor"}


def at(place):
    """The mark of a test that runs there."""
    return pytest.mark.gpu if place == "cuda" else pytest.mark.interpreter


everywhere = pytest.mark.parametrize("place", [pytest.param(one, marks=at(one)) for one in ("cpu", "cuda")])


@pytest.fixture
def _cut(place, small, monkeypatch):
    """Maps in the interpreter are tiny: they are cut as large ones are by saying that none is small."""
    launch.plan.cache_clear()
    if place == "cpu" and not small:
        monkeypatch.setattr(plans, "SMALL", 0)
    yield
    launch.plan.cache_clear()


every_shape = pytest.mark.parametrize(
    ("place", "shape", "small"),
    [pytest.param(place, *row, marks=at(place)) for place, rows in SHAPES.items() for row in rows],
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def problem(shape, place, memory_format="contiguous", dtype=torch.float32):
    """A map and a gradient."""
    x, d = torch.randn(2, *shape, device=place).to(dtype).unbind()
    return x.contiguous(memory_format=FORMATS[memory_format]), d.contiguous(memory_format=FORMATS[memory_format])


def sweep(function, block, x, d):
    """Output, gradient of x and of each parameter."""
    x = x.detach().requires_grad_()
    out = function(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *block.parameters()], d)]


def assert_same(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("form", "layout"), FUSED)
@every_shape
@pytest.mark.usefixtures("_cut")
def test_two_runs_are_bit_equal(place, shape, small, form, layout, memory_format, build):
    block = build(shape[1], form, layout, impl="fused").to(place)
    x, d = problem(shape, place, memory_format)
    assert_same(sweep(block, block, x, d), sweep(block, block, x, d))


def count_launches(run, place, monkeypatch):
    """By the profiler, or calls of the interpreter."""
    if place == "cuda":
        return launches(run, torch.device(place))
    from triton.runtime import interpreter

    seen = Counter()
    call = interpreter.GridExecutor.__call__

    def counting(self, *args, **more):
        seen["launches"] += more.get("BEGIN", 0) == 0  # stages of one kernel, which run one after the other here
        return call(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", counting)
        run()
    return seen["launches"]


@pytest.mark.parametrize(("form", "layout"), FUSED)
@every_shape
@pytest.mark.usefixtures("_cut")
def test_launches_of_a_call(place, shape, small, form, layout, build, monkeypatch):
    """Three forward and four backward, of small samples two and three; and nothing beside the kernels."""
    block = build(shape[1], form, layout, impl="fused").to(place)
    x, d = problem(shape, place)

    def forward():
        with torch.no_grad():
            block(x)

    assert count_launches(forward, place, monkeypatch) == (2 if small else 3)
    x.requires_grad_()
    inputs = [x, *block.parameters()]
    both = count_launches(lambda: torch.autograd.grad(block(x), inputs, d), place, monkeypatch)
    assert both == (5 if small else 7)


def bytes_of_vectors(shape, place, memory_format, form):
    """Of the float32 rows of a call forward and of one backward, that have been made: of samples, and of splits."""
    B, C, H, W = shape
    last = memory_format == "channels_last"

    def plan(d_last):
        paper = form == "paper" or d_last is not None
        return launch.plan(B, C, H * W, 4, last, d_last, paper, *launch.hardware(torch.empty(0, device=place)))

    one, two = plan(None), plan(last)
    there, back = (max(step.splits for steps in way.settled.values() for step in steps) for way in (one, two))
    forward = 7 * C + 8 + there * (2 * C + 4) + 2 * one.S
    return 4 * B * forward, 4 * B * (9 * C + 8 + back * (3 * C + 4) + max(back, two.S) * C)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("form", "layout"), FUSED)
@every_shape
@pytest.mark.usefixtures("_cut")
def test_extra_memory_is_one_map_each_way(place, shape, small, form, layout, memory_format, build):
    """No tensor of half the channels by pixels beyond output and gradient."""
    block = build(shape[1], form, layout, impl="fused").to(place)
    x, d = problem(shape, place, memory_format)
    weights = sum(one.nbytes for one in block.parameters())
    device = torch.device(place)

    def forward():
        with torch.no_grad():
            return block(x)

    once = peak_memory(forward, device)
    x.requires_grad_()
    inputs = [x, *block.parameters()]
    peak = peak_memory(lambda: torch.autograd.grad(block(x), inputs, d), device)
    there, back = bytes_of_vectors(shape, place, memory_format, form)
    assert x.nbytes <= once <= 1.3 * x.nbytes + there
    assert 2 * x.nbytes <= peak <= 2.3 * x.nbytes + there + back + weights


def captured(function, place):
    """What the function gives, and what computes it anew into the same memory: a CUDA graph, or the function itself."""
    if place == "cpu":
        kept = function()

        def again():
            for one, other in zip(kept, function(), strict=True):
                one.copy_(other)

        return kept, again
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function()
    return kept, graph.replay


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("form", "layout"), FUSED)
@every_shape
@pytest.mark.usefixtures("_cut")
def test_a_cuda_graph_replays_the_same_bits(place, shape, small, form, layout, dtype, build):
    block = build(shape[1], form, layout, dtype, impl="fused").to(place)
    x, d = problem(shape, place, dtype=dtype)
    x.requires_grad_()
    inputs = [x, *block.parameters()]

    def step():
        out = block(x)
        return [out.detach(), *torch.autograd.grad(out, inputs, d)]

    kept, replay = captured(step, place)
    before = kept[0].clone()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    replay()
    assert not torch.equal(kept[0], before)
    assert_same(kept, sweep(block, block, x, d))


@pytest.mark.parametrize(("form", "layout"), FUSED)
@everywhere
def test_a_compiled_training_step(place, form, layout, build):
    """By the compiler that users have, where there is a GPU; the kernels give the same bits in its graph."""
    block = build(6, form, layout, impl="fused").to(place)
    x, d = problem((2, 6, 5, 3), place)
    compiled = torch.compile(block, fullgraph=True, backend=COMPILERS[place])
    assert_same(sweep(compiled, block, x, d), sweep(block, block, x, d))


@pytest.mark.parametrize(("form", "layout"), FUSED)
@everywhere
def test_auto_is_fused_on_cuda_and_plain_in_exports(place, form, layout, build, monkeypatch):
    block = build(6, form, layout, impl="auto").to(place)
    kernels = build(6, form, layout, impl="fused").to(place)
    x, d = problem((2, 6, 5, 3), place)
    wanted = sweep(kernels, kernels, x, d)
    if place == "cpu":  # maps that pretend
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(launch, "device_of", lambda x: nullcontext())
        monkeypatch.setattr(launch, "begin", lambda x, weights: None)
    assert_same(sweep(block, block, x, d), wanted)
    program = torch.export.export(block, (x,), strict=False)
    assert not any("polarpix" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), wanted[0], rtol=1e-4, atol=1e-5)


def wide(monkeypatch, **more):
    """Has the plan of a tiny map take what that of a huge one has, with tiles of 16 pixels."""
    real = launch.plan

    def plan(*args):
        one = real(*args)
        tiles = dataclasses.replace(one.first, K=1, T=16, V=1)
        return dataclasses.replace(one, first=tiles, second=tiles, WIDE=True, **more)

    monkeypatch.setattr(launch, "plan", plan)


@pytest.fixture
def _room(place):
    if place == "cuda" and free_memory(torch.device(place)) < 32 << 30:
        pytest.skip("needs 32 GiB of free GPU memory")


@pytest.mark.usefixtures("_room")
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("form", "layout"), FUSED)
@everywhere
def test_a_sample_beyond_two_to_the_31st_number(place, form, layout, memory_format, build, monkeypatch):
    """A map that repeats itself: so do output and gradient, bit by bit, up to the last pixel."""
    rows, width, times = (100, 8192, 164) if place == "cuda" else (2, 8, 3)
    if place == "cpu":
        wide(monkeypatch, small=False, BS=4)
    block = build(16, form, layout, torch.bfloat16, impl="fused").to(place)
    y, e = problem((1, 16, rows, width), place, dtype=torch.bfloat16)
    x, d = (one.repeat(1, 1, times, 1).contiguous(memory_format=FORMATS[memory_format]) for one in (y, e))
    assert launch.plan(1, 16, times * rows * width, 2, False, False).WIDE
    x.requires_grad_()
    out = block(x)
    (dx,) = torch.autograd.grad(out, x, d)
    for found in (out.detach(), dx):
        pieces = found.unflatten(2, (times, rows))
        assert bool((pieces == pieces[:, :, :1]).all())
    if form == "paper":  # whose gates do not feel the repetition
        with torch.no_grad():
            torch.testing.assert_close(out[:, :, -rows:], block(y), rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("_room")
@pytest.mark.parametrize(("form", "layout"), FUSED)
@everywhere
def test_samples_beyond_two_to_the_31st_number(place, form, layout, build):
    """Many samples that are all the same: to the last bit, and but for rounding what one of them gives alone."""
    many, size = (32784, 32) if place == "cuda" else (3, 4)
    block = build(64, form, layout, torch.bfloat16, impl="fused").to(place)
    y, e = problem((1, 64, size, size), place, dtype=torch.bfloat16)
    x = y.expand(many, -1, -1, -1).contiguous().requires_grad_()
    out = block(x)
    (dx,) = torch.autograd.grad(out, x, e.expand_as(x).contiguous())
    wanted = sweep(block, block, y, e)
    for found, one in zip((out.detach(), dx), wanted[:2], strict=True):
        assert bool((found == found[:1]).all())
        torch.testing.assert_close(found[:1], one, rtol=0.02, atol=0.02)
