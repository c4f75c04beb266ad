"""How an exported file is measured against torch: keypoints, scores, labels, and what rounding alone may move."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from polarpix.errors import InputError
from polarpix.export.compare import Difference, check_differences, compare_pose, compare_seg, difference_lines
from polarpix.export.inputs import noise_crops
from polarpix.export.trace import graph_of
from polarpix.predict import PosePredictor, SegPredictor

Array = npt.NDArray[Any]


def in_torch(predictor: PosePredictor | SegPredictor) -> Any:
    """A session that is the graph itself."""
    graph = graph_of(predictor)

    def run(*inputs: Array) -> list[Array]:
        with torch.no_grad():
            return [one.numpy() for one in graph(*map(torch.from_numpy, inputs))]

    return run


def test_keypoints_are_compared_in_pixels_of_the_image(pose: PosePredictor) -> None:
    crops, affines = noise_crops((64, 64), 3)
    affines[:, 0, 0] = 10  # a box ten times as wide as its crop
    session = in_torch(pose)
    found = compare_pose(pose, session, "noise", crops, affines)
    assert found.count == 3
    assert found.largest["keypoints"] < 0.02
    assert found.undecided is not None
    assert found.undecided < 1

    def moved(image: Array, to_image: Array) -> list[Array]:
        points, scores, spread = session(image, to_image)
        return [points + np.array([3, 4], np.float32), scores + np.float32(0.25), 4 * spread]

    found = compare_pose(pose, moved, "noise", crops, affines)
    largest = dict(found.largest)
    assert largest.pop("deviations") > 1  # the double of what they are
    assert largest == pytest.approx({"keypoints": 5, "scores": 0.25}, abs=0.03)


def test_what_rounding_alone_moves_is_not_compared(pose: PosePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two summits of one height: whichever a library finds, both are right."""
    maps = torch.zeros(1, 14, 16, 16)
    maps[:, :, 3, 3] = maps[:, :, 12, 12] = 1.0
    maps[:, 0, 12, 12] = 0.5  # but of the first keypoint
    monkeypatch.setattr("polarpix.export.compare.predict_heatmaps", lambda *arguments: maps)
    crops, affines = noise_crops((64, 64), 1)
    affines[:, :, 2] = 0
    points, scores = pose.codec.decode(maps)
    spread = pose.codec.covariance(maps, points)

    def other(*inputs: Array) -> list[Array]:
        found = points.numpy().copy()
        found[:, 1:] = 50.0
        return [found, scores.numpy(), spread.numpy()]

    found = compare_pose(pose, other, "two", crops, affines)
    assert found.undecided == pytest.approx(13 / 14)
    assert found.largest["keypoints"] < 1e-3


def test_labels_are_compared_by_their_share(seg: SegPredictor) -> None:
    batches = [np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)]
    session = in_torch(seg)
    found = compare_seg(seg, session, "noise", batches)
    assert found.largest == pytest.approx({"labels": 0, "confidence": 0}, abs=1e-5)

    def wrong(image: Array) -> list[Array]:
        label, confidence = (one.copy() for one in session(image))
        label[0, :4] += 1
        confidence[1, 5, 5] -= 0.125
        return [label, confidence]

    found = compare_seg(seg, wrong, "noise", batches)
    assert found.largest == pytest.approx({"labels": 4 * 50 / (2 * 40 * 50), "confidence": 0.125}, abs=1e-5)
    with pytest.raises(InputError, match=r"noise: labels of the exported file differ .* of the pixels"):
        check_differences([found])


def test_what_is_no_number_in_one_batch_is_not_lost_among_others(seg: SegPredictor) -> None:
    batches = [np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), np.uint8) for seed in range(2)]
    session = in_torch(seg)

    def wrong(image: Array) -> list[Array]:
        label, confidence = (one.copy() for one in session(image))
        if np.array_equal(image, batches[0]):
            confidence[0, 0, 0] = np.nan
        return [label, confidence]

    with pytest.raises(InputError, match="noise: confidence of the exported file differ from torch by nan"):
        check_differences([compare_seg(seg, wrong, "noise", batches)])


def test_the_tolerances_decide() -> None:
    fine = Difference("noise", 1, {"keypoints": 0.1, "scores": 1e-3}, 0.5)
    check_differences([fine])
    for measure, value in (("keypoints", 0.11), ("scores", 2e-3), ("scores", float("nan"))):
        with pytest.raises(InputError, match=f"val split: {measure} of the exported file differ"):
            check_differences([fine, Difference("val split", 8, {measure: value}, 0.0)])
    with pytest.raises(InputError, match="no keypoint could be compared"):
        check_differences([Difference("noise", 1, {"keypoints": 0.0}, 1.0)])
    check_differences([Difference("noise", 1, {"labels": 0.0})])


def test_lines_name_value_unit_and_tolerance() -> None:
    lines = difference_lines(
        [Difference("noise", 3, {"keypoints": 0.00123, "scores": 2e-7}, 0.25), Difference("x", 1, {"labels": 0.0})]
    )
    assert "3 x noise" in lines[1]
    assert "keypoints 0.0012 px (0.1)" in lines[1]
    assert lines[1].endswith("25% of the keypoints undecided")
    assert "labels 0 of the pixels (0.001)" in lines[2]
