"""From boxes to crops, and from located keypoints to instances; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from polarpix.calibration import Calibration
from polarpix.config import PoseRun
from polarpix.pose.crop import crop_matrix, invert_matrix, warp
from polarpix.pose.oks import oks_nms
from polarpix.types import FloatArray, KeypointSchema, PosePrediction, UInt8Array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cut_crops", "instance_scores", "keep_instances"]

Values = TypeVar("Values", "Tensor", FloatArray)


def cut_crops(
    image: UInt8Array | Sequence[UInt8Array], boxes: FloatArray, size: tuple[int, int], padding: float, udp: bool
) -> tuple[UInt8Array, FloatArray]:
    """What a network sees of an image [H, W, 3], as the validation transform cuts it.

    Args:
        image: the picture, or one for each box.
        boxes: [N, 4], at least one.
        size: height and width of a crop.
        padding: factor on the boxes.
        udp: the convention of :mod:`polarpix.pose.crop`.

    Returns:
        Crops uint8 [N, h, w, 3] and the maps float32 [N, 2, 3] from crop pixels back to image pixels.
    """
    matrices = [crop_matrix(box, size, padding=padding, udp=udp) for box in boxes]
    images = repeat(image) if isinstance(image, np.ndarray) else image
    crops = np.stack([warp(one, matrix, size) for one, matrix in zip(images, matrices, strict=False)])
    return crops, np.stack([invert_matrix(matrix) for matrix in matrices]).astype(np.float32)


def instance_scores(scores: Values, box_scores: Values, visibility: float) -> Values:
    """Box score times the mean score of the keypoints above ``visibility`` (HRNet's protocol), of arrays or tensors.

    Args:
        scores: of the keypoints [B, K].
        box_scores: [B].
        visibility: keypoints scored up to this do not count.

    Returns:
        [B].
    """
    seen = scores > visibility  # [B, K]
    mean = (scores * seen).sum(1) / seen.sum(1).clip(1)
    found: Values = box_scores * mean
    return found


def keep_instances(
    located: tuple[FloatArray, FloatArray, FloatArray],
    boxes: FloatArray,
    box_scores: FloatArray,
    run: PoseRun,
    schema: KeypointSchema,
    calibration: Calibration | None = None,
) -> PosePrediction:
    """The instances of one image, scored, and of those that lie on each other by OKS the best only.

    Instances are scored by the heights of the heatmaps, as in every published protocol, so that a calibration moves no
    AP; what goes out with the keypoints is calibrated.

    Args:
        located: keypoints [N, K, 2] in image pixels, scores [N, K] and covariances [N, K, 2, 2].
        boxes: [N, 4].
        box_scores: [N].
        run: its protocol.
        schema: its sigmas.
        calibration: of the scores; null leaves them.
    """
    keypoints, scores, covariance = located
    totals = np.asarray(instance_scores(scores, box_scores, run.eval.visibility), np.float32)  # [N]
    areas = boxes[:, 2] * boxes[:, 3] * run.data.box_padding**2
    kept = np.sort(oks_nms(keypoints, totals, areas, schema.sigmas, run.eval.oks_nms))
    shown = scores[kept] if calibration is None else calibration.probability(scores[kept])
    return PosePrediction(keypoints[kept], shown, boxes[kept], box_scores[kept], totals[kept], covariance[kept])
