"""The block at the edges of what numbers can do: every layout, form and implementation in every dtype of the CPU."""

import itertools

import pytest
import torch

from polarpix.psa import PolarizedSelfAttention, loops

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


@pytest.mark.parametrize(("form", "layout"), FORMS)
def test_many_channels_stay_finite(form, layout) -> None:
    """2048, as behind the last stage of a ResNet."""
    block = PolarizedSelfAttention(2048, layout=layout, form=form)
    for dtype in (torch.float32, torch.bfloat16):
        block = block.to(dtype)
        check(block, 1e4 * torch.randn(1, 2048, 1, 2).sign().to(dtype))


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
