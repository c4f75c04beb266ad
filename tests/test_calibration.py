"""Scores to probabilities: the error that others compute too, a curve that rises and holds on new data, its JSON."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from torchmetrics.classification import BinaryCalibrationError

from polarpix.calibration import (
    CLAIMS,
    Calibration,
    ScoreCounts,
    calibration_bins,
    calibration_error,
    fit_curve,
    gaussian_radius,
    read_calibration,
)


def drawn(seed: int, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores that promise too much: right in a share score^3 of the cases."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 1000, count) + 0.5) / 1000  # in the middle of a cell: counting loses nothing
    return scores, rng.random(count) < scores**3


def counted(scores: np.ndarray, right: np.ndarray) -> ScoreCounts:
    counts = ScoreCounts()
    counts.add(scores, right)
    return counts


def test_the_error_is_that_of_torchmetrics() -> None:
    scores, right = drawn(0)
    oracle = BinaryCalibrationError(n_bins=15, norm="l1")
    found = calibration_error(counted(scores, right))
    wanted = float(oracle(torch.from_numpy(scores), torch.from_numpy(right).long()))
    assert found == pytest.approx(wanted, abs=1e-6)
    assert found > 0.2
    assert math.isnan(calibration_error(ScoreCounts()))


def test_counting_in_parts_is_counting_at_once_and_scores_beyond_are_counted() -> None:
    scores, right = drawn(1, 50)
    parts = ScoreCounts()
    parts.add(scores[:20].reshape(4, 5), right[:20].reshape(4, 5))
    parts.add(scores[20:], right[20:])
    np.testing.assert_array_equal(parts.counts, counted(scores, right).counts)
    odd = counted(np.array([-0.5, 1.0, 7.0, np.nan]), np.array([False, True, True, False]))
    assert odd.total == 4
    assert odd.counts[:, 0].tolist() == [2, 0]
    assert odd.counts[:, -1].tolist() == [2, 2]


def test_a_curve_mends_new_scores() -> None:
    curve = Calibration(*fit_curve(counted(*drawn(2))), split="val", samples=20_000)
    new = counted(*drawn(3))
    assert calibration_error(new, curve) < calibration_error(new) / 10
    x = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(curve.probability(x), x**3, atol=0.04)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 400))
def test_a_curve_rises_and_is_never_sure(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores, probabilities = fit_curve(counted(rng.random(count), rng.random(count) < rng.random()))
    assert (np.diff(scores) > 0).all()
    assert (np.diff(probabilities) >= 0).all()
    assert 0 < min(probabilities) <= max(probabilities) < 1


def test_the_levels_are_those_of_scipy() -> None:
    rng = np.random.default_rng(5)
    levels = np.array([0.1, 0.5, 0.4, 0.3, 0.6, 0.55, 0.9])  # several fall and have to be pooled
    scores = np.repeat((np.arange(7) * 100 + 50.5) / 1000, 400)
    right = rng.random(scores.size) < np.repeat(levels, 400)
    wanted = isotonic_regression(right.reshape(7, 400).mean(axis=1), weights=np.full(7, 400)).x
    curve = Calibration(*fit_curve(counted(scores, right)), split="val", samples=1)
    np.testing.assert_allclose(curve.probability(scores.reshape(7, 400)[:, 0])[[0, 2, 6]], wanted[[0, 2, 6]], atol=2e-3)


def test_nothing_counted_gives_no_curve() -> None:
    with pytest.raises(ValueError, match="no score"):
        fit_curve(ScoreCounts())


def test_the_bins_are_those_of_the_diagram() -> None:
    rows = calibration_bins(counted(np.array([0.02, 0.03, 0.5]), np.array([True, False, True])))
    assert [(row.count, row.right) for row in rows] == [(2, 0.5), (1, 1.0)]
    assert rows[0].low == 0
    assert rows[1].low <= 0.5 <= rows[1].high


def test_radii_are_the_measured_ones_and_a_gaussians_without() -> None:
    bare = Calibration((0.0, 1.0), (0.1, 0.9), "val", 10)
    assert bare.radius(0.5) == pytest.approx(math.sqrt(2 * math.log(2)))
    np.testing.assert_allclose(gaussian_radius([CLAIMS[0], CLAIMS[3], CLAIMS[6]]), [1, 2, 3], atol=1e-3)
    radii = tuple(float(1.5 * r) for r in gaussian_radius(CLAIMS))
    measured = Calibration((0.0, 1.0), (0.1, 0.9), "val", 10, radii=radii)
    for share in (0.1, *CLAIMS, 0.8, 0.999):
        assert measured.radius(share) == pytest.approx(1.5 * bare.radius(share), rel=1e-6)


def test_json_keeps_it_and_what_is_none_is_refused() -> None:
    whole = Calibration((0.1, 0.5), (0.2, 0.8), "val", 7, {"flip_test": True}, (0.5, 0.1), tuple(range(1, 8)))
    assert read_calibration(json.loads(json.dumps(whole.values()))) == whole
    assert read_calibration(None) is None
    for key, value in (
        ("scores", [0.5, 0.1]),
        ("probabilities", [0.8, 0.2]),
        ("probabilities", [0.2, 1.2]),
        ("probabilities", [0.2]),
        ("scores", []),
        ("scores", [0.1, math.nan]),
        ("scores", ["a", "b"]),
        ("covariance", [1.0]),
        ("covariance", ["a", 1.0]),
        ("radii", [1.0]),
        ("radii", 1.0),
        ("protocol", 5),
        ("other", 5),
    ):
        with pytest.raises(ValueError, match="no calibration: a curve"):
            read_calibration(whole.values() | {key: value})
    with pytest.raises(ValueError, match="no calibration: a curve"):
        read_calibration({"scores": [0.1]})
