"""What the kernels do to memory: how often they read and write a map, and where they look for it."""

from collections import Counter

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from polarpix.psa import PolarizedSelfAttention, plans
from polarpix.psa.tiles import offsets


@pytest.fixture
def elements(monkeypatch):
    """Numbers of a map that load_tile and store_tile touch."""
    from triton.runtime import interpreter

    seen = Counter()
    call = interpreter.InterpretedFunction.__call__

    def counting(self, *args, **more):
        name = self.fn.__name__
        if name in ("load_tile", "store_tile"):
            p, P, C = args[-7:-4] if name == "load_tile" else args[-6:-3]
            seen[name] += int((p.handle.data < value(P)).sum()) * value(C)
        return call(self, *args, **more)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", counting)
    return seen


def value(number):
    if hasattr(number, "handle"):
        return int(np.asarray(number.handle.data).item())
    return int(getattr(number, "value", number))


@pytest.mark.interpreter
@pytest.mark.parametrize("cut", [False, True], ids=["one launch", "splits"])
@pytest.mark.parametrize("layout", ["parallel", "sequential"])
def test_three_passes_forward_and_five_backward(elements, layout, cut, monkeypatch):
    if cut:
        monkeypatch.setattr(plans, "SMALL", 0)
    plans.plan.cache_clear()
    x = torch.randn(2, 6, 9, 13, requires_grad=True)
    out = PolarizedSelfAttention(6, layout, impl="fused")(x)
    assert elements == {"load_tile": 2 * x.numel(), "store_tile": x.numel()}
    elements.clear()
    out.sum().backward()
    assert elements == {"load_tile": 4 * x.numel(), "store_tile": x.numel()}
    plans.plan.cache_clear()


@pytest.mark.interpreter
def test_released_form_reads_once_more(elements):
    x = torch.randn(1, 6, 5, 3)
    PolarizedSelfAttention(6, form="released", impl="fused")(x)
    assert elements == {"load_tile": 3 * x.numel(), "store_tile": x.numel()}


@triton.jit
def show(out, P, LAST: tl.constexpr, WIDE: tl.constexpr):
    """The offsets of the last four pixels of four channels."""
    i = tl.arange(0, 4)
    tl.store(out + i[:, None] * 4 + i[None, :], offsets(i, P - 4 + i, P, 4, LAST, WIDE).to(tl.int64))


def test_samples_beyond_two_to_the_31st_element():
    """Offsets of a huge sample, computed by the kernels' own function, without the sample."""
    P = 2**30
    c, p = torch.arange(4)[:, None], P - 4 + torch.arange(4)[None]
    for last, truth in ((False, c * P + p), (True, c + p * 4)):
        out = torch.zeros(4, 4, dtype=torch.int64, device="cuda" if torch.cuda.is_available() else "cpu")
        show[(1,)](out, P, last, True)
        assert torch.equal(out.cpu(), truth)
    assert plans.plan(1, 4, P, 2, False).WIDE
    assert not plans.plan(1, 4, P // 2 - 1, 2, False).WIDE
