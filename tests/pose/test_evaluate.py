"""A whole split's predictions -> every metric of the protocol: perfect, perturbed and odd cases."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarpix.config import PoseDataConfig, PoseEvalConfig, PoseRun
from polarpix.errors import InputError
from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.evaluate import evaluate_pose, metric_names, open_split, pose_protocol
from polarpix.pose.oks import OKS_METRICS, evaluate_oks
from polarpix.types import FloatArray

EvalOptions = Callable[..., PoseEvalConfig]


@pytest.fixture(scope="module")
def data(figures: Path) -> CocoKeypoints:
    """The validation split of the figures."""
    return CocoKeypoints(figures / "annotations" / "val.json", figures / "images" / "val")


def truth(data: CocoKeypoints) -> tuple[FloatArray, FloatArray]:
    """Perfect predictions [N, K, 2] and scores [N, K]."""
    keypoints = np.stack([one.keypoints for one in data.instances])
    return keypoints.copy(), np.ones(keypoints.shape[:2], np.float32)


def test_a_perfect_prediction_is_perfect(data: CocoKeypoints) -> None:
    protocol = PoseEvalConfig(pck=[0.1, 0.5], pck_reference=["left_shoulder", "right_hip"])
    metrics, results = evaluate_pose(data, *truth(data), protocol, padding=1.25)
    assert metrics["AP"] == metrics["AR"] == metrics["PCK@0.1"] == metrics["PCK@0.5"] == 1
    assert metrics["mean_error"] == metrics["RMSE"] == metrics["NME"] == 0
    assert len(results) == len(data)
    assert set(metrics) <= set(metric_names(protocol, data.schema))
    assert [name for name in metric_names(protocol, data.schema) if "/" not in name] == [
        *OKS_METRICS,
        "mean_error",
        "RMSE",
        "NME",
        "PCK@0.1",
        "PCK@0.5",
    ]


def test_errors_are_pixels_of_the_labelled_points(data: CocoKeypoints) -> None:
    keypoints, scores = truth(data)
    labelled = np.stack([one.visibility for one in data.instances]) > 0
    keypoints[labelled] += (0.6, 0.8)
    keypoints[~labelled] += 1000
    metrics, _ = evaluate_pose(data, keypoints, scores, PoseEvalConfig(), padding=1.25)
    assert metrics["mean_error"] == pytest.approx(1, rel=1e-5)
    assert metrics["RMSE"] == pytest.approx(1, rel=1e-5)
    assert 0 < metrics["AP"] < 1


def test_the_results_are_what_was_scored(data: CocoKeypoints) -> None:
    """COCO's evaluation of the written results, read from their JSON, gives the same AP."""
    rng = np.random.default_rng(0)
    keypoints, scores = truth(data)
    keypoints += rng.normal(0, 3, keypoints.shape).astype(np.float32)
    scores = rng.uniform(0.3, 1, scores.shape).astype(np.float32)
    metrics, results = evaluate_pose(data, keypoints, scores, PoseEvalConfig(), padding=1.25)
    again = evaluate_oks(data.annotations, json.loads(json.dumps(results)), data.schema.sigmas)
    assert {name: metrics[name] for name in again} == pytest.approx(again)
    for one, total in zip(sorted(results, key=lambda r: r["score"]), sorted(scores.mean(axis=1)), strict=True):
        assert one["score"] == pytest.approx(total, rel=1e-5)


def twice(data: CocoKeypoints) -> CocoKeypoints:
    """Each instance found twice."""
    copy = CocoKeypoints(data.annotations, data.images)
    copy.instances = [*copy.instances, *copy.instances]
    return copy


def test_double_finds_are_dropped_by_their_score(data: CocoKeypoints) -> None:
    double = twice(data)
    keypoints, scores = truth(double)
    scores[len(data) :] = 0.5
    keypoints[len(data) :] += 0.25
    kept, results = evaluate_pose(double, keypoints, scores, PoseEvalConfig(boxes="x.json"), padding=1.25)
    assert len(results) == len(data)
    assert {one["score"] for one in results} == {1.0}
    assert "mean_error" not in kept
    _, results = evaluate_pose(double, keypoints, scores, PoseEvalConfig(boxes="x.json", oks_nms=0.0), padding=1.25)
    assert len(results) == 2 * len(data)


def test_points_that_are_hardly_seen_do_not_count_towards_the_score(data: CocoKeypoints) -> None:
    keypoints, scores = truth(data)
    scores[:, 1:] = 0.1
    _, results = evaluate_pose(data, keypoints, scores, PoseEvalConfig(visibility=0.2), padding=1.25)
    assert {one["score"] for one in results} == {1.0}


def page(figures: Path, **change: Any) -> PoseDataConfig:
    values = {
        "root": str(figures),
        "train_annotations": "annotations/train.json",
        "train_images": "images/train",
        "val_annotations": "annotations/val.json",
        "val_images": "images/val",
    }
    return PoseDataConfig(**(values | change))


def test_splits_come_from_the_page(figures: Path, tmp_path: Path) -> None:
    given = page(figures)
    assert len(open_split(given, PoseEvalConfig(), "val")) == 9
    assert {one.image_id for one in open_split(given, PoseEvalConfig(), "train").instances} <= set(range(1, 9))
    with pytest.raises(InputError, match=r"data\.test_annotations or data\.test_images is empty"):
        open_split(given, PoseEvalConfig(), "test")
    boxes = tmp_path / "boxes.json"
    note = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}
    boxes.write_text(json.dumps([note | {"score": 0.9}, note | {"score": 0.2}]))
    protocol = PoseEvalConfig(boxes=str(boxes), box_threshold=0.5)
    assert len(open_split(given, protocol, "val")) == 1
    assert len(open_split(given, protocol, "train")) > 1  # trained on its annotations
    with pytest.raises(InputError, match=r"eval\.box_threshold is 0\.5 with eval\.boxes gt, which have no score"):
        open_split(given, PoseEvalConfig(box_threshold=0.5), "val")


def test_the_protocol_names_all_it_depends_on(figures: Path, data: CocoKeypoints) -> None:
    run = PoseRun(name="x", data=page(figures))
    found = pose_protocol(run, data)
    assert found["instances"] == len(data) == 9
    assert found["images"] == data.image_count == 5
    assert found["images_with_boxes"] == len({one.image_id for one in data.instances})
    assert len(found["annotations_sha256"]) == 64
    assert found["protocol"] == "gt_boxes"
    run.data.whole_image = True
    assert pose_protocol(run, data)["protocol"] == "whole_image"
    run.eval.boxes, run.eval.detector_ap = "boxes.json", 56.4
    assert pose_protocol(run, data)["protocol"] == "detected_boxes"
    assert pose_protocol(run, data)["detector_ap"] == 56.4
    settings = ("box_padding", "whole_image", "box_threshold", "flip_test", "shift_flipped", "oks_nms", "visibility")
    assert set(settings) <= set(found)
    assert len(found["sigmas"]) == 14
    assert found["sigmas_from"] == data.schema.sigmas_from
    json.dumps(found)
