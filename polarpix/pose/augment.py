"""What is random about a training crop: extent, rotation, mirror and half bodies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polarpix.config import PoseDataConfig
from polarpix.types import FloatArray, KeypointSchema, PoseSample

__all__ = ["CropDraw", "draw_crop", "half_body_box", "lower_half"]

# The words of names that belong to the lower half of a body; every other keypoint belongs to the upper one.
LOWER_WORDS = ("hip", "knee", "ankle", "foot", "feet", "heel", "toe", "leg", "hind", "tail", "hock", "stifle")
HALF_BODY_PADDING = 1.5  # the joints reach less far than the limbs they end, so more than box_padding


@dataclass(frozen=True)
class CropDraw:
    """One draw of the crop's geometry: the arguments of :func:`polarpix.pose.crop.crop_matrix`."""

    box: FloatArray  # [4], x, y, width, height
    padding: float
    rotation: float = 0.0  # degrees
    zoom: float = 1.0
    flip: bool = False


def draw_crop(
    sample: PoseSample, data: PoseDataConfig, lower: tuple[int, ...], aspect: float, rng: np.random.Generator
) -> CropDraw:
    """Draw a training crop as SimpleBaseline and HRNet do.

    The extent of the crop is multiplied by N(1, scale) clipped to 1 +- scale. With probability ``rotation_prob`` it is
    turned by N(0, rotation) degrees, clipped to twice that. With probability ``half_body``, and more labelled keypoints
    than ``half_body_min``, the box is replaced by that of one half of the keypoints.

    Args:
        sample: the instance.
        data: strengths and probabilities.
        lower: indices of the keypoints of the lower half.
        aspect: width by height of the crop.
        rng: source of randomness.
    """
    box, padding = sample.box, data.box_padding
    labelled = sample.visibility > 0
    if rng.random() < data.half_body and labelled.sum() > data.half_body_min:
        half = half_body_box(sample.keypoints, labelled, lower, aspect, upper=rng.random() < 0.5)
        if half is not None:
            box, padding = half, HALF_BODY_PADDING
    extent = float(np.clip(1 + rng.standard_normal() * data.scale, 1 - data.scale, 1 + data.scale))
    angle = float(np.clip(rng.standard_normal() * data.rotation, -2 * data.rotation, 2 * data.rotation))
    rotation = angle if rng.random() < data.rotation_prob else 0.0
    return CropDraw(box, padding, rotation, 1 / extent, bool(rng.random() < data.flip))


def lower_half(schema: KeypointSchema) -> tuple[int, ...]:
    """The indices of the keypoints whose name holds one of ``LOWER_WORDS``; for COCO hips, knees and ankles."""
    return tuple(i for i, name in enumerate(schema.names) if any(word in name.lower() for word in LOWER_WORDS))


def half_body_box(
    keypoints: FloatArray, labelled: np.ndarray, lower: tuple[int, ...], aspect: float, upper: bool
) -> FloatArray | None:
    """The box [4] around the labelled upper or lower keypoints [K, 2], centred on their mean.

    The other half is taken where the wanted one has fewer than three labelled keypoints; None where both have.
    """
    is_lower = np.zeros(len(keypoints), bool)
    is_lower[list(lower)] = True
    halves = [keypoints[labelled & ~is_lower], keypoints[labelled & is_lower]]
    if not upper:
        halves.reverse()
    points = next((half for half in halves if len(half) > 2), None)
    if points is None:
        return None
    center = points.mean(axis=0)
    width, height = np.maximum(points.max(axis=0) - points.min(axis=0), 1)
    width, height = max(width, height * aspect), max(height, width / aspect)
    return np.array([center[0] - width / 2, center[1] - height / 2, width, height], np.float32)
