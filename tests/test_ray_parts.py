"""Rows of results as Parquet files, and the files as COCO's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polarpix.ray_parts import merge_parts, read_parts, write_part

SIZE = {"width": 64, "height": 48}


def pose_row(place: str, scores: list[float]) -> dict[str, Any]:
    found = [{"bbox": [1.0, 2.0, 3.0, 4.0], "box_score": 1.0, "score": s, "keypoints": [s, 2.0, 0.5]} for s in scores]
    return {"place": place, "image_id": 1, **SIZE, "instances": found}


def seg_row(place: str, classes: list[int]) -> dict[str, Any]:
    found = [{"category_id": one, "counts": f"code{one}", "score": 0.5} for one in classes]
    return {"place": place, "image_id": 1, **SIZE, "label": b"png", "segments": found}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_rows_come_back(scheme: str, tmp_path: Path) -> None:
    out = f"{scheme}{tmp_path}/out"
    assert list(read_parts(out)) == []
    write_part(out, [])
    assert not (tmp_path / "out").exists()  # nothing is no file
    rows = [pose_row("a.jpg", [0.5, 0.25]), pose_row("b.jpg", [])]
    write_part(out, rows)
    write_part(out, rows)  # the same pictures again: the same file
    write_part(out, [pose_row("c.jpg", [])])
    parts = list(read_parts(out))
    assert sorted(len(part) for part in parts) == [1, 2]
    assert [part for part in parts if len(part) == 2] == [rows]
    assert {row["place"] for part in read_parts(out, ["place"]) for row in part} == {"a.jpg", "b.jpg", "c.jpg"}


def test_the_json_is_in_the_order_of_the_pictures(tmp_path: Path) -> None:
    write_part(str(tmp_path), [pose_row("b.jpg", [0.5]), pose_row("old.jpg", [0.9])])
    write_part(str(tmp_path), [pose_row("a.jpg", [0.25, 0.125])])
    merge_parts(str(tmp_path), {"a.jpg": 7, "b.jpg": 8, "missing.jpg": 9})
    images = json.loads((tmp_path / "images.json").read_text())
    assert images == [{"id": 7, "file_name": "a.jpg", **SIZE}, {"id": 8, "file_name": "b.jpg", **SIZE}]
    rows = json.loads((tmp_path / "keypoints.json").read_text())
    assert [(row["image_id"], row["score"]) for row in rows] == [(7, 0.25), (7, 0.125), (8, 0.5)]
    assert rows[0] == {"image_id": 7, "category_id": 1, "keypoints": [0.25, 2.0, 0.5], "score": 0.25}


def test_masks_have_a_file_of_their_own(tmp_path: Path) -> None:
    write_part(str(tmp_path), [seg_row("a.jpg", [3, 5])])
    merge_parts(str(tmp_path), {"a.jpg": 2})
    assert not (tmp_path / "keypoints.json").exists()
    first, second = json.loads((tmp_path / "segments.json").read_text())
    code = {"size": [48, 64], "counts": "code3"}
    assert first == {"image_id": 2, "category_id": 3, "segmentation": code, "score": 0.5}
    assert second["category_id"] == 5


def test_nothing_predicted_is_no_json(tmp_path: Path) -> None:
    write_part(str(tmp_path), [pose_row("old.jpg", [0.9])])
    merge_parts(str(tmp_path), {"a.jpg": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
