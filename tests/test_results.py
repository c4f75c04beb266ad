"""The results of one image: drawn, saved, written; and boxes checked; all of it without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as masks

from polarpix.errors import InputError
from polarpix.images import read_image, read_label
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.results import PoseResult, SegResult, check_boxes
from polarpix.seg.classes import CITYSCAPES, VOC
from polarpix.types import SegPrediction


def test_torch_is_not_needed() -> None:
    code = "import sys, polarpix.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_supervision_gets_the_same(
    pose: PosePredictor, seg: SegPredictor, picture: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pose(picture, [[4, 4, 30, 40, 0.9], [20, 2, 40, 44, 0.5]])
    points = found.to_supervision()
    np.testing.assert_array_equal(points.xy, found.prediction.keypoints)
    np.testing.assert_array_equal(points.keypoint_confidence, found.prediction.scores)
    np.testing.assert_array_equal(points.data["covariance"], found.prediction.covariance)
    import supervision

    drawn = supervision.VertexEllipseOutlineAnnotator().annotate(picture.copy(), points)
    assert (drawn != picture).any()
    masks = seg(picture)
    regions = masks.to_supervision()
    assert regions.mask.sum() == masks.prediction.label.size
    for mask, label, name in zip(regions.mask, regions.class_id, regions.data["class_name"], strict=True):
        np.testing.assert_array_equal(mask, masks.prediction.label == label)
        assert name == masks.classes.names[label]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        found.to_supervision()


def test_boxes_and_their_scores_are_told_apart() -> None:
    boxes, scores = check_boxes([[1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0.25]], (20, 30, 3), "a.jpg")
    assert boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert scores.tolist() == [0.5, 0.25]
    boxes, scores = check_boxes([1, 2, 3, 4], (20, 30, 3), "a.jpg")
    assert (boxes.tolist(), scores.tolist()) == ([[1, 2, 3, 4]], [1])


def test_a_pose_result_is_drawn_saved_and_written(
    pose: PosePredictor, picture: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    found = pose(picture, [[4, 4, 30, 40, 0.9], [20, 2, 40, 44, 0.5]])
    assert isinstance(found, PoseResult)
    n = len(found.prediction.boxes)
    assert found.prediction.keypoints.shape == (n, 14, 2)
    assert (found.plot(threshold=0.0) != picture).any()
    np.testing.assert_array_equal(found.plot(threshold=9.0), picture)
    found.save(tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), found.plot())
    rows = found.to_coco(image_id=7, category_id=3)
    assert len(rows) == n
    for row, points, scores in zip(rows, found.prediction.keypoints, found.prediction.scores, strict=True):
        assert (row["image_id"], row["category_id"], len(row["keypoints"])) == (7, 3, 42)
        np.testing.assert_allclose(np.reshape(row["keypoints"], (14, 3)), np.c_[points, scores], rtol=1e-6)


def test_a_mask_result_is_drawn_saved_and_written(
    seg: SegPredictor, picture: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    found = seg(picture)
    assert isinstance(found, SegResult)
    assert ((found.prediction.confidence > 0) & (found.prediction.confidence <= 1)).all()
    assert (found.plot() != picture).any()
    found.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), found.plot())
    found.save_label(tmp_path / "label.png")
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), found.prediction.label)
    again = np.full(found.prediction.label.shape, 255)
    for row in found.to_coco(image_id=4):
        region = masks.decode(row["segmentation"]).astype(bool)
        assert (again[region] == 255).all()
        again[region] = row["category_id"] - 1
        assert row["score"] == pytest.approx(found.prediction.confidence[region].mean())
    np.testing.assert_array_equal(again, found.prediction.label)


def test_cityscapes_masks_are_written_as_label_ids(picture: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    label = np.array([[0, 13, 18]], np.uint8)  # road, car, bicycle
    prediction = SegPrediction(label, np.ones((1, 3), np.float32))
    SegResult(picture[:1, :3], prediction, CITYSCAPES).save_label(tmp_path / "ids.png")
    assert read_label(tmp_path / "ids.png").tolist() == [[7, 26, 33]]
    SegResult(picture[:1, :3], prediction, VOC).save_label(tmp_path / "classes.png")
    assert read_label(tmp_path / "classes.png").tolist() == [[0, 13, 18]]
