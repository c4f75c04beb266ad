"""The segmentation networks: backbone, head, class scores at the size of the image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from timm.models.hrnet import HighResolutionModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from polarpix.backbones.extract import Backbone, build_backbone
from polarpix.backbones.weights import start_from
from polarpix.config import SegModelConfig
from polarpix.errors import InputError
from polarpix.seg.deeplab import SEG_HEADS, DeepLabV3Plus
from polarpix.seg.hierarchical import ScaleGate, check_scales, fuse_scales, resize
from polarpix.seg.ocr import OCRHead, join_maps

__all__ = ["OCR_HEADS", "OCRNet", "SegNet", "SegOutputs", "build_seg_model", "warn_of_reach"]

LOW_STRIDE = 4
OCR_HEADS = {"ocr": False, "hierarchical_ocr": True}
"""Name of the head -> whether it works at several scales and fuses them."""


@dataclass(frozen=True)
class SegOutputs:
    """What a network is trained on, all at the size of the image."""

    logits: Tensor  # [B, C, H, W]
    aux: Tensor | None = None  # [B, C, H, W], of a head with an auxiliary output
    scales: tuple[Tensor, ...] = ()  # [B, C, H, W] each, of a head that works at several scales


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
        self.low_index = _low_index(backbone, config)
        self.backbone = backbone
        self.multiple = max(backbone.strides) if config.pad else 1
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
        padded = _pad(image, self.multiple)  # [B, 3, H', W']
        pyramid = self.backbone(padded)
        scores = self.head(pyramid[self.low_index], pyramid[-1])  # [B, C, ~H'/4, ~W'/4]
        return resize(scores, padded.shape[2:])[:, :, :h, :w]

    def outputs(self, image: Tensor) -> SegOutputs:
        """The logits alone: the published head has no other output."""
        return SegOutputs(self(image))


class OCRNet(nn.Module):
    """Backbone and OCR head, at one scale or at several that a gate fuses: images [B, 3, H, W] -> logits [B, C, H, W].

    The head reads all maps from stride 4 on, brought to stride 4 (HRNetV2).

    Args:
        backbone: gives the pyramid.
        config: the head's page.
        num_classes: C.

    Raises:
        InputError: a backbone without a stride-4 map, an unknown head, or scales without 1.
    """

    def __init__(self, backbone: Backbone, config: SegModelConfig, num_classes: int) -> None:
        super().__init__()
        self.low_index = _low_index(backbone, config)
        if config.head not in OCR_HEADS:
            raise InputError(f"model.head is {config.head!r}: use one of {', '.join(OCR_HEADS)}")
        self.hierarchical = OCR_HEADS[config.head]
        self.scales = tuple(config.scales) if self.hierarchical else (1.0,)
        check_scales(self.scales, "model.scales")
        self.backbone = backbone
        # Without whole cells an HRNet cannot add its branches up.
        self.multiple = max(backbone.strides)
        c_in = sum(backbone.channels[self.low_index :])
        self.ocr = OCRHead(c_in, num_classes, *config.ocr_channels, config.dropout)
        self.scale_attn = ScaleGate(config.ocr_channels[0]) if self.hierarchical else None

    def forward(self, image: Tensor, scales: Sequence[float] | None = None) -> Tensor:
        """Logits [B, C, H, W] of normalised images [B, 3, H, W].

        Args:
            image: [B, 3, H, W].
            scales: of the image to look at, 1 among them; null for those of the page. One scale only without a gate.
        """
        return self.outputs(image, scales).logits

    def outputs(self, image: Tensor, scales: Sequence[float] | None = None) -> SegOutputs:
        """Logits, auxiliary logits and, where there are several scales, the logits of each, at the size of the image.

        Raises:
            InputError: scales without 1.
        """
        scales = self.scales if scales is None else scales
        check_scales(scales, "eval.scales")
        found = {scale: self.at_scale(image, scale) for scale in scales}
        gates = {scale: gate for scale, (_, _, gate) in found.items()}
        logits = {scale: scores for scale, (scores, _, _) in found.items()}
        aux = fuse_scales({scale: guess for scale, (_, guess, _) in found.items()}, gates)
        each = tuple(resize(scores, image.shape[2:]) for scores in logits.values()) if self.hierarchical else ()
        return SegOutputs(fuse_scales(logits, gates), aux, each)

    def at_scale(self, image: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, auxiliary logits [B, C, h, w] and gate [B, 1, h, w] of the image resized to [B, 3, h, w]."""
        h, w = (max(1, math.floor(length * scale)) if scale != 1 else length for length in image.shape[2:])
        padded = _pad(resize(image, (h, w)), self.multiple)  # [B, 3, h', w']
        joined = join_maps(self.backbone(padded)[self.low_index :])  # [B, c, h'/4, w'/4]
        scores, guess, features = self.ocr(joined)
        gate = scores[:, :1] if self.scale_attn is None else self.scale_attn(features)  # unread at one scale
        full, first, gate = (resize(one, padded.shape[2:])[:, :, :h, :w] for one in (scores, guess, gate))
        return full, first, gate


def _low_index(backbone: Backbone, config: SegModelConfig) -> int:
    """Position of the stride-4 map."""
    if LOW_STRIDE not in backbone.strides:
        raise InputError(f"backbone {config.backbone.name} has maps of stride {backbone.strides}: one must be 4")
    return backbone.strides.index(LOW_STRIDE)


def _pad(image: Tensor, multiple: int) -> Tensor:
    """Whole cells on every level: only then do the maps lie on one grid. The padding is 0, the mean colour."""
    h, w = image.shape[2:]
    return F.pad(image, (0, -w % multiple, 0, -h % multiple))


def build_seg_model(config: SegModelConfig, num_classes: int) -> SegNet | OCRNet:
    """The network that `config` describes, for `num_classes` classes.

    Raises:
        InputError: an unknown head, or what the backbone or the head refuses.
    """
    backbone = build_backbone(config.backbone)
    if config.norm_momentum is not None:
        for module in backbone.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = config.norm_momentum
    if config.head not in (*SEG_HEADS, *OCR_HEADS):
        raise InputError(f"model.head is {config.head!r}: use one of {', '.join([*SEG_HEADS, *OCR_HEADS])}")
    network: SegNet | OCRNet
    if config.head in SEG_HEADS:
        network = SegNet(backbone, config, num_classes)
    else:
        _fuse_bilinearly(backbone)
        network = OCRNet(backbone, config, num_classes)
    start_from(network, config.weights, config.strict)
    return network


def _fuse_bilinearly(backbone: nn.Module) -> None:
    """HRNetV2 enlarges its coarser branches bilinearly where it adds them up; timm's, as in poses, by the nearest."""
    for module in backbone.modules():
        if isinstance(module, HighResolutionModule):
            for part in module.modules():
                if isinstance(part, nn.Upsample):
                    part.mode, part.align_corners = "bilinear", False


def warn_of_reach(config: SegModelConfig, crop_size: tuple[int, int]) -> None:
    """Warn where the widest ASPP branch reaches over the edge of the training crop (height, width) from everywhere.

    Its outer weights then see little but padding and are hardly trained, yet they act on images larger than the crop.
    """
    reach = max(config.rates) * config.backbone.output_stride
    if config.head in SEG_HEADS and reach >= min(crop_size):
        fitting = max(1, (min(crop_size) - 1) // config.backbone.output_stride)
        warnings.warn(
            f"model.rates {tuple(config.rates)} reach {reach} pixels, over data.crop_size {tuple(crop_size)}: larger "
            f"images will come out worse than the crops: use rates up to {fitting}, or larger crops",
            stacklevel=2,
        )
