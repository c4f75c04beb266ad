"""What the kernels do to memory: how often they read and write a map, and where they look for it."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from polarpix.psa import PolarizedSelfAttention, launch, plans
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
            given = dict(zip(self.arg_names, args, strict=True))
            C, K, T, V, p0, last = (value(given[one]) for one in ("C", "K", "T", "V", "p0", "last"))
            seen[name] += max(0, min(K * T * V, last - p0)) * C
        return call(self, *args, **more)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", counting)
    return seen


def value(number):
    if hasattr(number, "handle"):
        return int(np.asarray(number.handle.data).item())
    return int(getattr(number, "value", number))


@pytest.fixture(params=["one program", "programs that share", "splits"])
def _cut(request, monkeypatch):
    """A sample whose second pass one program makes, or two that share it; or one that is cut into splits."""

    def plan(*args):
        one = real(*args)
        tiles = dataclasses.replace(one.first, K=1, T=8, V=1)
        one = dataclasses.replace(one, first=tiles, between=tiles, second=tiles, small=request.param != "splits")
        return dataclasses.replace(one, S=2, BR=2, BZ=2, BU=2) if request.param == "programs that share" else one

    real = launch.plan
    monkeypatch.setattr(launch, "plan", plan)
    monkeypatch.setattr(plans.Plan, "split", lambda one, *_: (4, -(-one.P // (4 * 8))))


@pytest.mark.interpreter
@pytest.mark.parametrize("layout", ["parallel", "sequential"])
@pytest.mark.usefixtures("_cut")
def test_three_passes_forward_and_five_backward(elements, layout):
    x = torch.randn(2, 6, 9, 13, requires_grad=True)
    out = PolarizedSelfAttention(6, layout, impl="fused")(x)
    assert elements == {"load_tile": 2 * x.numel(), "store_tile": x.numel()}
    elements.clear()
    out.sum().backward()
    assert elements == {"load_tile": 4 * x.numel(), "store_tile": x.numel()}


@pytest.mark.interpreter
@pytest.mark.usefixtures("_cut")
def test_released_form_reads_once_more(elements):
    x = torch.randn(1, 6, 5, 13)
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
