"""From crops to points on the image: the forward pass that evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from polarpix.images import normalize
from polarpix.pose.instances import instance_scores
from polarpix.pose.maps import flip_heatmaps

__all__ = ["instance_scores", "predict_heatmaps", "to_image_covariance", "to_image_points"]


def predict_heatmaps(
    model: nn.Module,
    image: Tensor,
    flip_order: Sequence[int] | None = None,
    shift_flipped: bool = False,
    channels_last: bool = True,
    channels: int = 1,
) -> Tensor:
    """Heatmaps of uint8 crops [B, 3, H, W]: [B, K * channels, h, w], fp32.

    Args:
        model: takes normalised images.
        image: the crops.
        flip_order: swaps left and right; given, the prediction is averaged with that of the mirrored crop.
        shift_flipped: move the mirrored heatmap by one pixel, as classic (biased) crops need it (HRNet's protocol).
        channels_last: memory layout of the network's input.
        channels: maps of each keypoint, as the codec has it.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = normalize(image).contiguous(memory_format=layout)  # [B, 3, H, W]
    heatmaps = cast(Tensor, model(x)).float()
    if flip_order is None:
        return heatmaps
    mirrored = cast(Tensor, model(x.flip(-1))).float()
    return 0.5 * (heatmaps + flip_heatmaps(mirrored, flip_order, shift_flipped, channels))


def to_image_points(keypoints: Tensor, to_image: Tensor) -> Tensor:
    """Map crop pixels [B, K, 2] by affines [B, 2, 3] to image pixels [B, K, 2]."""
    return keypoints @ to_image[:, :, :2].transpose(1, 2) + to_image[:, None, :, 2]


def to_image_covariance(covariance: Tensor, to_image: Tensor) -> Tensor:
    """Carry covariances [B, K, 2, 2] in squared crop pixels by affines [B, 2, 3] over to squared image pixels."""
    turn = to_image[:, None, :, :2]  # [B, 1, 2, 2]
    return turn @ covariance @ turn.transpose(-1, -2)
