"""Mean errors by hand, and what is not labelled."""

import numpy as np
import pytest

from polarpix.pose.nme import mean_error, nme, rmse

GT = np.zeros((2, 2, 2))
PRED = np.array([[[3.0, 4.0], [0.0, 10.0]], [[1000.0, 0.0], [0.0, 1.0]]])
VISIBILITY = np.array([[2, 1], [0, 2]])


def test_by_hand() -> None:
    assert mean_error(PRED, GT, VISIBILITY) == pytest.approx((5 + 10 + 1) / 3)
    assert rmse(PRED, GT, VISIBILITY) == pytest.approx(np.sqrt((25 + 100 + 1) / 3))
    assert nme(PRED, GT, VISIBILITY, np.array([10.0, 2.0])) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert nme(PRED, GT, VISIBILITY, np.array([10.0, np.nan])) == pytest.approx(0.75)


def test_nothing_labelled_is_nan() -> None:
    nothing = np.zeros((2, 2), int)
    assert np.isnan([mean_error(PRED, GT, nothing), rmse(PRED, GT, nothing), nme(PRED, GT, nothing, np.ones(2))]).all()
    assert np.isnan(nme(PRED, GT, VISIBILITY, np.full(2, np.nan)))
