"""Dots and bars where gains and costs are."""

import numpy as np
import pytest

from polarpix.bench.accuracy_page import AccuracyRow, Costs, Difference
from polarpix.bench.accuracy_plot import Point, even_ticks, gain_plot, points
from polarpix.bench.plot import SCALE, color_of
from polarpix.bench.timing import Spread

SAME, MORE = Spread(1.0, 1.0, 1.0, 7), Spread(1.5, 1.4, 1.6, 7)
ROWS = [
    AccuracyRow("none", [0, 1], 0.5, 0.1, None, Costs(1, 100, 100, step_ratio=SAME)),
    AccuracyRow("se", [0, 1], 0.6, 0.1, Difference(0.1, -0.1, 0.3, 2), Costs(1, 100, 110, step_ratio=MORE)),
    AccuracyRow("gc", [0], 0.4, None, Difference(-0.1, None, None, 1), Costs(1, 100, 120)),
    AccuracyRow("nl", [0], 0.4, None, None, Costs(1, 100, 120)),
]


def test_costs_are_ratios_and_signs_turn_where_lower_is_better() -> None:
    counted, timed = points(ROWS, lower=False).values()
    assert counted == [Point("se", 1.1, 0.1, -0.1, 0.3), Point("gc", 1.2, -0.1, None, None)]
    assert timed == [Point("se", 1.5, 0.1, -0.1, 0.3)]
    assert points(ROWS, lower=True).popitem()[1] == [Point("se", 1.5, -0.1, -0.3, 0.1)]
    assert points(ROWS[1:], lower=False) == {}


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 0.06, [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06]),
        (-0.03, 0.05, [-0.04, -0.02, 0, 0.02, 0.04, 0.06]),
        (1.0, 2.3, [1.0, 1.5, 2.0, 2.5]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, ticks: list[float]) -> None:
    assert even_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-4])
def test_ticks_differ_for_a_single_value(value: float) -> None:
    ticks = even_ticks(value, value)
    assert ticks[0] <= value <= ticks[-1]
    assert ticks[-1] > ticks[0]


def test_more_gain_lies_higher_and_bars_reach_to_their_ends() -> None:
    found = [Point("a", 1.2, 0.1, 0.0, 0.2), Point("b", 1.4, 0.2, None, None)]
    picture = gain_plot("T", "gain", {"cost": found})
    assert picture is not None
    places = {}
    for i, name in enumerate("ab"):
        rows, columns = np.nonzero((picture == color_of(i)).all(axis=2))
        places[name] = rows.min(), rows.max(), np.median(columns)
    assert places["a"][2] < places["b"][2]
    assert places["a"][1] - places["a"][0] > 100 * SCALE
    assert places["b"][1] < places["a"][1]
    assert gain_plot("T", "gain", {}) is None
