"""The way from format to format: what each can hold comes back as it was, digit by digit."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polarpix.doctor.convert import READERS, WRITERS, convert
from polarpix.doctor.tables import AREA, Options, annotation, image_size, place_image, safe_name
from polarpix.errors import InputError

Table = dict[str, Any]
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEYS = ("id", "image_id", "category_id", "iscrowd", "bbox", "area", "num_keypoints", "keypoints")


def core(table: Table) -> Table:
    """What a COCO table says, without keys of other formats."""
    return {
        "images": [{k: i[k] for k in ("id", "file_name", "width", "height")} for i in table["images"]],
        "annotations": [{k: n[k] for k in KEYS} for n in table["annotations"]],
        "categories": [{k: c[k] for k in ("id", "name", "keypoints", "skeleton")} for c in table["categories"]],
    }


def there_and_back(table: Table, to: str, options: Options) -> Table:
    target = {"dlc": "a.csv", "cvat": "a.xml"}.get(to, "folder")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "a.json").write_text(json.dumps(table))
        convert(root / "a.json", root / target, "coco", to, options)
        back = "b.json"
        convert(root / target, root / back, to, "coco", options)
        found: Table = json.loads((root / back).read_text())
        return found


@pytest.mark.parametrize("to", ["cvat", "labelme"])
@quick
@given(data=st.data())
def test_cvat_and_labelme_hold_all(to: str, data: Any, coco_tables: Any) -> None:
    table = data.draw(coco_tables())
    assert core(there_and_back(table, to, Options())) == core(table)


@pytest.mark.filterwarnings("ignore:.*cannot hold")
@quick
@given(data=st.data())
def test_yolo_holds_boxes_and_keypoints_exactly(data: Any, coco_tables: Any, blanks: Path) -> None:
    table = data.draw(coco_tables(crowds=False))
    found = there_and_back(table, "yolo", Options(blanks))
    names = {image["id"]: image["file_name"] for image in table["images"]}
    back = {image["id"]: image["file_name"] for image in found["images"]}
    assert sorted(names.values()) == sorted(back.values())

    def rows(one: Table, files: dict[int, str]) -> list[Any]:
        return sorted((files[n["image_id"]], n["bbox"], n["keypoints"]) for n in one["annotations"])

    assert rows(found, back) == rows(table, names)
    assert found["categories"][0]["keypoints"] == table["categories"][0]["keypoints"]
    assert found["categories"][0]["name"] == table["categories"][0]["name"]


@pytest.mark.filterwarnings("ignore:.*cannot hold")
@quick
@given(data=st.data())
def test_dlc_holds_keypoints_exactly(data: Any, coco_tables: Any, blanks: Path) -> None:
    table = data.draw(coco_tables(crowds=False, hidden=False))
    found = there_and_back(table, "dlc", Options(blanks))
    assert [image["file_name"] for image in found["images"]] == [image["file_name"] for image in table["images"]]
    order = {image["id"]: i for i, image in enumerate(table["images"])}
    labelled = [n for n in table["annotations"] if n["num_keypoints"]]
    wanted = sorted((order[n["image_id"]], n["keypoints"]) for n in labelled)
    assert sorted((n["image_id"] - 1, n["keypoints"]) for n in found["annotations"]) == wanted
    assert found["categories"][0]["keypoints"] == table["categories"][0]["keypoints"]


@quick
@given(data=st.data())
def test_coco_to_coco_changes_nothing(data: Any, coco_tables: Any) -> None:
    table = data.draw(coco_tables())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.json", Path(folder) / "b.json"
        source.write_text(json.dumps(table))
        convert(source, target, "coco", "coco", Options())
        assert json.loads(target.read_text()) == table


def test_every_format_is_in_the_tables() -> None:
    assert {*READERS} | {"masks"} == {*WRITERS}


def small() -> Table:
    note = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [1, 2, 3, 4],
        "area": 5.0,
        "num_keypoints": 1,
    }
    return {
        "images": [{"id": 1, "file_name": "0.png", "width": 64, "height": 48}],
        "annotations": [note | {"keypoints": [1.5, 2.5, 2, 0, 0, 0]}],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["a", "b"], "skeleton": []}],
    }


SPOILT: dict[str, tuple[str, Callable[[Table], Any]]] = {
    "path upwards": ("leads out", lambda t: t["images"][0].update(file_name="../../etc/passwd")),
    "absolute path": ("leads out", lambda t: t["images"][0].update(file_name="/etc/passwd")),
    "drive": ("leads out", lambda t: t["images"][0].update(file_name="C:\\a.png")),
    "backslashes": ("leads out", lambda t: t["images"][0].update(file_name="..\\a.png")),
    "unknown image": ("image 9", lambda t: t["annotations"][0].update(image_id=9)),
    "unknown category": ("category 9", lambda t: t["annotations"][0].update(category_id=9)),
    "short keypoints": ("5 numbers", lambda t: t["annotations"][0]["keypoints"].pop()),
    "infinite box": ("four numbers", lambda t: t["annotations"][0].update(bbox=[1, 2, math.inf, 4])),
    "box of texts": ("four numbers", lambda t: t["annotations"][0].update(bbox=["a", 2, 3, 4])),
    "nan not labelled": ("not finite", lambda t: t["annotations"][0].update(keypoints=[1, 2, 2, 0, math.nan, 0])),
    "info of another kind": ("info is", lambda t: t.update(info=[1])),
    "line break in a name": ("control characters", lambda t: t["images"][0].update(file_name="a\nb.png")),
    "nameless category": ("no 'name'", lambda t: t["categories"][0].pop("name")),
    "half a surrogate": ("valid Unicode", lambda t: t["categories"][0].update(keypoints=["a", "\ud800"])),
    "category twice": ("id 1 of another", lambda t: t["categories"].append(t["categories"][0])),
    "no keypoint names": ("nothing to convert", lambda t: t["categories"][0].pop("keypoints")),
}


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("to", ["cvat", "labelme", "yolo", "dlc"])
def test_bad_tables_are_refused_before_anything_is_written(case: str, to: str, tmp_path: Path, blanks: Path) -> None:
    words, spoil = SPOILT[case]
    table = small()
    spoil(table)
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=words):
        convert(tmp_path / "a.json", tmp_path / "out", "coco", to, Options(blanks))
    assert not (tmp_path / "out").exists()


def test_formats_and_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(small()))
    for arguments, words in (
        (("a.json", "b", "voc", "coco"), "--from is 'voc'"),
        (("a.json", "b", "coco", "voc"), "--to is 'voc'"),
        (("none.json", "b", "coco", "cvat"), "no such file"),
        (("a.json", "a.json", "coco", "yolo"), "is a file"),
        (("a.json", "", "coco", "cvat"), "is a folder"),
        (("a.json", "b", "coco", "yolo"), "--images"),
    ):
        source, target, from_, to = arguments
        with pytest.raises(InputError, match=words):
            convert(tmp_path / source, tmp_path / target, from_, to, Options())
    for bad in ("wide", "-1", "nan", "inf", "px"):
        with pytest.raises(InputError, match="--padding"):
            Options.of(padding=bad)
    with pytest.raises(InputError, match="--images"):
        Options.of(images=str(tmp_path / "none"))
    with pytest.raises(InputError, match="leads out"):
        Options.of(split="../up")


def test_boxes_are_made_from_keypoints_and_cut_at_the_border() -> None:
    image = {"id": 1, "width": 100, "height": 80}
    points = [(10.0, 20.0, 2), (50.0, 70.0, 1), (500.0, 0.0, 0)]
    share = annotation(1, image, 1, points, Options(padding="0.1"))
    assert share["bbox"] == [5.0, 15.0, 50.0, 60.0]
    assert share["area"] == pytest.approx(AREA * 3000)
    pixels = annotation(1, image, 1, points, Options(padding="20px"))
    assert pixels["bbox"] == [0.0, 0.0, 70.0, 80.0]
    assert annotation(1, image, 1, points, Options(), [1, 2, 3, 4], 5.0)["area"] == 5.0


def test_images_are_found_by_name_last_part_or_another_ending(blanks: Path, tmp_path: Path) -> None:
    assert place_image(blanks, "0.png", "x") == "0.png"
    assert place_image(blanks, "video/0.png", "x") == "0.png"
    assert place_image(blanks, "video/0.jpg", "x") == "0.png"
    with pytest.raises(InputError, match="is not in"):
        place_image(blanks, "9.png", "x")
    for bad in ("../0.png", "/0.png", "", None, 3, "a\0b"):
        with pytest.raises(InputError, match="leads out"):
            safe_name(bad, "x")


def test_masks_of_another_size_than_the_table_says_are_not_drawn(tmp_path: Path, blanks: Path) -> None:
    """A table could else ask for a map that fills the memory."""
    table = small()
    table["images"][0].update(width=10**6, height=10**6)
    table["annotations"][0]["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=r"is \d+x\d+, the table says otherwise: mend width and height"):
        convert(tmp_path / "a.json", tmp_path / "out", "coco", "masks", Options(blanks))


def test_a_pipe_in_place_of_an_image_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: is a named pipe"):
        image_size(tmp_path / "a.png")
