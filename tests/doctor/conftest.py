"""Small clean sets of both tasks, which the tests spoil in one way each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from polarpix.images import write_image, write_label
from polarpix.seg.classes import cityscapes_label_ids, voc_palette

NAMES = ["snout", "left_ear", "right_ear", "tail"]
MORE = [*NAMES, "left_paw", "right_paw"]
PLACES = {  # pixels ahead and to the left
    "snout": (10, 0),
    "left_ear": (6, 4),
    "right_ear": (6, -4),
    "tail": (-12, 0),
    "left_paw": (-5, 5),
    "right_paw": (-5, -5),
}
H, W = 48, 64


def texture(seed: int, size: tuple[int, int] = (H, W)) -> npt.NDArray[np.uint8]:
    """A picture [H, W, 3] unlike that of any other seed."""
    noise = np.random.default_rng(seed).uniform(0, 255, (5, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def mouse(rng: np.random.Generator, names: Sequence[str]) -> list[float]:
    """Keypoints of a mouse seen from above, in any direction, all labelled."""
    angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform([20, 18], [W - 20, H - 18])
    ahead = np.array([np.cos(angle), np.sin(angle)])
    left = np.array([ahead[1], -ahead[0]])  # y points down
    places = [PLACES[name][0] * ahead + PLACES[name][1] * left for name in names]
    points = centre + places + rng.normal(0, 0.4, (len(names), 2))
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
    return mice(tmp_path / "mice", NAMES)


@pytest.fixture
def paired_set(tmp_path: Path) -> PoseSet:
    """The same with two pairs of keypoints."""
    return mice(tmp_path / "mice_with_paws", MORE)


def mice(root: Path, names: list[str]) -> PoseSet:
    """Mice with these keypoints on disk."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    tables = {}
    for first, (split, pictures, each) in enumerate((("train", 8, 5), ("val", 4, 1))):
        images, notes = [], []
        for i in range(pictures):
            name = f"{split}_{i}.jpg"
            write_image(root / "images" / split / name, texture(100 * first + i))
            images.append({"id": i + 1, "file_name": name, "width": W, "height": H})
            for _ in range(each):
                note = {"id": len(notes) + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0}
                note |= {"num_keypoints": len(names)}
                notes.append(note | {"bbox": [5, 4, 50, 40], "area": 900.0, "keypoints": mouse(rng, names)})
        category = {"id": 1, "name": "mouse", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}
        category["sigmas"] = [0.05] * len(names)
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


@pytest.fixture
def named_masks(mask_set: Path) -> Path:
    """A page that names the four classes of the plain folders beside it."""
    page = mask_set / "page.yaml"
    data = f"format: folder\n  root: {mask_set}\n  classes: [ground, sky, cat, dog]"
    page.write_text(f"task: seg\nname: named\ndata:\n  {data}\n")
    return page


