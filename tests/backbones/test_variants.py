"""Other publishers' arithmetic: what changes, what does not, and what cannot be had."""

import copy

import pytest
import torch

from polarpix.backbones.extract import build_backbone
from polarpix.backbones.variants import apply_variant
from polarpix.errors import InputError
from polarpix.images import normalize
from polarpix.page_parts import BackboneConfig


def build(name: str, variant: str, stride: int = 32) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name, attention="none", variant=variant, output_stride=stride)).eval()


def test_padded_maps_are_those_of_a_stem_without_border() -> None:
    ours, padded = build("mobilenetv2_035", "own", 16), build("mobilenetv2_035", "padded", 16)
    assert ours.state_dict().keys() == padded.state_dict().keys()
    x = torch.randn(1, 3, 129, 97)
    assert [tuple(m.shape[2:]) for m in ours(x)] == [(65, 49), (33, 25), (17, 13), (9, 7), (9, 7)]
    assert [tuple(m.shape[2:]) for m in padded(x)] == [(64, 48), (32, 24), (16, 12), (8, 6), (8, 6)]


def test_blue_first_is_opencv_s_order_under_the_constants_of_rgb() -> None:
    own, bgr = build("resnet18", "own"), build("resnet18", "bgr")
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for one, expected in zip(bgr(normalize(image)), own(normalize(image.flip(1))), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)


def test_caffe_style_is_for_bottlenecks_alone() -> None:
    with (
        torch.device("meta"),
        pytest.raises(InputError, match="'bgr_caffe' is for ResNets with bottlenecks only"),
    ):
        build("resnet18", "bgr_caffe")


@pytest.mark.parametrize("variant", ["padded", "bgr"])
def test_a_copy_keeps_its_variant(variant: str) -> None:
    network = build("mobilenetv2_035", variant)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(copy.deepcopy(network)(x)[-1], network(x)[-1])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_050"])
def test_padded_is_for_mobilenetv2_alone(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(InputError, match="'padded' is for MobileNetV2 only: set it to own"),
    ):
        build(name, "padded")


def test_unknown_variant() -> None:
    with pytest.raises(InputError, match="variant is 'caffe': choose one of own, padded, bgr, bgr_caffe"):
        apply_variant(torch.nn.Identity(), "caffe")
