"""Runs and evaluations -> their pages: report.html with figures, curves and pictures, and the same as JSON."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from polarpix.chart import Curves
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import write_text
from polarpix.engine.evaluate import Evaluation, conditions
from polarpix.errors import InputError
from polarpix.findings import BEST, SPREAD, WORST, Findings
from polarpix.images import read_image, write_image
from polarpix.pages import load_page
from polarpix.report import Report, Section, Table, Value, plain, shown
from polarpix.report_files import write_html, write_markdown

__all__ = [
    "evaluation_record",
    "run_curves",
    "training_course",
    "write_evaluation",
    "write_record",
    "write_training",
]

PROTOCOL = "Figures can be compared with those of the same protocol only."


def write_evaluation(found: Evaluation, folder: Path, command: str) -> None:
    """Write report.html, report.md, samples.json with pictures/ and, for pose, the COCO results.json."""
    report = evaluation_report(found, command)
    write_html(report, folder / "report.html")
    words = [section for section in report.sections if not section.pictures]
    write_markdown(replace(report, sections=words), folder / "report.md")  # the pictures lie beside it
    write_samples(found.findings, folder)
    if found.task == "pose":
        write_text(folder / "results.json", json.dumps(found.results))


def evaluation_report(found: Evaluation, command: str) -> Report:
    """The page of an evaluation: its figures, their protocol, tables and curves, pictures with their own scores."""
    more = found.findings
    main = [(name, None if value == -1 else value) for name, value in found.metrics.items() if "/" not in name]
    each: list[list[Value]] = [[name, value] for name, value in found.metrics.items() if "/" in name]
    rows = [[name, short(value)] for name, value in found.protocol.items()]  # the record has the whole hashes
    half = (len(rows) + 1) // 2
    pairs: list[list[Value]] = [
        [*left, *right] for left, right in zip_longest(rows[:half], rows[half:], fillvalue=["", ""])
    ]
    sections = [Section("Protocol", PROTOCOL, table=Table(["setting", "value", "setting", "value"], pairs))]
    sections += more.sections
    run_folder = Path(str(found.conditions["weights"])).resolve().parent.parent
    course = run_curves(run_folder, monitor_of(run_folder))
    if course:
        sections.append(Section("Course of the training", curves=course))
    sections += picture_sections(found)
    if each and more.each is None:
        sections.append(Section("One by one", table=Table(["", "value"], each)))
    return Report(
        title=f"{found.task} evaluation on {found.split}",
        subtitle=str(found.conditions["weights"]),
        summary=main,
        sections=sections,
        conditions={"command": command, **found.conditions},
    )


def picture_sections(found: Evaluation) -> list[Section]:
    """Worst, best and evenly chosen samples, each with its file and its own score."""
    more = found.findings
    words = {
        WORST: ("Worst predictions", f"The lowest {more.score_name} of the split."),
        BEST: ("Best predictions", f"The highest {more.score_name} of the split."),
        SPREAD: ("Evenly chosen predictions", "Spread over the split, without regard to the score."),
    }
    sections: list[Section] = []
    for group, (title, text) in words.items():
        positions = more.groups.get(group, [])
        if not positions:
            continue
        pictures = []
        for position in positions:
            sample = more.samples[position]
            score = "" if sample.score is None else f"{more.score_name} {sample.score:.3f} · "
            pictures.append((f"{score}{sample.name}", more.shown[position]))
        side = "Left the annotation, right the network."
        explained = "" if sections else f" {more.score_text}"
        sections.append(
            Section(title, f"{text} {side}{explained}", pictures=pictures, columns=3 if found.task == "pose" else 2)
        )
    if not sections:
        sections.append(
            Section("Truth and prediction", pictures=[("left the annotation, right the network", found.picture)])
        )
    return sections


def write_samples(more: Findings, folder: Path) -> None:
    """samples.json: file, instance and score of every sample, and where its picture is, if it was drawn."""
    rows: list[dict[str, Any]] = []
    for position, sample in enumerate(more.samples):
        row: dict[str, Any] = {"file": sample.file, "instance": sample.instance, "score": sample.score}
        if position in more.shown:
            row["picture"] = f"pictures/{position:06d}.jpg"
            write_image(folder / row["picture"], more.shown[position])
        rows.append(row)
    write_text(folder / "samples.json", json.dumps({"score": more.score_name, "samples": rows}))


def monitor_of(folder: Path) -> str:
    """The metric that the page of a run folder watched; the loss where there is no page."""
    page = folder / "config.yaml"
    try:
        return load_page(page).monitor if page.is_file() else "loss"
    except InputError:  # of another version
        return "loss"


def short(value: Any) -> str:
    """A value of the protocol on one line; a hash by its beginning."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    if isinstance(value, list) and len(value) > 4:
        if len(set(map(str, value))) == 1:
            return f"{len(value)} x {value[0]}"
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return shown(value) if isinstance(value, bool | None) else str(value)


