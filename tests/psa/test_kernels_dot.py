"""The passes on the matrix units: as exact as the others, although these multiply bfloat16 alone."""

import pytest
import torch
import triton
import triton.language as tl

from polarpix.psa import launch, plans
from polarpix.psa.kernels_dot import columns_of, put, take, times

FUSED = [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def _on_matrix_units(monkeypatch):
    """Every pass of bfloat16, in tiles of 32 pixels, of which three programs take some; fresh memory holds NaN."""
    monkeypatch.setattr(plans, "SMALL", 0)
    monkeypatch.setattr(plans, "on_matrix_units", lambda *_: ((32, 4, 2, 1),) * 3)
    monkeypatch.setattr(plans.Plan, "split", lambda one, *_: (1, -(-one.P // one.tiles_of("pool").BP)))
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **more: empty(*args, **more).fill_(float("nan")))
    plans.plan.cache_clear()
    yield
    plans.plan.cache_clear()


def sweep(block, x, d):
    """Output, gradient of x and of each parameter."""
    x = x.detach().requires_grad_()
    out = block(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *block.parameters()], d)]


@pytest.mark.usefixtures("_on_matrix_units")
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("shape", [(2, 36, 9, 8), (1, 2, 16, 5)], ids=str)
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_at_most_twice_the_error_of_eager_torch(form, layout, shape, memory, build, assert_near):
    """The last tile of a sample is not full; of two channels most columns are empty."""
    torch.manual_seed(0)
    x, d = (one.to(DEVICE).contiguous(memory_format=FORMATS[memory]) for one in torch.randn(2, *shape).bfloat16())
    block = build(shape[1], form, layout, torch.bfloat16, "fused").to(DEVICE)
    plan = plans.plan(*shape[:2], shape[2] * shape[3], 2, memory == "channels_last", None, True, 132, True)
    assert plan.first.STAGES
    assert plan.second.STAGES
    eager = sweep(build(shape[1], form, layout, torch.bfloat16, "reference").to(DEVICE), x, d)
    exact = sweep(build(shape[1], form, layout, torch.float64, "reference").to(DEVICE), x.double(), d.double())
    assert_near(sweep(block, x, d), eager, exact, torch.bfloat16)


@triton.jit
def product(out, x, vector):
    """16 sums of 16 products of a matrix and a vector of float32."""
    i = tl.arange(0, 16)
    matrix = tl.load(x + i[:, None] * 16 + i[None, :])
    tl.store(out + i, take(times(matrix, put(columns_of(16, 0.0), tl.load(vector + i), 4)), 4))


def test_vectors_keep_16_bits():
    """A number of float32 in two columns of bfloat16: 2^-16 of it is lost at most, where one column loses 2^-8."""
    torch.manual_seed(0)
    matrix = torch.randn(16, 16, device=DEVICE).bfloat16()
    vector = torch.randn(16, device=DEVICE)
    out = torch.empty(16, device=DEVICE)
    product[(1,)](out, matrix, vector)
    most = matrix.double().abs() @ vector.double().abs()
    error = (out.double() - matrix.double() @ vector.double()).abs() / most
    assert error.max() < 2**-16
    assert (
        (matrix.double() @ vector.bfloat16().double() - matrix.double() @ vector.double()).abs() / most
    ).max() > 2**-14


def test_where_passes_run_on_matrix_units():
    """Of bfloat16, on devices that have them, with up to 512 channels, 16 bytes at a time, x and d in one format."""
    usual = (8, 256, 128 * 128, 2, True, None, True, 132, True)
    assert plans.plan(*usual).first.STAGES

    def without(place, value):
        other = list(usual)
        other[place] = value
        return not any(tiles.STAGES for tiles in (plans.plan(*other).first, plans.plan(*other).second))

    assert without(8, False)
    assert without(1, 1024)
    assert without(2, 48)  # small
    contiguous = plans.plan(8, 256, 128 * 128, 2, False, False, True, 132, True)
    assert contiguous.second.STAGES
    assert not contiguous.first.STAGES
    assert not plans.plan(8, 256, 127 * 127, 2, False, False, True, 132, True).second.STAGES
    assert not plans.plan(8, 256, 128 * 128, 2, False, True, True, 132, True).second.STAGES


def test_only_bfloat16_asks_for_them(monkeypatch):
    """float16 has not float32's range: small parts would vanish."""
    monkeypatch.setattr(launch, "matrix_units", lambda index: True)
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        assert launch.hardware(torch.zeros(1, 2, 1, 1, dtype=dtype))[1] == (dtype == torch.bfloat16)
