"""Boxes in text and in COCO's JSON, and what is wrong with them."""

from pathlib import Path

import pytest

from polarpix.box_files import boxes_of, category_number, image_key, parse_boxes
from polarpix.errors import InputError


def test_a_file_finds_its_boxes_by_number_or_name() -> None:
    table = {"139": [[1.0, 2.0, 3.0, 4.0, 0.5]], "cat": [[0.0, 0.0, 9.0, 9.0, 1.0]]}
    assert boxes_of(table, Path("val/000000000139.jpg")) == table["139"]
    assert boxes_of(table, Path("cat.png")) == table["cat"]
    assert boxes_of(table, Path("dog.png")) == []
    assert boxes_of(None, Path("dog.png")) is None
    assert boxes_of([[1.0, 2.0, 3.0, 4.0]], Path("dog.png")) == [[1.0, 2.0, 3.0, 4.0]]
    assert image_key("a/0007.jpg") == image_key("7")
    assert image_key("a/².jpg") == "²"  # a digit, but no number


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('[{"image_id": [1], "bbox": [1, 2, 3, 4]}]', "detection 0 has image_id [1]"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, Infinity]}]', "detection 0 has no bbox"),
        ('{"images": 5, "annotations": [{"image_id": {}, "bbox": [1, 2, 3, 4]}]}', "detection 0 has image_id {}"),
        ('"text"', "holds no list of detections"),
        ('{"images": []}', "holds no list of detections"),
        ('[{"bbox": [1, 2, 3, 4]}]', "detection 0 has no image_id"),
        ("[7]", "detection 0 has no image_id"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1}]', "detection 1 has no bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3]}]', "detection 0 has no bbox"),
        ('[{"image_id": 1, "bbox": null}]', "detection 0 has no bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, "4"]}]', "detection 0 has no bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": null}]', "detection 0 has no bbox"),
    ],
)
def test_files_that_hold_no_boxes(content: str, words: str, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    page.write_text(content)
    with pytest.raises(InputError) as caught:
        parse_boxes(str(page))
    assert str(caught.value).startswith(f"{page}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,3,4,5", "boxes.txt", "gone.json"])
def test_texts_that_are_no_boxes(text: str) -> None:
    with pytest.raises(InputError, match=f"--boxes {text}"):
        parse_boxes(text)


def test_no_boxes_and_one_box() -> None:
    assert parse_boxes("") is None
    assert parse_boxes("1, 2.5,3,4") == [[1.0, 2.5, 3.0, 4.0]]


def test_the_number_of_a_category() -> None:
    assert category_number("18") == 18
    for text in ("dog", "-1", "1.5", ""):
        with pytest.raises(InputError, match=f"--category {text}: give the number of a category"):
            category_number(text)
