"""What an export is compared on: noise, and pictures of the page's validation split, of the user, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np

from polarpix.config import PoseRun, SegRun
from polarpix.demo.figures import draw_scene
from polarpix.engine.fit import build_data
from polarpix.errors import InputError
from polarpix.images import list_images, read_image
from polarpix.pose.instances import cut_crops
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.types import FloatArray, UInt8Array

__all__ = ["Pictures", "noise_crops", "noise_images", "picture_crops", "real_pictures", "sized"]

MOST = 8  # pictures

Item = TypeVar("Item")


@dataclass(frozen=True)
class Pictures:
    """Pictures and, for a pose network, the box of an instance on each.

    Args:
        source: where they are from, in words.
        images: [H, W, 3] each.
        boxes: [4] each.
    """

    source: str
    images: list[UInt8Array]
    boxes: list[FloatArray]


def real_pictures(run: PoseRun | SegRun, check_images: str = "") -> Pictures:
    """Some of the pictures given, else of the page's validation split, else, where that is not here, drawn figures.

    Raises:
        InputError: ``check_images`` names none.
    """
    if check_images:
        paths = _spread(list_images(check_images))
        return _whole(check_images, [read_image(path) for path in paths])
    try:
        dataset = build_data(run).dataset("val")
        samples: list[Any] = [dataset[i] for i in _spread(range(len(dataset)))]
    except InputError:
        drawn = [draw_scene(np.random.default_rng(seed), size) for seed, size in enumerate(((192, 192), (160, 224)))]
        if isinstance(run, SegRun):
            return _whole("drawn figures", [scene.image for scene in drawn])
        shown = [(scene.image, np.asarray(box, np.float32)) for scene in drawn for box in scene.boxes]
        return Pictures("drawn figures", [image for image, _ in shown], [box for _, box in shown])
    if isinstance(run, SegRun):
        return _whole("val split", [sample.image for sample in samples])
    return Pictures("val split", [sample.image for sample in samples], [sample.box for sample in samples])


def _whole(source: str, images: list[UInt8Array]) -> Pictures:
    return Pictures(source, images, [np.array([0, 0, *image.shape[1::-1]], np.float32) for image in images])


def _spread(items: Sequence[Item]) -> list[Item]:
    """At most MOST of them, from the first on at even distances."""
    count = min(len(items), MOST)
    return [items[i * len(items) // count] for i in range(count)]


def picture_crops(predictor: PosePredictor, pictures: Pictures) -> tuple[UInt8Array, FloatArray]:
    """One crop of each picture [N, H, W, 3] and the affines [N, 2, 3] back to it."""
    run = predictor.run
    size = (run.model.input_size[0], run.model.input_size[1])
    cut = [
        cut_crops(image, box[None], size, run.data.box_padding, predictor.codec.unbiased)
        for image, box in zip(pictures.images, pictures.boxes, strict=True)
    ]
    return np.concatenate([crops for crops, _ in cut]), np.concatenate([affines for _, affines in cut])


def noise_crops(size: Sequence[int], count: int) -> tuple[UInt8Array, FloatArray]:
    """Noise [N, H, W, 3] and affines [N, 2, 3] of boxes as large as the crops, somewhere on a picture."""
    rng = np.random.default_rng(count)
    affines = np.zeros((count, 2, 3), np.float32)
    affines[:, :, :2] = np.eye(2)
    affines[:, :, 2] = rng.uniform(-100, 500, (count, 2))
    return rng.integers(0, 256, (count, *size, 3), np.uint8), affines


def noise_images(predictor: SegPredictor, size: tuple[int, int] | None) -> list[UInt8Array]:
    """Batches of 1 and 3 images of noise: of the fixed size, or of the training crop's and of a smaller, odd one."""
    height, width = size or predictor.run.data.crop_size
    odd = size or (height * 2 // 3 | 1, width * 3 // 4 | 1)
    rng = np.random.default_rng(0)
    shapes = ((1, height, width, 3), (3, *odd, 3))
    return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]


def sized(pictures: Pictures, size: tuple[int, int] | None) -> list[UInt8Array]:
    """Batches of one picture each, resized where the size is fixed; else every other is cut to odd sizes."""
    if size is not None:
        return [np.asarray(cv2.resize(image, size[::-1]), np.uint8)[None] for image in pictures.images]
    found = []
    for number, image in enumerate(pictures.images):
        height, width = image.shape[:2]
        cut = image[: height - 1 + height % 2, : width - 1 + width % 2] if number % 2 else image
        found.append(np.ascontiguousarray(cut)[None])
    return found
