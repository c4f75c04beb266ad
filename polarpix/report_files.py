"""A report as JSON, Markdown and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.bars import bars_svg
from polarpix.chart import svg
from polarpix.images import write_bytes
from polarpix.matrix import matrix_svg, percent
from polarpix.report import Change, Report, Section, Table, Value, plain, shown
from polarpix.rgb import to_rgb
from polarpix.style import STYLE
from polarpix.types import UInt8Array

__all__ = ["write_html", "write_json", "write_markdown"]

_LONG = 24  # letters of a word that may be broken
_LONG_HEAD = 14  # the same in the heading of a column
_LARGE = 40_000  # bytes of a PNG: photographs above, so that a page of them stays small enough to send


def write_json(report: Report, path: str | Path) -> None:
    """Everything but the pixels: pictures are named by caption and size; values that are not finite become null."""
    content = {
        "title": report.title,
        "subtitle": report.subtitle,
        "summary": {label: plain(value) for label, value in report.summary},
        "conditions": {key: plain(value) for key, value in report.conditions.items()},
        "sections": [
            {
                "title": section.title,
                "text": section.text,
                "table": section.table
                and {
                    "headers": list(section.table.headers),
                    "rows": [[plain(value) for value in row] for row in section.table.rows],
                },
                "curves": [
                    {
                        "title": curves.title,
                        "x_label": curves.x_label,
                        "series": {
                            name: [[plain(x), plain(y)] for x, y in points] for name, points in curves.series.items()
                        },
                    }
                    for curves in section.curves
                ],
                "bars": [
                    {"title": bars.title, "values": [[name, plain(value)] for name, value in bars.values]}
                    for bars in section.bars
                ],
                "matrices": [
                    {
                        "title": matrix.title,
                        "rows": list(matrix.rows),
                        "columns": list(matrix.columns),
                        "values": [[plain(value) for value in row] for row in matrix.values],
                    }
                    for matrix in section.matrices
                ],
                "alert": section.alert,
                "pictures": [{"caption": caption, "shape": list(np.shape(a))} for caption, a in section.pictures],
            }
            for section in report.sections
        ],
    }
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_markdown(report: Report, path: str | Path) -> None:
    """GitHub's Markdown; pictures are written into the folder ``<stem>_pictures`` beside the file."""
    path = Path(path)
    lines = [f"# {_mark(report.title)}", ""]
    if report.subtitle:
        lines += [_mark(report.subtitle), ""]
    lines += _mark_table(Table(["", ""], report.summary)) if report.summary else []
    count = 0
    for section in report.sections:
        lines += [f"## {_mark(section.title)}", ""]
        lines += [f"**{_mark(section.alert)}**", ""] if section.alert else []
        lines += [line for block in _paragraphs(section.text) for line in (_mark(block), "")]
        lines += _mark_table(section.table) if section.table else []
        for curves in section.curves:
            last = [(name, points[-1][1] if points else None, len(points)) for name, points in curves.series.items()]
            lines += _mark_table(Table([curves.title, "last value", "points"], last))
        for bars in section.bars:
            lines += _mark_table(Table([bars.title, "value"], list(bars.values)))
        for matrix in section.matrices:
            cells = [[name, *map(percent, row)] for name, row in zip(matrix.rows, matrix.values, strict=True)]
            lines += _mark_table(Table([f"{matrix.title}, %", *matrix.columns], cells))
        for caption, picture in section.pictures:
            kind, data = _encoded(to_rgb(picture))
            name = f"{path.stem}_pictures/{count:03d}.{kind}"
            write_bytes(path.parent / name, data)
            lines += [f"![{_mark(caption)}](<{name}>)", ""]
            count += 1
    if report.conditions:
        lines += ["## Conditions", "", *_mark_table(Table(["", ""], list(report.conditions.items())))]
    write_bytes(path, "\n".join(lines).encode())


