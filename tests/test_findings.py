"""Which samples are shown: the worst, the best, and some in between."""

import math

import numpy as np

from polarpix.findings import BEST, WORST, Sample, beside, choose, spread


def test_the_worst_and_the_best() -> None:
    scores = np.array([0.5, math.nan, 0.9, 0.1, 0.7, 0.3])
    assert choose(scores, 2) == {WORST: [3, 5], BEST: [2, 4]}
    assert choose(scores, 9) == {WORST: [3, 5, 0], BEST: [2, 4]}  # no sample twice
    assert choose(np.array([0.5]), 6) == {WORST: [0], BEST: []}
    assert choose(np.array([math.nan]), 6) == {WORST: [], BEST: []}


def test_samples_spread_over_a_split() -> None:
    assert spread(9, 3) == [0, 4, 8]
    assert spread(2, 5) == [0, 1]
    assert spread(0, 5) == []


def test_names_say_which_instance() -> None:
    assert Sample("a.jpg", 0.5).name == "a.jpg"
    assert Sample("a.jpg", 0.5, 7).name == "a.jpg, instance 7"


def test_two_pictures_beside_each_other_stay_narrow() -> None:
    left, right = np.zeros((20, 40, 3), np.uint8), np.full((20, 40, 3), 200, np.uint8)
    both = beside(left, right)
    assert both.shape == (20, 84, 3)
    assert (both[:, :40] == 0).all()
    assert (both[:, -40:] == 200).all()
    wide = beside(np.zeros((1000, 2000, 3), np.uint8), np.zeros((1000, 2000, 3), np.uint8))
    assert wide.shape[1] == 760
    assert 180 <= wide.shape[0] <= 200
