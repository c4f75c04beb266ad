"""Rows of `polarpix bench kernels --static`, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polarpix.report import Section, Table, Value

__all__ = ["Compiled", "Whole", "ratios", "report_sections"]


@dataclass(frozen=True)
class Compiled:
    """One kernel for one kind of map and one architecture; widths in bytes, of every access to a map.

    ``gradient`` is how the gradient of the output lies, empty where none is read; ``anew`` that the kernel spilled as
    its plan has it, and is therefore compiled anew, with more registers or threads.
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
    anew: bool
    shared: int
    threads: int
    occupancy: float
    load_bytes: list[int]
    store_bytes: list[int]


@dataclass(frozen=True)
class Whole:
    """Forward or backward of one map: launches, passes over the map beside the limit, and the time it should take.

    By card: microseconds of the bytes alone, those predicted, and what the longest launch waits for.
    """

    shape: list[int]
    dtype: str
    memory: str
    form: str
    direction: str
    launches: int
    passes: int
    limit: int
    megabytes: float
    bytes: dict[str, float]
    predicted: dict[str, float]
    waits_for: dict[str, str]

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What two maps are compared in."""
        return self.dtype, self.memory, self.form, self.direction


def span(values: Sequence[float], form: str = "{:,}") -> str:
    """Smallest and largest, or the one they all are."""
    ends = [form.format(end) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " .. ".join(ends)


def widths_text(rows: Sequence[list[int]]) -> str:
    """The widths that occur."""
    return ", ".join(map(str, sorted({width for row in rows for width in row}))) or "–"


def name_of(shape: Sequence[int]) -> str:
    """(32, 64, 64, 48) -> 32x64x64x48."""
    return "x".join(map(str, shape))


def ratios(odd: Whole, even: Whole) -> dict[str, float]:
    """Predicted time for each number of the odd map over that of its neighbour, by card."""
    longer = odd.megabytes / even.megabytes
    return {card: time / even.predicted[card] / longer for card, time in odd.predicted.items()}


def report_sections(
    compiled: Sequence[Compiled],
    whole: Sequence[Whole],
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    widest: Callable[[int, int, str, bool], int],
) -> list[Section]:
    """The page: a line for each kernel, architecture and dtype, over the maps and layouts; every row is in the record.

    Args:
        pairs: maps of an odd number of pixels, each with its even neighbour.
        widest: channels, pixels, dtype, channels_last -> bytes of the piece that can be had.
    """
    found = [kernels_section(compiled, widest)]
    if whole:
        found.append(times_section(whole))
    if pairs:
        found.append(odd_section(whole, pairs))
    return found


def kernels_section(compiled: Sequence[Compiled], widest: Callable[[int, int, str, bool], int]) -> Section:
    """What the compiler made of each kernel."""
    groups: dict[tuple[str, str, str, str, int], list[Compiled]] = {}
    for one in compiled:
        piece = widest(one.channels, one.pixels, one.dtype, one.memory == "channels_last")
        moves = piece if one.load_bytes or one.store_bytes else 0
        memory = one.memory if moves else "–"
        memory += f", gradient {one.gradient}" if one.gradient not in ("", one.memory) else ""
        groups.setdefault((one.kernel, one.architecture, one.dtype if moves else "–", memory, moves), []).append(one)
    head = ["kernel", "for", "dtype", "memory", "pieces, B", "compiled", "C", "registers", "spilled", "anew", "shared",
            "threads", "occupancy", "loads, B", "stores, B"]  # fmt: skip
    rows: list[list[Value]] = [
        [
            kernel, architecture, dtype, memory, piece or "–", len(found), span([one.channels for one in found]),
            span([one.registers for one in found]), span([one.spilled for one in found]),
            sum(one.anew for one in found), span([one.shared for one in found]), span([one.threads for one in found]),
            span([one.occupancy for one in found], "{:.2f}"), widths_text([one.load_bytes for one in found]),
            widths_text([one.store_bytes for one in found]),
        ]
        for (kernel, architecture, dtype, memory, piece), found in groups.items()
    ]  # fmt: skip
    told = (
        "Forms, layouts and maps of a kernel together: smallest and largest; anew: how many were compiled anew, with "
        "more registers or threads. gate and grad_gate see the map of small samples only, gate always in the released "
        "form. Every one has its row in the record."
    )
    return Section("Kernels", told, Table(head, rows))


def times_section(whole: Sequence[Whole]) -> Section:
    """Passes and times of the maps: the time of the bytes alone, then the predicted one where it is longer."""
    cards = list(whole[0].predicted)
    rows: list[list[Value]] = []
    for one in whole:
        cells = [
            f"{one.bytes[c]:.1f} / {one.predicted[c]:.1f}"
            + ("" if one.waits_for[c] == "bytes" else f" {one.waits_for[c]}")
            for c in cards
        ]
        told: list[Value] = [name_of(one.shape), one.dtype, one.memory, one.form, one.direction]
        rows.append([*told, one.launches, one.passes, one.limit, f"{one.megabytes:.1f}", *cells])
    heads = ["map", "dtype", "memory", "form", "direction", "launches", "passes", "limit", "MB a pass"]
    text = "us of the bytes alone / predicted, and what the longest launch waits for where that is not the bytes."
    return Section("Times, predicted", text, Table([*heads, *cards], rows))


def odd_section(whole: Sequence[Whole], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Section:
    """Maps of an odd number of pixels beside an even neighbour."""
    cards = list(whole[0].predicted)
    named = {(tuple(one.shape), one.kind): one for one in whole}
    rows: list[list[Value]] = []
    for odd, even in pairs:
        for (shape, kind), one in named.items():
            if shape == tuple(odd) and (tuple(even), kind) in named:
                over = ratios(one, named[tuple(even), kind])
                rows.append([name_of(odd), name_of(even), *kind, *(f"{over[card]:.2f}" for card in cards)])
    text = "Predicted time for each number over that of the neighbour."
    return Section(
        "Odd numbers of pixels", text, Table(["map", "neighbour", "dtype", "memory", "form", "direction", *cards], rows)
    )
