"""Curves as small inline SVG: no script, no font, no file; the colours come from the page around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curves", "svg", "ticks"]

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 40
_DOTTED = 60  # points of a line up to which each has its dot
_COLORS = 6  # classes c0 .. c5 of the page


@dataclass(frozen=True)
class Curves:
    """Lines over one pair of axes.

    Args:
        title: what is shown.
        series: name -> points (x, y); a point that is not finite interrupts its line.
        x_label: below the horizontal axis.
    """

    title: str
    series: Mapping[str, Points]
    x_label: str = "epoch"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` (at least 3) round numbers within low..high: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def svg(curves: Curves) -> str:
    """The chart as one <svg> element; every text in it is escaped."""
    wide = sum(_key_width(name) for name in curves.series) > _WIDTH - _LEFT - 8.2 * len(curves.title)
    below = _key_rows(list(curves.series)) if wide else []  # names that do not fit beside the title
    kept = {name: [(float(x), float(y)) for x, y in points] for name, points in curves.series.items()}
    finite = [point for points in kept.values() for point in points if _finite(point)]
    if not finite:
        return f'<p class="empty">{escape(curves.title)}: no values</p>'
    x_low, x_high = _span([x for x, _ in finite], 0.0)
    y_low, y_high = _span([y for _, y in finite], 0.06)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        up = (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(_HEIGHT - _BOTTOM - up, 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT + 18 * len(below)}" role="img" '
        f'aria-label="{escape(curves.title)}">',
        f'<text class="name" x="{_LEFT}" y="18">{escape(curves.title)}</text>',
        f'<text class="axis" x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{escape(curves.x_label)}</text>",
    ]
    for tick in ticks(y_low, y_high):
        y = place(x_low, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(x_low, x_high, 8):
        x = place(tick, y_low)[0]
        parts.append(f'<text class="axis" x="{x}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    right = float(_WIDTH - _RIGHT)
    for i, (name, points) in reversed(list(enumerate(kept.items()))):
        parts += _line(name, points, i, place)
        if below:
            continue
        parts.append(f'<text class="key c{i % _COLORS}" x="{right}" y="18" text-anchor="end">{escape(name)}</text>')
        right -= _key_width(name)
    for row, names in enumerate(below):
        left = float(_LEFT)
        for name in names:
            color = list(kept).index(name) % _COLORS
            parts.append(
                f'<text class="key c{color}" x="{left:.1f}" y="{_HEIGHT + 12 + 18 * row}">{escape(name)}</text>'
            )
            left += _key_width(name)
    return "".join([*parts, "</svg>"])


def _key_width(name: str) -> float:
    return 7.2 * len(name) + 18


def _key_rows(names: list[str]) -> list[list[str]]:
    """The names in rows that fit below the chart."""
    rows: list[list[str]] = [[]]
    for name in names:
        if rows[-1] and sum(map(_key_width, [*rows[-1], name])) > _WIDTH - _LEFT:
            rows.append([])
        rows[-1].append(name)
    return rows


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _span(values: list[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.5 or 0.5
        return low - room, high + room
    return low - margin * (high - low), high + margin * (high - low)


def _line(name: str, points: Points, i: int, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """The unbroken stretches of one line, then a dot with its value for the pointer at each of its points, if few."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if _finite(point):
            stretches[-1].append(place(*point))
        elif stretches[-1]:
            stretches.append([])
    parts = [
        f'<polyline class="line c{i % _COLORS}" points="{" ".join(f"{x},{y}" for x, y in stretch)}"/>'
        for stretch in stretches
        if len(stretch) > 1
    ]
    for x, y in filter(_finite, points) if len(points) <= _DOTTED else ():
        across, down = place(x, y)
        parts.append(
            f'<circle class="dot c{i % _COLORS}" cx="{across}" cy="{down}" r="2.4">'
            f"<title>{escape(name)} {y:.4g} at {x:g}</title></circle>"
        )
    return parts
