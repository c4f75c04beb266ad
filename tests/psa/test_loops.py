"""The compiled loops: as exact as eager torch, whatever the threads; and what happens where they cannot be had."""

import subprocess
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention, loops, plain
from polarpix.psa.block import _weights
from polarpix.psa.passes import attend

pytestmark = pytest.mark.compiler

FUNCTIONS = [
    ("paper", "parallel", "both"),
    ("paper", "sequential", "both"),
    ("paper", "parallel", "channel"),
    ("paper", "parallel", "spatial"),
    ("released", "parallel", "both"),
    ("released", "parallel", "spatial"),
    ("released", "sequential", "both"),
    ("released", "sequential", "channel"),
    ("released", "sequential", "spatial"),
]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = {
    "odd": (3, 50, 17, 13),  # rows left over from every unrolled loop
    "pixel": (2, 16, 1, 1),
    "two": (1, 2, 5, 3),
    "tiles": (2, 16, 40, 61),  # more pixels than a tile takes, the last tile shorter
    "wide": (1, 2050, 9, 8),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def _poison(monkeypatch):
    """Fresh memory holds NaN, so that what a loop does not write shows."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, make=make, **kwargs: make(*args, **kwargs).fill_(float("nan")))


@pytest.fixture
def threads():
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@cache
def build(channels, form="paper", layout="parallel", branches="both"):
    """A block in float64 whose every weight matters: gates spread over 0 .. 1, LayerNorm weights around 1."""
    torch.manual_seed(channels)  # the same whichever test comes first
    block = PolarizedSelfAttention(channels, layout, form, "reference", branches=branches, init="torch", scale=2.0)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else channels**-0.5))
    return block.double()


def sweep(block, dtype, x, d, impl):
    """Output, gradient of x and of each parameter, of the block in that dtype and implementation; in float64."""
    made = PolarizedSelfAttention(block.channels, block.layout, block.form, impl, branches=block.branches, scale=2.0)
    made = made.to(dtype)
    made.load_state_dict(block.state_dict())
    x = x.to(dtype).detach().requires_grad_()
    out = made(x)
    return [one.double() for one in (out.detach(), *torch.autograd.grad(out, [x, *made.parameters()], d.to(dtype)))]


def problem(shape, memory_format, dtype):
    x, d = (torch.randn(shape).to(dtype).double() for _ in range(2))
    return x.contiguous(memory_format=FORMATS[memory_format]), d


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_errs_at_most_twice_as_much_as_eager_torch(form, layout, branches, shape, memory_format, dtype):
    channels = SHAPES[shape][1]
    if form == "released" and layout == "sequential":
        channels = max(64, channels)  # its LayerNorm is over C/8 channels, of two it is nearly a sign
    x, d = problem((SHAPES[shape][0], channels, *SHAPES[shape][2:]), memory_format, dtype)
    block = build(channels, form, layout, branches)
    exact = {name: W.to(dtype).double() for name, W in block.state_dict().items()}
    rounded = PolarizedSelfAttention(channels, layout, form, "reference", branches=branches, scale=2.0).double()
    rounded.load_state_dict(exact)
    wanted = sweep(rounded, torch.float64, x, d, "reference")
    eager = sweep(rounded, dtype, x, d, "reference")
    got = sweep(rounded, dtype, x, d, "loops")
    # Sums that cancel leave dust of float32, whatever eager torch leaves.
    dust = 1e-6 * max(truth.abs().max() for truth in wanted)
    for one, theirs, truth in zip(got, eager, wanted, strict=True):
        rounding = torch.finfo(dtype).eps * truth.abs().max()
        assert (one - truth).abs().max() <= 2 * (theirs - truth).abs().max() + rounding + dust


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("channels", [2, 16, 50, 200])
@pytest.mark.parametrize(("form", "layout"), [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")])
def test_without_a_gradient_the_result_is_the_same(form, layout, channels):
    block = build(channels, form, layout).float()
    weights = form, layout, _weights(block.channel), _weights(block.spatial)
    x = torch.randn(3, channels, 6, 7)
    with torch.no_grad():
        silent = attend(x, *weights, hand=loops)
    torch.testing.assert_close(silent, attend(x, *weights, hand=loops), rtol=1e-5, atol=1e-6)
    block.double()


@given(
    b=st.integers(1, 3), half=st.integers(1, 40), h=st.integers(1, 40), w=st.integers(1, 40),
    last=st.booleans(), layout=st.sampled_from(["parallel", "sequential"]),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_any_shape(b, half, h, w, last, layout):
    block = build(2 * half, layout=layout)
    x, d = problem((b, 2 * half, h, w), "channels_last" if last else "contiguous", torch.float32)
    wanted = sweep(block, torch.float64, x, d, "reference")
    largest = max(truth.abs().max().item() for truth in wanted)
    for one, truth in zip(sweep(block, torch.float32, x, d, "loops"), wanted, strict=True):
        torch.testing.assert_close(one, truth, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_threads_and_repetition_change_no_bit(memory_format, threads):
    block = build(16)
    x, d = problem((2, 16, 40, 61), memory_format, torch.float32)
    results = []
    for count in (1, 1, 2, 3):
        threads(count)
        results.append(sweep(block, torch.float32, x, d, "loops"))
    names = ["out", "x", *(name for name, _ in block.named_parameters())]
    for found in results[1:]:
        differing = {n for n, one, other in zip(names, found, results[0], strict=True) if not torch.equal(one, other)}
        assert differing <= {"channel.norm.weight"}  # torch's own LayerNorm sums it thread by thread
    assert all(torch.equal(one, other) for one, other in zip(results[1], results[0], strict=True))


def test_the_memory_format_stays():
    block = PolarizedSelfAttention(16, impl="loops")
    x = torch.randn(2, 16, 5, 7)
    assert block(x).is_contiguous()
    assert block(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_allocates_one_map_each_way(memory_format):
    class Maps(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made = function in (torch.ops.aten.empty_like.default, torch.ops.aten.empty.memory_format)
            Maps.count += made and out.nbytes >= x.nbytes // 2
            assert made or not isinstance(out, torch.Tensor) or out.nbytes < x.nbytes or out.data_ptr() in known
            return out

    block = PolarizedSelfAttention(16, impl="loops")
    x = torch.randn(2, 16, 30, 30).contiguous(memory_format=FORMATS[memory_format]).requires_grad_()
    d = torch.randn_like(x)
    known = {x.data_ptr(), d.data_ptr()}
    with Maps():
        out = block(x)
    assert Maps.count == 1
    known.add(out.data_ptr())
    with Maps():
        torch.autograd.grad(out, x, d)
    assert Maps.count == 2


def test_extreme_logits_and_nan():
    block = PolarizedSelfAttention(16, init="torch")
    x = torch.full((1, 16, 6, 6), 1e4)
    x[:, ::2] *= -1
    weights = "paper", "parallel", _weights(block.channel), _weights(block.spatial)
    with torch.no_grad():
        out = attend(x, *weights, hand=loops)
        assert out.isfinite().all()
        torch.testing.assert_close(out, attend(x, *weights, hand=plain))
        x[0, 3, 2, 2] = float("nan")
        assert attend(x, *weights, hand=loops).isnan().any()


def test_takes_dense_maps_of_two_dtypes():
    x = torch.randn(2, 16, 5, 7)
    assert loops.takes(x)
    assert loops.takes(x.bfloat16())
    assert loops.takes(x.contiguous(memory_format=torch.channels_last))
    for other in (x.double(), x.half(), x[:, :, 1:], x.to("meta"), x[:0], torch.randn(2, 16, 7, 5).mT):
        assert not loops.takes(other)
    with FakeTensorMode():
        assert not loops.takes(torch.empty(2, 16, 5, 7))


def test_auto_takes_the_loops_and_others_the_plain_passes():
    block = PolarizedSelfAttention(16)
    assert block._passes(torch.randn(2, 16, 5, 7)) is loops
    assert block._passes(torch.randn(2, 16, 5, 7).double()) is plain
    with FakeTensorMode():
        assert block._passes(torch.empty(2, 16, 5, 7)) is plain
    x = torch.randn(2, 16, 5, 7)
    with FlopCounterMode(display=False):
        assert block._passes(x) is plain
    assert PolarizedSelfAttention(16, impl="collapsed")._passes(torch.randn(2, 16, 5, 7)) is plain


def test_another_map_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"impl 'loops' takes dense float32 or bfloat16 .* not torch.float64 on cpu"):
        PolarizedSelfAttention(16, impl="loops").double()(torch.randn(2, 16, 5, 7).double())


def test_weights_elsewhere_are_refused():
    with pytest.raises(RuntimeError, match="some weights are not"):
        loops.read(torch.randn(2, 16, 5, 7), torch.randn(1, 16, 1, 1, device="meta"), True)


@pytest.fixture
def _fresh(monkeypatch, tmp_path):
    """No library loaded yet and an empty cache folder."""
    for function in (loops.why_not, loops.library, loops._load):
        function.cache_clear()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield
    for function in (loops.why_not, loops.library, loops._load):
        function.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_without_a_compiler_the_plain_passes_run(monkeypatch):
    monkeypatch.setattr(loops.shutil, "which", lambda name: None)
    assert "no C compiler found" in loops.why_not()
    x = torch.randn(2, 16, 5, 7)
    assert PolarizedSelfAttention(16)._passes(x) is plain
    assert PolarizedSelfAttention(16)(x).shape == x.shape
    with pytest.raises(InputError, match="no C compiler found"):
        PolarizedSelfAttention(16, impl="loops")(x)


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path):
    broken = tmp_path / "loops.c"
    broken.write_text("this is not C")
    monkeypatch.setattr(loops, "SOURCE", broken)
    assert "cannot compile loops.c" in loops.why_not()
    assert not list((tmp_path / "polarpix").glob("*"))  # nothing half done stays


@pytest.mark.usefixtures("_fresh")
def test_compiles_once(monkeypatch, tmp_path):
    assert loops.why_not() == ""
    assert len(list((tmp_path / "polarpix").glob("psa-*.so"))) == 2
    for function in (loops.why_not, loops.library, loops._load):
        function.cache_clear()
    monkeypatch.setattr(loops, "_compile", lambda *args: pytest.fail("compiled again"))
    assert loops.takes(torch.randn(2, 16, 5, 7))


@pytest.mark.usefixtures("_fresh")
def test_a_damaged_library_costs_only_the_speed(monkeypatch):
    monkeypatch.setattr(loops, "_compile", lambda compiler, flags, path: path.write_bytes(b"\0" * 100))
    assert "invalid ELF header" in loops.why_not()
    assert not loops.takes(torch.randn(2, 16, 5, 7))


@pytest.mark.usefixtures("_fresh")
def test_no_code_is_loaded_from_a_folder_that_others_can_write_to(tmp_path):
    (tmp_path / "polarpix").mkdir()
    (tmp_path / "polarpix").chmod(0o777)
    assert "others can write there" in loops.why_not()
    assert not list((tmp_path / "polarpix").glob("*"))


def test_a_compiler_that_hangs_is_an_absent_one(monkeypatch):
    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("cc", 60)

    for function in (loops.why_not, loops.library, loops._load):
        function.cache_clear()
    monkeypatch.setattr(loops.subprocess, "run", hang)
    assert "timed out" in loops.why_not()
    for function in (loops.why_not, loops.library, loops._load):
        function.cache_clear()
