"""The data set: what becomes an item, and what is said about the rest."""

import copy
import hashlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polarpix.errors import InputError
from polarpix.pose.coco import CocoKeypoints
from polarpix.types import KeypointSchema

Page = dict[str, Any]
Writer = Callable[[object], tuple[Path, Path]]


def test_annotated_instances(page: Page, write_set: Writer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CocoKeypoints(*write_set(page))
    assert [one.instance_id for one in data.instances] == [11, 12]  # not the unlabelled, the crowd, the other category
    assert data.category_id == 7
    assert data.boxes_sha256 is None
    sample = data[1]
    assert sample.image.shape == (40, 60, 3)
    assert sample.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.visibility, [2, 0, 2, 2])
    np.testing.assert_array_equal(sample.keypoints, [[40, 30], [0, 0], [44, 33], [50, 20]])
    np.testing.assert_array_equal(sample.box, [38, 18, 22, 22])  # clipped to the image
    assert sample.area == pytest.approx(30 * 30 * 0.6)  # as annotated
    assert (sample.file, sample.image_id, sample.box_score) == ("b.png", 2, 1.0)


def test_whole_image(page: Page, write_set: Writer) -> None:
    del page["annotations"][0]["bbox"]
    data = CocoKeypoints(*write_set(page), whole_image=True)
    np.testing.assert_array_equal([one.box for one in data.instances], [[0, 0, 60, 40]] * 2)
    twice = copy.deepcopy(page["annotations"][0]) | {"id": 99}
    page["annotations"].append(twice)
    with pytest.raises(InputError, match=r"image a\.png has several instances"):
        CocoKeypoints(*write_set(page), whole_image=True)


def test_detections(page: Page, write_set: Writer, tmp_path: Path) -> None:
    found = [
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.9},
        {"image_id": 2, "category_id": 7, "bbox": [-5, 2, 10, 20], "score": 0.5},
        {"image_id": 2, "category_id": 8, "bbox": [1, 2, 10, 20], "score": 0.9},
        {"image_id": 2, "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.49},
        {"image_id": 2, "category_id": 7, "bbox": [70, 2, 10, 20], "score": 0.9},
    ]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(found))
    with pytest.warns(UserWarning, match="detection number 4 .*no area inside the image"):
        data = CocoKeypoints(*write_set(page), boxes=boxes, box_threshold=0.5)
    assert [(one.instance_id, one.box_score) for one in data.instances] == [(0, 0.9), (1, 0.5)]
    np.testing.assert_array_equal(data.instances[1].box, [-5, 2, 10, 20])  # as detected
    assert data.boxes_sha256 == hashlib.sha256(boxes.read_bytes()).hexdigest()
    sample = data[0]
    assert not sample.visibility.any()
    assert sample.area == 200


def test_points_outside_count_as_unlabelled_and_are_said_once(page: Page, write_set: Writer) -> None:
    page["annotations"][0]["keypoints"][0] = -3
    page["annotations"][1]["keypoints"][10] = 41
    with pytest.warns(UserWarning, match=r"annotation 11 \(nose at \[-3.0, 10.0\]\) and 1 more: .*outside") as caught:
        data = CocoKeypoints(*write_set(page))
    assert len(caught) == 1
    np.testing.assert_array_equal(data.instances[0].visibility, [0, 2, 1, 2])
    np.testing.assert_array_equal(data.instances[1].visibility, [2, 0, 2, 0])


def test_training_leaves_out_what_teaches_nothing(page: Page, write_set: Writer) -> None:
    page["annotations"][0]["keypoints"] = [-9, 10, 2] + [0] * 9
    paths = write_set(page)
    with pytest.warns(UserWarning, match="outside"):
        assert len(CocoKeypoints(*paths)) == 2
    with pytest.warns(UserWarning, match="annotation 11") as caught:
        assert [one.instance_id for one in CocoKeypoints(*paths, training=True).instances] == [12]
    assert ["annotation 11: dropped" in str(warning.message) for warning in caught] == [False, True]


def test_flat_boxes_are_dropped_with_a_warning(page: Page, write_set: Writer) -> None:
    page["annotations"][0]["bbox"] = [8, 6, 0, 16]
    with pytest.warns(UserWarning, match=r"annotation 11 \(bbox \[8, 6, 0, 16\]\): dropped"):
        assert len(CocoKeypoints(*write_set(page))) == 1


