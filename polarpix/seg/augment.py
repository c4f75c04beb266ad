"""The random transform of image and label map together: resize, crop, mirror, colour jitter.

The crop is cut from the source before it is resized, so the cost follows the size of the crop and not of the image.
"""

from __future__ import annotations

import cv2
import numpy as np

from polarpix.color import jitter_color
from polarpix.config import SegDataConfig
from polarpix.errors import InputError
from polarpix.types import SegSample, UInt8Array

__all__ = ["PADDING", "SegTransform", "centre_crop"]

# The ImageNet mean in 8 bits: zero after normalisation.
PADDING = (124, 116, 104)


class SegTransform:
    """Training: resize by a random factor, crop (padded where the image ends), mirror, jitter.

    Evaluation: no change, or the centre crop.

    Args:
        data: ranges of the random transform.
        ignore: label of the padding.
        training: false for evaluation.
        centre: side of the centre crop of an evaluation; null for none.

    Raises:
        InputError: a crop size, scale range or share that cannot be.
    """

    def __init__(self, data: SegDataConfig, ignore: int, training: bool, centre: int | None = None) -> None:
        if min(data.crop_size) < 1:
            raise InputError(f"crop_size is {data.crop_size}: give a height and a width of at least 1")
        if not 0 < data.scale[0] <= data.scale[1]:
            raise InputError(f"scale is {data.scale}: give a smallest factor above 0 and a largest one not below it")
        if not 0 <= data.color < 1:
            raise InputError(f"color is {data.color}: give a strength from 0 to below 1")
        for key in ("flip", "uniform"):
            if not 0 <= getattr(data, key) <= 1:
                raise InputError(f"{key} is {getattr(data, key)}: give a share from 0 to 1")
        self.data = data
        self.ignore = ignore
        self.training = training
        self.centre = centre

    def __call__(
        self, sample: SegSample, rng: np.random.Generator, focus: int | None = None
    ) -> tuple[UInt8Array, UInt8Array]:
        """Image [h, w, 3] and label [h, w] of the crop; with `focus`, centred on a random pixel of that class.

        Raises:
            InputError: no pixel of the sample has the class `focus`.
        """
        if not self.training:
            return (sample.image, sample.label) if self.centre is None else centre_crop(sample, self.centre)
        factor = float(rng.uniform(*self.data.scale))
        point = None if focus is None else _pixel_of(sample, focus, rng)
        image, label, size = self._cut(sample, factor, point, rng)
        image = _resize(image, size, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        # INTER_NEAREST would take the source pixel at the corner, half a pixel away from where the image is sampled.
        label = _resize(label, size, cv2.INTER_NEAREST_EXACT)
        if rng.random() < self.data.flip:
            image, label = image[:, ::-1], label[:, ::-1]
        if self.data.color:
            image = jitter_color(image, self.data.color, rng)
        return self._pad(image, label, rng)

    def _cut(
        self, sample: SegSample, factor: float, point: tuple[int, int] | None, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array, tuple[int, int]]:
        """The part of the source that the crop shows, and the (width, height) it will have there."""
        start, stop, size = [], [], []
        for axis in (0, 1):
            length, crop = sample.label.shape[axis], self.data.crop_size[axis]
            window = max(1, round(crop / factor))
            if window >= length:
                start.append(0)
                stop.append(length)
                size.append(min(crop, max(1, round(length * factor))))
                continue
            room = length - window
            first = int(rng.integers(room + 1)) if point is None else min(max(point[axis] - window // 2, 0), room)
            start.append(first)
            stop.append(first + window)
            size.append(crop)
        part = slice(start[0], stop[0]), slice(start[1], stop[1])
        return sample.image[part], sample.label[part], (size[1], size[0])

    def _pad(self, image: UInt8Array, label: UInt8Array, rng: np.random.Generator) -> tuple[UInt8Array, UInt8Array]:
        height, width = self.data.crop_size
        h, w = label.shape
        if (h, w) == (height, width):
            return np.ascontiguousarray(image), np.ascontiguousarray(label)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        full_image = np.empty((height, width, 3), np.uint8)
        full_image[:] = PADDING
        full_label = np.full((height, width), self.ignore, np.uint8)
        full_image[top : top + h, left : left + w] = image
        full_label[top : top + h, left : left + w] = label
        return full_image, full_label


def centre_crop(sample: SegSample, side: int) -> tuple[UInt8Array, UInt8Array]:
    """Image [side, side, 3] and label [side, side]: the shorter side resized to ``side``, the middle of the longer."""
    height, width = sample.label.shape
    factor = side / min(height, width)
    size = max(side, int(width * factor)), max(side, int(height * factor))
    image = _resize(sample.image, size, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    label = _resize(sample.label, size, cv2.INTER_NEAREST_EXACT)
    left, top = ((length - side) // 2 for length in size)
    part = slice(top, top + side), slice(left, left + side)
    return np.ascontiguousarray(image[part]), np.ascontiguousarray(label[part])


def _pixel_of(sample: SegSample, focus: int, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of a random pixel of class `focus`."""
    places = np.flatnonzero(sample.label == focus)
    if not len(places):
        raise InputError(f"{sample.file}: no pixel of class {focus} to centre the crop on: build the class index again")
    row, column = divmod(int(places[rng.integers(len(places))]), sample.label.shape[1])
    return row, column


def _resize(picture: UInt8Array, size: tuple[int, int], interpolation: int) -> UInt8Array:
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)
