"""What is behind the pose metrics, against cases that are counted by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from polarpix.pose.analysis import (
    KINDS,
    Pairs,
    error_kinds,
    keypoint_rows,
    match_results,
    pair_up,
    pck_curve,
)
from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.oks import oks
from polarpix.types import KeypointSchema

# Two mirrored keypoints and one between; sigma 0.05 and area 10000 make exp(-d^2 / 200): 0.5 at 11.8 px, 0.85 at 5.7.
SCHEMA = KeypointSchema(("left", "right", "middle"), ((0, 1),), (), (0.05, 0.05, 0.05), "test")
TRUTH = [[0.0, 0.0], [100.0, 0.0], [50.0, 80.0]]
AREA = 10000.0


def similar(distance: float) -> float:
    return math.exp(-(distance**2) / (2 * AREA * 0.01))


def pairs(points: list[list[list[float]]], truth: list[list[list[float]]], visibility: list[list[int]]) -> Pairs:
    n = len(points)
    return Pairs(
        np.array(points, np.float32),
        np.array(truth, np.float32),
        np.array(visibility),
        np.full(n, AREA),
        np.zeros(n, np.int64),
        SCHEMA.sigmas,
    )


def test_similarities_and_their_mean() -> None:
    one = pairs([[[3, 4], [100, 10], [0, 0]]], [TRUTH], [[2, 1, 0]])
    np.testing.assert_allclose(one.similarity, [[similar(5), similar(10), math.nan]])
    assert one.oks == pytest.approx([(similar(5) + similar(10)) / 2])
    assert math.isnan(pairs([TRUTH], [TRUTH], [[0, 0, 0]]).oks[0])
    none = pairs([[[math.nan, math.nan]] * 3], [TRUTH], [[2, 2, 2]])
    assert none.oks == pytest.approx([0])  # what was not predicted is not similar


def test_one_row_per_keypoint() -> None:
    found = pairs(
        [[[3, 4], [100, 10], [50, 80]], [[0, 0], [math.nan, math.nan], [50, 80]]],
        [TRUTH, TRUTH],
        [[2, 1, 0], [2, 2, 0]],
    )
    left, right, middle = keypoint_rows(found, SCHEMA.names, np.array([50.0, 50.0]), [0.1, 0.2])
    assert (left.labelled, left.visible, right.labelled, right.visible) == (2, 2, 2, 1)
    assert left.mean_error == pytest.approx(2.5)
    assert right.mean_error == pytest.approx(10)  # of the one that was predicted
    assert left.pck == pytest.approx((1.0, 1.0))  # 5 px are exactly 0.1 of 50
    assert right.pck == pytest.approx((0.0, 0.5))
    assert left.similarity == pytest.approx((similar(5) + 1) / 2)
    assert right.similarity == pytest.approx(similar(10) / 2)
    lost_left, lost_right = (1 - similar(5)) / 2, (1 - similar(10)) / 2 + 0.5
    assert left.lost == pytest.approx(lost_left / (lost_left + lost_right))
    assert left.lost + right.lost == pytest.approx(1)
    assert (middle.labelled, middle.lost) == (0, 0)
    assert math.isnan(middle.mean_error)
    assert math.isnan(middle.pck[0])


def test_a_perfect_split_has_lost_nothing() -> None:
    rows = keypoint_rows(pairs([TRUTH], [TRUTH], [[2, 2, 2]]), SCHEMA.names, np.array([50.0]), [0.1])
    assert [row.lost for row in rows] == [0, 0, 0]


def test_pck_over_its_threshold() -> None:
    found = pairs([[[5, 0], [110, 0], [50, 80]]], [TRUTH], [[2, 2, 0]])
    mean, each = pck_curve(found, np.array([100.0]), np.array([0.0, 0.05, 0.1]))
    assert mean == pytest.approx([0, 0.5, 1])
    np.testing.assert_array_equal(each[:, 1], [0, 0, 1])


def test_at_whose_place_a_prediction_lies() -> None:
    far = [[1000.0, 1000.0], [1100.0, 1000.0], [1050.0, 1080.0]]
    found = pairs(
        [
            [[100, 3], [2, 0], [50, 90]],  # left and right exchanged, the middle near
            [[1000, 1000], [1050, 1081], [3, 0]],  # good, at the middle, at the other instance
            [[500, 500], [math.nan, math.nan], [0, 0]],  # nowhere, not predicted, not labelled
        ],
        [TRUTH, far, [[5000.0, 0.0], [5100.0, 0.0], [0.0, 0.0]]],
        [[2, 2, 2], [2, 2, 2], [2, 2, 0]],
    )
    places, kinds = error_kinds(found, SCHEMA)
    np.testing.assert_array_equal(
        places,
        [
            [1, 1, 0, 0, 1],  # left: once itself, once at the right, once nowhere
            [1, 0, 1, 0, 1],  # right
            [0, 0, 1, 1, 0],  # middle
        ],
    )
    assert dict(zip(KINDS, kinds.tolist(), strict=True)) == {
        "good": 1,
        "near": 1,
        "mirrored": 2,
        "other keypoint": 1,
        "other instance": 1,
        "nowhere": 2,
    }
    assert places.sum() == kinds.sum() == 8  # every labelled keypoint once


def test_the_other_instance_must_be_of_the_same_image() -> None:
    found = pairs([TRUTH, [[0, 0], [0, 0], [0, 0]]], [TRUTH, [[900.0, 900.0]] * 3], [[2, 2, 2], [2, 0, 0]])
    assert error_kinds(found, SCHEMA)[1].tolist() == [3, 0, 0, 0, 1, 0]
    apart = Pairs(found.points, found.truth, found.visibility, found.areas, np.array([0, 1]), found.sigmas)
    assert error_kinds(apart, SCHEMA)[1].tolist() == [3, 0, 0, 0, 0, 1]


def test_detections_choose_in_the_order_of_their_scores(figures: Path) -> None:
    data = CocoKeypoints(figures / "annotations" / "val.json", figures / "images" / "val")
    one = data.instances[0]

    def result(shift: float, score: float, image: int = one.image_id) -> dict[str, object]:
        points = np.concatenate([one.keypoints + shift, np.ones((len(one.keypoints), 1))], axis=1)
        return {"image_id": image, "keypoints": points.ravel().tolist(), "score": score}

    points = match_results(data, [result(0.0, 0.4), result(1.0, 0.9), result(5000.0, 1.0)])
    np.testing.assert_allclose(points[0], one.keypoints + 1, rtol=1e-5)  # the better one came too late
    others = [
        float(oks(points[i], other.keypoints, other.visibility, other.area, data.schema.sigmas))
        for i, other in enumerate(data.instances)
        if i and np.isfinite(points[i]).all()
    ]
    assert all(value >= 0.1 for value in others)  # the second may go to a neighbour it resembles
    elsewhere = [i for i, other in enumerate(data.instances) if other.image_id != one.image_id]
    assert np.isnan(points[elsewhere]).all()
    perfect = pair_up(data, np.stack([other.keypoints for other in data.instances]))
    np.testing.assert_allclose(perfect.oks, 1)
