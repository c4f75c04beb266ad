"""The whole job on the embedded data: draw figures, train both tasks, evaluate, predict, write one page."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.config import PoseRun, SegRun
from polarpix.demo.boxed import boxed_section, read_photo
from polarpix.demo.figures import FIGURE_CLASSES, draw_scene, write_figures
from polarpix.draw import draw_gates
from polarpix.engine.artifact import load_artifact, write_text
from polarpix.engine.evaluate import Evaluation, conditions, evaluate
from polarpix.engine.fit import Fitted, fit
from polarpix.errors import InputError
from polarpix.gates import record_gates
from polarpix.images import check_place
from polarpix.pages import load_page
from polarpix.predict import PosePredictor, SegPredictor, artifact_run, load
from polarpix.report import Report, Section
from polarpix.report_files import write_html
from polarpix.sheet import legend, tile
from polarpix.summary import evaluation_record, run_curves, write_evaluation, write_training
from polarpix.types import UInt8Array

__all__ = ["run_demo"]

PAGES = Path(__file__).parent
SPLITS = {"train": 400, "val": 40, "test": 40}
SIZE = (144, 144)
SEED = 0


@dataclass(frozen=True)
class Trained:
    """One task of the demonstration, trained and evaluated on the test split."""

    run: PoseRun | SegRun
    fitted: Fitted
    found: Evaluation


def train_and_test(task: str, out: Path) -> Trained:
    """Train the embedded page of a task, or take the finished run that is there, and evaluate it."""
    page = PAGES / f"{task}.yaml"
    run = load_page(page, [f"--out={out}", f"--data.root={out / 'data'}"])
    fitted = fit(run, resume=True)
    write_training(run, fitted.folder, fitted.metrics, page.read_text())
    artifact = load_artifact(fitted.weights)
    found = evaluate(artifact, artifact_run(artifact), "test")
    write_evaluation(found, fitted.folder / "eval" / "test", command=eval_command(fitted))
    return Trained(run, fitted, found)


def eval_command(fitted: Fitted) -> str:
    """The command that evaluates a run of the demonstration again."""
    return f"polarpix eval {fitted.weights} --split test"


def predict_scenes(pose: PosePredictor, seg: SegPredictor, count: int = 8) -> UInt8Array:
    """Pictures nobody has trained or tested on, with the keypoints and masks found: one sheet [H, W, 3]."""
    cells: list[UInt8Array] = []
    for number in range(count):
        scene = draw_scene(np.random.default_rng([SEED, 9, number]), SIZE)
        cells.append(pose(scene.image, scene.boxes).plot(zoom=2))
        cells.append(seg(scene.image).plot(zoom=2))
    return tile(cells, columns=4, captions=["keypoints", "parts"] * count)


def gate_pictures(seg: SegPredictor) -> UInt8Array:
    """The gates of the first and last attention block for one picture: one sheet [H, W, 3]."""
    image = draw_scene(np.random.default_rng([SEED, 9, 0]), SIZE).image
    gates = record_gates(seg.model, seg.inputs(image))
    chosen = [next(iter(gates)), list(gates)[-1]]
    cells: list[UInt8Array] = []
    for place in chosen:
        channel, spatial = gates[place]
        assert channel is not None
        assert spatial is not None
        cells.append(draw_gates(image, channel.numpy(force=True), spatial.numpy(force=True), zoom=2))
    return tile(cells, columns=2, captions=chosen)


def run_demo(
    out: Path,
    record: Path | None = None,
    command: str = "polarpix demo",
    started: float = 0.0,
    photo: Path | None = None,
) -> Path:
    """Draw the data, train, evaluate and predict; gives the page out/index.html.

    What is already there is used: a finished run is evaluated again, an interrupted one goes on.

    Args:
        out: folder for data, runs and page.
        record: file for the figures of both tasks with seconds, seed, commit, versions and device.
        command: what the record says was called.
        started: seconds since 1970 from which the record counts; 0 is now.
        photo: a photograph to show the models in the box on.

    Raises:
        InputError: a record of a demonstration that is already there in part, a place that takes no files, or a
            photograph that cannot be read.
    """
    started = started or time.time()
    picture = None if photo is None else read_photo(photo)
    for path in (out / "index.html", *([record] if record else [])):
        check_place(path)
    if record and out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty, so a record would not hold the time of it all: choose another --out")
    if not (out / "data" / "annotations" / "test.json").exists():
        print(f"drawing {sum(SPLITS.values())} pictures of figures into {out / 'data'}")
        write_figures(out / "data", SPLITS["train"], SPLITS["val"], SPLITS["test"], SIZE, SEED)
    trained = {task: train_and_test(task, out) for task in ("pose", "seg")}
    pose, seg = load(trained["pose"].fitted.weights), load(trained["seg"].fitted.weights)
    assert isinstance(pose, PosePredictor)
    assert isinstance(seg, SegPredictor)
    boxed = boxed_section([draw_scene(np.random.default_rng([SEED, 9, n]), SIZE) for n in range(4)], picture)
    sections = [
        Section(
            "Predictions on new pictures",
            "None of these pictures was in the training, validation or test data. Left the keypoints, right the parts.",
            pictures=[("", predict_scenes(pose, seg)), ("", legend(FIGURE_CLASSES))],
        ),
        *(task_section(task, one) for task, one in trained.items()),
        Section(
            "What the gates do",
            "The spatial gate over the picture and the channel gate below it, each stretched to its own spread, which "
            "is printed beside it. Here the first and the last block of the segmentation network.",
            pictures=[("", gate_pictures(seg))],
        ),
        *([boxed] if boxed else []),
        Section("Go on from here", next_steps(trained)),
    ]
    metrics = {task: one.found.metrics for task, one in trained.items()}
    report = Report(
        title="polarpix: keypoints and masks with polarized self-attention",
        subtitle="Two small networks, trained on this machine from random weights on drawn figures.",
        summary=[
            ("keypoint AP (OKS)", metrics["pose"]["AP"]),
            ("PCK@0.2 of the torso", metrics["pose"]["PCK@0.2"]),
            ("mIoU", metrics["seg"]["mIoU"]),
            ("pixel accuracy", metrics["seg"]["pixel_accuracy"]),
        ],
        sections=sections,
        conditions={"command": "polarpix demo", "seed": SEED, **conditions()},
    )
    page = out / "index.html"
    write_html(report, page)
    if record:
        table = demo_record(trained, command, round(time.time() - started, 1))
        write_text(record, json.dumps(table, indent=2) + "\n")
    for label, value in report.summary:
        print(f"{label:<24}{value:.3f}")
    return page


def demo_record(trained: dict[str, Trained], command: str, seconds: float) -> dict[str, Any]:
    """What a figure about the demonstration rests on; ``runs`` holds the record of each task's evaluation."""
    return {
        "name": "demo",
        "command": command,
        "seed": SEED,
        "seconds": seconds,
        "pictures": dict(SPLITS),
        "conditions": conditions(),
        "runs": {
            task: evaluation_record(one.found, one.run, eval_command(one.fitted)) for task, one in trained.items()
        },
    }


def task_section(task: str, one: Trained) -> Section:
    """Curves and test pictures of one task."""
    backbone = one.run.model.backbone
    words = {"pose": "Keypoints", "seg": "Part masks"}[task]
    return Section(
        words,
        f"{backbone.name} with attention {backbone.attention} in every block, {one.run.engine.epochs} epochs over "
        f"{SPLITS['train']} pictures; figures below are of the {SPLITS['test']} test pictures.",
        curves=run_curves(one.fitted.folder, one.run.monitor),
        pictures=[("test pictures: left the truth, right the network", one.found.picture)],
    )


def next_steps(trained: dict[str, Trained]) -> str:
    """Commands that work with what the demonstration left behind."""
    weights = {task: one.fitted.weights for task, one in trained.items()}
    return (
        f"Evaluate again: polarpix eval {weights['pose']} --split test\n\n"
        f"Predict your picture: polarpix predict {weights['seg']} PICTURE.jpg\n\n"
        f"Train your own data: start from {trained['pose'].fitted.folder / 'config.yaml'}, name your files under data, "
        "and run polarpix train --config PAGE."
    )
