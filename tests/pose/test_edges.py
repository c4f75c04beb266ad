"""The pose heads and losses at the edges: equal maps, 1e4, one pixel, empty batches, every dtype of the CPU."""

import copy
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from polarpix.backbones.extract import Backbone
from polarpix.config import PoseModelConfig
from polarpix.page_parts import BackboneConfig
from polarpix.pose.loss import POSE_LOSSES
from polarpix.pose.model import HEADS, PoseNet, build_pose_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture
def network() -> PoseNet:
    torch.manual_seed(0)
    page = PoseModelConfig(
        BackboneConfig("test_resnet", output_stride=32), head_channels=[4, 4, 4], input_size=(64, 64)
    )
    return build_pose_model(page, 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_deconvolutions_stay_finite(network: PoseNet, dtype: torch.dtype) -> None:
    head, channels = network.head.to(dtype), network.backbone.channels
    deepest = [(2, c, 3, 2) for c in channels]
    for make in (torch.zeros, torch.ones, lambda shape: 1e4 * torch.randn(shape).sign()):
        head.zero_grad()
        found = head([make(shape).to(dtype) for shape in deepest])
        assert found.shape == (2, 3, 24, 16)
        assert found.isfinite().all()
        found.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    head.eval()
    for B, h, w in ((1, 1, 1), (0, 3, 2)):
        found = head([torch.randn(B, c, h, w).to(dtype) for c in channels])
        assert found.shape == (B, 3, 8 * h, 8 * w)
        assert found.isfinite().all()


def test_the_whole_network_under_autocast_and_twice(network: PoseNet) -> None:
    network.eval()
    x = torch.randn(1, 3, 64, 64)
    exact = network(x)
    assert torch.equal(exact, network(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(x).float(), exact, atol=0.02, rtol=0.1)


@pytest.mark.parametrize("name", POSE_LOSSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_stay_finite(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    maps = 9 if name == "offset" else 3
    for B in (2, 0):
        target, weight = torch.rand(B, maps, 6, 5), torch.ones(B, 3)
        for scale in (0.0, 1e4):
            pred = (scale * torch.randn(B, maps, 6, 5).sign()).to(dtype).requires_grad_()
            found = POSE_LOSSES[name](pred, target, weight)
            found.backward()
            assert found.isfinite(), "a batch without samples costs nothing"
            assert pred.grad is not None
            assert pred.grad.isfinite().all()


MANY = 2048  # channels of the deepest map of a ResNet
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_channels_match_float64(name: str, dtype: torch.dtype) -> None:
    """Both heads over 2048 channels, forward and backward; finite at 1e4."""
    torch.manual_seed(0)
    backbone = SimpleNamespace(channels=(MANY,), strides=(4,))  # of the linear head; the other does not ask
    widths = [4] if name == "deconv" else []
    head = HEADS[name](cast(Backbone, backbone), widths, 3).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(20)  # drawn small: their sums would be lost behind a bias
    head = head.to(dtype)
    exact = copy.deepcopy(head).double()
    x = torch.randn(1, MANY, 2, 3).to(dtype)

    def run(one: torch.nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
        pixels = pixels.clone().requires_grad_()
        found = one([pixels])
        found.sum().backward()
        assert pixels.grad is not None
        grads = [p.grad for p in one.parameters() if p.grad is not None]
        return [part.double() for part in (found.detach(), pixels.grad, *grads)]

    for found, wanted in zip(run(head, x), run(exact, x.double()), strict=True):
        assert found.isfinite().all()
        assert (found - wanted).abs().max() <= CLOSE[dtype] * wanted.abs().max()
    head.zero_grad()
    large = run(head, (1e4 if dtype != torch.float16 else 1e2) * x.sign())  # float16 ends at 65504
    assert all(part.isfinite().all() for part in large)
