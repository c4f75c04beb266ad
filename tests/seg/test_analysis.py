"""What is read from a confusion matrix per class, and which pictures are kept, against cases counted by hand."""

import math

import numpy as np
import pytest

from polarpix.seg.analysis import Ranking, class_rows, confusions, picture_score

COUNTS = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 4, 0, 0]])
"""Of 8, 4, 0 and 4 pixels of the classes a, b, c and d, 7, 9, 0 and 0 were predicted."""


def test_one_row_per_class() -> None:
    a, b, c, d = class_rows(COUNTS, ("a", "b", "c", "d"))
    assert (a.iou, a.accuracy, a.precision, a.pixels, a.predicted) == pytest.approx((6 / 9, 6 / 8, 6 / 7, 8, 7))
    assert (b.iou, b.accuracy, b.precision) == pytest.approx((3 / 10, 3 / 4, 3 / 9))
    assert all(math.isnan(value) for value in (c.iou, c.accuracy, c.precision))
    assert (d.iou, d.accuracy, d.pixels, d.predicted) == (0, 0, 4, 0)
    assert math.isnan(d.precision)


def test_the_largest_confusions() -> None:
    assert confusions(COUNTS, 2) == [(4, 3, 1), (2, 0, 1)]
    assert confusions(COUNTS, 9)[-1] == (1, 1, 0)
    assert confusions(np.diag([3, 4]), 9) == []


def test_a_picture_is_scored_by_the_classes_it_holds() -> None:
    assert picture_score(COUNTS) == pytest.approx((6 / 9 + 3 / 10 + 0) / 3)
    only_predicted = np.array([[8, 2], [0, 0]])
    assert picture_score(only_predicted) == pytest.approx(0.8)
    assert math.isnan(picture_score(np.zeros((2, 2), np.int64)))


def test_what_is_kept_does_not_grow() -> None:
    scores = [0.5, 0.9, math.nan, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6]
    ranking = Ranking(chosen=[2, 4], keep=2)
    for position, score in enumerate(scores):
        ranking.add(position, score, np.full((2, 2), position, np.uint8))
        assert len(ranking.labels) <= 6
    assert set(ranking.labels) == {2, 4, 1, 6, 3, 7}  # chosen, the best two, the worst two
    assert all((label == position).all() for position, label in ranking.labels.items())
    assert len(ranking.scores) == 9
    ranking.gather()  # nothing happens in a single process
    assert len(ranking.scores) == 9


def test_nothing_is_kept_where_nothing_is_asked_for() -> None:
    ranking = Ranking([], 0)
    ranking.add(0, 0.5, np.zeros((2, 2), np.uint8))
    assert ranking.labels == {}
    assert ranking.scores == {0: 0.5}
