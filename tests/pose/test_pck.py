"""PCK: the threshold to the letter, the reference lengths, what is not labelled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.pose.pck import pck, reference_length
from polarpix.types import KeypointSchema

SCHEMA = KeypointSchema(("left_shoulder", "right_hip", "nose"), (), (), (0.1,) * 3, "schema file")
GT = np.array([[[0, 0], [30, 40], [5, 5]], [[0, 0], [0, 10], [5, 5]], [[0, 0], [0, 0], [5, 5]]], np.float64)
VISIBILITY = np.array([[2, 1, 2], [2, 0, 2], [2, 2, 2]])
BOXES = np.array([[0, 0, 10, 20], [0, 0, 8, 4], [0, 0, 3, 3]], np.float32)


def test_reference_lengths() -> None:
    torso = reference_length(GT, VISIBILITY, BOXES, SCHEMA, ["left_shoulder", "right_hip"])
    np.testing.assert_array_equal(torso, [50, np.nan, np.nan])  # a hidden hip, a torso without length
    np.testing.assert_array_equal(reference_length(GT, VISIBILITY, BOXES, SCHEMA, None), [20, 8, 3])
    for pair in (["left_shoulder", "tail"], ["nose", "nose"], ["nose"]):
        with pytest.raises(InputError, match="give two of left_shoulder, right_hip, nose"):
            reference_length(GT, VISIBILITY, BOXES, SCHEMA, pair)


def test_by_hand() -> None:
    pred = GT + np.array([[[10, 0], [0, 10.01], [0, 0]], [[0, 0], [0, 0], [0, 2]], [[99, 0], [99, 0], [99, 0]]])
    reference = np.array([50, 8, np.nan])
    mean, each = pck(pred, GT, VISIBILITY, reference, 0.2)
    np.testing.assert_allclose(each, [1, 0, 0.5])  # 10 of 10 is correct, 10.01 is not, 2 of 1.6 is not
    assert mean == pytest.approx(3 / 5)  # over labelled points of instances that have a reference


def test_nothing_labelled_is_nan() -> None:
    mean, each = pck(GT, GT, np.zeros((3, 3), int), np.ones(3), 0.2)
    assert np.isnan(mean)
    assert np.isnan(each).all()
    mean, each = pck(GT, GT, VISIBILITY, np.full(3, np.nan), 0.2)
    assert np.isnan(mean)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), factor=st.floats(0.1, 10))
def test_grows_with_the_threshold_and_is_free_of_scale(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0, 100, (6, 3, 2))
    pred = gt + rng.normal(size=gt.shape) * 10
    visibility, reference = rng.integers(0, 3, (6, 3)), rng.uniform(20, 90, 6)
    visibility[0, 0] = 2
    shares = [pck(pred, gt, visibility, reference, t)[0] for t in (0, 0.05, 0.1, 0.2, 0.5, 100)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert pck(pred * factor, gt * factor, visibility, reference * factor, 0.2)[0] == pytest.approx(shares[3])
