"""The embedded data: articulated, textured figures over clutter, with exact joints and part masks.

Nothing is shipped or downloaded. A scene is a function of its generator alone, and a set is written in the formats of
real data: COCO keypoint JSON beside image folders for the pose task, label PNGs for the segmentation task.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from polarpix.demo.body import JOINT_PIECES, JOINTS, PARTS, PIECES, random_figure
from polarpix.demo.scenery import blank_canvas, expose, paint_clutter, paint_occluders
from polarpix.errors import InputError
from polarpix.images import write_bytes, write_image, write_label
from polarpix.types import ClassTable, FloatArray, IntArray, KeypointSchema, UInt8Array

__all__ = ["FIGURE_CLASSES", "FIGURE_SCHEMA", "Scene", "draw_scene", "write_figures"]

_BONES = (
    ("head_top", "neck"),
    *(
        (start if start == "neck" else f"{side}_{start}", f"{side}_{end}")
        for side in ("left", "right")
        for start, end in (
            ("neck", "shoulder"),
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
            ("shoulder", "hip"),
            ("hip", "knee"),
            ("knee", "ankle"),
        )
    ),
    ("left_hip", "right_hip"),
)
# COCO's sigmas of the same joints; neck and head top take the shoulders'.
_SIGMAS = {"shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089}

FIGURE_SCHEMA = KeypointSchema(
    names=JOINTS,
    flip_pairs=tuple((i, i + 1) for i, name in enumerate(JOINTS) if name.startswith("left_")),
    skeleton=tuple((JOINTS.index(a), JOINTS.index(b)) for a, b in _BONES),
    sigmas=tuple(_SIGMAS.get(name.partition("_")[2], 0.079) for name in JOINTS),
    sigmas_from="figures",
    category="figure",
)
FIGURE_CLASSES = ClassTable(
    names=("background", *PARTS),
    colors=((0, 0, 0), (230, 80, 70), (245, 190, 60), (70, 160, 230), (60, 210, 200), (150, 100, 220), (90, 190, 90)),
)


@dataclass(frozen=True)
class Scene:
    """One picture and everything that is true of it.

    Args:
        image: uint8 [H, W, 3].
        keypoints: float32 [N, K, 2], every joint, also hidden ones and those outside the picture.
        visibility: int64 [N, K], 2 seen, 1 hidden behind something (or behind the figure itself), 0 outside the picture;
            all 0 for a figure of which less than a third shows.
        boxes: float32 [N, 4], x, y, width, height of the figure within the picture, hidden parts included.
        areas: float32 [N], pixels of the figure that show.
        label: uint8 [H, W], index into :data:`FIGURE_CLASSES`.
        instances: uint8 [H, W], 0 for none, n + 1 for figure n.
    """

    image: UInt8Array
    keypoints: FloatArray
    visibility: IntArray
    boxes: FloatArray
    areas: FloatArray
    label: UInt8Array
    instances: UInt8Array


def draw_scene(rng: np.random.Generator, size: tuple[int, int] = (192, 192)) -> Scene:
    """One to three figures over clutter, nearer ones painted over farther ones.

    Args:
        rng: the only source of chance.
        size: height and width in pixels, at least 32.

    Raises:
        InputError: a size below 32.
    """
    height, width = size
    if min(size) < 32:
        raise InputError(f"scene size is {height}x{width}: both must be at least 32")
    canvas = blank_canvas(rng, size)
    paint_clutter(rng, canvas)
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    sizes = np.sort(rng.uniform(0.62, 1.0, count) * (1.0, 0.86, 0.74)[count - 1] * height)
    places = (rng.permutation(count) + 0.5 + rng.uniform(-0.28, 0.28, count)) * width / count
    figures, outlines = [], []
    for number, (tall, x) in enumerate(zip(sizes.tolist(), places.tolist(), strict=True)):
        centre = (x, float(height * rng.uniform(0.44, 0.58)))
        figure = random_figure(rng, centre, tall, reach=0.95 * min(size))
        feet = max(figure.places["left_foot"][1], figure.places["right_foot"][1])
        canvas.darken(np.array([centre[0], feet]), (0.22 * figure.size, 0.05 * figure.size), 0.5)
        canvas.silhouette[:] = False
        figure.paint(canvas, 1 + number * len(PIECES))
        figures.append(figure)
        outlines.append(canvas.silhouette.copy())
    paint_occluders(rng, canvas)
    part_of = np.array([0, *[1 + PARTS.index(part) for part in PIECES.values()] * count], np.uint8)
    owner_of = np.array([0, *np.repeat(np.arange(1, count + 1), len(PIECES))], np.uint8)
    instances = owner_of[canvas.piece]  # [H, W]
    shown = [int((instances == n + 1).sum()) for n in range(count)]
    keypoints = np.stack([figure.joints for figure in figures])  # [N, K, 2]
    visibility = np.zeros(keypoints.shape[:2], np.int64)
    for n, figure in enumerate(figures):
        if shown[n] < outlines[n].sum() / 3:
            continue  # too little is left to be named, as for the unlabelled people of COCO
        for k, name in enumerate(JOINTS):
            column, row = (int(value) for value in np.rint(keypoints[n, k]))
            if not (0 <= row < height and 0 <= column < width):
                continue
            seen = [*JOINT_PIECES[name]]
            if name.endswith(("shoulder", "hip")) and figure.shows_through_torso(name):
                seen.append("torso")
            numbers = [1 + n * len(PIECES) + list(PIECES).index(piece) for piece in seen]
            visibility[n, k] = 2 if canvas.piece[row, column] in numbers else 1
    return Scene(
        image=expose(rng, canvas.image),
        keypoints=keypoints,
        visibility=visibility,
        boxes=np.array([cv2.boundingRect(outline.astype(np.uint8)) for outline in outlines], np.float32),
        areas=np.array(shown, np.float32),
        label=part_of[canvas.piece],
        instances=instances,
    )
