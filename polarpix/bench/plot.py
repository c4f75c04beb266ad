"""Ratios as dots over a logarithmic axis, one row per shape or network: the picture beside a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from polarpix.types import UInt8Array

__all__ = ["INK", "PAPER", "RULE", "SCALE", "SOFT", "Panel", "Pen", "color_of", "dot_plot"]

Color = tuple[int, int, int]

PAPER, INK, SOFT, RULE = (255, 255, 255), (29, 35, 48), (102, 112, 133), (228, 231, 236)
_COLORS: tuple[Color, ...] = (
    (37, 99, 235), (232, 89, 12), (43, 138, 62), (156, 54, 181), (201, 42, 42), (11, 114, 133), (92, 95, 102),
    (180, 120, 0),
)  # fmt: skip
SCALE = 2  # drawn pixels per point
_ROW, _TOP, _BOTTOM, _GAP = 26, 30, 30, 14
_WIDTH, _LEFT, _RIGHT = 620, 130, 24
_STEPS = (1.0, 2.0, 5.0)


def color_of(number: int) -> Color:
    """The colour of a series by its place in the key; after eight they begin again."""
    return _COLORS[number % len(_COLORS)]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: above it.
        rows: a label for each row.
        series: name -> a positive value for each row, or null where there is none.
    """

    title: str
    rows: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def dot_plot(title: str, axis: str, panels: Sequence[Panel], mark: float = 1.0) -> UInt8Array:
    """The panels in two columns with one key for all of them: [H, W, 3].

    Args:
        title: above all.
        axis: what the values are.
        panels: at least one; all share one axis.
        mark: the value that a stronger line is drawn at.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    values = [v for panel in panels for one in panel.series.values() for v in one if v is not None]
    ticks = log_ticks(min([*values, mark]), max([*values, mark]))
    columns = min(2, len(panels))
    heights = [_TOP + _ROW * len(panel.rows) + _BOTTOM for panel in panels]
    lines = [max(heights[i : i + columns]) + _GAP for i in range(0, len(panels), columns)]
    key = key_rows(names, columns * _WIDTH - 2 * _GAP)
    head = 54 + 20 * len(key)
    image = Image.new("RGB", (columns * _WIDTH * SCALE, (head + sum(lines)) * SCALE), PAPER)
    pen = Pen(ImageDraw.Draw(image))
    pen.text(_GAP, 20, title, INK, 15, "lm")
    pen.text(_GAP, 40, axis, SOFT, 12, "lm")
    for i, row in enumerate(key):
        for x, name in row:
            pen.dot(_GAP + x + 5, 65 + 20 * i, color_of(names.index(name)))
            pen.text(_GAP + x + 15, 65 + 20 * i, name, INK, 12, "lm")
    for i, panel in enumerate(panels):
        draw_panel(pen, panel, names, ticks, mark, (i % columns * _WIDTH, head + sum(lines[: i // columns])))
    return np.asarray(image)


@dataclass(frozen=True)
class Pen:
    """Draws in points."""

    draw: ImageDraw.ImageDraw

    def text(self, x: float, y: float, text: str, color: Color, size: int, anchor: str) -> None:
        font = ImageFont.load_default(size * SCALE)
        self.draw.text((x * SCALE, y * SCALE), text, fill=color, font=font, anchor=anchor)

    def line(self, x0: float, y0: float, x1: float, y1: float, color: Color, width: int = 1) -> None:
        ends = (x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE)
        self.draw.line(ends, fill=color, width=width * SCALE)

    def dot(self, x: float, y: float, color: Color, radius: float = 4.5) -> None:
        box = ((x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE)
        self.draw.ellipse(box, fill=color, outline=PAPER, width=1)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from the last one not above ``low`` to the first one not below ``high``.

    1, 2 and 5 times powers of ten, or even steps where the values are less than a factor of 4 apart.
    """
    if high < 4 * low:
        unit = 10.0 ** math.floor(math.log10(high))
        step = next(s * unit for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if high - low <= 9 * s * unit)
        start, stop = math.floor(low / step + 1e-3), math.ceil(high / step - 1e-3)
        return [round(i * step, 12) for i in range(start, max(stop, start + 1) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in _STEPS]
    first = max((t for t in ticks if t <= low * 1.001), default=ticks[0])
    last = min((t for t in ticks if t >= high * 0.999 and t > first), default=ticks[-1])
    return [t for t in ticks if first <= t <= last]


def key_rows(names: Sequence[str], width: float) -> list[list[tuple[float, str]]]:
    """Where each name of the key stands: as many in a row as fit into ``width`` points."""
    font = ImageFont.load_default(12)
    rows: list[list[tuple[float, str]]] = [[]]
    x = 0.0
    for name in names:
        needed = 15 + font.getlength(name) + 18
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, name))
        x += needed
    return rows


def draw_panel(
    pen: Pen, panel: Panel, names: Sequence[str], ticks: Sequence[float], mark: float, origin: tuple[float, float]
) -> None:
    """Title, grid, labels, then for every row its dots; the series named first lie on top."""
    left, right = origin[0] + _LEFT, origin[0] + _WIDTH - _RIGHT
    top = origin[1] + _TOP
    bottom = top + _ROW * len(panel.rows)

    def across(value: float) -> float:
        return left + (right - left) * math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])

    pen.text(left, origin[1] + 14, panel.title, INK, 13, "lm")
    for tick in ticks:
        pen.line(across(tick), top, across(tick), bottom, RULE)
        if len(ticks) <= 12 or f"{tick:e}"[0] == "1":
            pen.text(across(tick), bottom + 6, f"{tick:g}", SOFT, 11, "mt")
    pen.line(across(mark), top, across(mark), bottom, SOFT, 2)
    for i, label in enumerate(panel.rows):
        y = top + _ROW * (i + 0.5)
        pen.line(left, y, right, y, RULE)
        pen.text(left - 10, y, label, INK, 12, "rm")
        for name in reversed(list(panel.series)):
            value = panel.series[name][i]
            if value is not None:
                pen.dot(across(value), y, color_of(names.index(name)))
