"""Rows of `polarpix bench model`, what follows from them by arithmetic, and the page and picture that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polarpix.bench.plot import Panel, dot_plot
from polarpix.bench.record import figure, spread_text
from polarpix.bench.timing import Samples, Spread, paired_ratio
from polarpix.report import Section, Table
from polarpix.types import UInt8Array

__all__ = ["ModelRow", "compare", "picture", "sections"]

BASE = "none"  # the attention of the network that the others are held against
WAYS = ("eager", "graph", "onnxruntime")


@dataclass
class ModelRow:
    """One network with one attention, or the network of another library."""

    network: str
    mode: str  # train, infer or onnx
    variant: str
    batch: int
    size: list[int]  # height and width
    params: int | None = None
    times: dict[str, Spread] = field(default_factory=dict)  # eager, graph, onnxruntime
    images_per_second: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, Spread] = field(default_factory=dict)  # to the network without attention
    state_bytes: int | None = None  # weights, buffers, optimiser
    step_bytes: int | None = None  # the most that one call allocates at once
    memory_ratio: float | None = None  # of both together
    notes: dict[str, str] = field(default_factory=dict)  # way -> why it is not available

    @property
    def memory(self) -> int | None:
        """All bytes alive at the highest point of a call."""
        return None if self.state_bytes is None or self.step_bytes is None else self.state_bytes + self.step_bytes

    @property
    def way(self) -> str | None:
        """How it is compared first."""
        return next((way for way in WAYS if way in self.times), None)


def compare(rows: Sequence[ModelRow], found: Mapping[str, Samples]) -> None:
    """Fill in times and ratios from the samples "VARIANT WAY" of one network and mode."""
    base = next((row for row in rows if row.variant == BASE), None)
    for row in rows:
        for way in WAYS:
            samples = found.get(f"{row.variant} {way}")
            if samples is None:
                continue
            row.times[way] = samples.timing()
            row.images_per_second[way] = 1e3 * row.batch / row.times[way].median
            if base is not None and f"{BASE} {way}" in found:
                row.ratio[way] = paired_ratio(samples, found[f"{BASE} {way}"])
        if base is not None and base.memory and row.memory is not None:
            row.memory_ratio = row.memory / base.memory


def sections(rows: Sequence[ModelRow]) -> list[Section]:
    """The page: one table for every network and mode."""
    page = []
    for network, mode in dict.fromkeys((row.network, row.mode) for row in rows):
        group = [row for row in rows if (row.network, row.mode) == (network, mode)]
        ways = [way for way in WAYS if any(way in row.times for row in group)]
        head = ["attention", "params, M", *(f"{way} ms" for way in ways), *(f"{way} ratio" for way in ways),
                "images/s", "memory, MiB", "memory ratio"]  # fmt: skip
        cells = [
            [
                row.variant,
                figure(None if row.params is None else row.params / 1e6),
                *(spread_text(row.times.get(way)) for way in ways),
                *(spread_text(row.ratio.get(way)) for way in ways),
                figure(row.images_per_second.get(row.way)),
                figure(None if row.memory is None else row.memory / 2**20),
                figure(row.memory_ratio),
            ]
            for row in group
            if row.way is not None
        ]
        notes: dict[str, list[str]] = {}
        for row in group:
            for way, note in row.notes.items():
                notes.setdefault(f"{way}: {note}", []).append(row.variant)
        lines = [f"- {', '.join(variants)}, {note}" for note, variants in notes.items()]
        size = "x".join(map(str, group[0].size))
        title = f"{network}, {mode}, {group[0].batch} of {size}"
        page.append(Section(title, "\n".join(lines), Table(head, cells) if cells else None))
    return page


def picture(rows: Sequence[ModelRow], device: str, dtype: str) -> UInt8Array | None:
    """Time over that of the network without attention, one panel per mode and way; null without a ratio."""
    timed = [row for row in rows if row.variant != BASE and row.ratio]
    panels = []
    for mode, way in dict.fromkeys((row.mode, way) for row in timed for way in row.ratio):
        group = [row for row in timed if row.mode == mode and way in row.ratio]
        networks = list(dict.fromkeys(row.network for row in group))
        values = {(row.variant, row.network): row.ratio[way].median for row in group}
        variants = dict.fromkeys(row.variant for row in group)
        series = {variant: [values.get((variant, network)) for network in networks] for variant in variants}
        panels.append(Panel(f"{mode}, {way}", networks, series))
    axis = "time over that of the network without attention"
    return dot_plot(f"Whole networks, {device}, {dtype}", axis, panels) if panels else None
