"""A tiny keypoint set that the tests of this room share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Page = dict[str, Any]


@pytest.fixture
def page() -> Page:
    """Two images of 60x40 with three annotated animals and one crowd, four keypoints each."""

    def note(number: int, image: int, points: list[float], box: list[float], **more: object) -> Page:
        labelled = sum(v > 0 for v in points[2::3])
        return {
            "id": number,
            "image_id": image,
            "category_id": 7,
            "keypoints": points,
            "num_keypoints": labelled,
            "bbox": box,
            "area": box[2] * box[3] * 0.6,
            "iscrowd": 0,
            **more,
        }

    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 60, "height": 40},
            {"id": 2, "file_name": "b.png", "width": 60, "height": 40},
        ],
        "categories": [
            {
                "id": 7,
                "name": "mouse",
                "keypoints": ["nose", "left_ear", "right_ear", "tail_base"],
                "skeleton": [[1, 2], [1, 3], [2, 4]],
                "sigmas": [0.03, 0.04, 0.04, 0.08],
            },
            {"id": 8, "name": "box"},
        ],
        "annotations": [
            note(11, 1, [10, 10, 2, 14, 8, 2, 12, 14, 1, 30, 20, 2], [8, 6, 24, 16]),
            note(12, 2, [40, 30, 2, 0, 0, 0, 44, 33, 2, 50, 20, 2], [38, 18, 30, 30]),
            note(13, 2, [0] * 12, [1, 1, 5, 5]),
            note(14, 2, [3, 3, 2] + [0] * 9, [0, 0, 30, 15], iscrowd=1),
            {"id": 15, "image_id": 2, "category_id": 8, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0},
        ],
    }


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[[object], tuple[Path, Path]]:
    """Writes a page and two images of noise; gives the paths of the JSON and of the folder."""

    def write(content: object) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for name in ("a.png", "b.png"):
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / name)
        path = tmp_path / "set.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path, folder

    return write
