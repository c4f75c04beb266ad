"""A result and the conditions it was found under, as JSON, Markdown and one HTML file that needs nothing else.

Values are kept as numbers: the JSON holds them whole, the pages round them for reading.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.chart import Curves, svg
from polarpix.images import write_bytes, write_image
from polarpix.rgb import to_rgb

__all__ = ["Curves", "Report", "Section", "Table", "Value", "shown", "write_html", "write_json", "write_markdown"]

Value = str | int | float | bool | None


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
    """

    title: str
    text: str = ""
    table: Table | None = None
    pictures: Sequence[tuple[str, npt.NDArray[Any]]] = ()
    curves: Sequence[Curves] = ()


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
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return "–"
        if abs(value) >= 10000:
            return f"{value:,.0f}"
        return f"{value:#.4g}" if even else f"{value:.4g}"
    return str(value)


def write_json(report: Report, path: str | Path) -> None:
    """Everything but the pixels: pictures are named by caption and size; values that are not finite become null."""
    content = {
        "title": report.title,
        "subtitle": report.subtitle,
        "summary": {label: _plain(value) for label, value in report.summary},
        "conditions": {key: _plain(value) for key, value in report.conditions.items()},
        "sections": [
            {
                "title": section.title,
                "text": section.text,
                "table": section.table
                and {
                    "headers": list(section.table.headers),
                    "rows": [[_plain(value) for value in row] for row in section.table.rows],
                },
                "curves": [
                    {
                        "title": curves.title,
                        "x_label": curves.x_label,
                        "series": {
                            name: [[_plain(x), _plain(y)] for x, y in points] for name, points in curves.series.items()
                        },
                    }
                    for curves in section.curves
                ],
                "pictures": [{"caption": caption, "shape": list(np.shape(a))} for caption, a in section.pictures],
            }
            for section in report.sections
        ],
    }
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_markdown(report: Report, path: str | Path) -> None:
    """GitHub's Markdown; pictures are written as PNG into the folder ``<stem>_pictures`` beside the file."""
    path = Path(path)
    lines = [f"# {_mark(report.title)}", ""]
    if report.subtitle:
        lines += [_mark(report.subtitle), ""]
    lines += _mark_table(Table(["", ""], report.summary)) if report.summary else []
    count = 0
    for section in report.sections:
        lines += [f"## {_mark(section.title)}", ""]
        lines += [line for block in _paragraphs(section.text) for line in (_mark(block), "")]
        lines += _mark_table(section.table) if section.table else []
        for curves in section.curves:
            last = [(name, points[-1][1] if points else None, len(points)) for name, points in curves.series.items()]
            lines += _mark_table(Table([curves.title, "last value", "points"], last))
        for caption, picture in section.pictures:
            name = f"{path.stem}_pictures/{count:03d}.png"
            write_image(path.parent / name, picture)
            lines += [f"![{_mark(caption)}](<{name}>)", ""]
            count += 1
    if report.conditions:
        lines += ["## Conditions", "", *_mark_table(Table(["", ""], list(report.conditions.items())))]
    write_bytes(path, "\n".join(lines).encode())


def write_html(report: Report, path: str | Path) -> None:
    """One file with its pictures and charts inside: light or dark as the reader's system, wide or narrow."""
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
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main>"
        "</body></html>\n"
    )
    write_bytes(path, page.encode())


def _plain(value: Any) -> Value:
    """Numbers of numpy as Python's, and null for what JSON cannot hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _paragraphs(text: str) -> list[str]:
    return [block.strip() for block in text.split("\n\n") if block.strip()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


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
    parts += [f"<p>{escape(block)}</p>" for block in _paragraphs(section.text)]
    if section.table:
        head = "".join(f"<th>{escape(header)}</th>" for header in section.table.headers)
        rows = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in section.table.rows)
        parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')
    if section.curves:
        parts.append(f'<div class="charts">{"".join(f"<div>{svg(curves)}</div>" for curves in section.curves)}</div>')
    if section.pictures:
        parts.append(f'<div class="pictures">{"".join(_figure(*picture) for picture in section.pictures)}</div>')
    return "".join([*parts, "</section>"])


def _cell(value: Value) -> str:
    return f"<td{' class=number' if _is_number(value) else ''}>{escape(shown(value, even=True))}</td>"


def _figure(caption: str, picture: npt.NDArray[Any]) -> str:
    image = to_rgb(picture)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    kind, data = "png", cv2.imencode(".png", bgr)[1].tobytes()
    if len(data) > 60_000:  # photographs: a page of them should stay small enough to send
        full = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)  # thin lines keep their colour
        kind, data = "jpeg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88, *full])[1].tobytes()
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    broad = " class=broad" if image.shape[1] >= 640 else ""  # contact sheets
    return f'<figure{broad}><img src="{source}" {size} alt="{escape(caption)}" loading="lazy">{below}</figure>'


_STYLE = """
:root{--paper:#f6f7f9;--sheet:#fff;--ink:#1d2330;--soft:#667085;--rule:#e4e7ec;--accent:#2563eb;
--c0:#2563eb;--c1:#e8590c;--c2:#2b8a3e;--c3:#9c36b5;--c4:#c92a2a;--c5:#0b7285}
@media(prefers-color-scheme:dark){:root{--paper:#0f1218;--sheet:#181c25;--ink:#e6e9ef;--soft:#98a2b3;--rule:#2a303c;
--accent:#7aa2ff;--c0:#7aa2ff;--c1:#ffa94d;--c2:#69db7c;--c3:#da77f2;--c4:#ff8787;--c5:#66d9e8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.2;margin:0 0 .4rem;letter-spacing:-.02em}
h2{font-size:1.2rem;margin:0 0 .7rem;letter-spacing:-.01em}
p{margin:0 0 .9rem;max-width:75ch}.lead{color:var(--soft);font-size:1.08rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.4rem 0 0}
nav a{color:var(--accent);text-decoration:none;font-size:.95rem}nav a:hover{text-decoration:underline}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.9rem;margin:1.5rem 0}
.card,section{background:var(--sheet);border:1px solid var(--rule);border-radius:14px}
.card{padding:1rem 1.15rem}.value{font-size:1.65rem;font-weight:650;letter-spacing:-.02em;line-height:1.25;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.label{color:var(--soft);font-size:.88rem}
section{padding:1.4rem 1.5rem;margin:0 0 1.2rem;scroll-margin-top:1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.94rem}
th,td{text-align:left;padding:.42rem .8rem .42rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{color:var(--soft);font-weight:550}tbody tr:last-child td{border-bottom:0}
.number{font-variant-numeric:tabular-nums}
.facts th{color:var(--soft);font-weight:500;white-space:nowrap;width:1%;padding-right:1.6rem}
.facts td{overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1.2rem;margin:1rem 0 .4rem}
.chart{width:100%;height:auto;display:block}.chart text{font-size:12px;fill:var(--soft)}
.chart .name{font-size:14px;font-weight:600;fill:var(--ink)}.chart .key{font-weight:600}
.grid{stroke:var(--rule)}.line{fill:none;stroke-width:2.2;stroke-linejoin:round}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.line{stroke:var(--c)}.dot,.chart .key{fill:var(--c)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,260px),1fr));gap:1rem;margin-top:1rem}
figure{margin:0}.broad{grid-column:1/-1}img{width:100%;height:auto;display:block;border-radius:8px;background:var(--rule)}
figcaption{color:var(--soft);font-size:.88rem;margin-top:.35rem}
.empty{color:var(--soft)}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