def pictures(count: int, folder: Path, name: str, start: int = 0) -> None:
    for i in range(count):
        write_image(folder / name.format(i), texture(1000 + start + i))


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A set of Cityscapes with labels of all 19 classes, as label ids."""
    tmp_path /= "city"
    for order, split in enumerate(("train", "val")):
        folder = tmp_path / "leftImg8bit" / split / "bonn"
        pictures(3, folder, "bonn_{}_leftImg8bit.png", 50 * order)
        for i in range(3):
            label = cityscapes_label_ids(np.arange(48 * 64).reshape(48, 64).astype(np.int64) // 150 % 19)
            write_label(tmp_path / "gtFine" / split / "bonn" / f"bonn_{i}_gtFine_labelIds.png", label)
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A set of VOC with object masks beside the class masks, every class in every split."""
    tmp_path /= "voc"
    root = tmp_path / "VOCdevkit" / "VOC2012"
    pictures(20, root / "JPEGImages", "im{}.jpg")
    rng = np.random.default_rng(0)
    for i in range(20):
        label, number = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
        for n in range(1 + i % 4):
            where = np.s_[5:40, 16 * n : 16 * n + 12]
            label[where], number[where] = rng.integers(1, 21), n + 1
        label[0, :21] = np.arange(21) if i in (0, 12) else 0
        label[-2:] = number[-2:] = 255
        write_label(root / "SegmentationClass" / f"im{i}.png", label, voc_palette(256))
        write_label(root / "SegmentationObject" / f"im{i}.png", number, voc_palette(256))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(f"im{i}" for i in range(12)))
    (lists / "val.txt").write_text("\n".join(f"im{i}" for i in range(12, 20)))
    return tmp_path


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A set of CamVid with labels of all 11 classes and void."""
    root = tmp_path / "camvid"
    for order, split in enumerate(("train", "val")):
        pictures(3, root / split, "{}.png", 50 * order)
        for i in range(3):
            label = (np.arange(48 * 64).reshape(48, 64) // 250 % 12).astype(np.uint8)
            write_label(root / f"{split}annot" / f"{i}.png", label)
    return root


def values(draw: Any, low: float, high: float) -> float:
    """A coordinate with every digit a double holds, or a round one."""
    number = draw(st.floats(low, high, allow_nan=False, allow_subnormal=False) | st.integers(int(low), int(high)))
    return 0.0 if abs(number) < 1e-9 else number


@st.composite
def tables(draw: Any, several: bool = False, crowds: bool = True, hidden: bool = True) -> dict[str, Any]:
    """A COCO keypoint table of small images: any coordinates, also outside the image, ids in no order."""
    count = draw(st.integers(1, 3))
    ids = draw(st.lists(st.integers(1, 10**6), min_size=count, max_size=count, unique=True))
    images = [
        {"id": id, "file_name": f"{i}{draw(st.sampled_from(['', ' ä', '_x.y']))}.png", "width": 64, "height": 48}
        for i, id in enumerate(sorted(ids))
    ]
    word = st.text(st.characters(categories=["L", "Nd"], max_codepoint=0x2FF), min_size=1, max_size=6)
    names = draw(st.lists(word, min_size=1, max_size=4, unique_by=str.lower))
    K = len(names)
    bones = draw(st.lists(st.tuples(st.integers(1, K), st.integers(1, K)), max_size=2))
    category = {"id": 1, "name": draw(word), "keypoints": names, "skeleton": [list(bone) for bone in bones]}
    notes = []
    for image in images:
        for _ in range(draw(st.integers(0, 3))):
            points, seen = [], 0
            for _ in names:
                v = draw(st.sampled_from([0, 1, 2] if hidden else [0, 2]))
                points += [values(draw, -20, 90), values(draw, -20, 90), v] if v else [0, 0, 0]
                seen += v > 0
            crowd = draw(st.sampled_from([0, 0, 0, 1])) if crowds else 0
            box = [values(draw, -5, 60), values(draw, -5, 40), values(draw, 0, 80), values(draw, 0, 80)]
            note = {"id": 0, "image_id": image["id"], "category_id": 1, "iscrowd": crowd, "bbox": box}
            notes.append(note | {"area": values(draw, 0, 4000), "num_keypoints": seen, "keypoints": points})
    fresh = draw(st.lists(st.integers(1, 10**6), min_size=len(notes), max_size=len(notes), unique=True))
    for note, id in zip(notes, sorted(fresh), strict=True):
        note["id"] = id
    return {"images": images, "annotations": notes, "categories": [category]}


@pytest.fixture(scope="session")
def coco_tables() -> Any:
    """The strategy :func:`tables`."""
    return tables


@pytest.fixture(scope="session")
def blanks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every image that :func:`tables` may name, 64x48."""
    root = tmp_path_factory.mktemp("blanks")
    for i in range(3):
        for end in ("", " ä", "_x.y"):
            write_image(root / f"{i}{end}.png", np.zeros((H, W, 3), np.uint8))
    return root
