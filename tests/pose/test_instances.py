"""Crops of boxes, scores of instances, and which instances stay."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from polarpix.calibration import Calibration
from polarpix.pose.instances import cut_crops, instance_scores, keep_instances
from polarpix.predict import PosePredictor

BOXES = np.array([[4, 4, 30, 40], [20, 2, 40, 44]], np.float32)


def test_crops_are_those_of_the_validation_transform(pose: PosePredictor, picture: npt.NDArray[np.uint8]) -> None:
    images, affines = pose.crops(picture, BOXES)
    crops, to_image = cut_crops(picture, BOXES, (64, 64), pose.run.data.box_padding, udp=True)
    np.testing.assert_array_equal(crops, images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(to_image, affines.numpy())
    classic, _ = cut_crops(picture, BOXES, (64, 64), pose.run.data.box_padding, udp=False)
    assert (classic != crops).any()


def test_instance_scores_by_hand_of_arrays_and_tensors() -> None:
    scores = np.array([[0.1, 0.5, 0.7], [0.1, 0.1, 0.1], [0.2, 0.9, 0.3]], np.float32)
    boxes = np.array([0.5, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(instance_scores(scores, boxes, visibility=0.2), [0.3, 0.0, 1.2], rtol=1e-6)
    found = instance_scores(torch.from_numpy(scores), torch.from_numpy(boxes), visibility=0.2)
    torch.testing.assert_close(found, torch.tensor([0.3, 0.0, 1.2]))


def test_doubles_are_dropped_and_the_order_stays(pose: PosePredictor) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0, 40, (2, 14, 2)).astype(np.float32)
    keypoints = np.stack([one, other, one + 0.1]).astype(np.float32)
    scores = np.array([[0.5] * 14, [0.4] * 14, [0.9] * 14], np.float32)
    boxes = np.array([[0, 0, 40, 40]] * 3, np.float32)
    spread = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((14, 2, 2), np.float32)
    located = keypoints, scores, spread
    found = keep_instances(located, boxes, np.ones(3, np.float32), pose.run, pose.schema)
    assert found.covariance is not None
    np.testing.assert_array_equal(found.covariance, spread[1:])
    np.testing.assert_array_equal(found.keypoints, keypoints[1:])
    np.testing.assert_allclose(found.instance_scores, [0.4, 0.9], rtol=1e-6)
    kept = replace(pose.run, eval=replace(pose.run.eval, oks_nms=0.0))
    assert len(keep_instances(located, boxes, np.ones(3, np.float32), kept, pose.schema).boxes) == 3
    curve = Calibration((0.0, 1.0), (0.0, 0.5), "val", 100)
    halved = keep_instances(located, boxes, np.ones(3, np.float32), pose.run, pose.schema, curve)
    np.testing.assert_allclose(halved.scores, found.scores / 2, rtol=1e-6)
    np.testing.assert_array_equal(halved.instance_scores, found.instance_scores)  # no AP moves by a calibration


def test_no_box_gives_no_instance(pose: PosePredictor) -> None:
    none = tuple(np.zeros((0, 14, *more), np.float32) for more in ((2,), (), (2, 2)))
    boxes, box_scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    assert keep_instances(none, boxes, box_scores, pose.run, pose.schema).keypoints.shape == (0, 14, 2)
