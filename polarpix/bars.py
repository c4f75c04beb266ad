"""One horizontal bar per name, as small inline SVG; the colours come from the page around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bars", "bars_svg"]

_WIDTH, _LINE, _TOP = 640, 20, 30


@dataclass(frozen=True)
class Bars:
    """Values from 0 on, one bar each, in the order given.

    Args:
        title: what is shown.
        values: names and values; a value that is not finite is written as a dash, without a bar.
        top: the value of a bar of full length; null for the largest.
    """

    title: str
    values: Sequence[tuple[str, float]]
    top: float | None = 1.0


def bars_svg(bars: Bars) -> str:
    """The chart as one <svg> element; every text in it is escaped."""
    if not bars.values:
        return f'<p class="empty">{escape(bars.title)}: no values</p>'
    finite = [value for _, value in bars.values if math.isfinite(value)]
    top = bars.top if bars.top is not None else max(finite, default=0.0)
    left = min(260.0, 14 + 6.9 * max(len(name) for name, _ in bars.values))
    room = _WIDTH - left - 58
    height = _TOP + _LINE * len(bars.values) + 6
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(bars.title)}">',
        f'<text class="name" x="0" y="16">{escape(bars.title)}</text>',
    ]
    for i, (name, value) in enumerate(bars.values):
        y = _TOP + _LINE * i
        long = room * min(max(value / top, 0.0), 1.0) if math.isfinite(value) and top > 0 else 0.0
        short = name if len(name) <= 36 else name[:35] + "…"
        words = f"{value:.3f}" if math.isfinite(value) else "–"
        parts += [
            f'<text x="{left - 8:.1f}" y="{y + 13}" text-anchor="end">{escape(short)}</text>',
            f'<rect class="track" x="{left:.1f}" y="{y + 3}" width="{room:.1f}" height="13" rx="3"/>',
            f'<rect class="bar" x="{left:.1f}" y="{y + 3}" width="{long:.1f}" height="13" rx="3"/>',
            f'<text class="figure" x="{_WIDTH - 50}" y="{y + 13}">{words}</text>',
        ]
    return "".join([*parts, "</svg>"])
