"""The segmentation network: backbone, head, class scores at the size of the image."""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.backbones.extract import Backbone, build_backbone
from polarpix.config import SegModelConfig
from polarpix.errors import InputError
from polarpix.seg.deeplab import DeepLabV3Plus

__all__ = ["SegNet", "build_seg_model", "warn_of_reach"]

LOW_STRIDE = 4


class SegNet(nn.Module):
    """Backbone and DeepLabV3+ head: normalised images [B, 3, H, W] of any size -> logits [B, C, H, W].

    Args:
        backbone: gives a pyramid; its stride-4 map and its deepest map are used.
        config: the head's page.
        num_classes: C.

    Raises:
        InputError: a backbone without a stride-4 map, or an unknown head.
    """

    def __init__(self, backbone: Backbone, config: SegModelConfig, num_classes: int) -> None:
        super().__init__()
        if LOW_STRIDE not in backbone.strides:
            raise InputError(f"backbone {config.backbone.name} has maps of stride {backbone.strides}: one must be 4")
        self.backbone = backbone
        self.low_index = backbone.strides.index(LOW_STRIDE)
        self.multiple = max(backbone.strides)
        self.head = DeepLabV3Plus(
            low_in=backbone.channels[self.low_index],
            high_in=backbone.channels[-1],
            num_classes=num_classes,
            kind=config.head,
            channels=config.aspp_channels,
            low_channels=config.low_channels,
            rates=config.rates,
            dropout=config.dropout,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, C, H, W] of normalised images [B, 3, H, W]."""
        h, w = image.shape[2:]
        # Whole cells on every level: only then do the maps lie on one grid. The padding is 0, the mean colour.
        padded = F.pad(image, (0, -w % self.multiple, 0, -h % self.multiple))  # [B, 3, H', W']
        pyramid = self.backbone(padded)
        scores = self.head(pyramid[self.low_index], pyramid[-1])  # [B, C, H'/4, W'/4]
        logits = F.interpolate(scores, size=padded.shape[2:], mode="bilinear", align_corners=False)
        return logits[:, :, :h, :w]


def build_seg_model(config: SegModelConfig, num_classes: int) -> SegNet:
    """The network that `config` describes, for `num_classes` classes."""
    return SegNet(build_backbone(config.backbone), config, num_classes)


def warn_of_reach(config: SegModelConfig, crop_size: tuple[int, int]) -> None:
    """Warn where the widest ASPP branch reaches over the edge of the training crop (height, width) from everywhere.

    Its outer weights then see little but padding and are hardly trained, yet they act on images larger than the crop.
    """
    reach = max(config.rates) * config.backbone.output_stride
    if reach >= min(crop_size):
        fitting = max(1, (min(crop_size) - 1) // config.backbone.output_stride)
        warnings.warn(
            f"model.rates {tuple(config.rates)} reach {reach} pixels, over data.crop_size {tuple(crop_size)}: larger "
            f"images will come out worse than the crops: use rates up to {fitting}, or larger crops",
            stacklevel=2,
        )
