"""Losses on heatmaps [B, K, h, w], with offsets [B, 3 * K, h, w]; the weight [B, K] is 0 where nothing is labelled."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from polarpix.errors import InputError
from polarpix.pose.maps import by_keypoint

__all__ = ["POSE_LOSSES", "heatmap_mse", "heatmap_offset", "heatmap_ohkm", "pose_loss"]


def mean(values: Tensor) -> Tensor:
    """The mean; 0 with a gradient, not nan, of a batch without samples."""
    return values.mean() if values.numel() else values.sum()


def keypoint_errors(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Half the mean squared error of each heatmap, weighted: [B, K], in fp32."""
    if pred.shape != target.shape:
        raise ValueError(f"prediction is {tuple(pred.shape)}, target {tuple(target.shape)}: both must be [B, K, h, w]")
    squared = (pred.float() - target).square().mean(dim=(2, 3))  # [B, K]
    return 0.5 * squared * weight.square()


def heatmap_mse(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """0.5 * mean squared error, weighted by visibility (SimpleBaseline, Xiao et al., ECCV 2018). Scalar."""
    return mean(keypoint_errors(pred, target, weight))


def heatmap_ohkm(pred: Tensor, target: Tensor, weight: Tensor, hardest: int = 8) -> Tensor:
    """The same over the ``hardest`` keypoints of each sample only (online hard keypoint mining, CPN, CVPR 2018)."""
    errors = keypoint_errors(pred, target, weight)  # [B, K]
    return mean(errors.topk(min(hardest, errors.shape[1]), dim=1).values)


def heatmap_offset(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The sum of 0.5 * mean squared errors of disk, x and y offset [B, 3 * K, h, w] (UDP, Huang et al., CVPR 2020).

    The disk is weighted by visibility; the offsets count on the disk of the target only, which is empty where the
    weight is 0. Scalar.
    """
    disk, *offsets = by_keypoint(pred.float(), 3).unbind(2)  # [B, K, h, w] each
    true_disk, *true_offsets = by_keypoint(target, 3).unbind(2)
    loss = heatmap_mse(disk, true_disk, weight)
    for offset, true_offset in zip(offsets, true_offsets, strict=True):
        loss = loss + 0.5 * mean((true_disk * (offset - true_offset)).square())
    return loss


POSE_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": heatmap_mse,
    "ohkm": heatmap_ohkm,
    "offset": heatmap_offset,
}


def pose_loss(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of that name: f(pred, target, weight) -> scalar.

    Raises:
        InputError: no such loss.
    """
    if name not in POSE_LOSSES:
        raise InputError(f"loss is {name!r}: choose one of {', '.join(POSE_LOSSES)}")
    return POSE_LOSSES[name]
