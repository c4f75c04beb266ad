"""Rows of `polarpix bench kernels --static`, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polarpix.report import Section, Table, Value

__all__ = ["Compiled", "Whole", "report_sections"]


@dataclass(frozen=True)
class Compiled:
    """One kernel for one kind of map and one architecture; widths in bytes, of every access to a map.

    ``gradient`` is how the gradient of the output lies, empty where none is read.
    """

    kernel: str
    form: str
    layout: str
    dtype: str
    channels: int
    pixels: int
    memory: str
    gradient: str
    architecture: str
    registers: int
    spilled: int
    shared: int
    threads: int
    occupancy: float
    load_bytes: list[int]
    store_bytes: list[int]


@dataclass(frozen=True)
class Whole:
    """Forward or backward of one map: launches, passes over the map beside the limit, and the time the bytes take."""

    shape: list[int]
    form: str
    direction: str
    launches: int
    passes: int
    limit: int
    megabytes: float
    microseconds: dict[str, float]


def span(values: Sequence[float], form: str = "{:,}") -> str:
    """Smallest and largest, or the one they all are."""
    ends = [form.format(end) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " .. ".join(ends)


def widths_text(rows: Sequence[list[int]]) -> str:
    """The widths that occur."""
    return ", ".join(map(str, sorted({width for row in rows for width in row}))) or "–"


def report_sections(
    compiled: Sequence[Compiled], whole: Sequence[Whole], widest: Callable[[int, int, str, bool], int]
) -> list[Section]:
    """The page: a line for each kernel, architecture and dtype, over the maps and layouts; every row is in the record.

    Args:
        widest: channels, pixels, dtype, channels_last -> bytes of the piece that can be had.
    """
    groups: dict[tuple[str, str, str, str, int], list[Compiled]] = {}
    for one in compiled:
        piece = widest(one.channels, one.pixels, one.dtype, one.memory == "channels_last")
        moves = piece if one.load_bytes or one.store_bytes else 0
        memory = one.memory if moves else "–"
        memory += f", gradient {one.gradient}" if one.gradient not in ("", one.memory) else ""
        groups.setdefault((one.kernel, one.architecture, one.dtype if moves else "–", memory, moves), []).append(one)
    head = ["kernel", "for", "dtype", "memory", "pieces, B", "compiled", "C", "registers", "spilled", "shared",
            "threads", "occupancy", "loads, B", "stores, B"]  # fmt: skip
    rows: list[list[Value]] = [
        [
            kernel, architecture, dtype, memory, piece or "–", len(found), span([one.channels for one in found]),
            span([one.registers for one in found]), span([one.spilled for one in found]),
            span([one.shared for one in found]), span([one.threads for one in found]),
            span([one.occupancy for one in found], "{:.2f}"), widths_text([one.load_bytes for one in found]),
            widths_text([one.store_bytes for one in found]),
        ]
        for (kernel, architecture, dtype, memory, piece), found in groups.items()
    ]  # fmt: skip
    cards = list(whole[0].microseconds) if whole else []
    times: list[list[Value]] = [
        [
            "x".join(map(str, one.shape)), one.form, one.direction, one.launches, one.passes, one.limit,
            f"{one.megabytes:.1f}", *(f"{value:.1f}" for value in one.microseconds.values()),
        ]
        for one in whole
    ]  # fmt: skip
    told = "Forms, layouts and maps of a kernel together: smallest and largest. Every one has its row in the record."
    heads = ["map, bf16", "form", "direction", "launches", "passes", "limit", "MB a pass", *(f"{c}, us" for c in cards)]
    return [Section("Kernels", told, Table(head, rows)), Section("Bytes", table=Table(heads, times))]
