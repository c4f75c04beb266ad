"""CVAT's XML as CVAT writes it, in its three ways to say keypoints; entities are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from polarpix.doctor.convert import convert
from polarpix.doctor.tables import Options
from polarpix.errors import InputError

SKELETON = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>mouse</name><type>skeleton</type><attributes></attributes>
<svg>&lt;line data-type="edge" data-node-from="2" stroke-width="0.5" data-node-to="1"&gt;&lt;/line&gt;</svg></label>
<label><name>snout</name><type>points</type><parent>mouse</parent></label>
<label><name>tail</name><type>points</type><parent>mouse</parent></label>
</labels></task></meta>
<image id="7" name="a/0.jpg" width="64" height="48">
<skeleton label="mouse" source="manual" occluded="0" z_order="0">
<points label="tail" source="manual" outside="0" occluded="1" points="30.25,20.125"></points>
<points label="snout" source="manual" outside="1" occluded="0" points="0.00,0.00"></points>
</skeleton></image></annotations>
"""


def wrap(shapes: str, name: str = "0.jpg", size: str = 'width="64" height="48"') -> str:
    return f'<annotations><image id="0" name="{name}" {size}>{shapes}</image></annotations>'


def read(text: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "a.xml").write_text(text)
    convert(tmp_path / "a.xml", tmp_path / "a.json", "cvat", "coco", Options())
    found: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    return found


def test_skeletons_with_their_header(tmp_path: Path) -> None:
    table = read(SKELETON, tmp_path)
    assert table["images"] == [{"id": 7, "file_name": "a/0.jpg", "width": 64, "height": 48}]
    assert table["categories"] == [{"id": 1, "name": "mouse", "keypoints": ["snout", "tail"], "skeleton": [[2, 1]]}]
    note = table["annotations"][0]
    assert (note["id"], note["image_id"], note["keypoints"]) == (1, 7, [0.0, 0.0, 0, 30.25, 20.125, 1])


def test_points_of_one_label_each_with_a_box_of_their_group(tmp_path: Path) -> None:
    shapes = (
        '<points label="snout" occluded="0" points="1,2" group_id="1"/><points label="tail" points="3,4" group_id="1"/>'
        '<points label="tail" points="5,6" group_id="2"/>'
        '<box label="mouse" xtl="1" ytl="2" xbr="11" ybr="22" group_id="1"/>'
    )
    table = read(wrap(shapes), tmp_path)
    assert [n["keypoints"] for n in table["annotations"]] == [[1, 2, 2, 3, 4, 2], [0, 0, 0, 5, 6, 2]]
    assert table["annotations"][0]["bbox"] == [1, 2, 10, 20]


def test_all_points_of_an_instance_in_one_shape(tmp_path: Path) -> None:
    table = read(wrap('<points label="mouse" occluded="1" points="1,2;3.5,4"/>'), tmp_path)
    assert table["annotations"][0]["keypoints"] == [1, 2, 1, 3.5, 4, 1]
    assert table["categories"][0]["keypoints"] == ["keypoint_1", "keypoint_2"]


BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'
FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB + wrap('<points label="&c;" points="1,2"/>'), "document type"),
        (FILE + wrap('<points label="&b;" points="1,2"/>'), "document type"),
        ("<annotations", "not XML"),
        ("<html></html>", "begins with <html>"),
        ("<annotations/>", "no <image>"),
        (wrap(""), "neither skeletons nor points"),
        (wrap('<points label="a" points="1,2"/>', name="../0.jpg"), "leads out"),
        (wrap('<points label="a" points="1,2"/>', size='width="0" height="9"'), "width '0'"),
        (wrap('<points label="a" points="1,x"/>'), "should be 2 numbers"),
        (wrap('<points label="a" points="1,inf"/>'), "should be 2 numbers"),
        (wrap('<points label="a" points="1,2"/><points label="a" points="3,4"/>'), "occurs twice"),
        (SKELETON.replace('<points label="tail"', '<points label="nose"'), "'nose' is none of"),
        (SKELETON.replace('<skeleton label="mouse"', '<skeleton label="rat"'), "'rat' is none of"),
    ],
)
def test_what_is_none_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read(text, tmp_path)


def test_names_are_quoted_and_what_xml_cannot_hold_is_refused(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": 'a<&">.jpg', "width": 9, "height": 9}
    note = {"id": 4, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1], "keypoints": [1, 1, 2]}
    table = {"images": [image], "annotations": [note], "categories": [{"id": 1, "name": "<m>&", "keypoints": ['"a"']}]}
    (tmp_path / "t.json").write_text(json.dumps(table))
    convert(tmp_path / "t.json", tmp_path / "t.xml", "coco", "cvat", Options())
    found = read((tmp_path / "t.xml").read_text(), tmp_path)
    assert found["images"][0]["file_name"] == 'a<&">.jpg'
    assert (found["categories"][0]["name"], found["categories"][0]["keypoints"]) == ("<m>&", ['"a"'])
    table["categories"][0]["keypoints"] = ["a\x01"]
    (tmp_path / "t.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="XML cannot"):
        convert(tmp_path / "t.json", tmp_path / "u.xml", "coco", "cvat", Options())
