"""Rows of the static report as a page: what is put together and what is kept apart."""

from polarpix.bench.kernels_page import Compiled, Whole, report_sections


def row(kernel="scale", channels=64, pixels=48, registers=40, spilled=0, loads=(16,), stores=(16,), gradient=""):
    return Compiled(
        kernel, "paper", "parallel", "bf16", channels, pixels, "contiguous", gradient, "sm_90", registers, spilled,
        1024, 256, 0.5, list(loads), list(stores),
    )  # fmt: skip


def piece(channels, pixels, dtype, last):
    return 2 if pixels % 2 else 16


def test_one_line_for_each_kernel_and_piece():
    compiled = [
        row(),
        row(channels=2048, registers=255, spilled=8),
        row(pixels=65, loads=(2,), stores=(2, 4)),
        row("gate", loads=(), stores=()),
        row("grad_pool", stores=(), gradient="contiguous"),
        row("grad_pool", stores=(), gradient="channels_last"),
    ]
    section = report_sections(compiled, [], piece)[0]
    assert section.table is not None
    assert [line[:1] + line[2:9] + line[-2:] for line in section.table.rows] == [
        ["scale", "bf16", "contiguous", 16, 2, "64 .. 2,048", "40 .. 255", "0 .. 8", "16", "16"],
        ["scale", "bf16", "contiguous", 2, 1, "64", "40", "0", "2", "2, 4"],
        ["gate", "–", "–", "–", 1, "64", "40", "0", "–", "–"],
        ["grad_pool", "bf16", "contiguous", 16, 1, "64", "40", "0", "16", "–"],
        ["grad_pool", "bf16", "contiguous, gradient channels_last", 16, 1, "64", "40", "0", "16", "–"],
    ]


def test_bytes_of_a_map():
    whole = Whole([32, 64, 64, 48], "released", "forward", 3, 4, 3, 12.58, {"H100 SXM": 15.02})
    section = report_sections([], [whole], piece)[1]
    assert section.table is not None
    assert section.table.headers[-1] == "H100 SXM, us"
    assert section.table.rows == [["32x64x64x48", "released", "forward", 3, 4, 3, "12.6", "15.0"]]
