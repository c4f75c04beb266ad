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
import numpy.typing as npt

from polarpix.demo.body import JOINT_PIECES, JOINTS, PARTS, PIECES, Figure, random_figure
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
        visibility: int64 [N, K], 2 seen, 1 hidden (by something else or by the figure itself), 0 outside the picture;
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
    areas = [int((instances == n + 1).sum()) for n in range(count)]
    visibility = np.zeros((count, len(JOINTS)), np.int64)
    for n, (figure, outline) in enumerate(zip(figures, outlines, strict=True)):
        if 3 * areas[n] >= outline.sum():  # else too little is left to be named, as for the unlabelled people of COCO
            visibility[n] = _visibility(figure, canvas.piece, 1 + n * len(PIECES))
    return Scene(
        image=expose(rng, canvas.image),
        keypoints=np.stack([figure.joints for figure in figures]),
        visibility=visibility,
        boxes=np.array([cv2.boundingRect(outline.astype(np.uint8)) for outline in outlines], np.float32),
        areas=np.array(areas, np.float32),
        label=part_of[canvas.piece],
        instances=instances,
    )


def _visibility(figure: Figure, piece: npt.NDArray[np.int16], first: int) -> IntArray:
    """COCO's flag [K] of each joint, from the map [H, W] of the pieces on top; the figure's own count from `first`."""
    order = list(PIECES)
    flags = np.zeros(len(JOINTS), np.int64)
    for k, (name, point) in enumerate(zip(JOINTS, figure.joints, strict=True)):
        column, row = (int(value) for value in np.rint(point))
        if not (0 <= row < piece.shape[0] and 0 <= column < piece.shape[1]):
            continue
        seen = JOINT_PIECES[name]
        if name.endswith(("shoulder", "hip")) and figure.shows_through_torso(name):
            seen = (*seen, "torso")
        flags[k] = 2 if piece[row, column] - first in [order.index(part) for part in seen] else 1
    return flags


def write_figures(
    root: Path, train: int, val: int, test: int = 0, size: tuple[int, int] = (192, 192), seed: int = 0
) -> None:
    """Write a set: ``images/<split>/NNNN.jpg``, ``labels/<split>/NNNN.png``, ``annotations/<split>.json``.

    The pose task reads the annotations and images, the segmentation task the same images and the labels. Scene i of a
    split depends on the seed, the split and i alone, so a longer set starts with the shorter one. The annotations are
    written last: where they are, the split is whole.

    Args:
        root: folder of the set; made if missing.
        train: number of pictures in the training split; 0 writes no such split.
        val: of the validation split.
        test: of the test split.
        size: height and width of every picture in pixels.
        seed: of everything random.

    Raises:
        InputError: a negative count, or a size below 32.
    """
    for order, (split, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        if count < 0:
            raise InputError(f"{split} split of {count} pictures: give 0 or more")
        if count:
            _write_split(Path(root), split, count, size, (seed, order))


def _write_split(root: Path, split: str, count: int, size: tuple[int, int], seed: tuple[int, int]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        scene = draw_scene(np.random.default_rng([*seed, i]), size)
        name = f"{i:04d}"
        write_image(root / "images" / split / f"{name}.jpg", scene.image)
        write_label(root / "labels" / split / f"{name}.png", scene.label, FIGURE_CLASSES.colors)
        images.append({"id": i + 1, "file_name": f"{name}.jpg", "height": size[0], "width": size[1], "license": 1})
        for n in range(len(scene.boxes)):
            if scene.areas[n]:
                annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **_annotation(scene, n)})
    table = {
        "info": {"description": f"polarpix figures, {split}", "version": "1", "seed": seed[0]},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "categories": [
            {
                "id": 1,
                "name": FIGURE_SCHEMA.category,
                "supercategory": FIGURE_SCHEMA.category,
                "keypoints": list(FIGURE_SCHEMA.names),
                "skeleton": [[a + 1, b + 1] for a, b in FIGURE_SCHEMA.skeleton],  # COCO counts from 1
                "sigmas": list(FIGURE_SCHEMA.sigmas),
            }
        ],
        "images": images,
        "annotations": annotations,
    }
    write_bytes(root / "annotations" / f"{split}.json", json.dumps(table).encode())


def _annotation(scene: Scene, n: int) -> dict[str, Any]:
    """COCO's entry of figure n: keypoints that are not labelled are written as 0, 0, 0."""
    points, seen = scene.keypoints[n].tolist(), scene.visibility[n].tolist()  # [K, 2], [K]
    rows = [[round(x, 2), round(y, 2), v] if v else [0, 0, 0] for (x, y), v in zip(points, seen, strict=True)]
    mask = (scene.instances == n + 1).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [float(value) for value in scene.boxes[n]],
        "area": float(scene.areas[n]),
        "num_keypoints": sum(v > 0 for v in seen),
        "keypoints": [value for row in rows for value in row],
        "segmentation": [outline.reshape(-1).astype(float).tolist() for outline in outlines if len(outline) > 2],
    }