def evaluation_record(found: Evaluation, run: PoseRun | SegRun, command: str) -> dict[str, Any]:
    """The figures with everything they depend on: what benchmarks/results holds.

    The course of the training is taken from metrics.csv of the run folder the weights lie in, where there is one.
    """
    each = found.findings.each
    return {
        "name": run.name,
        "task": run.task,
        "split": found.split,
        "command": command,
        "seed": run.seed,
        "metrics": found.metrics,
        "protocol": found.protocol,
        "conditions": found.conditions,
        "each": each and {"headers": list(each.headers), "rows": [[plain(v) for v in row] for row in each.rows]},
        "training": training_course(Path(str(found.conditions["weights"])).resolve().parent.parent),
        "config": asdict(run),
    }


def write_record(found: Evaluation, run: PoseRun | SegRun, path: Path, command: str) -> None:
    """Write that record as JSON."""
    write_text(path, json.dumps(evaluation_record(found, run, command), indent=2) + "\n")


def training_course(folder: Path) -> dict[str, float]:
    """Epochs, their seconds altogether (validation included), and the median time of a step and of waiting for data in
    milliseconds; empty without a metrics.csv."""
    rows = read_metrics(folder)
    if not rows:
        return {}
    course: dict[str, float] = {"epochs": len(rows)}
    for name in ("step_ms", "data_ms"):
        values = [float(row[name]) for row in rows if row.get(name)]
        if values:
            course[f"{name}_median"] = round(median(values), 2)
    if all(row.get("seconds") for row in rows):  # tables of earlier versions have none
        course["seconds"] = round(sum(float(row["seconds"]) for row in rows), 1)
    return course


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a run folder's metrics.csv; none where no epoch was trained."""
    if not (folder / "metrics.csv").exists():
        return []
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run_curves(folder: Path, monitor: str) -> list[Curves]:
    """The loss and the monitored metric of a run folder over its epochs."""
    rows = read_metrics(folder)
    charts = []
    for name in dict.fromkeys(("loss", monitor)):
        points = [(float(row["epoch"]) + 1, float(row[name])) for row in rows if row.get(name)]
        if points:
            charts.append(Curves(name, {name: points}))
    return charts


def write_training(run: PoseRun | SegRun, folder: Path, metrics: dict[str, float], page: str) -> Path:
    """Write report.html of a finished run: best metrics, curves, the last pictures, the page."""
    sections = [Section("Course of the training", curves=run_curves(folder, run.monitor))]
    pictures = sorted((folder / "pictures").glob("*.jpg"))
    if pictures:
        caption = "after the last epoch: left the annotation, right the network"
        sections.append(Section("Truth and prediction", pictures=[(caption, read_image(pictures[-1]))]))
    sections.append(Section("The page", text=page))
    report = Report(
        title=run.name,
        subtitle=f"{run.task}: {run.model.backbone.name} with attention {run.model.backbone.attention}",
        summary=[(name, value) for name, value in metrics.items() if "/" not in name],
        sections=sections,
        conditions={"seed": run.seed, **conditions()},
    )
    write_html(report, folder / "report.html")
    return folder / "report.html"