def test_a_split_that_loses_everything_is_one_line(
    page: Page, write_set: Writer, recwarn: pytest.WarningsRecorder
) -> None:
    for note in page["annotations"]:
        note["bbox"] = [8, 6, 0, 16]
    path, folder = write_set(page)
    with pytest.raises(InputError, match="the split is empty: annotation 11") as error:
        CocoKeypoints(path, folder)
    assert not recwarn.list
    assert "annotation 11 (bbox [8, 6, 0, 16]) and 1 more: dropped, the box has no area" in str(error.value)
    assert str(error.value).count(str(path)) == 1


@pytest.mark.parametrize("area", [0, None])
def test_without_an_area_the_box_is_the_scale(page: Page, write_set: Writer, area: int | None) -> None:
    page["annotations"][0]["area"] = area
    assert CocoKeypoints(*write_set(page))[0].area == 24 * 16


def test_schema_names_the_category(page: Page, write_set: Writer) -> None:
    names = ("nose", "left_ear", "right_ear", "tail_base")
    schema = KeypointSchema(names, (), (), (0.1,) * 4, "schema file", "rat")
    assert CocoKeypoints(*write_set(page), schema=schema).schema is schema
    other = KeypointSchema(names[:3], (), (), (0.1,) * 3, "schema file", "rat")
    with pytest.raises(InputError, match="no single category fits the schema"):
        CocoKeypoints(*write_set(page), schema=other)
    del page["categories"][0]["keypoints"]
    page["categories"].pop()
    assert CocoKeypoints(*write_set(page), schema=schema).category_id == 7
    with pytest.raises(InputError, match="no category has keypoint names"):
        CocoKeypoints(*write_set(page))


def edit(page: Page, *path: Any, to: Any = None) -> Page:
    """The page with one entry replaced, or taken out."""
    page = copy.deepcopy(page)
    place: Any = page
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: "{", "not JSON"),
        (lambda p: "[" * 100_000, "not JSON"),
        (lambda p: edit(p, "images", 0, "file_name", to="../outside.png"), "leads out of its folder"),
        (lambda p: edit(p, "images", 0, "file_name", to="/etc/hostname"), "leads out of its folder"),
        (lambda p: edit(p, "images", 0, "file_name", to="a\0.png"), "leads out of its folder"),
        (lambda p: edit(p, "images", 0, "width", to=math.inf), "give its size in pixels"),
        (lambda p: edit(p, "annotations", 0, "bbox", to=[0, 0, 10**400, 1]), "four numbers"),
        (lambda p: edit(p, "annotations", 0, "bbox", to="a\nb"), "four numbers"),
        (lambda p: edit(p, "annotations", 0, "area", to=10**400), "square pixels"),
        (lambda p: edit(p, "annotations", 0, "keypoints", 0, to=10**400), "not all numbers"),
        (lambda p: edit(p, "annotations", 0, "id", to=10**400), "more than 64 bits"),
        (lambda p: [], "no list 'images'"),
        (lambda p: edit(p, "categories"), "no list 'categories'"),
        (lambda p: edit(p, "images", to=[]) | {"annotations": []}, "'images' is empty"),
        (lambda p: edit(p, "annotations", to=[]), "the split is empty"),
        (lambda p: edit(p, "annotations", 0, "image_id"), "annotation number 0 has no 'image_id'"),
        (lambda p: edit(p, "annotations", 0, to="x"), "not an object"),
        (lambda p: edit(p, "annotations", 0, "image_id", to=5), "annotation 11: image_id 5 is not among the images"),
        (lambda p: edit(p, "annotations", 0, "keypoints", to=[1, 2, 2]), "annotation 11: keypoints holds 3 numbers; 4"),
        (lambda p: edit(p, "annotations", 0, "keypoints", 3, to="x"), "not all numbers"),
        (lambda p: edit(p, "annotations", 0, "keypoints", 3, to=float("nan")), "not finite"),
        (lambda p: edit(p, "annotations", 0, "keypoints", 2, to=5), "visibilities are [5.0, 2.0"),
        (lambda p: edit(p, "annotations", 0, "bbox"), "annotation 11 has no 'bbox'"),
        (lambda p: edit(p, "annotations", 0, "bbox", to=[1, 2, 3]), "four numbers"),
        (lambda p: edit(p, "annotations", 0, "id", to=12), "annotation id 12 occurs more than once"),
        (lambda p: edit(p, "images", 0, "width"), "image number 0 has no 'width'"),
        (lambda p: edit(p, "images", 0, "id", to=2), "image id 2 occurs more than once"),
        (lambda p: edit(p, "images", 0, "width", to=0), "size in pixels"),
        (lambda p: edit(p, "images", 0, "file_name", to="c.png"), "1 of 2 images"),
        (lambda p: edit(p, "categories", 0, "keypoints"), "no category has keypoint names"),
        (lambda p: edit(p, "categories", 0, "id", to="x"), "category number 0 has id 'x'"),
        (lambda p: edit(p, "images", 0, "id", to=[1]), "image number 0 has id [1]: COCO's ids are whole numbers"),
        (lambda p: edit(p, "annotations", 0, "id", to="11"), "annotation number 0 has id '11'"),
        (lambda p: edit(p, "annotations", 0, "image_id", to="1"), "annotation number 0 has image_id '1'"),
        (lambda p: edit(p, "annotations", 0, "area", to="big"), "annotation 11: area is 'big'"),
        (lambda p: edit(p, "annotations", 0, "area", to=-4), "annotation 11: area is -4; it must be a number of"),
        (lambda p: edit(p, "annotations", 0, "area", to=float("nan")), "annotation 11: area is nan"),
        (lambda p: edit(p, "categories", 1, "keypoints", to=["a"]), "['mouse', 'box'] have keypoint names"),
    ],
)
def test_bad_file_is_one_clear_line(page: Page, write_set: Writer, change: Callable[[Page], object], said: str) -> None:
    path, folder = write_set(change(page))
    with pytest.raises(InputError) as error:
        CocoKeypoints(path, folder)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"annotations": []}, "give a COCO detection file"),
        ([], "none of its 0 detections"),
        ([{"image_id": 9, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 1}], "image_id 9 is not in"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2]}], "detection number 0 has no 'score'"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2], "score": "1"}], "must be a number"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 0.1}], "lower box_threshold"),
    ],
)
def test_bad_detections_are_one_clear_line(
    page: Page, write_set: Writer, tmp_path: Path, found: object, said: str
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(found))
    with pytest.raises(InputError) as error:
        CocoKeypoints(*write_set(page), boxes=boxes, box_threshold=0.5)
    assert str(boxes) in str(error.value)
    assert said in str(error.value)


