"""The compiled loops, pass by pass: as exact as eager torch, whatever the threads; and what happens without them.

The block in one call is in test_whole.py.
"""

import subprocess

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
    "wide": (1, 1030, 9, 8),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sweep(block, x, d, by_passes=True):
    """Output, gradient of x and of each parameter, by the passes or as the block does it; in float64."""
    x = x.detach().requires_grad_()
    weights = _weights(block.channel), _weights(block.spatial)
    out = attend(x, block.form, block.layout, *weights, block.scale, hand=loops) if by_passes else block(x)
    return [one.double() for one in (out.detach(), *torch.autograd.grad(out, [x, *block.parameters()], d))]


def problem(shape, memory_format="contiguous", dtype=torch.float32):
    x, d = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    return x.contiguous(memory_format=FORMATS[memory_format]), d


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_errs_at_most_twice_as_much_as_eager_torch(form, layout, branches, shape, dtype, build, assert_near):
    channels = SHAPES[shape][1]
    if form == "released" and layout == "sequential":
        channels = max(64, channels)  # its LayerNorm is over C/8 channels, of two it is nearly a sign
    x, d = problem((SHAPES[shape][0], channels, *SHAPES[shape][2:]), dtype=dtype)
    block = build(channels, form, layout, dtype, branches=branches)
    truth = build(channels, form, layout, torch.float64, "reference", branches)
    truth.load_state_dict(block.state_dict())  # as rounded
    exact = sweep(truth, x.double(), d.double(), by_passes=False)
    eager = sweep(build(channels, form, layout, dtype, "reference", branches), x, d, by_passes=False)
    for memory_format in FORMATS.values():
        assert_near(sweep(block, x.contiguous(memory_format=memory_format), d), eager, exact, dtype)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("channels", [2, 16, 50, 200])
@pytest.mark.parametrize(("form", "layout"), [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")])
def test_without_a_gradient_the_result_is_the_same(form, layout, channels, build):
    block = build(channels, form, layout)
    weights = form, layout, _weights(block.channel), _weights(block.spatial)
    x = torch.randn(3, channels, 6, 7)
    with torch.no_grad():
        silent = attend(x, *weights, hand=loops)
    torch.testing.assert_close(silent, attend(x, *weights, hand=loops), rtol=1e-5, atol=1e-6)


@given(
    b=st.integers(1, 3), half=st.integers(1, 40), h=st.integers(1, 40), w=st.integers(1, 40),
    last=st.booleans(), layout=st.sampled_from(["parallel", "sequential"]),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_any_shape(build, b, half, h, w, last, layout):
    x, d = problem((b, 2 * half, h, w), "channels_last" if last else "contiguous")
    truth = build(2 * half, layout=layout, dtype=torch.float64, impl="reference")
    exact = sweep(truth, x.double(), d.double(), by_passes=False)
    largest = max(one.abs().max().item() for one in exact)
    for one, wanted in zip(sweep(build(2 * half, layout=layout), x, d), exact, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_threads_and_repetition_change_no_bit(memory_format, threads, build):
    block = build(16)
    x, d = problem((2, 16, 40, 61), memory_format)
    results = []
    for count in (1, 1, 2, 3):
        threads(count)
        results.append(sweep(block, x, d))
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
    quick = ["-O0" if flag == "-O3" else flag for flag in loops.FLAGS]
    monkeypatch.setattr(loops, "FLAGS", tuple(quick))
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


@pytest.mark.parametrize("channels", [16, 32, 50, 96])
def test_weights_of_bfloat16_maps_keep_their_digits(channels):
    x = torch.randn(2, channels, 7, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    w, rows = torch.randn(2, channels), torch.empty(2, 35)
    loops._Call(x)("psa_rows", x, None, w, rows)
    exact = torch.einsum("bchw,bc->bhw", x.double(), w.double()).flatten(1)
    assert (rows - exact).abs().max() < 1e-4  # 1e-2 with weights rounded to bfloat16
