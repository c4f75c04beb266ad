"""What a page holds: a result and the conditions it was found under, as values; `report_files` writes them.

Values stay numbers: a record holds them whole, a page rounds them for reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.bars import Bars
from polarpix.chart import Curves
from polarpix.matrix import Matrix

__all__ = [
    "Bars",
    "Change",
    "Curves",
    "Matrix",
    "Report",
    "Section",
    "Share",
    "Table",
    "Value",
    "plain",
    "shown",
]


@dataclass(frozen=True)
class Change:
    """A difference, shown with its sign, and with a colour where `better` says which way it goes.

    Args:
        value: the difference.
        better: whether it is one for the better; null for neither.
        total: what it led to, shown before it; null to show the difference alone.
    """

    value: float
    better: bool | None = None
    total: float | None = None


class Share(float):
    """A part of a whole, from 0 to 1, shown in per cent."""


Value = str | int | float | bool | Change | None


@dataclass(frozen=True)
class Table:
    """Rows below headers; numbers are shown with one number of digits, so that a column can be read downwards."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        title: its heading.
        text: paragraphs, apart by an empty line; plain text, never markup.
        table: below the text.
        curves: charts below the table.
        pictures: captions and arrays [H, W, 3], below the charts.
        bars: charts beside the curves.
        matrices: below the charts.
        alert: a sentence in red above the text.
        columns: pictures side by side on a wide screen: 2, 3 or 4.
    """

    title: str
    text: str = ""
    table: Table | None = None
    pictures: Sequence[tuple[str, npt.NDArray[Any]]] = ()
    curves: Sequence[Curves] = ()
    bars: Sequence[Bars] = ()
    matrices: Sequence[Matrix] = ()
    alert: str = ""
    columns: int = 4


@dataclass(frozen=True)
class Report:
    """What a run found.

    Args:
        title: the page's heading.
        summary: the few figures to see first, each with its label.
        sections: the page from top to bottom.
        subtitle: one sentence below the title.
        conditions: command, seed, commit, versions, device and what else the figures depend on.
    """

    title: str
    summary: Sequence[tuple[str, Value]]
    sections: Sequence[Section]
    subtitle: str = ""
    conditions: dict[str, Value] = field(default_factory=dict)


def shown(value: Value, even: bool = False) -> str:
    """A value for reading: four significant digits, thousands apart, a dash for none and for what is not finite.

    `even` keeps zeros at the end, so that the figures of a column can be compared at a glance.
    """
    if value is None:
        return "–"
    if isinstance(value, Change):
        if not math.isfinite(value.value):
            return "–"
        whole = 0 if value.total is None else int(abs(value.total))
        small = max(0, 4 - len(str(whole))) if whole else 4  # as many decimals as the total has
        words = f"{value.value:+,.0f}" if abs(value.value) >= 10000 else f"{value.value:+.{small}f}"
        return words if value.total is None else f"{shown(value.total, even)} ({words})"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, Share) and math.isfinite(value):
        return f"{100 * value:.1f} %"
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return "–"
        if abs(value) >= 10000:
            return f"{value:,.0f}"
        if even and (value == 0 or 0.01 <= abs(value) < 1):
            return f"{value:.4f}"
        return f"{value:#.4g}" if even else f"{value:.4g}"
    return str(value)


def plain(value: Any) -> Value:
    """Numbers of numpy as Python's, and null for what JSON cannot hold."""
    if isinstance(value, Change):
        value = value.value if value.total is None else value.total
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
