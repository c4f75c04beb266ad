"""Ratios, means and exponents from known times, and the page that shows them."""

import pytest

from polarpix.bench.block_page import BlockRow, Shape, compare, exponents, means, picture, sections
from polarpix.bench.timing import Spread

SMALL, LARGE = (1, 8, 4, 4), (1, 8, 4, 8)


def row(label: str, shape: Shape, mode: str = "fwd", bytes_: int = 1000, **ms: float) -> BlockRow:
    name, _, impl = label.partition(":")
    times = {way: Spread(time, time, time, 5) for way, time in ms.items()}
    return BlockRow(shape, mode, "contiguous", name, impl or None, bytes_, limit_ms=2.0, times=times)


def test_rows_are_held_against_the_limit_and_the_same_block_conv_by_conv() -> None:
    rows = [
        row("psa_p:reference", SMALL, eager=12.0, graph=8.0),
        row("psa_p:collapsed", SMALL, eager=3.0, compiled=1.0),
        row("psa_s:collapsed", SMALL, eager=3.0),
        row("psa_p:collapsed", LARGE, eager=3.0),
        row("psa_p:collapsed", SMALL, mode="fwdbwd", eager=3.0),
        row("se", SMALL, eager=1.0),
    ]
    rows[1].peak_bytes = 2500
    compare(rows)
    assert rows[0].over_limit == {"eager": 6.0, "graph": 4.0}
    assert rows[0].speedup == {"eager": 1.0, "graph": 1.0}
    assert rows[1].speedup == {"eager": 4.0}  # nothing compiled to hold the other against
    assert rows[1].peak_maps == 2.5
    assert [r.speedup for r in rows[2:]] == [{}, {}, {}, {}]
    assert rows[5].over_limit == {"eager": 0.5}
    assert [r.way for r in rows[:2]] == ["graph", "eager"]


def test_means_over_shapes() -> None:
    rows = [
        row("psa_p:reference", SMALL, eager=8.0),
        row("psa_p:reference", LARGE, bytes_=20_000_000, eager=16.0),
        row("psa_p:collapsed", SMALL, eager=4.0),
        row("psa_p:collapsed", LARGE, bytes_=20_000_000, eager=2.0),
        row("se", SMALL, eager=2.0),
        row("nl", SMALL),
    ]
    compare(rows)
    found = {mean.label: mean for mean in means(rows, "cpu")}
    assert set(found) == {"psa_p:reference", "psa_p:collapsed", "se"}
    collapsed = found["psa_p:collapsed"]
    assert collapsed.speedup == pytest.approx(4.0)  # of 2 and 8
    assert (collapsed.least_speedup, collapsed.shapes) == (2.0, 2)
    assert collapsed.over_limit == pytest.approx(2**0.5)  # of 2 and 1
    assert collapsed.over_limit_large == 1.0
    assert (found["se"].speedup, found["se"].over_limit_large) == (None, None)
    assert next(m for m in means(rows, "cuda") if m.label == "psa_p:collapsed").over_limit_large is None


def test_exponents_of_pixels_and_channels() -> None:
    shapes = [(1, 8, 4, 4), (1, 8, 8, 4), (1, 8, 8, 8), (1, 16, 4, 4), (1, 32, 4, 4)]
    rows = [row("psa_p:reference", s, eager=1e-3 * s[1] ** 2 * s[2] * s[3]) for s in shapes]
    found = {e.axis: e for e in exponents(rows, (1, 8, 4, 4))}
    assert found["P"].exponent == pytest.approx(1.0)
    assert found["C"].exponent == pytest.approx(2.0)
    assert (found["P"].sizes, found["C"].sizes) == ([16, 32, 64], [8, 16, 32])
    assert found["C"].distance == pytest.approx(0.0, abs=1e-9)
    assert exponents(rows[:1], (1, 8, 4, 4)) == []


def test_the_page_shows_what_is_there_and_says_what_is_not() -> None:
    rows = [
        row("psa_p:reference", SMALL, eager=8.0, graph=4.0),
        row("psa_p:fused", SMALL),
        row("psa_s:fused", SMALL),
        row("nl", SMALL, eager=1.0),
        row("nl", LARGE),
    ]
    rows[1].notes["eager"] = rows[2].notes["eager"] = "not available: no device"
    rows[4].notes["eager"] = "not available: too large"
    compare(rows)
    first, group = sections(rows, means(rows, "cpu"), [], "a scaling")
    assert "limit: a scaling" in first.text
    assert first.table is not None
    assert [r[:4] for r in first.table.rows] == [
        ["psa_p:reference", "fwd", "contiguous", "eager"],
        ["psa_p:reference", "fwd", "contiguous", "graph"],
        ["nl", "fwd", "contiguous", "eager"],
    ]
    assert group.table is not None
    assert [r[1] for r in group.table.rows] == ["psa_p:reference", "nl"]
    assert group.table.rows[0][2:] == ["2.00", "8.00 (8.00..8.00)", "4.00 (4.00..4.00)", "2.00", "1.00", None, "–"]
    assert group.text.splitlines() == [
        "- psa_p:fused, psa_s:fused, eager: not available: no device (1,8,4,4)",
        "- nl, eager: not available: too large (1,8,4,8)",
    ]
    shown = picture(rows, "cpu", "fp32", "a scaling")
    assert shown is not None
    assert shown.ndim == 3
    assert picture([row("nl", SMALL)], "cpu", "fp32", "a scaling") is None
