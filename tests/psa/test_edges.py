"""The block at the edges of what numbers can do: every layout, form and implementation in every dtype of the CPU."""

import copy
import itertools

import pytest
import torch

from polarpix.psa import PolarizedSelfAttention, loops, whole

FORMS = list(itertools.product(["paper", "released"], ("parallel", "sequential")))
IMPLS = ["reference", "collapsed", "auto"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
MAPS = {
    "all equal": lambda c: torch.full((2, c, 3, 5), 2.0),
    "zeros": lambda c: torch.zeros(2, c, 3, 5),
    "1e4": lambda c: 1e4 * torch.randn(2, c, 3, 5).sign(),
    "one pixel": lambda c: torch.randn(2, c, 1, 1),
    "empty batch": lambda c: torch.randn(0, c, 3, 5),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def widths(form: str, layout: str) -> tuple[int, ...]:
    """The fewest channels that a block takes, and some."""
    return (16, 24) if (form, layout) == ("released", "sequential") else (2, 8)


def check(block: PolarizedSelfAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Result and gradient of x; both finite, like every parameter's.

    In float16 the gradients at 1e4, sums of products of two such numbers, lie beyond its 65504: infinite is right,
    and what a loss scaler looks for.
    """
    x = x.requires_grad_()
    y = block(x)
    y.sum().backward()
    assert x.grad is not None
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    if x.dtype == torch.float16 and x.numel() and x.abs().max() > 1e3:
        return y.detach(), x.grad
    assert x.grad.isfinite().all()
    for name, parameter in block.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return y.detach(), x.grad


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("form", "layout"), FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_edges_stay_finite(form, layout, impl, dtype) -> None:
    for channels in widths(form, layout):
        block = PolarizedSelfAttention(channels, layout=layout, form=form, impl=impl).to(dtype)
        for make in MAPS.values():
            block.zero_grad()
            check(block, make(channels).to(dtype))


MANY = 2048  # channels, as behind the last stage of a ResNet
# What the largest difference may be, as a share of the largest exact number: sums of 2048 rounded products.
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def many(request: pytest.FixtureRequest) -> PolarizedSelfAttention:
    """A block of MANY channels in float64, whose gates depend on the map."""
    torch.manual_seed(0)
    form, layout = request.param
    return PolarizedSelfAttention(MANY, layout=layout, form=form, init="torch").double()


def run(block: PolarizedSelfAttention, x: torch.Tensor) -> list[torch.Tensor]:
    """Result, gradient of x and some of every parameter's, in float64; every number of them is finite."""
    block.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = block(x)
    y.sum().backward()
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    found = [y.detach(), *(one.grad for one in (x, *block.parameters()) if one.grad is not None)]
    assert all(one.sum(dtype=torch.float64).isfinite() for one in found)
    return [one.flatten()[:: 1 + one.numel() // 10_000].double() for one in found]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_channels_match_float64(
    many: PolarizedSelfAttention, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, at common numbers against the reference in float64, at 1e4 finite.

    "auto" is the whole block as one compiled call where there is one, "passes" pass by pass in compiled loops; both
    are the plain operations of "collapsed" in dtypes that are not compiled, and without a compiler.
    """
    block = copy.deepcopy(many).to(dtype)
    exact = copy.deepcopy(block).double()
    exact.impl = "reference"
    x = torch.randn(2, MANY, 1, 3).to(dtype)
    truth = run(exact, x.double())
    compiled = ("auto", "passes") if dtype in (torch.float32, torch.bfloat16) else ()
    for path in ("reference", "collapsed", *compiled):
        if path == "passes":
            monkeypatch.setattr(whole, "places", lambda *_: None)
        block.impl = "auto" if path == "passes" else path
        for found, wanted in zip(run(block, x), truth, strict=True):
            scale = wanted.abs().max()
            scale = scale if scale > 1e-9 else 1.0  # a bias in front of a softmax: its gradient is 0
            assert (found - wanted).abs().max() <= CLOSE[dtype] * scale, path
        if dtype != torch.float16:
            run(block, 1e4 * x.sign())
        else:  # gradients, and the softmax of the released parallel form, are of sums beyond its 65504
            with torch.no_grad():
                large = 1e4 if (block.form, block.layout) != ("released", "parallel") else 10
                assert block(large * x.sign()).isfinite().all(), path


@pytest.mark.parametrize(("form", "layout"), FORMS)
def test_two_runs_give_the_same_bits(form, layout) -> None:
    x = torch.randn(2, 16, 7, 9)
    for impl in IMPLS:
        block = PolarizedSelfAttention(16, layout=layout, form=form, impl=impl)
        (y, grad), (again, grad_again) = check(block, x.clone()), check(block, x.clone())
        assert torch.equal(y, again)
        assert torch.equal(grad, grad_again)


@pytest.mark.parametrize(("form", "layout"), FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_on_the_cpu(form, layout, dtype) -> None:
    """Near the float32 result, finite at 1e4."""
    x = torch.randn(2, 16, 5, 3)
    for impl in IMPLS:
        block = PolarizedSelfAttention(16, layout=layout, form=form, impl=impl)
        exact = block(x).detach()
        with torch.autocast("cpu", dtype):
            found = block(x).detach().float()
            large = block(1e4 * x.sign())
        torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)
        assert large.isfinite().all()


@pytest.mark.compiler
@pytest.mark.parametrize(("form", "layout"), FORMS)
def test_loops_at_the_edges(form, layout) -> None:
    assert not loops.why_not()
    for channels, dtype in itertools.product(widths(form, layout), (torch.float32, torch.bfloat16)):
        block = PolarizedSelfAttention(channels, layout=layout, form=form, impl="loops").to(dtype)
        for make in MAPS.values():
            block.zero_grad()
            check(block, make(channels).to(dtype))
