"""The pose network: heads, strides, and the config that does not fit."""

import pytest
import torch
from torch import nn

from polarpix.config import PoseModelConfig
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.pose.model import HEADS, PoseNet, build_pose_model, heatmap_stride


def config(**change: object) -> PoseModelConfig:
    values = {"backbone": BackboneConfig("test_resnet"), "head_channels": [8, 8, 8], "input_size": (64, 96)}
    return PoseModelConfig(**(values | change))  # type: ignore[arg-type]  # wrong on purpose in some tests


@pytest.mark.parametrize(
    ("change", "stride"),
    [
        ({}, 4),
        ({"head_channels": [8, 8]}, 8),
        ({"head_channels": [8] * 5}, 1),
        ({"head_channels": []}, 32),
        ({"head": "linear"}, 4),
        ({"backbone": BackboneConfig("test_resnet", output_stride=16), "head_channels": [8, 8]}, 4),
    ],
)
def test_heatmaps_have_the_size_that_is_promised(change: dict[str, object], stride: int) -> None:
    model = config(**change)
    assert heatmap_stride(model) == stride
    found = build_pose_model(model, 5).eval()(torch.randn(2, 3, 64, 96))
    assert found.shape == (2, 5, 64 // stride, 96 // stride)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_the_head_learns(head: str) -> None:
    torch.manual_seed(0)
    network = build_pose_model(config(head=head), 3)
    assert isinstance(network, PoseNet)
    network(torch.randn(2, 3, 64, 96)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.head.parameters())


@pytest.mark.parametrize(
    ("name", "attention", "millions"),
    [
        ("hrnet_w32", "none", 28.5),
        ("hrnet_w32", "psa_p_released", 31.4),
        ("hrnet_w48", "none", 63.6),
        ("hrnet_w48", "psa_p_released", 70.0),
    ],
)
def test_hrnets_have_the_published_number_of_parameters(name: str, attention: str, millions: float) -> None:
    """Table 2 of the paper, arXiv 2107.00782."""
    with torch.device("meta"):
        network = build_pose_model(
            PoseModelConfig(BackboneConfig(name, attention=attention), head="linear", input_size=(384, 288)), 17
        )
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("name", "attention", "millions"),
    [
        ("resnet50", "none", 34.0),
        ("resnet50", "psa_s_released", 36.1),
        ("resnet101", "none", 53.0),
        ("resnet152", "none", 68.6),
        ("resnet152", "psa_p_released", 75.2),
    ],
)
def test_simplebaselines_have_the_published_number_of_parameters(name: str, attention: str, millions: float) -> None:
    """Table 2 of the paper; R101 as Xiao et al., ECCV 2018, have it."""
    with torch.device("meta"):
        network = build_pose_model(PoseModelConfig(BackboneConfig(name, attention=attention)), 17)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("head", HEADS)
def test_offsets_take_three_maps_a_keypoint(head: str) -> None:
    heatmaps = build_pose_model(config(head=head), 5).eval()(torch.randn(1, 3, 64, 96))
    offsets = build_pose_model(config(head=head, codec="udp_offset"), 5).eval()(torch.randn(1, 3, 64, 96))
    assert heatmaps.shape[1] == 5
    assert offsets.shape == (1, 15, *heatmaps.shape[2:])


def test_every_parameter_of_an_hrnet_behind_a_linear_head_is_used() -> None:
    torch.manual_seed(0)
    network = build_pose_model(config(backbone=BackboneConfig("hrnet_w18_small"), head="linear"), 3)
    network(torch.randn(2, 3, 64, 96)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_the_deconvolution_head_is_simplebaselines() -> None:
    """256 wide 4x4 deconvolutions with batch norm, weights drawn with deviation 0.001 (Xiao et al., 2018)."""
    torch.manual_seed(0)
    head = build_pose_model(PoseModelConfig(BackboneConfig("test_resnet")), 17).head
    layers = [m for m in head.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in layers] == [
        (96, 256, (4, 4), (2, 2)),
        (256, 256, (4, 4), (2, 2)),
        (256, 256, (4, 4), (2, 2)),
    ]
    assert all(abs(float(m.weight.detach().std()) - 0.001) < 1e-4 for m in layers)
    assert head.final_layer.kernel_size == (1, 1)
    assert not head.final_layer.bias.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "conv"}, "model.head is 'conv': choose one of deconv, linear"),
        (
            {"backbone": BackboneConfig("hrnet_w18_small"), "head": "linear", "input_size": (64, 72)},
            "64x72; both must be multiples of 32",
        ),
        ({"input_size": (64, 90)}, r"64x90; both must be multiples of 32: use \[64, 96\]"),
        ({"backbone": BackboneConfig("test_vit", output_stride=16, attention="none"), "head": "linear"}, "at stride 4"),
    ],
)
def test_configs_that_do_not_fit(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_pose_model(config(**change), 3)


def test_more_deconvolutions_than_the_stride_allows() -> None:
    with pytest.raises(InputError, match="6 deconvolutions"):
        heatmap_stride(config(head_channels=[8] * 6))
