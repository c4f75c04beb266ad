"""Whatever torch does with a block, numbers stay: every form, by the kernels, the compiled loops and plain operations.

What the numbers are is for the tests of each implementation; here all are held against the reference in float64, on
tiny maps. Without a GPU the kernels run in the interpreter.
"""

import copy
import itertools
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import polarpix
from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = [("paper", "parallel", "both"), ("paper", "sequential", "both"), ("released", "parallel", "both")]
FUNCTIONS = list(itertools.product(("paper", "released"), ("parallel", "sequential"), ("both", "channel", "spatial")))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPE = (2, 16, 3, 5)


def kinds(*impls):
    """(impl, form, layout, branches) of every function that the implementations have."""
    found = []
    for impl in impls:
        marks = [pytest.mark.compiler] if impl == "loops" else []
        for function in KERNELS if impl == "fused" else FUNCTIONS:
            found.append(pytest.param((impl, *function), marks=marks, id="-".join((impl, *function))))
    return found


every = pytest.mark.parametrize("kind", kinds("fused", "loops", "collapsed"))
for_any_map = pytest.mark.parametrize("kind", kinds("fused", "auto"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


@pytest.fixture
def block(kind, build):
    impl, form, layout, branches = kind
    return build(SHAPE[1], form, layout, impl=impl, branches=branches).to(place(impl))


def place(impl):
    return "cpu" if impl == "loops" else DEVICE


def problem(block, memory_format="contiguous", dtype=torch.float32):
    """A map and a gradient."""
    x, d = torch.randn(2, *SHAPE, device=block_device(block)).to(dtype).unbind()
    return x.contiguous(memory_format=FORMATS[memory_format]), d.contiguous(memory_format=FORMATS[memory_format])


def block_device(block):
    return next(block.parameters()).device


def sweep(function, block, x, d):
    """Output, gradient of x and of each parameter."""
    x = x.detach().requires_grad_()
    out = function(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *block.parameters()], d)]


def reference(block):
    """The same weights in float64, conv by conv."""
    twin = copy.deepcopy(block).double()
    twin.impl = "reference"
    return twin


def exact(block, x, d):
    """What :func:`sweep` should give."""
    truth = reference(block)
    return sweep(truth, truth, x.double(), d.double())


def assert_same(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


def assert_close(got, wanted, tolerance=1e-4):
    """Within that share of the largest number; sums that cancel leave dust."""
    largest = max(float(one.abs().max()) for one in wanted if one.numel())
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=0.1 * tolerance * largest)


@pytest.mark.parametrize("memory_format", FORMATS)
@every
def test_a_second_run_and_a_second_backward_change_no_bit(kind, memory_format, block):
    x, d = problem(block, memory_format)
    first = sweep(block, block, x, d)
    assert_same(sweep(block, block, x, d), first)
    assert first[0].stride() == first[1].stride() == x.stride()
    x.requires_grad_()
    out = block(x)
    for _ in range(2):
        assert_same([out, *torch.autograd.grad(out, [x, *block.parameters()], d, retain_graph=True)], first)
    for silent in (torch.no_grad(), torch.inference_mode()):
        with silent:
            torch.testing.assert_close(block(x), first[0], rtol=1e-5, atol=1e-6)
    assert_close(first, exact(block, x, d))


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every
def test_autocast_takes_the_map_as_it_is(kind, dtype, autocast, block):
    """Only what follows it and does its own rounding would be another function."""
    x, d = problem(block, dtype=dtype)
    plainly = sweep(block, block, x, d)

    def forward(y):
        with torch.autocast(x.device.type, dtype=autocast):
            return block(y)

    found = sweep(forward, block, x, d)
    assert_same(found, plainly)
    assert found[0].dtype == found[1].dtype == dtype
    assert {one.dtype for one in found[2:]} == {torch.float32}
    assert_close(found, exact(block, x, d), 1e-4 if dtype == torch.float32 else 0.1)


