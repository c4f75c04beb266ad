"""Pixels to results in one module of plain operations: what is exported, with preprocessing and decoding inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from polarpix.config import SegEvalConfig
from polarpix.images import normalize
from polarpix.pose.codec import Codec
from polarpix.pose.inference import to_image_covariance, to_image_points
from polarpix.pose.maps import flip_heatmaps
from polarpix.seg.multiscale import predict_probabilities

__all__ = ["PoseGraph", "SegGraph"]


class PoseGraph(nn.Module):
    """Crops uint8 [B, H, W, 3] and their affines [B, 2, 3] -> keypoints [B, K, 2] in image pixels, heights of the
    heatmaps [B, K] and covariances [B, K, 2, 2] in square image pixels.

    Args:
        model: normalised crops to heatmaps.
        codec: decodes them.
        flip_order: swaps left and right; given, heatmaps are averaged with those of the mirrored crops.
        shift_flipped: as in :func:`polarpix.pose.inference.predict_heatmaps`.
        fit: of the covariance, as measured.
    """

    def __init__(
        self,
        model: nn.Module,
        codec: Codec,
        flip_order: Sequence[int] | None,
        shift_flipped: bool,
        fit: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        self.model, self.codec, self.fit = model, codec, fit
        self.flip_order, self.shift_flipped = flip_order, shift_flipped

    def forward(self, image: Tensor, to_image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints [B, K, 2], heights [B, K] and covariances [B, K, 2, 2]."""
        heatmaps = self.heatmaps(image)
        points, scores = self.codec.decode(heatmaps)
        covariance = self.codec.covariance(heatmaps, points, self.fit)
        return to_image_points(points, to_image), scores, to_image_covariance(covariance, to_image)

    def heatmaps(self, image: Tensor) -> Tensor:
        """Heatmaps [B, K * channels, h, w], float32."""
        x = _normalized(image)  # [B, 3, H, W]
        if self.flip_order is None:
            return cast(Tensor, self.model(x)).float()
        # One pass over both: the network stands in the file once.
        both = cast(Tensor, self.model(torch.cat((x, x.flip(-1))))).float()  # [2B, K * channels, h, w]
        straight, mirrored = both[: x.shape[0]], both[x.shape[0] :]
        back = flip_heatmaps(mirrored, self.flip_order, self.shift_flipped, self.codec.channels_per_keypoint)
        return 0.5 * (straight + back)


class SegGraph(nn.Module):
    """Images uint8 [B, H, W, 3] -> class indices uint8 [B, H, W] and their probabilities float32 [B, H, W].

    Args:
        model: normalised images to logits.
        protocol: scales, mirroring, whole images or windows.
        crop_size: the window where the protocol names none.
    """

    def __init__(self, model: nn.Module, protocol: SegEvalConfig, crop_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.protocol, self.crop_size = model, protocol, crop_size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [B, H, W] and confidence [B, H, W]."""
        probabilities = predict_probabilities(self.model, _normalized(image), self.protocol, self.crop_size)
        confidence, label = probabilities.max(dim=1)  # [B, H, W]
        return label.to(torch.uint8), confidence


def _normalized(image: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> normalised [B, 3, H, W], planes apart: exported maps lie contiguous."""
    return normalize(image.permute(0, 3, 1, 2).contiguous())
