"""A table of shares as coloured cells, as small inline SVG that narrows with the page: confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Matrix", "matrix_svg", "percent"]

_NUMBERED = 24  # columns up to which every cell carries its figure


@dataclass(frozen=True)
class Matrix:
    """Shares from 0 to 1 with a name for each row and column.

    Args:
        title: what is shown.
        rows: names of the rows, the truth.
        columns: names of the columns, where it was found.
        values: one row of shares for each of `rows`; a value that is not finite leaves its cell empty.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


def matrix_svg(matrix: Matrix) -> str:
    """The matrix as one <svg> element, figures in per cent; every text in it is escaped."""
    if not matrix.rows or not matrix.columns:
        return f'<p class="empty">{escape(matrix.title)}: no values</p>'
    numbered = len(matrix.columns) <= _NUMBERED
    wide, high = (40, 24) if numbered else (20, 20)
    left = 12 + 6.9 * max(len(_short(name)) for name in matrix.rows)
    top = 34 + 5.4 * max(len(_short(name)) for name in matrix.columns)  # names stand aslant
    width = left + wide * len(matrix.columns) + 4.2 * len(_short(matrix.columns[-1]))
    height = top + high * len(matrix.rows) + 4
    parts = [
        f'<svg class="chart" style="max-width:{width * 1.1:.0f}px" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(matrix.title)}">',
        f'<text class="name" x="0" y="16">{escape(matrix.title)}</text>',
    ]
    for j, name in enumerate(matrix.columns):
        x = left + wide * (j + 0.5) + 2
        parts.append(
            f'<text transform="translate({x:.1f} {top - 6:.1f}) rotate(-52)">{escape(_short(name))}'
            f"<title>{escape(name)}</title></text>"
        )
    for i, (name, row) in enumerate(zip(matrix.rows, matrix.values, strict=True)):
        y = top + high * i
        middle = y + high / 2 + 4
        parts.append(f'<text x="{left - 8:.1f}" y="{middle:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        for j, value in enumerate(row):
            x = left + wide * j
            shade = min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
            words = f"{escape(name)} at {escape(matrix.columns[j])}: {value:.2%}" if math.isfinite(value) else "none"
            parts.append(
                f'<rect class="cell" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{wide - 1}" height="{high - 1}" '
                f'fill-opacity="{0.04 + 0.96 * shade:.3f}"><title>{words}</title></rect>'
            )
            if numbered and percent(value):
                kind = "over" if shade > 0.5 else "figure"
                parts.append(
                    f'<text class="{kind}" x="{x + wide / 2:.1f}" y="{middle:.1f}" text-anchor="middle" '
                    f'pointer-events="none">{percent(value)}</text>'
                )
    return "".join([*parts, "</svg>"])


def percent(share: float) -> str:
    """A share in whole per cent; one digit more below 10, nothing below 0.05."""
    if not math.isfinite(share) or share < 0.0005:
        return ""
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
