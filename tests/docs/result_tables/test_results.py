"""The rows of docs/results.md."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_results import read_records
from result_tables.results import tables

from polarpix.engine.evaluate import Evaluation
from polarpix.pages import make_run
from polarpix.summary import write_record


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Records as polarpix eval --record writes them."""
    conditions = {"commit": "c0ffee", "weights": str(tmp_path / "run" / "weights" / "w"), "weights_commit": "abc123"}
    pose = Evaluation(
        "pose",
        "test",
        {"AP": 0.5, "AR": 0.625, "RMSE": 3.21, "PCK@0.2/nose": 0.1},
        {"annotations": "data/test.json", "images": 23, "boxes": "ground truth"},
        conditions,
        [],
        np.zeros((2, 2, 3), np.uint8),
    )
    seg = Evaluation(
        "seg",
        "test",
        {"mIoU": 0.61204, "pixel_accuracy": 0.9, "IoU/sky": 0.9},
        {"split": "test", "images": 233},
        conditions,
        [],
        np.zeros((2, 2, 3), np.uint8),
    )
    folder = tmp_path / "records"
    for found in (pose, seg):
        run = make_run({"task": found.task, "name": f"a_{found.task}", "seed": 7})
        write_record(found, run, folder / f"{found.task}.json", "polarpix eval x")
    return folder


def test_records_become_rows(records: Path) -> None:
    text = tables(read_records(records))
    assert "| a_pose | psa_p | 7 | – | test.json, 23 images | ground truth | 50.00 | 62.50 | 3.21 |" in text
    assert "| a_seg | psa_p | 7 | – | test, 233 images | 61.20 | 90.00 | `abc123` | `seg.json` |" in text
    assert "PCK" not in text  # a column that no record has
    heads = [line for line in text.splitlines() if line.startswith("| run")]
    rows = [line for line in text.splitlines() if line.startswith("| a_")]
    assert [head.count("|") for head in heads] == [row.count("|") for row in rows]


def test_missing_metric_is_a_dash(records: Path) -> None:
    second = json.loads((records / "pose.json").read_text())
    del second["metrics"]["RMSE"]
    (records / "second.json").write_text(json.dumps(second))
    rows = [line for line in tables(read_records(records)).splitlines() if "`second.json`" in line]
    assert "| 62.50 | – | `abc123` |" in rows[0]


def test_checks_have_a_table_of_their_own() -> None:
    one = {"polarpix": {"AP": 0.25}, "pycocotools": {"AP": 0.25}, "largest_difference": 1e-17}
    text = tables({"coco.json": {"name": "coco", "metrics": {"noise 3 px": one}}})
    assert "| `coco.json` | noise 3 px | 25.00 | 25.00 | 1.0e-17 |" in text
    assert "Keypoints" not in text


def test_demonstrations_have_a_table_of_their_own() -> None:
    runs = {"pose": {"metrics": {"AP": 0.5, "PCK@0.2": 0.75}}, "seg": {"metrics": {"mIoU": 0.25, "pixel_accuracy": 1}}}
    record = {"command": "polarpix demo", "seed": 0, "seconds": 321.4, "runs": runs}
    text = tables({"demo.json": record | {"conditions": {"device": "two cores", "commit": "abc"}}})
    row = "| polarpix demo | 0 | two cores | 321 s | 50.00 | 75.00 | 25.00 | 100.00 | `abc` | `demo.json` |"
    assert row in text
    assert "Keypoints" not in text
    assert [line.count("|") for line in text.splitlines() if line.startswith("|")] == [11, 11, 11]


def test_ablations_have_a_table_each() -> None:
    protocol = {"metric": "mIoU of test", "network": "seg: net", "training": "3 epochs", "page": "a_page"}
    none = {"attention": "none", "seeds": [0, 1], "mean": 0.5, "deviation": 0.01, "difference": None, "costs": None}
    apart = {"mean": -0.0125, "low": -0.05, "high": 0.025, "seeds": 2}
    costs = {"params": 2_590_000, "step_ratio": {"median": 1.066, "low": 1.0, "high": 1.1}}
    psa = none | {"attention": "psa_p", "difference": apart, "costs": costs}
    once = none | {"attention": "se", "seeds": [0], "deviation": None, "difference": apart | {"low": None}}
    record = {"kind": "bench accuracy", "command": "polarpix bench accuracy", "protocol": protocol}
    text = tables({"a.json": record | {"tables": {"rows": [none, psa, once]}}})
    assert "| none | 2 | 0.5000 | 0.0100 | – | – | – | – |" in text
    assert "| psa_p | 2 | 0.5000 | 0.0100 | -0.0125 | -0.0500 .. +0.0250 | 2.590 | 1.07 |" in text
    assert "| se | 1 | 0.5000 | – | -0.0125 | – | – | – |" in text
    assert "seg: net; 3 epochs. `polarpix bench accuracy`: `a.json`." in text
