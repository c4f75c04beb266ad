"""DeepLabCut's CSV comes back byte for byte; what is none is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarpix.doctor.convert import convert
from polarpix.doctor.tables import Options
from polarpix.errors import InputError
from polarpix.images import write_image
from polarpix.pose.schema import load_schema

ONE = """scorer,Ann,Ann,Ann,Ann
bodyparts,snout,snout,tail,tail
coords,x,y,x,y
labeled-data/m/img0.png,21.521,265.42799999999994,33.0,1e-05
labeled-data/m/img1.png,,,0.1,250.05599999999998
labeled-data/m/img2.png,,,,
"""
THREE_COLUMNS = """scorer,,,Ann,Ann
bodyparts,,,snout,snout
coords,,,x,y
labeled-data,m,img0.png,1.5,2.5
"""
MANY = """scorer,Ann,Ann,Ann,Ann,Ann,Ann,Ann,Ann,Ann,Ann
individuals,m1,m1,m1,m1,m2,m2,m2,m2,single,single
bodyparts,snout,snout,tail,tail,snout,snout,tail,tail,door,door
coords,x,y,x,y,x,y,x,y,x,y
labeled-data/m/img0.png,1.0,2.0,3.0,4.0,5.0,6.0,,,7.0,8.0
labeled-data/m/img1.png,,,,,5.5,6.5,7.5,8.5,,
"""


@pytest.fixture
def images(tmp_path: Path) -> Options:
    for i in range(3):
        write_image(tmp_path / "images" / "labeled-data" / "m" / f"img{i}.png", np.zeros((300, 400, 3), np.uint8))
    return Options(tmp_path / "images")


def there(text: str, tmp_path: Path, options: Options) -> dict[str, Any]:
    (tmp_path / "a.csv").write_text(text)
    convert(tmp_path / "a.csv", tmp_path / "a.json", "dlc", "coco", options)
    found: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    return found


@pytest.mark.parametrize("text", [ONE, THREE_COLUMNS, MANY], ids=["one", "three columns", "many"])
def test_csv_to_coco_to_csv_is_the_same_file(text: str, tmp_path: Path, images: Options) -> None:
    there(text, tmp_path, images)
    convert(tmp_path / "a.json", tmp_path / "b.csv", "coco", "dlc", images)
    assert (tmp_path / "b.csv").read_text() == text


def test_what_one_animal_becomes(tmp_path: Path, images: Options) -> None:
    table = there(ONE, tmp_path, images)
    assert [i["file_name"] for i in table["images"]] == [f"labeled-data/m/img{i}.png" for i in range(3)]
    assert (table["images"][0]["width"], table["images"][0]["height"]) == (400, 300)
    assert [n["keypoints"] for n in table["annotations"]] == [
        [21.521, 265.42799999999994, 2, 33.0, 1e-05, 2],
        [0.0, 0.0, 0, 0.1, 250.05599999999998, 2],
    ]
    assert table["categories"][0]["keypoints"] == ["snout", "tail"]


def test_what_many_animals_become(tmp_path: Path, images: Options) -> None:
    table = there(MANY, tmp_path, images)
    assert [(n["image_id"], n["category_id"], n["individual"]) for n in table["annotations"]] == [
        (1, 1, "m1"),
        (1, 1, "m2"),
        (1, 2, "single"),
        (2, 1, "m2"),
    ]
    assert [c["keypoints"] for c in table["categories"]] == [["snout", "tail"], ["door"]]


def test_a_flat_folder_with_other_endings_and_a_schema(tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / "flat" / f"img{i}.jpg", np.zeros((300, 400, 3), np.uint8))
    (tmp_path / "s.yaml").write_text("category: mouse\nnames: [snout, tail]\nskeleton: [[0, 1]]\nsigmas: [0.1, 0.1]\n")
    options = Options(tmp_path / "flat", schema=load_schema(tmp_path / "s.yaml"))
    table = there(ONE, tmp_path, options)
    assert [i["file_name"] for i in table["images"]] == ["img0.jpg", "img1.jpg", "img2.jpg"]
    assert (table["categories"][0]["name"], table["categories"][0]["skeleton"]) == ("mouse", [[1, 2]])
    convert(tmp_path / "a.json", tmp_path / "b.csv", "coco", "dlc", options)
    assert (tmp_path / "b.csv").read_text() == ONE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no rows scorer"),
        (ONE.replace("coords,x,y", "coords,x,likelihood"), "likelihoods"),
        (ONE.replace("coords,x,y", "coords,y,x"), "x, y for each"),
        (ONE.replace("tail,tail", "snout,snout"), "columns twice"),
        (ONE.replace("Ann,Ann,Ann,Ann", "Ann,Ann,Bob,Bob"), "several scorers"),
        (ONE.replace("21.521,", "21.521,7,"), "cells instead of"),
        (ONE.replace("21.521", "wide"), "no number"),
        (ONE.replace("21.521", "inf"), "not finite"),
        (ONE.replace("21.521", ""), "both or none"),
        (ONE.replace("img1", "../../img1"), "leads out"),
        (ONE.replace("img1", "img7"), "is not in"),
        (ONE.replace("img1", "img0"), "are one file"),
        (MANY.replace("m2,m2,m2,m2", "m2,m2,single,single"), "different body parts"),
        ("scorer,Ann\nbodyparts,snout,snout\ncoords,x,y\n", "different lengths"),
    ],
)
def test_what_is_no_such_csv_is_refused(text: str, words: str, tmp_path: Path, images: Options) -> None:
    with pytest.raises(InputError, match=words):
        there(text, tmp_path, images)


@pytest.mark.filterwarnings("ignore:.*cannot hold")
def test_several_unnamed_instances_get_individuals(tmp_path: Path, images: Options) -> None:
    table = there(ONE, tmp_path, images)
    table["annotations"][1]["image_id"] = 1
    table["annotations"][1]["keypoints"][5] = 1
    (tmp_path / "a.json").write_text(json.dumps(table))
    convert(tmp_path / "a.json", tmp_path / "b.csv", "coco", "dlc", images)
    assert "individuals,animal1,animal1,animal1,animal1,animal2" in (tmp_path / "b.csv").read_text()
    for note in table["annotations"]:
        note["individual"] = "x"
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="twice"):
        convert(tmp_path / "a.json", tmp_path / "c.csv", "coco", "dlc", images)
