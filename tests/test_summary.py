"""Runs and evaluations -> their pages and records."""

import json
from pathlib import Path

import numpy as np
import pytest

from polarpix.engine.evaluate import Evaluation
from polarpix.pages import load_page
from polarpix.summary import run_curves, training_course, write_evaluation, write_record, write_training


@pytest.fixture
def found(tmp_path: Path) -> Evaluation:
    """A made-up evaluation."""
    return Evaluation(
        task="pose",
        split="test",
        metrics={"AP": 0.5, "PCK@0.2": 0.75, "PCK@0.2/nose<b>": 0.25},
        protocol={"annotations": "test.json", "instances": 7},
        conditions={"commit": "abc", "weights": str(tmp_path / "run" / "weights" / "best.safetensors")},
        results=[{"image_id": 1, "keypoints": [1.0, 2.0, 0.5], "score": 0.5, "category_id": 1}],
        picture=np.zeros((8, 8, 3), np.uint8),
    )


def test_an_evaluation_on_one_page(found: Evaluation, tmp_path: Path) -> None:
    write_evaluation(found, tmp_path / "e", "polarpix eval x")
    page = (tmp_path / "e" / "report.html").read_text()
    for word in ("0.5", "0.75", "instances", "7", "abc", "polarpix eval x", "nose&lt;b&gt;", "data:image/"):
        assert word in page
    assert "nose<b>" not in page
    assert json.loads((tmp_path / "e" / "results.json").read_text()) == found.results


def test_a_record_holds_all_a_figure_depends_on(found: Evaluation, pose_folder: Path, tmp_path: Path) -> None:
    run = load_page(pose_folder / "config.yaml")
    write_record(found, run, tmp_path / "r.json", "polarpix eval x")
    table = json.loads((tmp_path / "r.json").read_text())
    assert table["training"] == {}  # the run folder of the weights is not there
    assert (table["metrics"], table["protocol"], table["conditions"]) == (
        found.metrics,
        found.protocol,
        found.conditions,
    )
    assert (table["seed"], table["command"], table["name"]) == (0, "polarpix eval x", "tiny")
    assert table["config"]["model"]["backbone"]["attention"] == "psa_p"


def test_the_course_of_a_training(pose_folder: Path, seg_folder: Path, tmp_path: Path) -> None:
    for folder, monitor in ((pose_folder, "mean_error"), (seg_folder, "mIoU")):
        course = training_course(folder)
        assert course["epochs"] == 2
        assert course["step_ms_median"] > 0
        assert course["data_ms_median"] > 0
        assert course["seconds"] > 2 * course["step_ms_median"] / 1000
        curves = run_curves(folder, monitor)
        assert [curve.title for curve in curves] == ["loss", monitor]
        for curve in curves:
            assert [x for x, _ in next(iter(curve.series.values()))] == [1, 2]
    assert training_course(tmp_path) == {}
    (tmp_path / "metrics.csv").write_text("epoch,step_ms\n0,3.0\n1,5.0\n")  # as earlier versions wrote it
    assert training_course(tmp_path) == {"epochs": 2, "step_ms_median": 4.0}


def test_curves_leave_out_epochs_without_a_validation(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss,mIoU\n0,3.0,\n1,2.0,0.25\n2,1.0,\n3,0.5,0.75\n")
    loss, score = run_curves(tmp_path, "mIoU")
    assert loss.series == {"loss": [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (4.0, 0.5)]}
    assert score.series == {"mIoU": [(2.0, 0.25), (4.0, 0.75)]}
    assert [curve.title for curve in run_curves(tmp_path, "AP")] == ["loss"]


def test_a_training_on_one_page(seg_folder: Path, tmp_path: Path) -> None:
    run = load_page(seg_folder / "config.yaml")
    (tmp_path / "metrics.csv").write_bytes((seg_folder / "metrics.csv").read_bytes())
    path = write_training(run, tmp_path, {"mIoU": 0.125, "IoU/head": 0.5}, "task: seg\nname: <tiny>\n")
    page = path.read_text()
    for word in ("0.125", "test_resnet", "psa_p", "&lt;tiny&gt;", "<svg", "seed"):
        assert word in page
    assert "Truth and prediction" not in page  # there are no pictures yet
