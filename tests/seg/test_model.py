from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.config import BackboneConfig, SegModelConfig
from polarpix.errors import InputError
from polarpix.seg.model import SegNet, build_seg_model, warn_of_reach

SMALL = SegModelConfig(aspp_channels=8, low_channels=4, rates=(1, 2, 3))


class Pools(nn.Module):
    """A backbone that needs sizes in multiples of its stride: each map is the mean over its cells."""

    channels = (3, 3)

    def __init__(self, strides: tuple[int, ...] = (4, 16)) -> None:
        super().__init__()
        self.strides = strides
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        self.seen.append(tuple(x.shape[2:]))
        assert not any(size % max(self.strides) for size in x.shape[2:])
        return [F.avg_pool2d(x, stride) for stride in self.strides]


@pytest.mark.parametrize("size", [(64, 48), (61, 33), (1, 1), (16, 17)])
def test_logits_have_the_size_of_the_image(size):
    model = SegNet(Pools(), SMALL, 5).eval()
    assert model(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_an_odd_size_is_the_corner_of_the_padded_one():
    model = SegNet(Pools(), SMALL, 5).eval()
    image = torch.randn(1, 3, 61, 40)
    larger = torch.zeros(1, 3, 64, 48)
    larger[:, :, :61, :40] = image
    torch.testing.assert_close(model(image), model(larger)[:, :, :61, :40])
    assert model.backbone.seen == [(64, 48), (64, 48)]


def test_the_stride_4_map_and_the_deepest_are_used():
    class Marked(Pools):
        channels = (7, 6, 5, 4)

        def forward(self, x: Tensor) -> list[Tensor]:
            shapes = zip(self.channels, self.strides, strict=True)
            return [torch.zeros(len(x), c, x.shape[2] // s, x.shape[3] // s) for c, s in shapes]

    model = SegNet(Marked((2, 4, 8, 8)), SMALL, 3).eval()
    assert model.head.low[0].in_channels == 6
    assert model.head.aspp.branches[0][0].in_channels == 4
    assert model(torch.randn(1, 3, 20, 24)).shape == (1, 3, 20, 24)


def test_a_backbone_without_a_stride_4_map_is_refused():
    with pytest.raises(InputError, match=r"stride \(2, 16\): one must be 4"):
        SegNet(Pools((2, 16)), SMALL, 5)


def test_a_real_backbone_trains_on_a_patch():
    page = SegModelConfig(
        backbone=BackboneConfig(name="mobilenetv2_050", output_stride=16, attention="none"),
        head="deeplabv3plus_separable",
        aspp_channels=16,
        dropout=0.0,
    )
    torch.manual_seed(0)
    model = build_seg_model(page, 3)
    label = torch.zeros(2, 45, 50, dtype=torch.int64)  # [B, H, W]
    label[0, :, 20:] = 1
    label[1, 15:] = 2
    image = F.one_hot(label, 3).permute(0, 3, 1, 2) + 0.1 * torch.randn(2, 3, 45, 50)  # [B, 3, H, W]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0], losses


def test_rates_that_reach_over_the_crop_are_warned_of():
    config = SegModelConfig(rates=(6, 12, 18), backbone=BackboneConfig(output_stride=16))
    with pytest.warns(UserWarning, match="rates up to 13, or larger crops"):
        warn_of_reach(config, (224, 288))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_reach(config, (513, 513))
