"""Memory to the byte on functions whose allocations are known, and operators without views."""

import os

import pytest
import torch
from torch import Tensor

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
