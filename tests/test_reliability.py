"""What the page says of scores and ellipses."""

import numpy as np

from polarpix.calibration import CLAIMS, Calibration, ScoreCounts
from polarpix.reliability import coverage_section, score_metrics, score_section

COUNTS = ScoreCounts()
COUNTS.add(np.full(100, 0.9), np.arange(100) < 30)
CURVE = Calibration((0.0, 1.0), (0.3, 0.3), "val", 500)


def test_the_error_is_given_before_and_after() -> None:
    bare = score_metrics(COUNTS, None)
    assert set(bare) == {"ECE"}
    both = score_metrics(COUNTS, CURVE)
    assert both["ECE_uncalibrated"] == bare["ECE"]
    assert both["ECE"] < 1e-6 < 0.5 < bare["ECE"]


def test_the_section_shows_both_lines_and_says_where_the_curve_is_from() -> None:
    bare = score_section("pose", COUNTS, None, "test")
    assert "not calibrated" in bare.text
    assert set(bare.curves[0].series) == {"a score that means what it says", "as it is"}
    section = score_section("seg", COUNTS, CURVE, "test")
    assert "Fitted on val" in section.text
    assert "this very split" not in section.text
    assert set(section.curves[0].series) == {"a score that means what it says", "calibrated", "before"}
    assert section.table is not None
    assert [float(str(value)) for value in section.table.rows[0][1:4]] == [1.0, np.float32(0.3), 0.3]
    assert "this very split" in score_section("seg", COUNTS, CURVE, "val").text


def test_the_ellipses_are_listed_by_their_claim() -> None:
    held = dict.fromkeys(CLAIMS, (0.5, 0.6))
    bare, measured = coverage_section(held, None), coverage_section(held, CURVE)
    assert bare.table is not None
    assert measured.table is not None
    assert [len(bare.table.headers), len(measured.table.headers)] == [2, 3]
    assert list(measured.table.rows[2]) == [CLAIMS[2], 0.5, 0.6]
