"""Plans of a launch, and how many launches a call takes."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.psa import PolarizedSelfAttention, launch


@pytest.fixture
def launched(monkeypatch):
    """The kernels that were launched, by name."""
    from triton.runtime import interpreter

    seen = Counter()
    call = interpreter.GridExecutor.__call__

    def counting(self, *args, **more):
        seen[self.fn.__name__] += 1
        return call(self, *args, **more)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", counting)
    return seen


@pytest.mark.interpreter
@pytest.mark.parametrize("cut", [False, True], ids=["small", "splits"])
@pytest.mark.parametrize(("form", "layout"), [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")])
def test_three_launches_forward_and_four_backward(launched, form, layout, cut, monkeypatch):
    """Of small samples one forward and two backward."""
    if cut:
        monkeypatch.setattr(launch, "SMALL", 0)
    launch.plan.cache_clear()
    x = torch.randn(2, 6, 9, 13, requires_grad=True)
    out = PolarizedSelfAttention(6, layout, form, "fused")(x)
    between = "gate" if form == "paper" else "logits"
    assert launched == Counter(["pool", between, "scale"] if cut else ["forward_small"])
    launched.clear()
    out.backward(torch.ones_like(out))
    steps = ["grad_pool", "grad_gate", "grad_input"] if cut else ["backward_small"]
    assert launched == Counter([*steps, "grad_weight"])
    launch.plan.cache_clear()


@settings(max_examples=200, deadline=None)
@given(
    B=st.integers(1, 256),
    half=st.integers(1, 1024),
    P=st.integers(1, 200_000),
    itemsize=st.sampled_from([2, 4, 8]),
    last=st.booleans(),
    backward=st.booleans(),
)
def test_plans_cover_every_pixel_once(B, half, P, itemsize, last, backward):
    one = launch.plan(B, 2 * half, P, itemsize, last, backward)
    per_split = one.tiles * one.BP
    assert (one.splits - 1) * per_split < P <= one.splits * per_split
    per_part = one.part_tiles * one.BP
    assert (one.parts - 1) * per_part < P <= one.parts * per_part
    assert min(P, one.C) <= per_part
    assert one.BC >= one.C
    assert P % one.VEC == 0
    for size in (one.BC, one.BP, one.BR, one.BS, one.warps):
        assert size & (size - 1) == 0
        assert size > 0
    assert one.BC * one.BP <= 16384
    assert one.warps <= 16


def test_a_gradient_is_copied_only_where_it_must_be():
    """As it lies in either memory format; of very many channels, or where it is not dense, as x lies."""
    for last in (False, True):
        formats = torch.contiguous_format, torch.channels_last
        for d_last in (False, True):
            d = torch.randn(2, 6, 4, 5).contiguous(memory_format=formats[d_last])
            found, found_last = launch.beside(d, last)
            assert found is d
            assert found_last == d_last
        for d in (torch.randn(1, 2 * launch.MIXED, 2, 3).contiguous(memory_format=formats[not last]),
                  torch.ones(()).expand(2, 6, 4, 5)):  # fmt: skip
            found, found_last = launch.beside(d, last)
            assert found_last == last
            assert found.is_contiguous(memory_format=formats[last])
            assert torch.equal(found, d)
