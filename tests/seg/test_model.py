from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.config import SegModelConfig
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.seg.hierarchical import fuse_scales, resize
from polarpix.seg.model import OCRNet, SegNet, build_seg_model, warn_of_reach
from polarpix.seg.ocr import join_maps

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


def test_without_padding_every_map_is_rounded_up():
    class Rounds(Pools):
        def forward(self, x: Tensor) -> list[Tensor]:
            self.seen.append(tuple(x.shape[2:]))
            return [F.avg_pool2d(x, stride, ceil_mode=True) for stride in self.strides]

    torch.manual_seed(0)
    model = SegNet(Rounds(), SegModelConfig(aspp_channels=8, low_channels=4, rates=(1, 2, 3), pad=False), 5).eval()
    image = torch.randn(1, 3, 65, 49)
    low, high = (F.avg_pool2d(image, stride, ceil_mode=True) for stride in (4, 16))
    assert (low.shape[2:], high.shape[2:]) == ((17, 13), (5, 4))
    torch.testing.assert_close(model(image), resize(model.head(low, high), (65, 49)))
    assert model.backbone.seen == [(65, 49)]


OCR = SegModelConfig(head="ocr", ocr_channels=(8, 4), dropout=0.0)
HIERARCHICAL = SegModelConfig(head="hierarchical_ocr", ocr_channels=(8, 4), dropout=0.0, scales=[1.0, 0.5])


def test_the_ocr_head_reads_all_maps_from_stride_4_on():
    class Three(Pools):
        channels = (3, 3, 3)

    torch.manual_seed(0)
    model = OCRNet(Three((2, 4, 16)), OCR, 5).eval()
    image = torch.randn(2, 3, 45, 50)
    padded = F.pad(image, (0, 14, 0, 3))
    scores, guess, _ = model.ocr(join_maps([F.avg_pool2d(padded, stride) for stride in (4, 16)]))
    outputs = model.outputs(image)
    torch.testing.assert_close(outputs.logits, resize(scores, (48, 64))[:, :, :45, :50])
    torch.testing.assert_close(outputs.aux, resize(guess, (48, 64))[:, :, :45, :50])
    assert outputs.scales == ()
    torch.testing.assert_close(model(image), outputs.logits)
    assert not any(name.startswith("scale_attn") for name in model.state_dict())


def test_the_hierarchical_head_fuses_its_scales():
    torch.manual_seed(0)
    model = OCRNet(Pools(), HIERARCHICAL, 5).eval()
    image = torch.randn(2, 3, 64, 96)
    maps, guesses, gates = {}, {}, {}
    for scale, size in ((0.5, (32, 48)), (1.0, (64, 96)), (2.0, (128, 192))):
        x = resize(image, size)
        scores, guess, features = model.ocr(join_maps([F.avg_pool2d(x, stride) for stride in (4, 16)]))
        maps[scale], guesses[scale] = resize(scores, size), resize(guess, size)
        gates[scale] = resize(model.scale_attn(features), size)
    torch.testing.assert_close(model(image, [0.5, 1.0, 2.0]), fuse_scales(maps, gates))
    del maps[2.0], guesses[2.0]
    outputs = model.outputs(image)
    torch.testing.assert_close(outputs.logits, fuse_scales(maps, gates))
    torch.testing.assert_close(outputs.aux, fuse_scales(guesses, gates))
    torch.testing.assert_close(outputs.scales[0], maps[1.0])
    torch.testing.assert_close(outputs.scales[1], resize(maps[0.5], (64, 96)))


@pytest.mark.parametrize("config", [OCR, HIERARCHICAL])
@pytest.mark.parametrize("size", [(61, 33), (1, 1)])
def test_ocr_logits_have_the_size_of_the_image(config, size):
    assert OCRNet(Pools(), config, 5).eval()(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_scales_and_heads_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"model\.scales is \[0\.5\]"):
        OCRNet(Pools(), SegModelConfig(head="hierarchical_ocr", scales=[0.5]), 5)
    for build in (lambda c: build_seg_model(c, 3), lambda c: OCRNet(Pools(), c, 3)):
        with pytest.raises(InputError, match=r"model\.head is 'fcn': use one of"):
            build(SegModelConfig(BackboneConfig("test_resnet", attention="none"), head="fcn"))


def test_hrnet_branches_are_joined_and_added_up_bilinearly():
    with torch.device("meta"):
        config = SegModelConfig(BackboneConfig("hrnet_w48", attention="psa_p_released"), head="hierarchical_ocr")
        model = build_seg_model(config, 19)
    assert model.ocr.conv3x3_ocr[0].in_channels == 48 + 96 + 192 + 384
    enlargers = [part for part in model.backbone.modules() if isinstance(part, nn.Upsample)]
    assert {(part.mode, part.align_corners) for part in enlargers} == {("bilinear", False)}
    assert len(enlargers) == 1 + 4 * 3 + 3 * 6  # one for each coarser branch of each fused one
    assert all("act1" in place for place in model.backbone.places)
    assert sum(p.numel() for p in model.parameters()) == 78_498_630


def test_batch_statistics_of_the_backbone_alone():
    config = SegModelConfig(BackboneConfig("test_resnet", attention="none"), aspp_channels=8, norm_momentum=0.01)
    model = build_seg_model(config, 3)
    found = {
        name.partition(".")[0]: module.momentum
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert found == {"backbone": 0.01, "head": 0.1}


def test_the_reach_of_rates_is_none_of_the_ocr_heads_business():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_reach(OCR, (64, 64))


@pytest.mark.parametrize("attention", ["none", "psa_p", "psa_s_released", "se"])
def test_any_block_of_the_shelf_goes_into_hrnetv2(attention):
    options = {"impl": "reference"} if attention.startswith("psa") else {}
    backbone = BackboneConfig("hrnet_w18_small", attention=attention, attention_options=options)
    with torch.device("meta"):
        model = build_seg_model(SegModelConfig(backbone, head="hierarchical_ocr", ocr_channels=(8, 4)), 3)
        assert model(torch.empty(1, 3, 64, 96)).shape == (1, 3, 64, 96)
    assert bool(model.backbone.places) == (attention != "none")
