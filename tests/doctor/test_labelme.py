"""LabelMe's files as LabelMe writes them, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from polarpix.doctor.convert import convert
from polarpix.doctor.tables import Options
from polarpix.errors import InputError
from polarpix.pose.schema import load_schema


def shape(label: str, points: list[list[float]], kind: str = "point", group: int | None = 1) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, "description": ""}


def page(*shapes: dict[str, Any], name: str = "a.jpg") -> dict[str, Any]:
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": name,
        "imageData": None,
        "imageHeight": 48,
        "imageWidth": 64,
    }


def read(root: Path, options: Options | None = None) -> dict[str, Any]:
    out = root.parent / "found.json"
    convert(root, out, "labelme", "coco", options or Options())
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "labels"
    root.mkdir()
    one = page(
        shape("mouse", [[50, 40], [10, 5]], "rectangle", 1),
        shape("tail", [[30.25, 20.125]], group=1),
        shape("snout", [[1, 2]], group=2),
        shape("grass", [[0, 0], [1, 0], [1, 1]], "polygon", 9),
    )
    one["shapes"][1]["flags"] = {"hidden": True}
    (root / "a.json").write_text(json.dumps(one))
    (root / "b.json").write_text(json.dumps(page(shape("snout", [[5, 6]], group=None), name="..\\pics\\b.jpg")))
    return root


def test_files_as_labelme_writes_them(folder: Path) -> None:
    table = read(folder)
    assert table["categories"][0] == {"id": 1, "name": "mouse", "keypoints": ["tail", "snout"], "skeleton": []}
    assert [image["file_name"] for image in table["images"]] == ["a.jpg", "b.jpg"]
    assert [n["keypoints"] for n in table["annotations"]] == [
        [30.25, 20.125, 1, 0, 0, 0],
        [0, 0, 0, 1, 2, 2],
        [0, 0, 0, 5, 6, 2],
    ]
    assert table["annotations"][0]["bbox"] == [10, 5, 40, 35]


def test_a_schema_gives_the_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("category: mouse\nnames: [snout, tail]\nskeleton: [[0, 1]]\nsigmas: [0.1, 0.1]\n")
    table = read(folder, Options(schema=load_schema(tmp_path / "s.yaml")))
    assert table["categories"][0]["keypoints"] == ["snout", "tail"]
    assert table["annotations"][0]["keypoints"] == [0, 0, 0, 30.25, 20.125, 1]
    (tmp_path / "s.yaml").write_text("category: mouse\nnames: [snout]\nsigmas: [0.1]\n")
    with pytest.raises(InputError, match="'tail' is none of snout"):
        read(folder, Options(schema=load_schema(tmp_path / "s.yaml")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1}, "no list 'shapes'"),
        (page(shape("a", [[1, 2], [3, 4]])), "has 2 points"),
        (page(shape("a", [[1, "x"]])), "pairs of finite numbers"),
        (page({"points": [[1, 2]]}), "no label"),
        (page(shape("a", [[1, 2]]), shape("a", [[3, 4]])), "occurs twice"),
        (
            page(
                shape("a", [[1, 2]]),
                shape("m", [[0, 0], [9, 9]], "rectangle"),
                shape("n", [[0, 0], [9, 9]], "rectangle"),
            ),
            "'n'",
        ),
        (page(shape("a", [[1, 2]]), name=""), "name the image"),
        (page(shape("g", [[0, 0], [1, 0], [1, 1]], "polygon")), "no file holds a point"),
    ],
)
def test_what_is_none_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    root = tmp_path / "labels"
    root.mkdir()
    (root / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        read(root)


def test_a_rectangle_that_was_moved_counts(tmp_path: Path) -> None:
    moved = shape("m", [[1, 2], [9, 9]], "rectangle")
    for kept, area in (([1, 2, 8, 7], 30.0), ([0, 0, 5, 5], None)):
        (tmp_path / "labels").mkdir(exist_ok=True)
        content = page(shape("a", [[1, 2]]), moved | {"annotation_box": kept, "annotation_area": 30.0})
        (tmp_path / "labels" / "a.json").write_text(json.dumps(content))
        note = read(tmp_path / "labels")["annotations"][0]
        assert note["bbox"] == [1, 2, 8, 7]
        assert (note["area"] == 30.0) == (area == 30.0)


def test_an_empty_folder_and_images_of_one_stem(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="no JSON files"):
        read(tmp_path / "labels")
    images = [{"id": i, "file_name": f"a.{end}", "width": 9, "height": 9} for i, end in enumerate(("jpg", "png"))]
    table = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "m", "keypoints": ["a"]}]}
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="belongs to"):
        convert(tmp_path / "a.json", tmp_path / "out", "coco", "labelme", Options())


def test_a_pipe_among_the_files_is_named(folder: Path) -> None:
    os.mkfifo(folder / "more.json")
    with pytest.raises(InputError, match=r"more\.json: is a named pipe"):
        read(folder)
