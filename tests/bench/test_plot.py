"""Dots where their values are."""

import numpy as np
import pytest

from polarpix.bench.plot import Panel, dot_plot, log_ticks
from polarpix.types import UInt8Array

BLUE, ORANGE = (37, 99, 235), (232, 89, 12)


def centres(picture: UInt8Array, color: tuple[int, int, int], top: int) -> tuple[float, float]:
    """Mean column and row of a colour below ``top``."""
    rows, columns = np.nonzero((picture[top:] == color).all(axis=2))
    return float(columns.mean()), float(rows.mean()) + top


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.0, 40.0, [1, 2, 5, 10, 20, 50]),
        (0.3, 1.5, [0.2, 0.5, 1, 2]),
        (1.0, 1.07, [1, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07]),
        (0.97, 1.4, [0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4]),
        (1.0, 1.0, [1.0, 1.01]),
        (1000.0, 1000.0, [1000.0, 1010.0]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_dots_lie_on_a_logarithmic_axis() -> None:
    def across(value: float) -> float:
        values = {"a": [value], "b": [100.0]}
        return centres(dot_plot("T", "times", [Panel("P", ["row"], values)]), BLUE, 170)[0]

    assert across(10.0) - across(1.0) == pytest.approx(across(100.0) - across(10.0), abs=1.5)
    assert across(2.0) > across(1.0)


def test_rows_lie_below_each_other_and_gaps_stay_empty() -> None:
    picture = dot_plot("T", "times", [Panel("P", ["one", "two"], {"a": [3.0, None], "b": [None, 3.0]})])
    (x_a, y_a), (x_b, y_b) = centres(picture, BLUE, 170), centres(picture, ORANGE, 170)
    assert x_a == pytest.approx(x_b, abs=1)
    assert y_b - y_a == pytest.approx(52, abs=2)


def test_panels_stand_in_two_columns_with_one_key() -> None:
    panel = Panel("P", ["row"], {"a": [3.0]})
    one, two, three = (dot_plot("T", "times", [panel] * n) for n in (1, 2, 3))
    assert two.shape[1] == three.shape[1] == 2 * one.shape[1]
    assert three.shape[0] > two.shape[0] == one.shape[0]
    names = {f"a rather long name {i}": [2.0] for i in range(12)}
    assert dot_plot("T", "times", [Panel("P", ["row"], names)]).shape[0] > one.shape[0]
