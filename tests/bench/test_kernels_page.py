"""Rows of the static report as a page: what is put together and what is kept apart."""

import pytest

from polarpix.bench.kernels_page import Compiled, Whole, ratios, report_sections


def row(
    kernel="scale", channels=64, pixels=48, registers=40, spilled=0, loads=(16,), stores=(16,), gradient="", anew=False
):
    return Compiled(
        kernel, "paper", "parallel", "bf16", channels, pixels, "contiguous", gradient, "sm_90", registers, spilled,
        anew, 1024, 256, 0.5, list(loads), list(stores),
    )  # fmt: skip


def piece(channels, pixels, dtype, last):
    return 2 if pixels % 2 else 16


def test_one_line_for_each_kernel_and_piece():
    compiled = [
        row(),
        row(channels=2048, registers=255, spilled=8, anew=True),
        row(pixels=65, loads=(2,), stores=(2, 4)),
        row("gate", loads=(), stores=()),
        row("grad_pool", stores=(), gradient="contiguous"),
        row("grad_pool", stores=(), gradient="channels_last"),
    ]
    section = report_sections(compiled, [], [], piece)[0]
    assert section.table is not None
    assert [line[:1] + line[2:10] + line[-2:] for line in section.table.rows] == [
        ["scale", "bf16", "contiguous", 16, 2, "64 .. 2,048", "40 .. 255", "0 .. 8", 1, "16", "16"],
        ["scale", "bf16", "contiguous", 2, 1, "64", "40", "0", 0, "2", "2, 4"],
        ["gate", "–", "–", "–", 1, "64", "40", "0", 0, "–", "–"],
        ["grad_pool", "bf16", "contiguous", 16, 1, "64", "40", "0", 0, "16", "–"],
        ["grad_pool", "bf16", "contiguous, gradient channels_last", 16, 1, "64", "40", "0", 0, "16", "–"],
    ]


def whole(shape=(32, 64, 64, 48), megabytes=12.58, predicted=15.02, cause="bytes"):
    card = "H100 SXM"
    return Whole(
        list(shape), "bf16", "contiguous", "released", "forward", 3, 4, 3, megabytes, {card: 15.02}, {card: predicted},
        {card: cause},
    )  # fmt: skip


def test_times_of_a_map():
    section = report_sections([], [whole(), whole(predicted=20.0, cause="instructions")], [], piece)[1]
    assert section.table is not None
    told = ["32x64x64x48", "bf16", "contiguous", "released", "forward", 3, 4, 3, "12.6"]
    assert section.table.rows == [[*told, "15.0 / 15.0"], [*told, "15.0 / 20.0 instructions"]]


def test_odd_beside_even():
    """Time for each number: the odd map is a tenth smaller and takes a third longer."""
    odd, even = whole((1, 2, 3, 3), 9, 40.0), whole((1, 2, 5, 2), 10, 30.0)
    assert ratios(odd, even) == {"H100 SXM": pytest.approx(40 / 30 * 10 / 9)}
    section = report_sections([], [odd, even], [((1, 2, 3, 3), (1, 2, 5, 2))], piece)[2]
    assert section.table is not None
    assert section.table.rows == [["1x2x3x3", "1x2x5x2", "bf16", "contiguous", "released", "forward", "1.48"]]
