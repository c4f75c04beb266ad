"""Class names, colours and file values of the known segmentation sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polarpix.types import ClassTable, UInt8Array

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "VOC",
    "cityscapes_label_ids",
    "cityscapes_train_ids",
    "voc_palette",
]

Color = tuple[int, int, int]


def voc_palette(count: int) -> tuple[Color, ...]:
    """The VOC colours of `count` indices: the bits of the index, dealt to red, green and blue from the top bit down."""
    colors: list[Color] = []
    for index in range(count):
        red = green = blue = 0
        for bit in range(8):
            digits = index >> (3 * bit)
            red |= (digits & 1) << (7 - bit)
            green |= (digits >> 1 & 1) << (7 - bit)
            blue |= (digits >> 2 & 1) << (7 - bit)
        colors.append((red, green, blue))
    return tuple(colors)


def _table(rows: Sequence[tuple[str, Color]]) -> ClassTable:
    return ClassTable(names=tuple(name for name, _ in rows), colors=tuple(color for _, color in rows))


CAMVID = _table(
    [
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("pole", (192, 192, 128)),
        ("road", (128, 64, 128)),
        ("pavement", (60, 40, 222)),
        ("tree", (128, 128, 0)),
        ("sign", (192, 128, 128)),
        ("fence", (64, 64, 128)),
        ("car", (64, 0, 128)),
        ("pedestrian", (64, 64, 0)),
        ("bicyclist", (0, 128, 192)),
    ]
)

_VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC = ClassTable(names=_VOC_NAMES, colors=voc_palette(len(_VOC_NAMES)))

# The 19 evaluated classes, in the order of their training ids, and the label id each has in *_labelIds.png.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES = _table(
    [
        ("road", (128, 64, 128)),
        ("sidewalk", (244, 35, 232)),
        ("building", (70, 70, 70)),
        ("wall", (102, 102, 156)),
        ("fence", (190, 153, 153)),
        ("pole", (153, 153, 153)),
        ("traffic light", (250, 170, 30)),
        ("traffic sign", (220, 220, 0)),
        ("vegetation", (107, 142, 35)),
        ("terrain", (152, 251, 152)),
        ("sky", (70, 130, 180)),
        ("person", (220, 20, 60)),
        ("rider", (255, 0, 0)),
        ("car", (0, 0, 142)),
        ("truck", (0, 0, 70)),
        ("bus", (0, 60, 100)),
        ("train", (0, 80, 100)),
        ("motorcycle", (0, 0, 230)),
        ("bicycle", (119, 11, 32)),
    ]
)


def cityscapes_train_ids(label_ids: UInt8Array) -> UInt8Array:
    """Label ids 0..33 [H, W] to training ids 0..18; every other id becomes 255."""
    lookup = np.full(256, CITYSCAPES.ignore, np.uint8)
    lookup[list(_CITYSCAPES_IDS)] = np.arange(len(_CITYSCAPES_IDS))
    return lookup[label_ids]  # [H, W]


def cityscapes_label_ids(train_ids: UInt8Array) -> UInt8Array:
    """Training ids 0..18 [H, W] to the label ids that result files hold; any other becomes 0 (unlabeled)."""
    lookup = np.zeros(256, np.uint8)
    lookup[: len(_CITYSCAPES_IDS)] = _CITYSCAPES_IDS
    return lookup[train_ids]  # [H, W]
