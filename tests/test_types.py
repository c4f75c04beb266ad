"""The value classes refuse what cannot be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.types import ClassTable, KeypointSchema, PosePrediction, SegBatch


def schema(**change: object) -> KeypointSchema:
    values = {
        "names": ("nose", "left_eye", "right_eye"),
        "flip_pairs": ((1, 2),),
        "skeleton": ((0, 1), (0, 2)),
        "sigmas": (0.02, 0.03, 0.03),
        "sigmas_from": "test",
    }
    return KeypointSchema(**(values | change))  # type: ignore[arg-type]  # wrong on purpose in some tests


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ()}, "no names"),
        ({"names": ("a", "a", "b")}, "names repeat"),
        ({"sigmas": (0.1, 0.1)}, "2 sigmas for 3 names"),
        ({"sigmas": (0.1, 0.0, 0.1)}, "must be positive"),
        ({"sigmas": (0.1, float("nan"), 0.1)}, "must be positive"),
        ({"flip_pairs": ((1, 3),)}, r"indices must lie in 0\.\.2"),
        ({"flip_pairs": ((0, 1), (1, 2))}, "name a keypoint twice"),
        ({"flip_pairs": ((1, 1),)}, "name a keypoint twice"),
        ({"skeleton": ((0, -1),)}, r"indices must lie in 0\.\.2"),
        ({"skeleton": ((0, 1, 2),)}, "skeleton holds"),
    ],
)
def test_schemas_that_cannot_be(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        schema(**change)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(7)), st.integers(0, 3))
def test_flipping_twice_is_no_flip(order: list[int], pairs: int) -> None:
    found = schema(
        names=tuple("abcdefg"),
        flip_pairs=tuple((order[2 * i], order[2 * i + 1]) for i in range(pairs)),
        sigmas=(0.1,) * 7,
    ).flip_order
    assert [found[i] for i in found] == list(range(7))
    assert sum(i != j for i, j in enumerate(found)) == 2 * pairs


@pytest.mark.parametrize(
    ("names", "colors", "ignore", "words"),
    [
        ((), (), 255, "no names"),
        (("a", "b"), ((0, 0, 0),), 255, "1 colors for 2 names"),
        (("a", "b"), ((0, 0, 0), (9, 9, 9)), 1, "ignore label 1 is also class 'b'"),
    ],
)
def test_class_tables_that_cannot_be(
    names: tuple[str, ...], colors: tuple[tuple[int, int, int], ...], ignore: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ClassTable(names, colors, ignore)


def test_instances_are_scored_by_box_and_keypoints() -> None:
    found = PosePrediction(
        keypoints=np.zeros((2, 3, 2), np.float32),
        scores=np.array([[0.2, 0.4, 0.6], [1, 1, 1]], np.float32),
        boxes=np.ones((2, 4), np.float32),
        box_scores=np.array([0.5, 0.25], np.float32),
    )
    np.testing.assert_allclose(found.instance_scores, [0.2, 0.25])
    empty = PosePrediction(*(np.zeros(s, np.float32) for s in ((0, 3, 2), (0, 3), (0, 4), (0,))))
    assert empty.instance_scores.shape == (0,)
    with pytest.raises(ValueError, match="scores hold 2 instances, boxes 1"):
        PosePrediction(found.keypoints[:1], found.scores, found.boxes[:1], found.box_scores[:1])
    with pytest.raises(ValueError, match=r"must be \[N, K, 2\]"):
        PosePrediction(found.scores, found.scores, found.boxes, found.box_scores)
    with pytest.raises(ValueError, match=r"covariance is \(2, 3, 2\); must be \(2, 3, 2, 2\)"):
        PosePrediction(found.keypoints, found.scores, found.boxes, found.box_scores, covariance=found.keypoints)


def test_a_batch_moves_whole() -> None:
    batch = SegBatch(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1))
    moved = batch.to(torch.float64)
    assert isinstance(moved, SegBatch)
    assert moved.image.dtype == moved.label.dtype == moved.index.dtype == torch.float64
