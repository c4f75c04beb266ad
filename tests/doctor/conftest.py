"""Small clean sets of both tasks, which the tests spoil in one way each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from polarpix.images import write_image, write_label
from polarpix.seg.classes import voc_palette

NAMES = ["snout", "left_ear", "right_ear", "tail"]
H, W = 48, 64


def texture(seed: int, size: tuple[int, int] = (H, W)) -> npt.NDArray[np.uint8]:
    """A picture [H, W, 3] unlike that of any other seed."""
    noise = np.random.default_rng(seed).uniform(0, 255, (5, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def mouse(rng: np.random.Generator) -> list[float]:
    """Keypoints of a mouse seen from above, in any direction, all labelled."""
    angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform([20, 18], [W - 20, H - 18])
    ahead = np.array([np.cos(angle), np.sin(angle)])
    left = np.array([ahead[1], -ahead[0]])  # y points down
    places = [10 * ahead, 6 * ahead + 4 * left, 6 * ahead - 4 * left, -12 * ahead]
    points = centre + places + rng.normal(0, 0.4, (4, 2))
    return [float(value) for x, y in points for value in (round(x, 3), round(y, 3), 2)]


@dataclass
class PoseSet:
    """A set on disk whose tables a test may change before :meth:`save`."""

    root: Path
    tables: dict[str, dict[str, Any]]

    def save(self) -> Path:
        for split, table in self.tables.items():
            (self.root / "annotations" / f"{split}.json").write_text(json.dumps(table))
        return self.root

    def image(self, split: str, number: int) -> Path:
        return self.root / "images" / split / str(self.tables[split]["images"][number]["file_name"])


@pytest.fixture
def pose_set(tmp_path: Path) -> PoseSet:
    """40 mice on 8 pictures for training, 4 on 4 for validation."""
    rng = np.random.default_rng(0)
    root = tmp_path / "mice"
    (root / "annotations").mkdir(parents=True)
    tables = {}
    for first, (split, pictures, each) in enumerate((("train", 8, 5), ("val", 4, 1))):
        images, notes = [], []
        for i in range(pictures):
            name = f"{split}_{i}.jpg"
            write_image(root / "images" / split / name, texture(100 * first + i))
            images.append({"id": i + 1, "file_name": name, "width": W, "height": H})
            for _ in range(each):
                note = {"id": len(notes) + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 4}
                notes.append(note | {"bbox": [5, 4, 50, 40], "area": 900.0, "keypoints": mouse(rng)})
        category = {"id": 1, "name": "mouse", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]], "sigmas": [0.05] * 4}
        tables[split] = {"images": images, "annotations": notes, "categories": [category]}
    found = PoseSet(root, tables)
    found.save()
    return found


@pytest.fixture
def mask_set(tmp_path: Path) -> Path:
    """Plain folders: 12 pictures for training, 4 for validation, classes 0 to 3."""
    root = tmp_path / "masks"
    for first, (split, count) in enumerate((("train", 12), ("val", 4))):
        for i in range(count):
            seed = 200 + 100 * first + i
            write_image(root / "images" / split / f"{i:02d}.jpg", texture(seed))
            label = np.zeros((H, W), np.uint8)
            label[:10, :] = 1
            label[10:30, i : i + 20] = 2 if i % 2 else 3
            label[-3:, :] = 255
            write_label(root / "labels" / split / f"{i:02d}.png", label, voc_palette(256))
    return root
