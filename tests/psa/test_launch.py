"""How many launches a call takes, and what they are given."""

from collections import Counter

import pytest
import torch

from polarpix.psa import PolarizedSelfAttention, launch, plans


@pytest.fixture
def launched(monkeypatch):
    """The kernels that were launched, by name; in the interpreter a kernel of stages is one for each."""
    from triton.runtime import interpreter

    seen = Counter()
    call = interpreter.GridExecutor.__call__

    def counting(self, *args, **more):
        seen[self.fn.__name__] += more.get("BEGIN", 0) == 0
        return call(self, *args, **more)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", counting)
    return seen


@pytest.mark.interpreter
@pytest.mark.parametrize("cut", [False, True], ids=["small", "splits"])
@pytest.mark.parametrize(("form", "layout"), [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")])
def test_three_launches_forward_and_four_backward(launched, form, layout, cut, monkeypatch):
    """Of small samples two forward and three backward."""
    if cut:
        monkeypatch.setattr(plans, "SMALL", 0)
    plans.plan.cache_clear()
    x = torch.randn(2, 6, 9, 13, requires_grad=True)
    out = PolarizedSelfAttention(6, layout, form, "fused")(x)
    assert launched == Counter(["pool", "gate", "scale"] if cut else ["pool", "gate"])
    launched.clear()
    out.backward(torch.ones_like(out))
    steps = ["grad_pool", "grad_gate", "grad_input", "grad_weight"]
    assert launched == Counter([one for one in steps if cut or one != "grad_input"])
    plans.plan.cache_clear()


STREAM = 7


def test_compiled_kernels_take_what_begins_at_16_bytes(monkeypatch):
    """A weight that is a part of another tensor may begin anywhere; and only CUDA has streams."""
    x, weight = torch.zeros(2, 4, 8), torch.zeros(9)
    assert launch.begin(x, [weight]) is None
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: STREAM, raising=False)
    assert launch.begin(x, [weight, weight[4:]]) == STREAM
    for tensors in ((x, [weight, weight[1:]]), (x.flatten()[2:], [weight])):
        assert launch.begin(*tensors) is None


def test_weights_in_the_order_of_a_kernel():
    """A form without biases gives what is never read."""
    for form, names in launch.PARAMETERS.items():
        found = launch.in_order(names, form, ("b_v", "W_z", "W_q", "W_v2"), "never read")
        assert found == ["b_v" if form == "paper" else "never read", "W_z", "W_q", "W_v2"]


def test_a_gradient_is_copied_only_where_it_must_be():
    """As it lies in either memory format; of very many channels, or where it is not dense, as x lies."""
    for last in (False, True):
        formats = torch.contiguous_format, torch.channels_last
        for d_last in (False, True):
            d = torch.randn(2, 6, 4, 5).contiguous(memory_format=formats[d_last])
            found, found_last = launch.beside(d, last)
            assert found is d
            assert found_last == d_last
        for d in (torch.randn(1, 2 * plans.MIXED, 2, 3).contiguous(memory_format=formats[not last]),
                  torch.ones(()).expand(2, 6, 4, 5)):  # fmt: skip
            found, found_last = launch.beside(d, last)
            assert found_last == last
            assert found.is_contiguous(memory_format=formats[last])
            assert torch.equal(found, d)


def test_weights_of_another_dtype_get_kernels_of_their_own(build):
    """Compiled kernels take arguments without looking: a norm kept in float32 beside bfloat16 is another kind."""
    plans.plan.cache_clear()
    x = torch.randn(2, 16, 3, 5).bfloat16()
    usual = build(16, impl="fused", dtype=torch.bfloat16)
    mixed = build(16, impl="fused", dtype=torch.bfloat16)
    mixed.channel["norm"].float()
    outs = []
    for block in (usual, mixed):
        y = x.clone().requires_grad_()
        out = block(y)
        outs.append(out.detach())
        out.backward(torch.ones_like(out))
    one = plans.plan(2, 16, 15, 2, False, None, True, *launch.hardware(x))
    back = plans.plan(2, 16, 15, 2, False, False, True, *launch.hardware(x))
    assert len(one.settled) == len(back.settled) == 2
    torch.testing.assert_close(*outs, rtol=0.05, atol=0.05)
    plans.plan.cache_clear()
