"""Ratios within rounds, and the page that shows them."""

import pytest

from polarpix.bench.model_page import ModelRow, compare, picture, sections
from polarpix.bench.timing import Samples


@pytest.fixture
def rows() -> list[ModelRow]:
    rows = [ModelRow("tiny", "train", variant, 4, [64, 32]) for variant in ("none", "se", "psa_p:fused", "other")]
    rows[0].state_bytes, rows[0].step_bytes = 100, 300
    rows[1].state_bytes, rows[1].step_bytes = 120, 300
    rows[2].notes["eager"] = rows[3].notes["eager"] = "not available: no device"
    found = {
        "none eager": Samples({0: 1.0, 1: 2.0, 2: 4.0}),
        "se eager": Samples({0: 1.5, 1: 2.0, 2: 5.0}),
        "se graph": Samples({0: 1.0}),
    }
    compare(rows, found)
    return rows


def test_times_and_ratios(rows: list[ModelRow]) -> None:
    none, se, fused, _ = rows
    assert none.times["eager"].median == 2000.0
    assert none.images_per_second["eager"] == 2.0
    assert none.ratio["eager"].median == 1.0
    assert se.ratio["eager"].median == 1.25  # of 1.5, 1 and 1.25; not of the medians
    assert set(se.times) == {"eager", "graph"}
    assert "graph" not in se.ratio  # nothing to hold it against
    assert se.memory_ratio == pytest.approx(1.05)
    assert (fused.times, fused.memory, fused.memory_ratio) == ({}, None, None)


def test_page_and_picture(rows: list[ModelRow]) -> None:
    (section,) = sections(rows)
    assert section.title == "tiny, train, 4 of 64x32"
    assert section.text == "- psa_p:fused, other, eager: not available: no device"
    assert section.table is not None
    assert [row[0] for row in section.table.rows] == ["none", "se"]
    assert section.table.rows[1][-3:] == ["2.00", "0.000401", "1.05"]
    shown = picture(rows, "cpu", "fp32")
    assert shown is not None
    assert picture(rows[:1], "cpu", "fp32") is None
