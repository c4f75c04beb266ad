"""From image pixels to the crop a network sees, by one affine map, in two conventions.

A box with centre c is padded and widened or heightened to the crop's shape; its width is then ``extent``. Without
rotation, a point x of the image lands in a crop of W pixels at

- classic (Xiao et al., ECCV 2018): ``(x - c) * W / extent + W / 2``: sizes count pixels;
- UDP (Huang et al., CVPR 2020, sec. 3): ``(x - c) * (W - 1) / extent + (W - 1) / 2``: sizes count the gaps between
  pixel centres, so the centre of the box is the centre of the crop and mirroring the crop is exact: x -> W - 1 - x.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.color import jitter_color
from polarpix.config import PoseDataConfig, PoseModelConfig
from polarpix.errors import InputError
from polarpix.pose.augment import CropDraw, draw_crop, lower_half
from polarpix.types import FloatArray, KeypointSchema, PoseSample, UInt8Array

__all__ = ["PoseTransform", "crop_matrix", "invert_matrix", "move_points", "warp"]

Matrix = npt.NDArray[np.float64]  # [2, 3]


def crop_matrix(
    box: Sequence[float] | FloatArray,
    input_size: tuple[int, int],
    rotation: float = 0.0,
    zoom: float = 1.0,
    padding: float = 1.25,
    udp: bool = True,
    flip: bool = False,
) -> Matrix:
    """The affine map [2, 3] from image pixels to crop pixels.

    Args:
        box: x, y, width, height in image pixels.
        input_size: height and width of the crop.
        rotation: degrees by which the content turns, counter-clockwise as seen.
        zoom: factor on the size of the content.
        padding: factor on the box.
        udp: measure sizes between pixel centres instead of in pixels.
        flip: mirror the crop, x -> W - 1 - x.

    Raises:
        InputError: the box has no area or is not finite.
    """
    x, y, width, height = (float(v) for v in box)
    if not (width > 0 and height > 0 and np.isfinite([x, y, width, height]).all()):
        raise InputError(f"box is {(x, y, width, height)}: width and height must be positive, all values finite")
    H, W = input_size
    across, down = (W - 1, H - 1) if udp else (W, H)
    scale = across / (max(width, height * across / down) * padding / zoom)
    angle = np.deg2rad(rotation)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    center = np.array([x + width / 2, y + height / 2])
    linear = np.array([[cos, sin], [-sin, cos]])
    matrix = np.concatenate((linear, (np.array([across / 2, down / 2]) - linear @ center)[:, None]), axis=1)
    if flip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += W - 1
    return matrix


def invert_matrix(matrix: Matrix) -> Matrix:
    """The inverse [2, 3] of an affine map [2, 3]."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def move_points(matrix: npt.NDArray[np.floating], points: npt.NDArray[np.floating]) -> FloatArray:
    """Points [..., 2] moved by an affine map [2, 3]."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float32)


def warp(image: UInt8Array, matrix: Matrix, size: tuple[int, int]) -> UInt8Array:
    """Cut a crop [h, w, 3] of ``size`` (height, width) out of an image [H, W, 3], bilinear, black outside the image."""
    h, w = size
    return np.asarray(cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR), np.uint8)


class PoseTransform:
    """Sample -> crop with its keypoints, augmented when training.

    Args:
        data: padding of the box and strengths of the augmentation.
        model: size of the crop; its codec says which convention the crop follows.
        schema: whose left and right a mirrored crop swaps.
        training: augment.
    """

    def __init__(
        self, data: PoseDataConfig, model: PoseModelConfig, schema: KeypointSchema, training: bool = False
    ) -> None:
        from polarpix.pose.codec import CODECS  # brings torch, which cutting crops does without

        self.data, self.training = data, training
        self.size: tuple[int, int] = (model.input_size[0], model.input_size[1])
        self.udp = CODECS[model.codec].unbiased
        self.flip_order = list(schema.flip_order)
        self.lower = lower_half(schema)

    def __call__(
        self, sample: PoseSample, rng: np.random.Generator | None = None
    ) -> tuple[UInt8Array, FloatArray, FloatArray, FloatArray]:
        """Crop a sample.

        Args:
            sample: image, box, keypoints.
            rng: needed when training.

        Returns:
            The crop uint8 [h, w, 3]; keypoints float32 [K, 2] in crop pixels; visible float32 [K], 1 where labelled;
            and the map float32 [2, 3] from crop pixels back to image pixels.
        """
        draw = CropDraw(sample.box, self.data.box_padding)
        if self.training:
            if rng is None:
                raise ValueError("training crops are random: pass a numpy Generator")
            draw = draw_crop(sample, self.data, self.lower, self.size[1] / self.size[0], rng)
        matrix = crop_matrix(draw.box, self.size, draw.rotation, draw.zoom, draw.padding, self.udp, draw.flip)
        crop = warp(sample.image, matrix, self.size)
        if self.training and rng is not None:
            crop = jitter_color(crop, self.data.color, rng)
        keypoints = move_points(matrix, sample.keypoints)
        visible = (sample.visibility > 0).astype(np.float32)
        if draw.flip:
            keypoints, visible = keypoints[self.flip_order], visible[self.flip_order]
        return crop, keypoints, visible, invert_matrix(matrix).astype(np.float32)