@for_any_map
def test_compiles_in_one_graph(kind, block):
    compiles(kind[0], block, autocast=False)


@pytest.mark.parametrize("kind", [one for one in kinds("fused", "auto") if one.values[0][3] == "both"])
def test_compiles_in_one_graph_under_autocast(kind, block):
    compiles(kind[0], block, autocast=True)


def compiles(impl, block, autocast):
    x, d = problem(block, "channels_last")
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with torch.autocast(x.device.type, dtype=torch.bfloat16) if autocast else nullcontext():
        found, wanted = sweep(compiled, block, x, d), sweep(block, block, x, d)
    assert found[0].stride() == wanted[0].stride()
    if impl == "fused":
        assert_same(found, wanted)
    else:  # a compiled backward pass runs under autocast too
        assert_close(found, wanted, 0.1 if autocast else 1e-4)


@for_any_map
def test_exports_with_free_batch_height_and_width(kind, block):
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(block, (problem(block)[0],), dynamic_shapes=(free,))
    operators = {str(node.target) for node in program.graph.nodes}
    assert ("polarpix.psa.default" in operators) == (kind[0] == "fused")
    exported = program.module()
    for shape in [(1, 16, 7, 3), (3, 16, 1, 1), (4, 16, 1, 6)]:
        for memory_format in FORMATS.values():
            x = torch.randn(shape, device=block_device(block)).contiguous(memory_format=memory_format)
            torch.testing.assert_close(exported(x), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@for_any_map
def test_a_trace_computes_other_maps_too(kind, block):
    x = problem(block)[0]
    traced = torch.jit.trace(block, (x,))
    y = torch.randn(3, 16, 2, 7, device=block_device(block))
    torch.testing.assert_close(traced(y), block(y), rtol=1e-4, atol=1e-5)


def save_the_operator(context, operator, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if "polarpix" in str(operator) else CheckpointPolicy.PREFER_RECOMPUTE


WAYS = {
    "again": partial(checkpoint, use_reentrant=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
    "selective": partial(
        checkpoint,
        use_reentrant=False,
        context_fn=partial(create_selective_checkpoint_contexts, save_the_operator),
    ),
}


@pytest.mark.parametrize("way", [*WAYS, "offloaded"])
@every
def test_checkpointing(kind, way, block):
    x, d = problem(block)
    wanted = sweep(block, block, x, d)

    def again(y):
        if way != "offloaded":
            return WAYS[way](block, y)
        with torch.autograd.graph.save_on_cpu():
            return block(y)

    if way == "reentrant":  # which knows backward() only
        x.requires_grad_()
        out = again(x)
        out.backward(d)
        found = [out.detach(), x.grad, *(one.grad for one in block.parameters())]
        assert_close(found, wanted)  # its forward runs without gradients, which the loops may compute in one call
    else:
        assert_same(sweep(again, block, x, d), wanted)


@pytest.mark.parametrize("kind", kinds("loops", "collapsed"))
def test_second_derivatives_are_those_of_the_reference(kind, block):
    x, d = problem(block)
    found = []
    for one in (block, reference(block)):
        dtype = next(one.parameters()).dtype
        inputs = [x.to(dtype, copy=True).requires_grad_(), *one.parameters()]
        firsts = torch.autograd.grad(one(inputs[0]), inputs, d.to(dtype), create_graph=True)
        norm = sum(first.square().sum() for first in firsts)
        found.append(torch.autograd.grad(norm, inputs, allow_unused=True, materialize_grads=True))
    assert_close(found[0], found[1], 1e-3)


@pytest.mark.parametrize("kind", kinds("fused"))
def test_kernels_have_no_second_derivative_and_say_what_has(kind, block):
    x, d = problem(block)
    wanted = sweep(block, block, x, d)[1:]
    x.requires_grad_()
    slopes = torch.autograd.grad(block(x), [x, *block.parameters()], d.requires_grad_(), create_graph=True)
    assert_same([one.detach() for one in slopes], wanted)  # first ones are the same
    for slope in slopes:
        with pytest.raises(RuntimeError, match="no second derivative: use impl='collapsed'"):
            torch.autograd.grad(slope.sum(), x, retain_graph=True)


@pytest.mark.parametrize("wanted", ["nothing", "x", "weights", "one weight"])
@every
def test_gradients_only_where_they_are_wanted(kind, wanted, block):
    x, d = problem(block)
    every_gradient = sweep(block, block, x, d)
    names = [name for name, _ in block.named_parameters()]
    chosen = {"nothing": [], "x": [], "weights": names, "one weight": names[-1:]}[wanted]
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(name in chosen)
    out = block(x.requires_grad_(wanted == "x"))
    torch.testing.assert_close(out.detach(), every_gradient[0])
    assert out.requires_grad == (wanted != "nothing")
    if wanted != "nothing":
        out.backward(d)
    full = dict(zip(names, every_gradient[2:], strict=True))
    for name, parameter in block.named_parameters():
        assert (parameter.grad is not None) == (name in chosen)
        if name in chosen:
            torch.testing.assert_close(parameter.grad, full[name])
    assert (x.grad is not None) == (wanted == "x")
    if wanted == "x":
        torch.testing.assert_close(x.grad, every_gradient[1])


MAPS = {
    "a window": lambda x: torch.nn.functional.pad(x, (1, 2, 0, 1))[:, :, : x.shape[2], 1 : 1 + x.shape[3]],
    "some channels": lambda x: torch.cat([x, x], 1)[:, 3 : 3 + x.shape[1]],
    "every second pixel": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "turned": lambda x: x.mT.contiguous().mT,
    "one for all samples": lambda x: x[:1].expand(x.shape),
    "one number": lambda x: x[:1, :1, :1, :1].expand(x.shape),
}


@pytest.mark.parametrize("lies", MAPS)
@for_any_map
def test_maps_and_gradients_that_lie_otherwise(kind, lies, block):
    x, d = map(MAPS[lies], problem(block))
    assert not x.is_contiguous()
    assert not x.is_contiguous(memory_format=torch.channels_last)
    assert_close(sweep(block, block, x, d), exact(block, x, d))
    for memory_format in FORMATS.values():  # and one of the two does
        dense = x.contiguous(memory_format=memory_format)
        assert_close(sweep(block, block, dense, d), exact(block, x, d))


@pytest.mark.compiler
def test_loops_refuse_maps_that_lie_otherwise(build):
    with pytest.raises(InputError, match=r"impl 'loops' takes dense .*: use impl='auto'"):
        build(16)(torch.randn(2, 16, 3, 10)[..., ::2])


@every
def test_an_empty_batch(kind, block):
    x, d = (one[:0] for one in problem(block))
    out, dx, *rest = sweep(block, block, x, d)
    assert out.shape == dx.shape == x.shape
    assert not any(one.any() for one in rest)


@every
def test_the_result_may_be_changed_and_the_map_used_again(kind, block):
    """As residual networks do."""

    def residual(one, y):
        out = one(y)
        out += y
        return out.relu_()

    x, d = problem(block)
    truth = reference(block)
    wanted = sweep(partial(residual, truth), truth, x.double(), d.double())
    assert_close(sweep(partial(residual, block), block, x, d), wanted)


@every
def test_a_weight_changed_before_the_backward_is_noticed(kind, block):
    x, d = problem(block)
    out = block(x)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward(d)


@for_any_map
def test_maps_without_numbers(kind, block):
    """As tools that plan memory use them, and such that count operations."""
    x, d = problem(block, "channels_last")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = sweep(block, block, mode.from_tensor(x), mode.from_tensor(d))
    wanted = sweep(block, block, x, d)
    for one, other in zip(found, wanted, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
    out = copy.deepcopy(block).to("meta")(x.to("meta"))
    assert (out.shape, out.stride(), out.device.type) == (x.shape, x.stride(), "meta")


@pytest.mark.parametrize("kind", kinds("auto", "loops", "collapsed"))
def test_transforms_of_functions(kind, block):
    x, v = problem(block)
    truth = reference(block)
    for transform in (
        lambda f, x, v: torch.func.vmap(f)(torch.stack([x, v])),
        lambda f, x, v: torch.func.grad(lambda y: f(y).square().sum())(x),
        lambda f, x, v: torch.func.jvp(f, (x,), (v,))[1],
    ):
        with torch.no_grad():
            assert_close([transform(block, x, v)], [transform(truth, x.double(), v.double())])


@pytest.mark.parametrize("kind", kinds("fused"))
def test_kernels_have_no_transforms_and_say_what_has(kind, block):
    x, v = problem(block)
    for transform in (
        lambda: torch.func.vmap(block)(x[None]),
        lambda: torch.func.grad(lambda y: block(y).sum())(x),
        lambda: torch.func.jvp(block, (x,), (v,)),
    ):
        with pytest.raises(InputError, match=r"neither transforms of torch\.func nor .*: use impl="):
            transform()


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_auto_takes_the_kernels_on_cuda(form, layout, branches, build):
    """On pretended maps, no GPU needed; and never where a program is exported or a function transformed."""
    fused = (form, layout, branches) in KERNELS
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"), torch.no_grad():
        block, x = PolarizedSelfAttention(16, layout, form, branches=branches), torch.empty(SHAPE)
        assert x.is_cuda
        with Seen() as eager:
            assert block(x).shape == SHAPE
        assert ("polarpix.psa.default" in eager.names) == fused
        with Seen() as transformed:
            assert torch.func.vmap(block)(x[None]).shape == (1, *SHAPE)
        assert "polarpix.psa.default" not in transformed.names


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_auto_exports_plain_operations_from_cuda(form, layout, branches, build, monkeypatch):
    block = build(16, form, layout, impl="auto", branches=branches)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    program = torch.export.export(block, (torch.randn(SHAPE),), strict=False)
    assert not any("polarpix" in str(node.target) for node in program.graph.nodes)


DDP = """
import os
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from polarpix.psa import PolarizedSelfAttention


def share(rank, impl, form, layout, branches, device):
    torch.manual_seed(0)
    block = PolarizedSelfAttention(16, layout, form, impl, "torch", branches).to(device)
    x, d = torch.randn(2, 2, 16, 3, 5, device=device).unbind()
    block(x).backward(d / 2)  # of both samples: DDP takes the mean over the processes
    wanted = [one.grad.clone() for one in block.parameters()]
    shared = DistributedDataParallel(block)
    for _ in range(2):  # the second forward finds out what the first backward left waiting
        shared.zero_grad()
        shared(x[rank : rank + 1]).backward(d[rank : rank + 1])
    dust = 1e-5 * max(float(one.abs().max()) for one in wanted)
    for one, (name, parameter) in zip(wanted, block.named_parameters(), strict=True):
        where = f"{impl} {form} {layout} {branches} {name}"
        torch.testing.assert_close(parameter.grad, one, rtol=1e-4, atol=dust, msg=lambda told: f"{where}: {told}")


rank, store, device = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for kind in sys.argv[4:]:
    impl, *function = kind.split("-")
    share(rank, impl, *function, device="cpu" if impl == "loops" else device)
dist.barrier()  # who leaves first takes the connection with it
dist.destroy_process_group()
os._exit(0)  # gloo's threads abort a process now and then that clears its things away
"""


@pytest.mark.compiler
def test_two_processes_share_every_gradient(tmp_path):
    """DistributedDataParallel, which waits for the gradient of each parameter; all kinds in one start."""
    listed = [one.id for one in kinds("fused", "loops", "collapsed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(polarpix.__file__).parents[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DDP, str(rank), str(tmp_path / "store"), DEVICE, *listed],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    told = [one.communicate(timeout=240)[1] for one in ranks]
    assert [one.returncode for one in ranks] == [0, 0], told
