"""The networks that are timed, built as the pages of both tasks do, and what other libraries have beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.bench.block_settings import Block
from polarpix.config import PoseModelConfig, SegModelConfig
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.pose.loss import heatmap_mse
from polarpix.pose.model import build_pose_model, heatmap_stride
from polarpix.seg.loss import cross_entropy
from polarpix.seg.model import build_seg_model

__all__ = ["BY_DEFAULT", "NETWORKS", "OTHERS", "Network", "build_loss", "build_network"]


@dataclass(frozen=True)
class Network:
    """A network without its attention.

    Args:
        task: pose or seg.
        backbone: a timm name.
        size: height and width of the image.
        outputs: heatmaps or classes.
        train: images of a training step by device.
        infer: images of an inference by device.
        head: as the page of the task names it.
        channels: width of each deconvolution, or of the ASPP.
        output_stride: stride of the deepest map.
    """

    task: Literal["pose", "seg"]
    backbone: str
    size: tuple[int, int]
    outputs: int
    train: dict[str, int]
    infer: dict[str, int]
    head: Any
    channels: tuple[int, ...] = ()
    output_stride: int = 32

    def pose_config(self, attention: Block) -> PoseModelConfig:
        """The model part of a pose page."""
        backbone = self._backbone(attention)
        return PoseModelConfig(backbone, head=self.head, head_channels=list(self.channels), input_size=self.size)

    def seg_config(self, attention: Block) -> SegModelConfig:
        """The model part of a segmentation page."""
        return SegModelConfig(self._backbone(attention), head=self.head, aspp_channels=self.channels[0])

    def _backbone(self, attention: Block) -> BackboneConfig:
        return BackboneConfig(
            self.backbone,
            output_stride=self.output_stride,
            attention=attention.name,
            attention_options={"impl": attention.impl} if attention.impl else {},
        )


_POSE: dict[str, Any] = {
    "task": "pose",
    "size": (256, 192),
    "outputs": 17,
    "train": {"cuda": 64, "cpu": 2},
    "infer": {"cuda": 64, "cpu": 1},
}
NETWORKS: dict[str, Network] = {
    "resnet50_pose": Network(**_POSE, backbone="resnet50", head="deconv", channels=(256, 256, 256)),
    "hrnet_w32_pose": Network(**_POSE, backbone="hrnet_w32", head="linear"),
    "hrnet_w48_pose": Network(**_POSE, backbone="hrnet_w48", head="linear"),
    "hrnet_w48_seg": Network(
        "seg", "hrnet_w48", (512, 1024), 19, {"cuda": 8, "cpu": 2}, {"cuda": 8, "cpu": 1}, "deeplabv3plus", (256,)
    ),
    "mobilenetv2_seg": Network(
        "seg",
        "mobilenetv2_100",
        (360, 480),
        11,
        {"cuda": 32, "cpu": 2},
        {"cuda": 32, "cpu": 1},
        "deeplabv3plus_separable",
        (128,),
        output_stride=16,
    ),
}
BY_DEFAULT = {"cuda": tuple(NETWORKS), "cpu": ("resnet50_pose", "hrnet_w32_pose", "mobilenetv2_seg")}


def build_network(network: Network, attention: Block) -> nn.Module:
    """Images [B, 3, H, W] -> heatmaps [B, K, H/4, W/4] or logits [B, C, H, W], with random weights.

    Raises:
        InputError: what cannot be built.
    """
    if network.task == "pose":
        return build_pose_model(network.pose_config(attention), network.outputs)
    return build_seg_model(network.seg_config(attention), network.outputs)


def build_loss(network: Network, batch: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Output -> the scalar loss of the task against a random target on the generator's device."""
    h, w = network.size
    if network.task == "seg":
        label = torch.randint(network.outputs, (batch, h, w), generator=generator, device=generator.device)  # [B, H, W]
        return lambda logits: cross_entropy(logits, label)
    stride = heatmap_stride(network.pose_config(Block("none")))
    k = network.outputs
    size = (batch, k, h // stride, w // stride)
    target = torch.rand(size, generator=generator, device=generator.device)  # [B, K, h, w]
    weight = torch.ones(batch, k, device=generator.device)  # [B, K]
    return lambda heatmaps: heatmap_mse(heatmaps, target, weight)


class TorchvisionPose(nn.Module):
    """torchvision's ResNet-50 below the same deconvolutions."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        from torchvision.models import resnet50
        from torchvision.models._utils import IntermediateLayerGetter

        ours = build_pose_model(network.pose_config(Block("none")), network.outputs)
        self.body = IntermediateLayerGetter(resnet50(weights=None), {"layer4": "out"})
        self.head = ours.head

    def forward(self, image: Tensor) -> Tensor:
        heatmaps: Tensor = self.head([self.body(image)["out"]])
        return heatmaps  # [B, K, h, w]


class TorchvisionSeg(nn.Module):
    """torchvision's DeepLabV3 on its MobileNetV2, whose deepest map has stride 32."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

        features = mobilenet_v2(weights=None).features
        deepest = str(len(features) - 1)
        body = IntermediateLayerGetter(features, {deepest: "out"})
        self.net = DeepLabV3(body, DeepLabHead(1280, network.outputs))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)["out"]
        return logits  # [B, C, H, W]


class Padded(nn.Module):
    """A network for sides that are multiples of 32 on images of any size: zeros are added and cut off again."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        logits: Tensor = self.net(F.pad(image, (0, -width % 32, 0, -height % 32)))
        return logits[..., :height, :width]  # [B, C, H, W]


def _smp(architecture: str, encoder: str) -> Callable[[Network], nn.Module]:
    """A network of segmentation_models.pytorch, where it is installed."""

    def build(network: Network) -> nn.Module:
        try:
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise InputError("pip install 'polarpix[compare]' to have it beside the others") from error
        built: nn.Module = getattr(smp, architecture)(
            encoder_name=encoder, encoder_weights=None, classes=network.outputs
        )
        return Padded(built)

    return build


# Network -> what stands beside it: label -> builder. Published designs: widths and strides of the heads differ.
OTHERS: dict[str, dict[str, Callable[[Network], nn.Module]]] = {
    "resnet50_pose": {"torchvision ResNet-50, same head": TorchvisionPose},
    "hrnet_w48_seg": {"smp Unet, tu-hrnet_w48": _smp("Unet", "tu-hrnet_w48")},
    "mobilenetv2_seg": {
        "torchvision DeepLabV3, MobileNetV2": TorchvisionSeg,
        "smp DeepLabV3Plus, MobileNetV2": _smp("DeepLabV3Plus", "mobilenet_v2"),
    },
}
