"""The pose network: a pyramid of features, then the maps of its codec at a quarter of the crop."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from polarpix.backbones.extract import Backbone, build_backbone
from polarpix.backbones.weights import start_from
from polarpix.config import PoseModelConfig
from polarpix.errors import InputError
from polarpix.pose.codec import CODECS

__all__ = ["HEADS", "PoseNet", "build_pose_model", "heatmap_stride"]


class DeconvHead(nn.Module):
    """Deconvolutions on the deepest map (SimpleBaseline, Xiao et al., ECCV 2018): each doubles the resolution."""

    def __init__(self, backbone: Backbone, widths: list[int], outputs: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = backbone.channels[-1]
        for width in widths:
            stages += [
                nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.deconv_layers = nn.Sequential(*stages)
        self.final_layer = nn.Conv2d(channels, outputs, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)
        nn.init.zeros_(cast(Tensor, self.final_layer.bias))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return cast(Tensor, self.final_layer(self.deconv_layers(pyramid[-1])))  # [B, K, h, w]


class LinearHead(nn.Module):
    """One 1x1 convolution on the stride-4 map (HRNet, Sun et al., CVPR 2019)."""

    def __init__(self, backbone: Backbone, widths: list[int], outputs: int) -> None:
        super().__init__()
        if 4 not in backbone.strides:
            raise InputError(f"head 'linear' needs a map at stride 4; the backbone has strides {backbone.strides}")
        self.level = backbone.strides.index(4)
        self.final_layer = nn.Conv2d(backbone.channels[self.level], outputs, kernel_size=1)
        nn.init.normal_(self.final_layer.weight, std=0.001)
        nn.init.zeros_(cast(Tensor, self.final_layer.bias))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return cast(Tensor, self.final_layer(pyramid[self.level]))  # [B, K, h, w]


HEADS: dict[str, type[DeconvHead] | type[LinearHead]] = {"deconv": DeconvHead, "linear": LinearHead}


class PoseNet(nn.Module):
    """Backbone and head."""

    def __init__(self, backbone: Backbone, head: DeconvHead | LinearHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        """Normalised crops [B, 3, H, W] -> heatmaps [B, K * channels of the codec, h, w]."""
        pyramid = self.backbone(image)
        return cast(Tensor, self.head(pyramid))


def heatmap_stride(config: PoseModelConfig) -> int:
    """Crop pixels per heatmap pixel.

    Raises:
        InputError: more deconvolutions than the backbone's stride can be halved.
    """
    if config.head == "linear":
        return 4
    stride, rest = divmod(config.backbone.output_stride, 1 << len(config.head_channels))
    if stride < 1 or rest:
        raise InputError(
            f"model.head_channels names {len(config.head_channels)} deconvolutions, each of which halves the stride of "
            f"{config.backbone.output_stride}: name fewer"
        )
    return stride


def build_pose_model(config: PoseModelConfig, keypoints: int) -> PoseNet:
    """The network of a config, with as many maps for each of the keypoints as its codec reads.

    Raises:
        InputError: an unknown head, an input size that the stride does not divide, or weights that do not fit.
    """
    if config.head not in HEADS:
        raise InputError(f"model.head is {config.head!r}: choose one of {', '.join(HEADS)}")
    if config.codec not in CODECS:
        raise InputError(f"model.codec is {config.codec!r}: choose one of {', '.join(CODECS)}")
    outputs = keypoints * CODECS[config.codec].channels_per_keypoint
    backbone = build_backbone(config.backbone, upto=4 if config.head == "linear" else None)
    coarse = config.backbone.output_stride  # of the whole network, also where only its finest maps are read
    height, width = config.input_size
    if height % coarse or width % coarse:
        mended = [-(-side // coarse) * coarse for side in (height, width)]
        raise InputError(f"model.input_size is {height}x{width}; both must be multiples of {coarse}: use {mended}")
    network = PoseNet(backbone, HEADS[config.head](backbone, config.head_channels, outputs))
    start_from(network, config.weights, config.strict)
    return network
