"""`polarpix compare`: evaluated runs side by side, on a page and in the terminal; differences are to the first run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polarpix.chart import Curves
from polarpix.engine.fit import LOWER_IS_BETTER
from polarpix.errors import InputError
from polarpix.findings import Sample
from polarpix.images import read_image
from polarpix.report import Change, Report, Section, Table, Value, shown
from polarpix.review.runs import Evaluated, different, flat_page, measures, protocol_differences
from polarpix.sheet import captioned, tile
from polarpix.summary import run_curves
from polarpix.types import UInt8Array

__all__ = ["compare_report", "terminal_lines", "warning"]

LISTED = {"pose": ("PCK@", "mean error, px", "similarity"), "seg": ("IoU", "accuracy", "precision")}
MOVED = 8  # samples of the largest gains, and of the largest losses
DRAWN = 8  # samples whose pictures are shown
LONG = 60  # letters of a value in a table


def warning(runs: Sequence[Evaluated]) -> str:
    """One sentence where the protocols differ, else nothing."""
    settings = protocol_differences(runs)
    if not settings:
        return ""
    return f"the protocols differ ({', '.join(settings)}): these figures cannot be compared with each other"


def compare_report(runs: Sequence[Evaluated], command: str) -> Report:
    """The whole page."""
    first = runs[0]
    sections = [
        protocol_section(runs),
        Section("Metrics", "In brackets the difference to the first run.", table=metric_table(runs)),
        Section(
            "What was trained",
            table=cost_table(runs),
        ),
        difference_section("Keys of the pages that differ", [flat_page(one.record["config"]) for one in runs], runs),
        *curve_sections(runs),
        *measure_sections(runs),
        *sample_sections(runs),
    ]
    main = str(first.record["config"].get("monitor", ""))
    summary = [(one.label, one.metrics.get(main)) for one in runs] if main in first.metrics else []
    return Report(
        title=f"{len(runs)} {first.task} runs side by side",
        subtitle=f"The figures below are {main}." if summary else "",
        summary=summary,
        sections=[
            section for section in sections if section.table or section.curves or section.pictures or section.text
        ],
        conditions={"command": command, **{one.label: one.source for one in runs}},
    )


def protocol_section(runs: Sequence[Evaluated]) -> Section:
    """The settings that differ, in red, or one sentence that none does."""
    settings = protocol_differences(runs)
    if not settings:
        return Section("Protocol", "All runs were evaluated by the same protocol.")
    told = warning(runs)
    return Section("Protocol", alert=f"{told[0].upper()}{told[1:]}.", table=_settings(settings, runs))


def difference_section(title: str, tables: Sequence[dict[str, Any]], runs: Sequence[Evaluated]) -> Section:
    """The keys whose values are not the same in all tables."""
    settings = different(tables)
    if not settings:
        return Section(title, "None.")
    return Section(title, table=_settings(settings, runs))


def metric_table(runs: Sequence[Evaluated]) -> Table:
    """One row per metric that some run has."""
    names = list(dict.fromkeys(name for one in runs for name in one.metrics))
    rows = [[name, *_compared(name, [one.metrics.get(name) for one in runs])] for name in names]
    return Table(["metric", *(one.label for one in runs)], rows)


def cost_table(runs: Sequence[Evaluated]) -> Table:
    """Attention, parameters, multiply-adds and the training of each run."""
    rows: list[list[Value]] = []
    for one in runs:
        config, course = one.record["config"], one.record.get("training", {})
        backbone = config.get("model", {}).get("backbone", {})
        params, macs = one.costs()
        seconds = course.get("seconds")
        rows.append(
            [
                one.label,
                backbone.get("name"),
                backbone.get("attention"),
                params,
                None if macs is None else f"{macs / 1e9:.3f} G",
                config.get("seed"),
                course.get("epochs"),
                None if seconds is None else f"{seconds / 60:.1f} min",
            ]
        )
    headers = ["run", "backbone", "attention", "parameters", "multiply-adds", "seed", "epochs", "training"]
    return Table(headers, rows)


def curve_sections(runs: Sequence[Evaluated]) -> list[Section]:
    """Loss and monitored metric of all runs over each other, where their metrics.csv are there."""
    charts: dict[str, dict[str, Any]] = {}
    for one in runs:
        for chart in run_curves(one.run_folder, str(one.record["config"].get("monitor", ""))):
            charts.setdefault(chart.title, {})[one.label] = next(iter(chart.series.values()))
    if not charts:
        return []
    return [Section("Course of the trainings", curves=[Curves(title, series) for title, series in charts.items()])]


def measure_sections(runs: Sequence[Evaluated]) -> list[Section]:
    """Each class or keypoint with its measures, for those that all runs have."""
    tables = [measures(one.record) for one in runs]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    sections = []
    for wanted in LISTED[runs[0].task]:
        name = next((one for one in shared if one == wanted or (wanted[-1] == "@" and one.startswith(wanted))), None)
        if name is None:
            continue
        labels = list(dict.fromkeys(label for table in tables for label in table[name]))
        rows = [[label, *_compared(name, [table[name].get(label) for table in tables])] for label in labels]
        word = "keypoint" if runs[0].task == "pose" else "class"
        sections.append(
            Section(
                f"{name[0].upper()}{name[1:]} of each {word}", table=Table([word, *(one.label for one in runs)], rows)
            )
        )
    return sections


def sample_sections(runs: Sequence[Evaluated]) -> list[Section]:
    """The samples that gained and lost most, and pictures of those that every run has drawn."""
    first = runs[0]
    shared = [key for key in first.samples if all(key in one.samples for one in runs)]
    sections = []
    for other in runs[1:]:
        moved = []
        for key in shared:
            before, after = first.samples[key]["score"], other.samples[key]["score"]
            if before is not None and after is not None:
                moved.append((after - before, key, before, after))
        moved.sort(key=lambda one: one[0])
        chosen = {one[1]: one for one in (*moved[:MOVED], *moved[-MOVED:]) if one[0]}
        rows: list[list[Value]] = [
            [sample_name(key), before, after, Change(change, change > 0)]
            for change, key, before, after in chosen.values()
        ]
        if rows:
            sections.append(
                Section(
                    f"Largest losses and gains of {other.label}",
                    f"{first.score_name} of single samples, against {first.label}.",
                    table=Table(["sample", first.label, other.label, "difference"], rows),
                )
            )
    pictures: list[tuple[str, UInt8Array]] = []
    for key in shared:
        rows_of = [one.samples[key] for one in runs]
        if len(pictures) < DRAWN and all("picture" in row for row in rows_of):
            picture = _sheet(runs, rows_of)
            if picture is not None:
                pictures.append((sample_name(key), picture))
    if pictures:
        text = "Left of each pair the annotation, right the network; below it the run with its score."
        sections.append(Section("The same pictures", text, pictures=pictures, columns=2))
    return sections


def sample_name(key: tuple[str, int | None]) -> str:
    """File and instance, as on the page of an evaluation."""
    return Sample(key[0], None, key[1]).name


def terminal_lines(runs: Sequence[Evaluated]) -> list[str]:
    """The metrics as an aligned table, with the protocol where it is one."""
    table = metric_table(runs)
    rows = [list(map(str, table.headers)), *([shown(value, even=True) for value in row] for row in table.rows)]
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _compared(name: str, values: Sequence[float | None]) -> list[Value]:
    """The first value, then each of the others with its difference to it."""
    base, *others = values
    known = base is not None and math.isfinite(base)
    cells: list[Value] = [base if known else None]
    for value in others:
        if value is None or not math.isfinite(value):
            cells.append(None)
        elif base is None or not known:
            cells.append(value)
        else:
            change = value - base
            cells.append(Change(change, (change < 0) == (name in LOWER) if abs(change) >= 5e-5 else None, value))
    return cells


LOWER = (*LOWER_IS_BETTER, "mean error, px")


def _settings(settings: dict[str, list[Any]], runs: Sequence[Evaluated]) -> Table:
    rows = [[key, *(_clipped(value) for value in values)] for key, values in settings.items()]
    return Table(["setting", *(one.label for one in runs)], rows)


def _clipped(value: Any) -> Value:
    text = shown(value) if isinstance(value, bool | None) else str(value)
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def _sheet(runs: Sequence[Evaluated], rows: Sequence[dict[str, Any]]) -> UInt8Array | None:
    """The same sample of all runs below each other; none where a file has gone."""
    try:
        images = [read_image(one.folder / row["picture"]) for one, row in zip(runs, rows, strict=True)]
    except InputError:
        return None
    scores = ["" if row["score"] is None else f" {row['score']:.3f}" for row in rows]
    size = max(13, images[0].shape[1] // 36)  # to be read on a page that shows two such pictures side by side
    named = [captioned(image, one.label + s, size) for image, one, s in zip(images, runs, scores, strict=True)]
    return tile(named, columns=1)
