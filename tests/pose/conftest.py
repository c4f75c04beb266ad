"""A tiny keypoint set that the tests of this room share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polarpix.demo.figures import write_figures
from polarpix.pose.schema import COCO_SIGMAS

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


def as_coco(note: Page, names: list[str], image_id: int) -> Page:
    """An annotation of a drawn figure with COCO's 17 keypoints: the nose is at the head's top, no eyes and ears."""
    points = dict(zip(names, zip(*[iter(note["keypoints"])] * 3, strict=True), strict=True))
    points["nose"] = points["head_top"]
    triples = [points.get(name, (0, 0, 0)) for name in COCO_SIGMAS]
    labelled = sum(v > 0 for _, _, v in triples)
    flat = [value for triple in triples for value in triple]
    return note | {"image_id": image_id, "keypoints": flat, "num_keypoints": labelled}


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's official layout: three pictures in train2017, two in val2017 and in test2017, and detections on these."""
    figures, root = tmp_path_factory.mktemp("figures"), tmp_path_factory.mktemp("coco")
    write_figures(figures, train=3, val=2, size=(96, 96), seed=5)
    (root / "annotations").mkdir()
    for split, first in (("train", 9), ("val", 139)):
        page = json.loads((figures / "annotations" / f"{split}.json").read_text())
        names = page["categories"][0]["keypoints"]
        category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": list(COCO_SIGMAS)}
        page["categories"] = [category | {"skeleton": [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13]]}]
        (root / f"{split}2017").mkdir()
        for image in page["images"]:
            name = f"{image['id'] + first:012d}.jpg"
            (figures / "images" / split / image["file_name"]).rename(root / f"{split}2017" / name)
            image |= {"id": image["id"] + first, "file_name": name}
        page["annotations"] = [as_coco(note, names, note["image_id"] + first) for note in page["annotations"]]
        (root / "annotations" / f"person_keypoints_{split}2017.json").write_text(json.dumps(page))
    keys = ("image_id", "category_id", "bbox")
    found = [{key: note[key] for key in keys} | {"score": 0.9} for note in page["annotations"]]
    chair = {"image_id": 140, "category_id": 62, "bbox": [1, 1, 20, 20], "score": 0.8}
    unlabelled = {"images": page["images"], "categories": [{"supercategory": "person", "id": 1, "name": "person"}]}
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(unlabelled))
    (root / "test2017").symlink_to(root / "val2017")
    (root / "detections.json").write_text(json.dumps([*found, found[0] | {"score": 0.3}, chair]))
    return root
