"""How many launches a call takes, and with which options."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

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


@pytest.mark.parametrize(("together", "in_turn"), [(1, True), (4, True), (4, False)])
def test_stages_are_launches_where_programs_do_not_run_at_once(together, in_turn, monkeypatch):
    """In the interpreter programs that wait for each other would wait for ever; a GPU takes all stages at once."""
    monkeypatch.setattr(launch, "interpreted", lambda: in_turn)
    one = dataclasses.replace(plans.plan(3, 64, 3072, 2, False), S=together, small=True)
    ran = []

    def run(kernel, grid, *args, **constants):
        ran.append((kernel, grid, args, constants))

    launch.staged(run, one, 3, "gate", 3, "x", "out", BS=8)
    given = {"BS": 8, "SMALL": True}
    stages = [(0, 1), (1, 2), (2, 3)] if in_turn and together > 1 else [(0, 3)]
    assert ran == [
        ("gate", (3 * together,), ("x", "out"), {**given, "BEGIN": begin, "END": end}) for begin, end in stages
    ]


class Kernel:
    """Stands in for a compiled kernel that puts something aside unless it is told its registers."""

    __name__ = "scale"

    def __init__(self, spills):
        self.spills, self.compiled, self.launched = spills, [], []

    def warmup(self, *args, grid, **options):
        self.compiled.append(options)
        return SimpleNamespace(_init_handles=lambda: None, n_spills=self.spills)

    def __getitem__(self, grid):
        return lambda *args, **options: self.launched.append((grid, args, options))


@pytest.mark.parametrize("spills", [0, 2])
def test_a_kernel_that_spills_gets_more_registers(spills, monkeypatch):
    """It is compiled to see, once for each plan and kind, before it is launched for the first time."""
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    one = dataclasses.replace(plans.plan(8, 64, 3072, 2, False), settled={})
    kernel = Kernel(spills)
    for _ in range(2):
        launch.start(one, ("bf16",), kernel, (7,), 1, 2, BS=4)
    usual = one.options("scale")
    assert "maxnreg" not in usual
    assert kernel.compiled == [{"BS": 4} | usual]
    wanted = {"BS": 4} | (one.options("scale", at_will=True) if spills else usual)
    assert kernel.launched == [((7,), (1, 2), wanted)] * 2
    launch.start(one, ("fp16",), kernel, (7,), 1, 2, BS=4)
    assert len(kernel.compiled) == 2


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
