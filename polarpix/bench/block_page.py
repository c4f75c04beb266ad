"""Rows of `polarpix bench block`, what follows from them by arithmetic, and the page and picture that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from polarpix.bench.plot import Panel, dot_plot
from polarpix.bench.record import figure, spread_text
from polarpix.bench.timing import Spread, fitted_exponent, geometric_mean
from polarpix.report import Section, Table
from polarpix.types import UInt8Array

__all__ = ["BlockRow", "Exponent", "Mean", "Ruler", "Shape", "compare", "exponents", "means", "picture", "sections"]

Shape = tuple[int, int, int, int]  # B, C, H, W
Cell = str | int | float | bool | None

WAYS = ("eager", "graph", "compiled", "compiled_graph")
LARGE_BYTES = {"cuda": 25_000_000, "cpu": 10_000_000}  # maps that the goals for large ones are about
PLOTTED = ("psa_p:reference", "psa_p:collapsed", "psa_p:loops", "psa_p:fused", "psa_p_released:reference",
           "psa_s:collapsed", "se", "gc", "cbam")  # fmt: skip


@dataclass(frozen=True)
class Ruler:
    """What the times of one shape are held against, measured in turns with them."""

    shape: Shape
    mode: str
    memory_format: str
    map_bytes: int
    limit_ms: float
    times: dict[str, Spread]  # what was measured for it


@dataclass
class BlockRow:
    """One block on one shape."""

    shape: Shape
    mode: str
    memory_format: str
    block: str  # a row of the shelf
    impl: str | None  # of polarized self-attention
    map_bytes: int  # of x
    limit_ms: float = 0.0
    times: dict[str, Spread] = field(default_factory=dict)  # eager, graph, compiled, compiled_graph
    over_limit: dict[str, float] = field(default_factory=dict)  # median over limit_ms
    speedup: dict[str, float] = field(default_factory=dict)  # median of the same block conv by conv over median
    launches: int | None = None  # CUDA: kernels, copies, fills; CPU: operators
    peak_bytes: int | None = None  # allocated at once, results included
    peak_maps: float | None = None  # the same over map_bytes
    notes: dict[str, str] = field(default_factory=dict)  # way -> why it is not available

    @property
    def label(self) -> str:
        """The block as the command line names it."""
        return f"{self.block}:{self.impl}" if self.impl else self.block

    @property
    def way(self) -> str | None:
        """How it is compared: in a graph where there is one, else eagerly."""
        return next((way for way in ("graph", "eager") if way in self.times), None)


@dataclass(frozen=True)
class Mean:
    """One block over all shapes of a mode and memory format."""

    label: str
    mode: str
    memory_format: str
    way: str
    shapes: int
    speedup: float | None  # geometric mean
    least_speedup: float | None
    over_limit: float  # geometric mean
    over_limit_large: float | None  # the largest on large maps


@dataclass(frozen=True)
class Exponent:
    """time ~ size^exponent along one axis."""

    label: str
    mode: str
    axis: str  # P pixels or C channels
    sizes: list[int]
    times_ms: list[float]
    exponent: float
    distance: float  # largest relative one of a time from the fitted curve


def compare(rows: Iterable[BlockRow]) -> None:
    """Fill over_limit, peak_maps and, from the rows of the same block conv by conv, speedup."""
    rows = list(rows)
    truth = {(r.shape, r.mode, r.memory_format, r.block): r for r in rows if r.impl == "reference"}
    for row in rows:
        base = truth.get((row.shape, row.mode, row.memory_format, row.block)) if row.impl else None
        row.over_limit = {way: time.median / row.limit_ms for way, time in row.times.items() if row.limit_ms}
        if base is not None:
            both = (way for way in row.times if way in base.times)
            row.speedup = {way: base.times[way].median / row.times[way].median for way in both}
        if row.peak_bytes is not None:
            row.peak_maps = row.peak_bytes / row.map_bytes


def means(rows: Iterable[BlockRow], device: str) -> list[Mean]:
    """What the compared rows come to over all shapes, for every way there is."""
    groups: dict[tuple[str, str, str, str], list[BlockRow]] = {}
    for row in rows:
        for way in row.times:
            groups.setdefault((row.label, row.mode, row.memory_format, way), []).append(row)
    result = []
    for (label, mode, memory_format, way), group in groups.items():
        speedups = [row.speedup[way] for row in group if way in row.speedup]
        large = [row.over_limit[way] for row in group if row.map_bytes >= LARGE_BYTES[device]]
        result.append(
            Mean(
                label,
                mode,
                memory_format,
                way,
                len(group),
                geometric_mean(speedups) if speedups else None,
                min(speedups, default=None),
                geometric_mean([row.over_limit[way] for row in group]),
                max(large, default=None),
            )
        )
    return result


def exponents(rows: Iterable[BlockRow], base: Shape) -> list[Exponent]:
    """The sweep's rows -> exponents: along P at the base's B and C, along C at its B and P."""
    pixels = base[2] * base[3]
    lines: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        batch, c, h, w = row.shape
        if row.way is None or batch != base[0]:
            continue
        time = row.times[row.way].median
        if c == base[1]:
            lines.setdefault((row.label, row.mode, "P"), {})[h * w] = time
        if h * w == pixels:
            lines.setdefault((row.label, row.mode, "C"), {})[c] = time
    result = []
    for (label, mode, axis), points in lines.items():
        sizes = sorted(points)
        times = [points[size] for size in sizes]
        if len(sizes) > 1:
            result.append(Exponent(label, mode, axis, sizes, times, *fitted_exponent(sizes, times)))
    return result


def shape_text(shape: Shape) -> str:
    """As the option takes it."""
    return ",".join(map(str, shape))


def sections(
    rows: Sequence[BlockRow], averages: Sequence[Mean], curves: Sequence[Exponent], unit: str
) -> list[Section]:
    """The page: averages first, the sweep, then every mode and memory format.

    Args:
        unit: what the limit is, in words.
    """
    head = ["block", "mode", "memory format", "way", "shapes", "speed-up", "least", "time/limit", "most, large maps"]
    cells: list[list[Cell]] = [
        [m.label, m.mode, m.memory_format, m.way, m.shapes, figure(m.speedup), figure(m.least_speedup),
         figure(m.over_limit), figure(m.over_limit_large)]
        for m in averages
    ]  # fmt: skip
    told = f"Geometric means over the shapes. Speed-up over the same block conv by conv; limit: {unit}."
    page = [Section("Over all shapes", told, Table(head, cells))]
    if curves:
        head = ["block", "mode", "axis", "exponent", "off the curve", "sizes", "ms"]
        cells = [
            [e.label, e.mode, e.axis, figure(e.exponent), figure(e.distance), " ".join(map(str, e.sizes)),
             " ".join(map(figure, e.times_ms))]
            for e in curves
        ]  # fmt: skip
        page.append(Section("Scaling", "time ~ size^exponent, P pixels or C channels.", Table(head, cells)))
    for mode, memory_format in dict.fromkeys((row.mode, row.memory_format) for row in rows):
        group = [row for row in rows if (row.mode, row.memory_format) == (mode, memory_format)]
        page.append(group_section(f"{mode}, {memory_format}", group))
    return page


def group_section(title: str, rows: Sequence[BlockRow]) -> Section:
    """The rows of one mode and memory format; what is not available in words below."""
    ways = [way for way in WAYS if any(way in row.times for row in rows)]
    head = ["B,C,H,W", "block", "limit ms", *(f"{way} ms" for way in ways), "time/limit", "speed-up", "launches",
            "peak maps"]  # fmt: skip
    cells = [
        [
            shape_text(row.shape),
            row.label,
            figure(row.limit_ms),
            *(spread_text(row.times.get(way)) for way in ways),
            figure(row.over_limit.get(row.way)),
            figure(row.speedup.get(row.way)),
            row.launches,
            figure(row.peak_maps),
        ]
        for row in rows
        if row.way is not None
    ]
    return Section(title, "\n".join(note_lines(rows)), Table(head, cells))


def note_lines(rows: Sequence[BlockRow]) -> list[str]:
    """What is not available, one line for each reason: the blocks it holds for, and the shapes if not for all."""
    shapes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for way, note in row.notes.items():
            shapes.setdefault((row.label, way, note), []).append(shape_text(row.shape))
    everywhere = len({row.shape for row in rows})
    blocks: dict[tuple[str, str, str], list[str]] = {}
    for (label, way, note), found in shapes.items():
        where = "" if len(found) == everywhere else f" ({' '.join(found)})"
        blocks.setdefault((way, note, where), []).append(label)
    return [f"- {', '.join(labels)}, {way}: {note}{where}" for (way, note, where), labels in blocks.items()]


def picture(rows: Sequence[BlockRow], device: str, dtype: str, unit: str) -> UInt8Array | None:
    """Time over limit of the blocks people ask about, one panel per mode and memory format; null without a time."""
    timed = [row for row in rows if row.way in row.over_limit]
    labels = list(dict.fromkeys(row.label for row in timed))
    shown = [label for label in PLOTTED if label in labels] or labels[: len(PLOTTED)]
    panels = []
    for mode, memory_format in dict.fromkeys((row.mode, row.memory_format) for row in timed):
        group = [row for row in timed if (row.mode, row.memory_format) == (mode, memory_format)]
        shapes = list(dict.fromkeys(row.shape for row in group))
        values = {(row.label, row.shape): row.over_limit[row.way] for row in group if row.way}
        series = {label: [values.get((label, shape)) for shape in shapes] for label in shown}
        panels.append(Panel(f"{mode}, {memory_format}", [shape_text(shape) for shape in shapes], series))
    return (
        dot_plot(f"Time of attention blocks, {device}, {dtype}", f"times the limit: {unit}", panels) if panels else None
    )
