"""Instances to label maps: the pixels of pycocotools, small above large, crowds ignored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from polarpix.config import SegDataConfig
from polarpix.doctor.convert import convert
from polarpix.doctor.masks import instance_mask, label_map
from polarpix.doctor.tables import Options
from polarpix.errors import InputError
from polarpix.images import read_label, write_image
from polarpix.seg.datasets import build_seg_dataset

IMAGE = {"id": 1, "file_name": "0.png", "height": 20, "width": 30}


def box(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def note(id: int, category: int, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    entry = {"id": id, "image_id": 1, "category_id": category, "iscrowd": crowd, "bbox": [0, 0, 1, 1]}
    return entry | {"segmentation": segmentation}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(0, 30, width=32), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_have_the_pixels_of_pycocotools(polygons: list[list[float]]) -> None:
    wanted = oracle.decode(oracle.merge(oracle.frPyObjects(polygons, 20, 30)))
    assert (instance_mask(polygons, 20, 30, "x") == wanted).all()


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=600, max_size=600))
def test_run_lengths_of_both_kinds_give_the_mask_back(data: bytes) -> None:
    mask = (np.frombuffer(data, np.uint8).reshape(20, 30) > 128).astype(np.uint8)
    short = oracle.encode(np.asfortranarray(mask))
    assert (instance_mask({"size": [20, 30], "counts": short["counts"].decode()}, 20, 30, "x") == mask).all()
    flat, counts, value = mask.T.ravel(), [], 0
    while len(flat):
        run = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], 1 - value
    assert (instance_mask({"size": [20, 30], "counts": counts}, 20, 30, "x") == mask).all()


def test_small_lies_above_large_and_crowds_only_where_nothing_is() -> None:
    notes = [note(1, 5, [box(2, 2, 4, 4)]), note(2, 9, [box(0, 0, 12, 12)]), note(3, 5, [box(0, 0, 20, 14)], 1)]
    label = label_map(IMAGE, notes, {5: 1, 9: 2}, "x")
    assert label[3, 3] == 1
    assert label[8, 8] == 2
    assert label[13, 18] == 255
    assert label[19, 29] == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"size": [20, 31], "counts": [620]},
        {"size": [20, 30], "counts": [5]},
        {"size": [20, 30], "counts": [-5, 605]},
        {"size": [20, 30]},
        [[1, 2, 3]],
        [["a"] * 6],
        [[1e9] * 6],
        "polygon",
        5,
    ],
)
def test_what_is_no_segmentation_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match="mend"):
        instance_mask(bad, 20, 30, "x")


def test_a_set_is_written_that_the_folder_format_reads(tmp_path: Path) -> None:
    images = []
    for i, name in enumerate(("0.png", "sub/1.jpg")):
        write_image(tmp_path / "images" / name, np.full((20, 30, 3), 50 * i, np.uint8))
        images.append(IMAGE | {"id": i + 1, "file_name": name})
    categories = [{"id": 9, "name": "cat"}, {"id": 5, "name": "dog"}]
    notes = [note(1, 5, [box(0, 0, 10, 10)]), note(2, 9, [box(15, 5, 10, 10)])]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    options = Options(tmp_path / "images", "val")
    convert(tmp_path / "a.json", tmp_path / "out", "coco", "masks", options)
    classes = yaml.safe_load((tmp_path / "out" / "classes.yaml").read_text())["classes"]
    assert classes == ["background", "dog", "cat"]
    data = build_seg_dataset(SegDataConfig(format="folder", root=str(tmp_path / "out"), classes=classes), "val")
    assert [data[i].image.shape for i in range(2)] == [(20, 30, 3)] * 2
    label = read_label(tmp_path / "out" / "labels" / "val" / "0.png")
    assert (label[5, 5], label[10, 20], label[19, 0]) == (1, 2, 0)
    assert not read_label(tmp_path / "out" / "labels" / "val" / "1.png").any()
    images[1]["file_name"] = "0.jpg"
    write_image(tmp_path / "images" / "0.jpg", np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    with pytest.raises(InputError, match="have one name"):
        convert(tmp_path / "a.json", tmp_path / "two", "coco", "masks", options)
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    with pytest.raises(InputError, match="nothing to draw"):
        convert(tmp_path / "a.json", tmp_path / "three", "coco", "masks", options)
