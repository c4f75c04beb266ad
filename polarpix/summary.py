"""Runs and evaluations -> their pages: report.html with figures, curves and pictures, and the same as JSON."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from polarpix.chart import Curves
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import write_text
from polarpix.engine.evaluate import Evaluation, conditions
from polarpix.images import read_image
from polarpix.report import Report, Section, Table, write_html

__all__ = [
    "evaluation_record",
    "run_curves",
    "training_course",
    "write_evaluation",
    "write_record",
    "write_training",
]


def write_evaluation(found: Evaluation, folder: Path, command: str) -> None:
    """Write report.html and, for pose, the COCO results.json."""
    main = {name: value for name, value in found.metrics.items() if "/" not in name}
    each = {name: value for name, value in found.metrics.items() if "/" in name}
    sections = [Section("Truth and prediction", pictures=[("left the annotation, right the network", found.picture)])]
    if each:
        sections.append(Section("One by one", table=Table(["", "value"], [[n, v] for n, v in each.items()])))
    rows = [[name, str(value)] for name, value in found.protocol.items()]
    sections.append(Section("Protocol", table=Table(["setting", "value"], rows)))
    report = Report(
        title=f"{found.task} evaluation on {found.split}",
        summary=list(main.items()),
        sections=sections,
        conditions={"command": command, **found.conditions},
    )
    write_html(report, folder / "report.html")
    if found.task == "pose":
        write_text(folder / "results.json", json.dumps(found.results))


def evaluation_record(found: Evaluation, run: PoseRun | SegRun, command: str) -> dict[str, Any]:
    """The figures with everything they depend on: what benchmarks/results holds.

    The course of the training is taken from metrics.csv of the run folder the weights lie in, where there is one.
    """
    return {
        "name": run.name,
        "command": command,
        "seed": run.seed,
        "metrics": found.metrics,
        "protocol": found.protocol,
        "conditions": found.conditions,
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
    for name in ("loss", monitor):
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
