"""Evaluate a weights file on a split: metrics with the whole protocol beside them."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polarpix.calibration import Calibration, ScoreCounts
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import Artifact, commit, load_state
from polarpix.engine.fit import build_data, build_task, build_trainer, run_trainer
from polarpix.errors import InputError
from polarpix.findings import SPREAD, Findings, spread
from polarpix.pose.calibrate import pose_settings
from polarpix.pose.evaluate import pose_protocol
from polarpix.pose.page import pose_findings
from polarpix.pose.task import PoseData, PoseTask
from polarpix.reliability import coverage_section, score_metrics, score_section
from polarpix.report import Section
from polarpix.seg.analysis import Ranking
from polarpix.seg.page import seg_findings
from polarpix.seg.submission import Submission
from polarpix.seg.task import pixel_settings
from polarpix.sheet import tile
from polarpix.types import KeypointSchema, UInt8Array

__all__ = ["Evaluation", "conditions", "evaluate"]

KEPT = 6  # of the best predictions, and of the worst, are drawn


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found and under which conditions."""

    task: str
    split: str
    metrics: dict[str, float]
    protocol: dict[str, Any]
    conditions: dict[str, Any]
    results: list[dict[str, Any]]  # COCO keypoint results; empty for segmentation
    picture: UInt8Array  # truth beside prediction [H, W, 3]
    findings: Findings = field(default_factory=Findings)  # what else the same pass over the data has shown
    calibration: Calibration | None = None  # what this split would calibrate the scores to; of "val" only
    counts: ScoreCounts | None = None  # the bare scores against the truth


