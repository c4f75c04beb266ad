from __future__ import annotations

import pytest
import torch

from polarpix.config import SegModelConfig
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.seg.deeplab import DeepLabV3Plus
from polarpix.seg.model import build_seg_model


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet50", 39.8), ("resnet101", 58.8), ("mobilenetv2_100", 5.22)],
)
def test_parameter_counts_are_those_of_the_papers_table_3(name, millions):
    backbone = BackboneConfig(name=name, output_stride=16, attention="none")
    with torch.device("meta"):
        model = build_seg_model(SegModelConfig(backbone=backbone), num_classes=21)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.05 if millions > 9 else 0.006)  # the table's last digit


@pytest.mark.parametrize("kind", ["deeplabv3plus", "deeplabv3plus_separable"])
def test_scores_are_at_the_low_maps_size_and_every_parameter_learns(kind):
    head = DeepLabV3Plus(4, 12, 5, kind, channels=8, low_channels=3, rates=(1, 2, 3))
    low, high = torch.randn(2, 4, 17, 9), torch.randn(2, 12, 5, 3)
    scores = head(low, high)
    assert scores.shape == (2, 5, 17, 9)
    scores.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_separable_convolutions_are_lighter_and_equally_dilated():
    plain = DeepLabV3Plus(24, 320, 11, "deeplabv3plus")
    light = DeepLabV3Plus(24, 320, 11, "deeplabv3plus_separable")
    assert sum(p.numel() for p in light.parameters()) * 3 < sum(p.numel() for p in plain.parameters())
    for head in (plain, light):
        kernels = [m for m in head.aspp.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
        assert [m.dilation for m in kernels] == [(6, 6), (12, 12), (18, 18)]


def test_unknown_head_lists_the_table():
    with pytest.raises(InputError, match=r"'fcn': use one of deeplabv3plus, deeplabv3plus_separable"):
        DeepLabV3Plus(4, 8, 2, "fcn")


def test_a_training_batch_of_one_is_refused_in_words_but_evaluates():
    head = DeepLabV3Plus(4, 8, 2, channels=8)
    low, high = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 2, 2)
    with pytest.raises(InputError, match=r"batch of 1 image: raise engine\.batch_size"):
        head(low, high)
    head.eval()
    assert head(low, high).shape == (1, 2, 8, 8)
    head.train()
    head.aspp.branches[-1].eval()  # frozen statistics need no batch
    assert head(low, high).shape == (1, 2, 8, 8)
