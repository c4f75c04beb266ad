"""With which options a kernel is compiled and launched, and how many of its programs share a pass."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from polarpix.psa import plans, steps


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
    monkeypatch.setattr(steps, "interpreted", lambda: False)
    monkeypatch.setattr(steps, "multiprocessors", lambda index: 132)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


STREAM, GRID = 7, (3, 1, 1)


@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.usefixtures("_device")
def test_a_kernel_that_spills_gets_more_registers_and_then_more_threads(times, monkeypatch):
    """It is compiled to see, before it is launched for the first time."""
    one = plans.plan(8, 64, 3072, 2, False)
    kernel = Kernel()
    warmup = kernel.warmup

    def spilling(*args, **options):
        made = warmup(*args, **options)
        made.n_spills = len(kernel.compiled) <= times
        return made

    monkeypatch.setattr(kernel, "warmup", spilling, raising=False)
    step = steps.settle(one, 8, kernel, ("x", "out"), {"BS": 4})
    ways = [one.options("pool", again) for again in range(3)]
    assert "maxnreg" not in ways[0]
    assert ways[1]["num_warps"] < ways[2]["num_warps"]
    tried = ways[: times + 1]
    assert kernel.compiled == [{"BS": 4} | options for options in tried]
    assert step.options == tried[-1]
    assert not kernel.launched


@pytest.mark.usefixtures("_device")
def test_a_compiled_kernel_takes_its_constants_by_place():
    """Where the arguments are as it was compiled for; else Triton looks at them anew."""
    one = plans.plan(8, 64, 3072, 2, False)
    kernel = Kernel(stages=True)
    constants = {"END": 3, "BEGIN": 0, "BS": 4, "SMALL": one.small}
    step = steps.settle(one, 8, kernel, ("x", "out"), {"BS": 4}, 3)
    step(GRID, STREAM, "x", "out")
    step(GRID, None, "x", "out")
    assert kernel.launched == [
        (GRID, ("x", "out", 4, False, 0, 3), "as compiled"),
        (GRID, ("x", "out"), constants | one.options("pool")),
    ]


def test_stages_are_launches_where_programs_do_not_run_at_once(monkeypatch):
    """In the interpreter programs that wait for each other would wait for ever."""
    monkeypatch.setattr(steps, "interpreted", lambda: True)
    one = plans.plan(8, 64, 3072, 2, False)
    kernel = Kernel(stages=True)
    steps.settle(one, 8, kernel, ("x", "out"), {"BS": 4}, 3)(GRID, None, "x", "out")
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
    step = steps.settle(one, 8, Kernel(registers=registers), ("x", "out"), {"BS": 4})
    assert 0.9 * waves * room * 132 < 8 * step.splits <= waves * room * 132


@pytest.mark.parametrize(
    ("capability", "hip", "overlaps", "matrix"),
    [
        ((8, 0), None, False, False),
        ((9, 0), None, True, True),
        ((10, 0), None, True, False),
        ((12, 0), None, True, False),
        ((9, 4), "6.4", False, False),
    ],
)
def test_what_a_device_can(capability, hip, overlaps, matrix, monkeypatch):
    """Launches overlap from capability 9 on, matrix units were measured on 9 alone; AMD's numbers mean other things."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    for ask in (steps.overlaps, steps.matrix_units):
        ask.cache_clear()
    assert (steps.overlaps(0), steps.matrix_units(0)) == (overlaps, matrix)
    for ask in (steps.overlaps, steps.matrix_units):
        ask.cache_clear()
    assert steps.matrix_units(None)


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "room"),
    [(64, 128, 0, 8), (65, 128, 0, 7), (16, 128, 0, 16), (16, 1024, 0, 2), (255, 512, 0, 1), (32, 128, 100 << 10, 2)],
)
def test_what_a_multiprocessor_has_room_for(registers, threads, shared, room):
    """Registers are given out by eights; threads, shared memory; one program always runs."""
    assert steps.residents(registers, threads, shared) == room
