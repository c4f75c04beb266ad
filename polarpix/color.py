"""Colour jitter of training crops, one for both tasks."""

from __future__ import annotations

import cv2
import numpy as np

from polarpix.types import UInt8Array

__all__ = ["jitter_color"]

GREY = np.array([0.299, 0.587, 0.114])  # luma of RGB, ITU-R BT.601


def jitter_color(image: UInt8Array, strength: float, rng: np.random.Generator) -> UInt8Array:
    """Multiply brightness, contrast and saturation of an RGB image [H, W, 3] by factors drawn from 1 +- strength.

    Contrast turns about the mean grey of the image, saturation about the grey of each pixel; the three linear maps are
    applied as one, so values are rounded and clipped once.
    """
    if strength <= 0:
        return image
    brightness, contrast, saturation = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=3)
    mean = brightness * float(np.array(cv2.mean(image)[:3]) @ GREY)
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(GREY, (3, 1))
    matrix = np.concatenate((brightness * contrast * mix, np.full((3, 1), (1 - contrast) * mean)), axis=1)  # [3, 4]
    return np.asarray(cv2.transform(image, matrix), np.uint8)
