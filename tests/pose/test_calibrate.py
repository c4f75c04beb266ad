"""Keypoint scores and covariances against the truth: when a keypoint is right, and ellipses that hold their share."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polarpix.calibration import CLAIMS, calibration_error
from polarpix.pose.calibrate import Located, count_scores, coverage, fit_keypoints, pose_settings
from polarpix.predict import PosePredictor

K = 4
SIGMAS = (0.05, 0.05, 0.1, 0.1)


def split(truth: np.ndarray, visibility: np.ndarray | None = None, area: float = 900.0) -> Any:
    """A data set of instances at points [N, K, 2]."""
    seen = np.full(truth.shape[:2], 2) if visibility is None else visibility
    ones = [
        SimpleNamespace(keypoints=points, visibility=row, area=area, image_id=i)
        for i, (points, row) in enumerate(zip(truth, seen, strict=True))
    ]
    return SimpleNamespace(instances=ones, schema=SimpleNamespace(sigmas=SIGMAS))


def simulated(seed: int, n: int, heavy: bool = False) -> tuple[Any, Located]:
    """Predictions whose errors have the covariance 2 * spread + 0.5 * pixel, or the same with heavier tails."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, K, 2, 2)) * np.exp(rng.normal(size=(n, K, 1, 1)))
    spread = root @ root.swapaxes(-1, -2)
    pixel = np.broadcast_to(np.eye(2) * 3.0, spread.shape)
    error = np.linalg.cholesky(2 * spread + 0.5 * pixel) @ rng.normal(size=(n, K, 2, 1))
    if heavy:
        error = error / np.sqrt(rng.chisquare(3, (n, K, 1, 1)) / 3)
    truth = rng.uniform(0, 100, (n, K, 2))
    scores = rng.random((n, K))
    arrays = ((truth + error[..., 0]), scores, spread, pixel)
    return split(truth.astype(np.float32)), Located(*(one.astype(np.float32) for one in arrays))


def test_a_keypoint_is_right_within_the_radius_of_oks_a_half() -> None:
    truth = np.zeros((2, K, 2), np.float32)
    radius = math.sqrt(2 * math.log(2) * 900) * 2 * np.array(SIGMAS)  # [K]
    points = np.zeros((2, K, 2), np.float32)
    points[0, :, 0], points[1, :, 1] = radius * 0.99, radius * 1.01
    visibility = np.full((2, K), 1)
    visibility[1, 3] = 0
    found = count_scores(split(truth, visibility), Located(points, np.full((2, K), 0.5, np.float32), points, points))
    assert found.counts.sum(axis=1).tolist() == [7, 4]


def test_the_fit_finds_the_covariance_that_drew_the_errors() -> None:
    truth, found = simulated(0, 2000)
    fitted = fit_keypoints(truth, found, "val", {"flip_test": True})
    assert fitted is not None
    assert fitted.covariance == pytest.approx((2.0, 0.5), rel=0.2)
    assert (fitted.split, fitted.samples, fitted.protocol) == ("val", 2000 * K, {"flip_test": True})
    held = coverage(*simulated(1, 2000), fitted)
    for claim, (gauss, own) in held.items():
        assert gauss == pytest.approx(claim, abs=0.02)
        assert own == pytest.approx(claim, abs=0.02)


def test_measured_ellipses_hold_their_share_where_a_gaussians_do_not() -> None:
    fitted = fit_keypoints(*simulated(2, 2000, heavy=True), "val", {})
    assert fitted is not None
    held = coverage(*simulated(3, 2000, heavy=True), fitted)
    assert max(abs(claim - gauss) for claim, (gauss, _) in held.items()) > 0.04
    for claim, (_, own) in held.items():
        assert own == pytest.approx(claim, abs=0.02)
    assert tuple(held) == CLAIMS


def test_an_uncalibrated_covariance_is_the_spread() -> None:
    truth, found = simulated(4, 500)
    assert all(gauss == own for gauss, own in coverage(truth, found, None).values())
    np.testing.assert_array_equal(found.covariance((1.0, 0.0)), found.spread)


def test_scores_without_meaning_are_mended() -> None:
    truth, found = simulated(5, 2000)
    fitted = fit_keypoints(truth, found, "val", {})
    other = count_scores(*simulated(6, 2000))
    assert calibration_error(other, fitted) < calibration_error(other) / 3


def test_too_few_labels_give_no_calibration() -> None:
    assert fit_keypoints(*simulated(7, 24), "val", {}) is None
    assert fit_keypoints(*simulated(7, 25), "val", {}) is not None


def test_the_settings_are_those_that_scores_depend_on(pose: PosePredictor) -> None:
    assert pose_settings(pose.run) == {"flip_test": True, "shift_flipped": False, "box_padding": 1.25}
