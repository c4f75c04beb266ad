"""Gain over cost with error bars: the picture beside the record of `polarpix bench accuracy`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from polarpix.bench.accuracy_page import BASE, AccuracyRow
from polarpix.bench.plot import INK, PAPER, RULE, SCALE, SOFT, Pen, color_of
from polarpix.types import UInt8Array

__all__ = ["Point", "even_ticks", "gain_plot", "points"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, HEAD = 620, 380, 74, 24, 34, 46, 54


@dataclass(frozen=True)
class Point:
    """One attention: what it costs, and its gain with the ends of the bar, null where there is none."""

    name: str
    cost: float
    gain: float
    low: float | None
    high: float | None


def points(rows: Sequence[AccuracyRow], lower: bool) -> dict[str, list[Point]]:
    """Axis -> the attentions whose cost on it is known, costs as ratios to the row without attention.

    Gains are differences whose sign is turned where lower is better.
    """
    base = next((row.costs for row in rows if row.attention == BASE), None)
    panels: dict[str, list[Point]] = {}
    for row in rows:
        apart, costs = row.difference, row.costs
        if apart is None or costs is None or base is None:
            continue
        ends = (apart.low, apart.high)
        low, high = (None if e is None else -e for e in reversed(ends)) if lower else ends
        time = costs.step_ratio
        axes = {
            "multiply-adds as they run, over those without attention": costs.macs_collapsed / base.macs_collapsed,
            "time of a training step over that without attention": None if time is None else time.median,
        }
        for axis, cost in axes.items():
            if cost is not None:
                gain = -apart.mean if lower else apart.mean
                panels.setdefault(axis, []).append(Point(row.attention, cost, gain, low, high))
    return panels


def even_ticks(low: float, high: float) -> list[float]:
    """At most nine round numbers in even steps that enclose both; they differ."""
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(s * power for s in (0.2, 0.5, 1.0, 2.0) if span <= 6 * s * power)
    start, stop = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [round(i * step, 12) for i in range(start, max(stop, start + 1) + 1)]


def gain_plot(title: str, gain: str, panels: dict[str, list[Point]]) -> UInt8Array | None:
    """A panel for each axis of costs beside the other: [H, W, 3]; null without a point.

    Args:
        title: above all.
        gain: what lies upwards.
        panels: axis -> points.
    """
    if not panels:
        return None
    image = Image.new("RGB", (len(panels) * WIDTH * SCALE, (HEAD + HEIGHT) * SCALE), PAPER)
    pen = Pen(ImageDraw.Draw(image))
    pen.text(14, 20, title, INK, 15, "lm")
    pen.text(14, 40, f"{gain}, with its 95 percent interval", SOFT, 12, "lm")
    names = list(dict.fromkeys(point.name for found in panels.values() for point in found))
    for i, (axis, found) in enumerate(panels.items()):
        draw_panel(pen, axis, found, names, i * WIDTH)
    return np.asarray(image)


def draw_panel(pen: Pen, axis: str, found: Sequence[Point], names: Sequence[str], left: float) -> None:
    """Grid, bars, dots and names of one panel."""
    ends = [end for p in found for end in (p.gain, p.low, p.high) if end is not None]
    across = even_ticks(min([1.0, *(p.cost for p in found)]), max([1.0, *(p.cost for p in found)]))
    upward = even_ticks(min([0.0, *ends]), max([0.0, *ends]))
    x0, x1 = left + LEFT, left + WIDTH - RIGHT
    y0, y1 = HEAD + HEIGHT - BOTTOM, HEAD + TOP

    def place(cost: float, gain: float) -> tuple[float, float]:
        x = x0 + (x1 - x0) * (cost - across[0]) / (across[-1] - across[0])
        return x, y0 + (y1 - y0) * (gain - upward[0]) / (upward[-1] - upward[0])

    for tick in across:
        x, _ = place(tick, upward[0])
        pen.line(x, y0, x, y1, RULE)
        pen.text(x, y0 + 6, f"{tick:g}", SOFT, 11, "mt")
    for tick in upward:
        _, y = place(across[0], tick)
        pen.line(x0, y, x1, y, SOFT if tick == 0 else RULE, 2 if tick == 0 else 1)
        pen.text(x0 - 8, y, f"{tick:g}", SOFT, 11, "rm")
    pen.text((x0 + x1) / 2, y0 + 24, axis, SOFT, 12, "mt")
    for point in found:
        x, y = place(point.cost, point.gain)
        color = color_of(names.index(point.name))
        if point.low is not None and point.high is not None:
            ends_y = [place(point.cost, end)[1] for end in (point.low, point.high)]
            pen.line(x, ends_y[0], x, ends_y[1], color, 2)
            for end in ends_y:
                pen.line(x - 4, end, x + 4, end, color, 2)
        pen.dot(x, y, color)
        inwards = x > x1 - 100  # names stay inside the picture
        pen.text(x - 8 if inwards else x + 8, y - 8, point.name, color, 11, "rm" if inwards else "lm")