def test_detections_cannot_train(page: Page, write_set: Writer) -> None:
    with pytest.raises(InputError, match="cannot be used with training"):
        CocoKeypoints(*write_set(page), boxes="boxes.json", training=True)


def test_missing_files(page: Page, write_set: Writer, tmp_path: Path) -> None:
    path, folder = write_set(page)
    with pytest.raises(InputError, match=r"none\.json: cannot read"):
        CocoKeypoints(tmp_path / "none.json", folder)
    with pytest.raises(InputError, match="elsewhere: no such folder"):
        CocoKeypoints(path, tmp_path / "elsewhere")
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"b.png: no such image; 1 of 2"):
        CocoKeypoints(path, folder)


def test_images_in_subfolders(page: Page, write_set: Writer) -> None:
    page["images"][0]["file_name"] = "deep/a.png"
    path, folder = write_set(page)
    (folder / "deep").mkdir()
    (folder / "a.png").rename(folder / "deep" / "a.png")
    assert CocoKeypoints(path, folder)[0].file == "deep/a.png"


def test_image_of_another_size(page: Page, write_set: Writer) -> None:
    path, folder = write_set(page)
    Image.new("RGB", (40, 60)).save(folder / "a.png")
    data = CocoKeypoints(path, folder)
    with pytest.raises(InputError, match=r"a\.png: image is 40x60 .* says 60x40"):
        data[0]


def test_a_list_of_test_images_takes_its_names_from_elsewhere(
    page: Page, write_set: Callable[[object], tuple[Path, Path]], tmp_path: Path
) -> None:
    """COCO's image_info files: no annotations, categories without keypoints, and detections for the boxes."""
    named = tmp_path / "named.json"
    named.write_text(json.dumps(page))
    bare = {"images": page["images"], "categories": [{"id": 7, "name": "mouse"}, {"id": 8, "name": "box"}]}
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 2, "category_id": 7, "bbox": [1, 1, 9, 9], "score": 0.5}]))
    files = write_set(bare)
    data = CocoKeypoints(*files, boxes=boxes, names_from=named)
    assert (len(data), data.labelled, data.image_count, data.category_id) == (1, False, 2, 7)
    assert data.schema.names == ("nose", "left_ear", "right_ear", "tail_base")
    assert CocoKeypoints(*write_set(page), boxes=boxes).labelled
    files = write_set(bare)
    with pytest.raises(InputError, match="no category has keypoint names"):
        CocoKeypoints(*files, boxes=boxes)
    with pytest.raises(InputError, match="no list 'annotations'"):
        CocoKeypoints(*files, names_from=named)