def write_html(report: Report, path: str | Path) -> None:
    """One file with its pictures and charts inside: light or dark as the reader's system, wide, narrow or printed."""
    sections = list(report.sections)
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    cards = "".join(
        f'<div class="card"><div class="value">{escape(shown(value, even=True))}</div>'
        f'<div class="label">{escape(label)}</div></div>'
        for label, value in report.summary
    )
    body = [f"<header><h1>{escape(report.title)}</h1>"]
    if report.subtitle:
        body.append(f'<p class="lead">{escape(report.subtitle)}</p>')
    if len(sections) > 2:
        body.append(f"<nav>{links}</nav>")
    body.append("</header>")
    if cards:
        body.append(f'<div class="cards">{cards}</div>')
    body += [_html_section(section, i) for i, section in enumerate(sections)]
    if report.conditions:
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(shown(value))}</td></tr>"
            for key, value in report.conditions.items()
        )
        body.append(
            f'<section><h2>Conditions</h2><div class="wide"><table class="facts">{rows}</table></div></section>'
        )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main>"
        "</body></html>\n"
    )
    write_bytes(path, page.encode())


def _paragraphs(text: str) -> list[str]:
    return [block.strip() for block in text.split("\n\n") if block.strip()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | Change) and not isinstance(value, bool)


def _mark(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split())
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return text


def _mark_table(table: Table) -> list[str]:
    first = table.rows[0] if table.rows else ()
    numeric = [i < len(first) and _is_number(first[i]) for i in range(len(table.headers))]
    rule = " | ".join("---:" if right else "---" for right in numeric)
    rows = [" | ".join(_mark(shown(value, even=True)) for value in row) for row in table.rows]
    return [f"| {row} |" for row in (" | ".join(_mark(header) for header in table.headers), rule, *rows)] + [""]


def _html_section(section: Section, i: int) -> str:
    parts = [f'<section id="s{i}"><h2>{escape(section.title)}</h2>']
    if section.alert:
        parts.append(f'<p class="alert">{escape(section.alert)}</p>')
    parts += [f"<p>{escape(block)}</p>" for block in _paragraphs(section.text)]
    if section.table:
        head = "".join(_head(header) for header in section.table.headers)
        rows = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in section.table.rows)
        parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')
    charts = [*map(svg, section.curves), *map(bars_svg, section.bars)]
    if charts:
        parts.append(f'<div class="charts">{"".join(f"<div>{chart}</div>" for chart in charts)}</div>')
    parts += [f'<div class="wide">{matrix_svg(matrix)}</div>' for matrix in section.matrices]
    if section.pictures:
        figures = "".join(_figure(*picture, section.columns) for picture in section.pictures)
        parts.append(f'<div class="pictures c-{section.columns}">{figures}</div>')
    return "".join([*parts, "</section>"])


def _head(header: str) -> str:
    long = " class=long" if any(len(word) > _LONG_HEAD for word in header.split()) else ""
    return f"<th{long}>{escape(header)}</th>"


def _cell(value: Value) -> str:
    kinds = ["number"] if _is_number(value) else []
    if isinstance(value, Change) and value.better is not None:
        kinds.append("up" if value.better else "down")
    if isinstance(value, str) and any(len(word) > _LONG for word in value.split()):
        kinds.append("long")
    marked = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{marked}>{escape(shown(value, even=True))}</td>"


def _encoded(image: UInt8Array) -> tuple[str, bytes]:
    """The ending and the bytes of a picture [H, W, 3]: PNG, or JPEG where that would be large."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".png", bgr)[1].tobytes()
    if len(data) <= _LARGE:
        return "png", data
    full = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)  # thin lines keep their colour
    return "jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88, *full])[1].tobytes()


def _figure(caption: str, picture: npt.NDArray[Any], columns: int) -> str:
    image = to_rgb(picture)
    kind, data = _encoded(image)
    source = f"data:image/{kind.replace('jpg', 'jpeg')};base64,{base64.b64encode(data).decode()}"
    size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    broad = " class=broad" if columns == 4 and image.shape[1] >= 640 else ""  # contact sheets
    return f'<figure{broad}><img src="{source}" {size} alt="{escape(caption)}" decoding="async">{below}</figure>'
