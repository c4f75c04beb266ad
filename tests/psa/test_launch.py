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


class Kernel:
    """Stands in for a kernel that puts something aside unless it is told its registers."""

    __name__ = "pool"

    def __init__(self, spills=0, registers=64, stages=False):
        self.arg_names = ("x", "out", "BS", *(("SMALL", "BEGIN", "END") if stages else ()))
        self.spills, self.registers, self.compiled, self.launched = spills, registers, [], []

    def warmup(self, *args, grid, **options):
        self.compiled.append(options)
        spills = self.spills * ("maxnreg" not in options)
        return Compiled(self, n_spills=spills, n_regs=self.registers, metadata=SimpleNamespace(shared=0))

    def __getitem__(self, grid):
        return lambda *args, **options: self.launched.append((grid, args, options))


class Compiled(SimpleNamespace):
    """What was made of it: it takes arguments by place alone."""

    def __init__(self, kernel, **told):
        super().__init__(kernel=kernel, _init_handles=lambda: None, **told)

    def __getitem__(self, grid):
        return lambda *args, stream=None: self.kernel.launched.append((grid, args, "as compiled"))


@pytest.fixture
def _device(monkeypatch):
    """A device of 132 multiprocessors, without one."""
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    monkeypatch.setattr(launch, "multiprocessors", lambda index: 132)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


STREAM, GRID = 7, (3, 1, 1)


@pytest.mark.parametrize("spills", [0, 2])
@pytest.mark.usefixtures("_device")
def test_a_kernel_that_spills_gets_more_registers(spills):
    """It is compiled to see, before it is launched for the first time."""
    one = plans.plan(8, 64, 3072, 2, False)
    kernel = Kernel(spills)
    step = launch.settle(one, 8, kernel, ("x", "out"), {"BS": 4})
    usual, more = one.options("pool"), one.options("pool", at_will=True)
    assert "maxnreg" not in usual
    assert kernel.compiled == [{"BS": 4} | options for options in ([usual, more] if spills else [usual])]
    assert step.options == (more if spills else usual)
    assert not kernel.launched


@pytest.mark.usefixtures("_device")
def test_a_compiled_kernel_takes_its_constants_by_place():
    """Where the arguments are as it was compiled for; else Triton looks at them anew."""
    one = plans.plan(8, 64, 3072, 2, False)
    kernel = Kernel(stages=True)
    constants = {"END": 3, "BEGIN": 0, "BS": 4, "SMALL": one.small}
    step = launch.settle(one, 8, kernel, ("x", "out"), {"BS": 4}, 3)
    step(GRID, STREAM, "x", "out")
    step(GRID, None, "x", "out")
    assert kernel.launched == [
        (GRID, ("x", "out", 4, False, 0, 3), "as compiled"),
        (GRID, ("x", "out"), constants | one.options("pool")),
    ]


def test_stages_are_launches_where_programs_do_not_run_at_once(monkeypatch):
    """In the interpreter programs that wait for each other would wait for ever."""
    monkeypatch.setattr(launch, "interpreted", lambda: True)
    one = plans.plan(8, 64, 3072, 2, False)
    kernel = Kernel(stages=True)
    launch.settle(one, 8, kernel, ("x", "out"), {"BS": 4}, 3)(GRID, None, "x", "out")
    assert kernel.launched == [
        (GRID, ("x", "out"), {"BS": 4, "SMALL": False, "BEGIN": stage, "END": stage + 1}) for stage in range(3)
    ]
    assert not kernel.compiled


@pytest.mark.parametrize(("registers", "room"), [(64, 8), (128, 4), (255, 2)])
@pytest.mark.parametrize("waves", [1, 3])
@pytest.mark.usefixtures("_device")
def test_so_many_programs_share_a_pass_as_find_room(registers, room, waves):
    """With 128 threads each: none waits for its turn, and none is left out but for the last tiles; or as many more as
    the plan has waves.
    """
    one = plans.plan(8, 256, 1280 * 960, 2, True)
    one = dataclasses.replace(one, first=dataclasses.replace(one.first, warps=4, waves=waves))
    step = launch.settle(one, 8, Kernel(registers=registers), ("x", "out"), {"BS": 4})
    assert 0.9 * waves * room * 132 < 8 * step.splits <= waves * room * 132


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "room"),
    [(64, 128, 0, 8), (65, 128, 0, 7), (16, 128, 0, 16), (16, 1024, 0, 2), (255, 512, 0, 1), (32, 128, 100 << 10, 2)],
)
def test_what_a_multiprocessor_has_room_for(registers, threads, shared, room):
    """Registers are given out by eights; threads, shared memory; one program always runs."""
    assert launch.residents(registers, threads, shared) == room


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