def conditions() -> dict[str, Any]:
    """Commit, versions and device: what a figure must carry to be redone."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("pytorch-lightning"),
        "device": gpu or f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
    }


def evaluate(
    artifact: Artifact, run: PoseRun | SegRun, split: str, pictures: int = 8, submission: Path | None = None
) -> Evaluation:
    """Evaluate the weights on "val" or "test" by the page's protocol.

    Args:
        artifact: the weights.
        run: the page to evaluate by.
        split: "val" or "test".
        pictures: how many are drawn, spread over the split, beside the best and the worst.
        submission: folder for the label maps that the server of the set takes; null for none.

    Raises:
        InputError: another split, one the page does not name, or whose labels are with a server that nothing is written
            for; no server for the set; weights that do not fit the page, or bad data.
    """
    if split not in ("val", "test"):
        raise InputError(f"split is {split!r}: choose val or test")
    if run.task != artifact.task:
        raise InputError(f"{artifact.file}: holds a {artifact.task} network, the page is for {run.task}: use its own")
    started = time.perf_counter()
    data = build_data(run)
    if isinstance(data, PoseData):
        data.known = known_skeleton(artifact, data.run, split)
    dataset: Any = data.dataset(split)
    own = dataset.schema if isinstance(run, PoseRun) else dataset.classes
    if own.names != artifact.labels.names:
        trained, given = (f"{len(n)} labels ({', '.join(n[:3])}, ...)" for n in (artifact.labels.names, own.names))
        raise InputError(f"{artifact.file}: trained on {trained}, the data has {given}: use data of the same labels")
    run.model.weights = run.model.backbone.weights = None
    task = build_task(run, own)
    load_state(task.model, artifact)
    if isinstance(run, SegRun) and submission is None and not dataset.labelled:  # of pose every results.json will do
        raise InputError(f"{run.data.root}: the labels of {split} are not here: add --submission FOLDER for the server")
    if submission is not None:
        if isinstance(run, PoseRun):
            raise InputError("--submission is for masks: COCO's server takes the results.json of every pose evaluation")
        task.submission = Submission(run, split, dataset, submission)
    if isinstance(run, SegRun):
        task.ranking = Ranking(spread(len(dataset), pictures), KEPT)
    trainer = build_trainer(run, Path(run.out), [])
    step: Any = trainer.validate if split == "val" else trainer.test
    run_trainer(trainer, step, task, datamodule=data, verbose=False)
    task.eval()
    more = findings_of(run, task, data, split, pictures)
    if artifact.calibration is not None:
        settings = pose_settings(run) if isinstance(run, PoseRun) else pixel_settings(run)
        artifact.calibration.check(settings, artifact.file)
    figures, sections = trust(task, dataset, split, artifact.calibration)
    more = replace(more, sections=[*more.sections, *sections])
    protocol = pose_protocol(run, dataset) if isinstance(run, PoseRun) else seg_protocol(run, split, len(dataset))
    protocol["attention"] = artifact.attention
    seconds = round(time.perf_counter() - started, 1)
    found = conditions() | {"weights": artifact.file, "weights_commit": artifact.commit, "seconds": seconds}
    spread_out = [more.shown[position] for position in more.groups.get(SPREAD, [])]
    picture = tile(spread_out, columns=2) if spread_out else task.pictures(dataset, pictures)
    metrics, results = task.results | figures, getattr(task, "coco", [])
    if artifact.calibration is not None:
        for result in results:
            heights = result["keypoints"][2::3]
            result["keypoints"][2::3] = artifact.calibration.probability(np.array(heights)).tolist()
    kept = task.calibration, task.score_counts(dataset)
    return Evaluation(run.task, split, metrics, protocol, found, results, picture, more, *kept)


def known_skeleton(artifact: Artifact, run: PoseRun, split: str) -> KeypointSchema | None:
    """The skeleton inside the weights, where the page is theirs and its schema file is not here; else null.

    Raises:
        InputError: the annotations that the page in the weights names are not here.
    """
    own, here = artifact.run.get("data", {}), run.data
    name = f"{split}_annotations"
    file = getattr(here, name)
    if file and file == own.get(name) and not (Path(here.root) / file).exists():
        give = f"add --data.{name} FILE and --data.{split}_images FOLDER of yours, or --config PAGE"
        raise InputError(f"{artifact.file}: its page evaluates on {Path(here.root) / file}, which is not here: {give}")
    theirs = here.schema and here.schema == own.get("schema") and not Path(here.schema).exists()
    return artifact.labels if theirs and isinstance(artifact.labels, KeypointSchema) else None


def trust(
    task: Any, dataset: Any, split: str, calibration: Calibration | None
) -> tuple[dict[str, float], list[Section]]:
    """Figures and sections on what the scores of the last evaluation mean; none where nothing is annotated."""
    counts: ScoreCounts | None = task.score_counts(dataset)
    if counts is None or not counts.total:
        return {}, []
    metrics = score_metrics(counts, calibration)
    sections = [score_section(task.run.task, counts, calibration, split)]
    if isinstance(task, PoseTask):
        held = task.coverage(dataset, calibration) or {}
        metrics |= {f"coverage/{claim:.2%} as a Gaussian": gauss for claim, (gauss, _) in held.items()}
        if calibration is not None:
            metrics |= {f"coverage/{claim:.2%}": own for claim, (_, own) in held.items()}
        sections.append(coverage_section(held, calibration))
    return metrics, sections


def findings_of(run: PoseRun | SegRun, task: Any, data: Any, split: str, pictures: int) -> Findings:
    """What else the pass over the data has shown; of the pictures those that are drawn are read once more."""
    dataset: Any = data.dataset(split)
    if isinstance(run, PoseRun):
        return pose_findings(run, dataset, task.located.keypoints, task.coco, pictures, KEPT)
    crops = data.crops(split)

    def read(position: int) -> tuple[UInt8Array, UInt8Array]:
        image, label, _ = crops[0, position]
        return image, label

    counts = task.confusion.counts.cpu().numpy()  # [C, C]
    return seg_findings(dataset, counts, task.ranking, read, Path(run.data.root), KEPT)


def seg_protocol(run: SegRun, split: str, images: int) -> dict[str, Any]:
    """Everything the figures depend on besides the weights."""
    fused = "scale attention" if run.model.head == "hierarchical_ocr" else "mean"
    return (
        {"data": run.data.root, "format": run.data.format, "split": getattr(run.data, split), "images": images}
        | {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(run.eval).items()}
        | {"scales_fused_by": fused}
    )
