"""The fusion of scales against its equations, the gate against its layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from polarpix.errors import InputError
from polarpix.seg.hierarchical import ScaleGate, check_scales, fuse_scales, resize


def enlarge(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def random_scales(*scales: float) -> tuple[dict[float, torch.Tensor], dict[float, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = {scale: (int(12 * scale), int(20 * scale)) for scale in scales}
    maps = {scale: torch.randn(2, 3, *size, generator=generator) for scale, size in sizes.items()}
    gates = {scale: torch.rand(2, 1, *size, generator=generator) for scale, size in sizes.items()}
    return maps, gates


def test_two_scales_as_in_training() -> None:
    m, a = random_scales(0.5, 1.0)
    gate = enlarge(a[0.5], (12, 20))
    expected = enlarge(a[0.5] * m[0.5], (12, 20)) + (1 - gate) * m[1.0]
    torch.testing.assert_close(fuse_scales(m, a), expected)


def test_three_scales_as_in_evaluation() -> None:
    m, a = random_scales(1.0, 0.5, 2.0)
    at_1 = a[1.0] * m[1.0] + (1 - a[1.0]) * enlarge(m[2.0], (12, 20))
    expected = enlarge(a[0.5] * m[0.5], (12, 20)) + (1 - enlarge(a[0.5], (12, 20))) * at_1
    torch.testing.assert_close(fuse_scales(m, a), expected)


def test_gates_of_one_and_of_zero() -> None:
    m, _ = random_scales(0.5, 1.0, 2.0)
    shut = {scale: torch.zeros(2, 1, *one.shape[2:]) for scale, one in m.items()}
    torch.testing.assert_close(fuse_scales(m, shut), enlarge(m[2.0], (12, 20)))
    torch.testing.assert_close(fuse_scales(m, shut | {1.0: shut[1.0] + 1}), m[1.0])
    torch.testing.assert_close(fuse_scales(m, shut | {0.5: shut[0.5] + 1}), enlarge(m[0.5], (12, 20)))


def test_one_scale_stays_as_it_is() -> None:
    m, a = random_scales(1.0)
    assert fuse_scales(m, a) is m[1.0]
    assert resize(m[1.0], (12, 20)) is m[1.0]


def test_the_gate() -> None:
    torch.manual_seed(0)
    gate = ScaleGate(6, width=4).eval()
    x = torch.randn(2, 6, 5, 7)
    hidden = F.relu(gate.bn0(F.conv2d(x, gate.conv0.weight, padding=1)))
    hidden = F.relu(gate.bn1(F.conv2d(hidden, gate.conv1.weight, padding=1)))
    torch.testing.assert_close(gate(x), F.conv2d(hidden, gate.conv2.weight).sigmoid())
    assert [name for name, _ in gate.named_parameters()] == [
        *("conv0.weight", "bn0.weight", "bn0.bias", "conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight"),
    ]


@pytest.mark.parametrize("scales", [[0.5, 2.0], []])
def test_scales_without_1_are_refused(scales: list[float]) -> None:
    with pytest.raises(InputError, match=r"eval\.scales is .* list 1 as well"):
        check_scales(scales, "eval.scales")


def test_a_scale_listed_twice_is_refused() -> None:
    with pytest.raises(InputError, match="list each scale once"):
        check_scales([1, 0.5, 1.0], "model.scales")
