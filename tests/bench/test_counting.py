"""Memory to the byte on functions whose allocations are known, and operators without views."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._C._autograd import DeviceType

from polarpix.bench import counting
from polarpix.bench.counting import free_memory, launches, peak_memory

CPU = torch.device("cpu")
MAP = 4 * 1000 * 4  # bytes of [4, 1000] in fp32


@pytest.fixture
def x() -> Tensor:
    return torch.ones(4, 1000)


def test_a_result_counts(x: Tensor) -> None:
    assert peak_memory(lambda: x.neg(), CPU) == MAP
    assert peak_memory(lambda: x.view(-1), CPU) == 0
    assert peak_memory(lambda: x.neg_(), CPU) == 0


def test_only_what_is_alive_together_counts(x: Tensor) -> None:
    def chain() -> Tensor:
        y = x.neg()
        y = y.neg()  # the first is alive until the second is there
        return y[:, :10].clone()

    def hoard() -> list[Tensor]:
        return [x.neg() for _ in range(3)]

    assert peak_memory(chain, CPU) == 2 * MAP
    assert peak_memory(hoard, CPU) == 3 * MAP


def test_memory_of_the_backward_pass_counts(x: Tensor) -> None:
    x.requires_grad_()
    d = torch.ones_like(x)
    # exp keeps its result [x bytes], the gradient is one more
    assert peak_memory(lambda: torch.autograd.grad(x.exp(), [x], d), CPU) == 2 * MAP


def test_what_an_operator_allocates_inside_counts(x: Tensor) -> None:
    batch = x.reshape(4, 40, 25)
    out = torch.empty(4, 40, 40)
    skewed = torch.ones(4, 25, 80)[:, :, ::2]  # bmm takes a sample in one piece
    assert peak_memory(lambda: torch.bmm(batch, skewed, out=out), CPU) >= 25 * 40 * 4


def test_operators_without_views(x: Tensor) -> None:
    assert launches(lambda: x.view(2, -1).transpose(0, 1).mul(2).add_(1), CPU) == 2
    assert launches(lambda: None, CPU) == 0
    x.requires_grad_()
    d = torch.ones_like(x)
    assert launches(lambda: torch.autograd.grad(x * 3, [x], d), CPU) == 2


def test_stderr_is_as_before(x: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory(lambda: x * 0.5, CPU)
    with pytest.raises(ZeroDivisionError):
        peak_memory(lambda: 1 // 0, CPU)
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_free_memory_is_less_than_all_and_more_than_none() -> None:
    assert 1 << 20 < free_memory(torch.device("cpu")) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The counters of a CUDA allocator that begins with 1,000 bytes."""
    held = SimpleNamespace(now=1000, peak=5000, device=torch.device("cuda"))

    def reset(device: torch.device) -> None:
        held.peak = held.now

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held.now)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9))
    return held


def test_memory_on_cuda_is_the_peak_above_what_stays(pretended: SimpleNamespace) -> None:
    calls: list[int] = []

    def run() -> None:
        pretended.now += 0 if calls else 64  # a workspace that the first call makes
        pretended.peak = max(pretended.peak, pretended.now + 300)
        calls.append(1)

    assert peak_memory(run, pretended.device) == 300
    assert len(calls) == 2
    assert free_memory(pretended.device) == 7


def test_launches_on_cuda_are_events_of_the_device(pretended: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def events(*kinds: DeviceType) -> None:
        found = [SimpleNamespace(device_type=lambda kind=kind: kind) for kind in kinds]
        monkeypatch.setattr(counting, "profiled", lambda run, activity, memory: found)

    events(DeviceType.CUDA, DeviceType.CPU, DeviceType.CUDA)
    assert launches(lambda: None, pretended.device) == 2
    events(DeviceType.CPU)
    assert launches(lambda: None, pretended.device) is None  # a driver that lets nobody look
