"""What a pose evaluation shows beside its metrics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarpix.config import PoseDataConfig, PoseEvalConfig, PoseModelConfig, PoseRun
from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.evaluate import evaluate_pose
from polarpix.pose.page import pose_findings


@pytest.fixture(scope="module")
def data(figures: Path) -> CocoKeypoints:
    """The validation split of the figures: 9 instances on 5 pictures."""
    return CocoKeypoints(figures / "annotations" / "val.json", figures / "images" / "val")


def page(**protocol: Any) -> PoseRun:
    return PoseRun(
        "x", model=PoseModelConfig(input_size=(64, 64)), data=PoseDataConfig(), eval=PoseEvalConfig(**protocol)
    )


def predicted(data: CocoKeypoints, run: PoseRun) -> tuple[Any, Any]:
    """The truth but for the third instance, whose left and right are exchanged."""
    keypoints = np.stack([one.keypoints for one in data.instances]).copy()
    keypoints[2] = keypoints[2][list(data.schema.flip_order)]
    scores = np.full(keypoints.shape[:2], 0.9, np.float32)
    return keypoints, evaluate_pose(data, keypoints, scores, run.eval, 1.25)[1]


def test_tables_curves_and_pictures(data: CocoKeypoints) -> None:
    run = page(pck=[0.1, 0.2])
    found = pose_findings(run, data, *predicted(data, run), pictures=3, keep=2)
    sections = {section.title: section for section in found.sections}
    each = sections["Keypoint by keypoint"].table
    assert each is found.each
    assert list(each.headers)[:5] == ["keypoint", "labelled", "visible", "PCK@0.1", "PCK@0.2"]
    assert [row[0] for row in each.rows] == list(data.schema.names)
    assert sum(int(str(row[1])) for row in each.rows) == sum((one.visibility > 0).sum() for one in data.instances)
    titles = [curves.title for curves in sections["Curves"].curves]
    assert titles == ["PCK over its threshold", "AP over the OKS threshold", "Precision over recall"]
    share, ap, precision = sections["Curves"].curves
    assert {"all keypoints"} <= set(share.series)
    assert [round(x, 2) for x, _ in ap.series["AP"]] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert all(0 <= y <= 1 for points in precision.series.values() for _, y in points)
    kinds = {str(row[0]): row[1] for row in sections["Kinds of errors"].table.rows}
    assert kinds["mirrored"] > 0  # those of the exchanged instance that lie far enough apart
    confused = sections["Which keypoint is taken for which"]
    assert all(row[2] == "yes" for row in confused.table.rows if row[3] == max(r[3] for r in confused.table.rows))
    assert np.nansum(confused.matrices[0].values, axis=1) == pytest.approx(1)
    assert found.groups["worst"][0] == 2
    assert len(found.samples) == len(data) == 9
    assert found.samples[2].score < 1
    assert found.samples[2].instance == data.instances[2].instance_id
    assert set(found.shown) == {one for group in found.groups.values() for one in group}
    assert all(picture.dtype == np.uint8 for picture in found.shown.values())


def test_perfect_predictions_have_no_confusion(data: CocoKeypoints) -> None:
    run = page()
    keypoints = np.stack([one.keypoints for one in data.instances])
    results = evaluate_pose(data, keypoints, np.ones(keypoints.shape[:2], np.float32), run.eval, 1.25)[1]
    found = pose_findings(run, data, keypoints, results, 1, 1)
    sections = {section.title: section for section in found.sections}
    assert sections["Which keypoint is taken for which"].table is None
    assert [y for _, y in sections["Curves"].curves[1].series["AP"]] == pytest.approx([1] * 10)
    assert sections["Keypoint by keypoint"].table.headers[3] == "PCK@0.05"  # the page names no threshold


def test_detected_boxes_are_matched(data: CocoKeypoints, tmp_path: Path) -> None:
    notes = json.loads(data.annotations.read_text())["annotations"][:-2]  # two were not detected
    boxes = [{key: note[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for note in notes]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    detected = CocoKeypoints(data.annotations, data.images, boxes=tmp_path / "boxes.json")
    truth = {one.instance_id: one.keypoints for one in data.instances}
    keypoints = np.stack([truth.get(note["id"], np.zeros((14, 2), np.float32)) for note in notes])
    run = page(boxes=str(tmp_path / "boxes.json"))
    results = evaluate_pose(detected, keypoints, np.ones(keypoints.shape[:2], np.float32), run.eval, 1.25)[1]
    found = pose_findings(run, detected, keypoints, results, 2, 2)
    scores = [one.score for one in found.samples]
    assert len(scores) == 9  # of the annotations
    assert scores.count(0.0) == 2
    assert scores.count(1.0) == 7
    text = found.sections[0].text
    assert "2 of 9 instances have no prediction" in text


def test_a_split_without_labels_has_pictures_only(data: CocoKeypoints, tmp_path: Path) -> None:
    table = json.loads(data.annotations.read_text())
    boxes = [
        {key: note[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for note in table["annotations"]
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (tmp_path / "test.json").write_text(json.dumps({key: table[key] for key in ("images", "categories")}))
    hidden = CocoKeypoints(tmp_path / "test.json", data.images, boxes=tmp_path / "boxes.json")
    run = page(boxes=str(tmp_path / "boxes.json"))
    found = pose_findings(run, hidden, np.zeros((len(hidden), 14, 2), np.float32), [], 2, 2)
    assert (list(found.sections), found.each) == ([], None)
    assert {one.score for one in found.samples} == {None}
    assert len(found.shown) == 2
