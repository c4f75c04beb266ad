"""YOLO-pose sets: decimals as they are written, splits, and lines that are refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polarpix.doctor.convert import convert
from polarpix.doctor.tables import Options
from polarpix.doctor.yolo import _box_words, _instance, _share
from polarpix.errors import InputError
from polarpix.images import write_image

PAGE = {"path": ".", "train": "images/train", "kpt_shape": [2, 3], "names": {0: "mouse", 1: "rat"}}
LINE = "1 0.5 0.25 0.5 0.5 0.123456 0.654321 2 0 0 0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(2):
        write_image(tmp_path / "images" / "train" / f"{i}.png", np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "0.txt").write_text(LINE + "\n\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(PAGE))
    return tmp_path


def read(root: Path, split: str = "train") -> dict[str, Any]:
    convert(root / "data.yaml", root / "a.json", "yolo", "coco", Options(split=split))
    found: dict[str, Any] = json.loads((root / "a.json").read_text())
    return found


def test_a_set_as_coco_and_back(root: Path) -> None:
    table = read(root)
    assert [i["file_name"] for i in table["images"]] == ["0.png", "1.png"]
    note = table["annotations"][0]
    assert (note["category_id"], note["bbox"]) == (2, [16.0, 0.0, 32.0, 24.0])
    assert note["keypoints"] == pytest.approx([0.123456 * 64, 0.654321 * 48, 2, 0, 0, 0])
    for split in ("train", "val"):
        options = Options(root / "images" / "train", split)
        convert(root / "a.json", root / "again", "coco", "yolo", options)
        assert (root / "again" / "labels" / split / "0.txt").read_text() == LINE + "\n"
        assert (root / "again" / "labels" / split / "1.txt").read_text() == ""
        assert (root / "again" / "images" / split / "1.png").is_file()
    page = yaml.safe_load((root / "again" / "data.yaml").read_text())
    assert (page["train"], page["val"], page["kpt_shape"]) == ("images/train", "images/val", [2, 3])
    assert page["names"] == {0: "mouse", 1: "rat"}


coordinate = st.floats(-100, 3000, allow_nan=False, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-9 else x)


@given(x=coordinate, y=coordinate, w=coordinate.map(abs), h=coordinate.map(abs), size=st.integers(1, 5000))
def test_every_coordinate_comes_back(x: float, y: float, w: float, h: float, size: int) -> None:
    words = ["0", *_box_words((x, y, w, h), size, size + 7), _share(x, size), _share(y, size + 7), "1"]
    _, box, points = _instance(words, size, size + 7, 1, 3, "here")
    assert box == [x, y, w, h]
    assert points == [(x, y, 1)]


@given(digits=st.integers(1, 10**12), size=st.integers(1, 8000))
def test_every_decimal_comes_back(digits: int, size: int) -> None:
    text = f"0.{digits:012d}".rstrip("0")
    _, _, points = _instance(["0", "0.5", "0.5", "1", "1", text, text], size, size, 1, 2, "here")
    assert float(_share(points[0][0], size)) == float(text)


def test_two_numbers_a_point_take_zero_for_not_labelled(root: Path) -> None:
    (root / "data.yaml").write_text(yaml.safe_dump(PAGE | {"kpt_shape": [2, 2]}))
    (root / "labels/train/0.txt").write_text("0 0.5 0.5 1 1 0.5 0.5 0 0")
    assert read(root)["annotations"][0]["keypoints"] == [32.0, 24.0, 2, 0.0, 0.0, 0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 1 1", "has 5 numbers"),
        (LINE.replace("0.654321 2", "0.654321 3"), "visibility 3"),
        (LINE.replace("0.5", "half"), "no number"),
        (LINE.replace("0.5", "nan"), "no share"),
        (LINE.replace("0.5", "1e300"), "no share"),
        ("7" + LINE[1:], "class 7"),
        ("-1" + LINE[1:], "numbers"),
    ],
)
def test_lines_that_are_none_are_refused(line: str, words: str, root: Path) -> None:
    (root / "labels/train/0.txt").write_text(line)
    with pytest.raises(InputError, match=words):
        read(root)


def test_lines_that_are_no_text(root: Path) -> None:
    label = root / "labels/train/0.txt"
    label.write_bytes(b"0 0.5 \xff\xfe")
    with pytest.raises(InputError, match=rf"^{re.escape(str(label))}: not text"):
        read(root)


def test_a_tiny_exponent_takes_no_memory(root: Path) -> None:
    (root / "labels/train/0.txt").write_text(LINE.replace("0.123456", "1e-999999999"))
    assert read(root)["annotations"][0]["keypoints"][0] == 0.0


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ({"kpt_shape": None}, "kpt_shape"),
        ({"kpt_shape": [2, 4]}, "2 or 3"),
        ({"train": "images/none"}, "no such folder"),
        ({"train": None, "val": "images/train"}, "there are val"),
    ],
)
def test_pages_that_are_none_are_refused(page: dict[str, Any], words: str, root: Path) -> None:
    (root / "data.yaml").write_text(yaml.safe_dump(PAGE | page))
    with pytest.raises(InputError, match=words):
        read(root)
    (root / "data.yaml").write_text("[")
    with pytest.raises(InputError, match="not YAML"):
        read(root)


def test_another_set_in_the_folder_is_not_mixed_up(root: Path) -> None:
    table = read(root)
    table["categories"][0]["name"] = "vole"
    (root / "b.json").write_text(json.dumps(table))
    options = Options(root / "images" / "train", "val")
    convert(root / "a.json", root / "again", "coco", "yolo", options)
    with pytest.raises(InputError, match="another folder"):
        convert(root / "b.json", root / "again", "coco", "yolo", options)
