"""The tables of the pages are what the records below benchmarks/results say."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarpix.engine.evaluate import Evaluation
from polarpix.pages import make_run
from polarpix.summary import write_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


PAGES = ["results.md", "speed.md", "calibration.md", "export.md", "prediction.md", "reliability.md"]


@pytest.mark.parametrize("page", PAGES)
def test_page_is_up_to_date(script: Any, page: str) -> None:
    write = {path.name: write for path, write in script.PAGES.items()}[page]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert script.filled(text, write(script.read_records())) == text, "run: python docs/make_results.py"


CONDITIONS = {"device": "cpu", "cpu": "X", "threads": 2, "torch": "9", "commit": "abc", "load_before": 0.1}


def test_benchmarks_become_rows(script: Any) -> None:
    mean = {"label": "psa_p:loops", "memory_format": "contiguous", "way": "eager"}
    means = [
        mean | {"mode": "fwd", "speedup": 12.34, "least_speedup": 7.0, "over_limit_large": 3.5},
        mean | {"mode": "fwdbwd", "speedup": None, "least_speedup": 6.0, "over_limit_large": 9.0},
    ]
    ratio = {"median": 1.0812, "low": 1.07, "high": 1.1}
    row = {"network": "net", "mode": "infer", "batch": 1, "variant": "se", "ratio": {"eager": ratio}}
    base = {"command": "polarpix bench", "conditions": CONDITIONS, "protocol": {"dtype": "fp32"}}
    text = script.benchmarks(
        script.SPEED,
        {
            "b.json": base | {"kind": "bench block", "tables": {"means": means}},
            "m.json": base
            | {"kind": "bench model", "tables": {"rows": [row | {"images_per_second": {"eager": 10.5}}]}},
            "other.json": {"kind": "bench kernels"},
        },
    )
    assert "| psa_p:loops | contiguous | 12.3 | 7 | 3.5 | – | 6 | 9 |" in text
    assert "| net | infer | 1 | eager | se | 1.081 | 1.070 .. 1.100 | 10.5 |" in text
    assert "on cpu (X, 2 threads), fp32, torch 9, at `abc`, load before 0.1: `b.json`." in text


def test_latencies_and_overlaps_become_rows(script: Any) -> None:
    base = {"command": "polarpix bench export", "conditions": CONDITIONS, "protocol": {"dtype": "fp32"}}
    ratio = {"median": 1.04, "low": 1.0, "high": 1.125}
    latency = {"task": "pose", "input": "1 box", "times": {"own": {"median": 36.84}, "by hand": {"median": 35.4}}}
    text = script.exports("e.json", base | {"tables": {"rows": [latency | {"ratio": {"by hand": ratio}}] * 2}})
    assert "| network | input | own, ms | by hand, ms | time over by hand |" in text
    assert text.count("| pose | 1 box | 36.8 | 35.4 | 1.04 (1.00 .. 1.12) |") == 2
    row = {"source": "a video", "frames": 80, "network": "pose", "seconds": 10.0, "frames_per_second": 8.0}
    row |= {"network_seconds": 9.5, "waiting_to_decode": 0.04, "waiting_to_write": 0.3, "decode": 1.21, "write": 2.0}
    row |= {"alone_seconds": 8.0}
    text = script.overlaps("o.json", base | {"tables": {"rows": [row]}})
    assert "| a video | 80 | pose | 8.0 | 1.25 | 95% | 0% | 3% | 1.2 s | 2.0 s |" in text
    assert script.benchmarks(script.EXPORT, {"x.json": {"kind": "other"}}).startswith("No benchmark has been recorded")


def test_records_become_rows(script: Any, records: Path) -> None:
    text = script.tables(script.read_records(records))
    assert "| a_pose | psa_p | 7 | – | test.json, 23 images | ground truth | 50.00 | 62.50 | 3.21 |" in text
    assert "| a_seg | psa_p | 7 | – | test, 233 images | 61.20 | 90.00 | `abc123` | `seg.json` |" in text
    assert "PCK" not in text  # a column that no record has
    heads = [line for line in text.splitlines() if line.startswith("| run")]
    rows = [line for line in text.splitlines() if line.startswith("| a_")]
    assert [head.count("|") for head in heads] == [row.count("|") for row in rows]


def test_missing_metric_is_a_dash(script: Any, records: Path) -> None:
    second = json.loads((records / "pose.json").read_text())
    del second["metrics"]["RMSE"]
    (records / "second.json").write_text(json.dumps(second))
    rows = [line for line in script.tables(script.read_records(records)).splitlines() if "`second.json`" in line]
    assert "| 62.50 | – | `abc123` |" in rows[0]


def test_checks_have_a_table_of_their_own(script: Any) -> None:
    one = {"polarpix": {"AP": 0.25}, "pycocotools": {"AP": 0.25}, "largest_difference": 1e-17}
    text = script.tables({"coco.json": {"name": "coco", "metrics": {"noise 3 px": one}}})
    assert "| `coco.json` | noise 3 px | 25.00 | 25.00 | 1.0e-17 |" in text
    assert "Keypoints" not in text


def test_demonstrations_have_a_table_of_their_own(script: Any) -> None:
    runs = {"pose": {"metrics": {"AP": 0.5, "PCK@0.2": 0.75}}, "seg": {"metrics": {"mIoU": 0.25, "pixel_accuracy": 1}}}
    record = {"command": "polarpix demo", "seed": 0, "seconds": 321.4, "runs": runs}
    text = script.tables({"demo.json": record | {"conditions": {"device": "two cores", "commit": "abc"}}})
    row = "| polarpix demo | 0 | two cores | 321 s | 50.00 | 75.00 | 25.00 | 100.00 | `abc` | `demo.json` |"
    assert row in text
    assert "Keypoints" not in text
    assert [line.count("|") for line in text.splitlines() if line.startswith("|")] == [11, 11, 11]


def test_ablations_have_a_table_each(script: Any) -> None:
    protocol = {"metric": "mIoU of test", "network": "seg: net", "training": "3 epochs", "page": "a_page"}
    none = {"attention": "none", "seeds": [0, 1], "mean": 0.5, "deviation": 0.01, "difference": None, "costs": None}
    apart = {"mean": -0.0125, "low": -0.05, "high": 0.025, "seeds": 2}
    costs = {"params": 2_590_000, "step_ratio": {"median": 1.066, "low": 1.0, "high": 1.1}}
    psa = none | {"attention": "psa_p", "difference": apart, "costs": costs}
    once = none | {"attention": "se", "seeds": [0], "deviation": None, "difference": apart | {"low": None}}
    record = {"kind": "bench accuracy", "command": "polarpix bench accuracy", "protocol": protocol}
    text = script.tables({"a.json": record | {"tables": {"rows": [none, psa, once]}}})
    assert "| none | 2 | 0.5000 | 0.0100 | – | – | – | – |" in text
    assert "| psa_p | 2 | 0.5000 | 0.0100 | -0.0125 | -0.0500 .. +0.0250 | 2.590 | 1.07 |" in text
    assert "| se | 1 | 0.5000 | – | -0.0125 | – | – | – |" in text
    assert "seg: net; 3 epochs. `polarpix bench accuracy`: `a.json`." in text


def test_reliability_has_a_section_for_every_kind_of_record(script: Any) -> None:
    base = {"command": "run it", "seed": 3, "conditions": {"device": "cpu", "commit": "abc"}}
    counts = {"accepted": 5, "refused in one line": 1200, "traceback": 2}
    group = {"files": 1207, "files_answered_wrongly": 2, "readers": {"read_image": counts}}
    attack = {"name": "page: tag", "through": "train", "outcome": "accepted", "expected": "refused in one line"}
    fuzz = {
        "name": "fuzz_inputs",
        "bound_megabytes": 3072,
        "fuzz": {"picture": group | {"highest_megabytes_of_a_file": 12.3}},
        "attacks": [attack | {"megabytes": 7.0}, attack | {"megabytes": 1.0, "outcome": "refused in one line"}],
    }
    faults = {
        "kind": "fault injection",
        "kill": [{"weights_equal": True}, {"weights_equal": False}],
        "term": [{"weights_equal": True}],
        "faults": [
            {"fault": "disk full", "outcome": "not tried"},
            {"fault": "folder gone", "status": 2, "line": "a: gone", "traceback": False, "checkpoint_whole": True},
        ],
    }
    text = script.reliability({"f.json": base | fuzz, "k.json": base | faults, "other.json": {"name": "x"}})
    assert "1,207 files, 2 of them answered wrongly" in text
    assert "| read_image | 1,207 | 5 | 1,200 | 2 |" in text
    assert "| page | train | 2 | 1 | 1 | 1 |" in text
    assert "| SIGKILL at a random moment, then resumed | 2 | 1 ended with the weights of an" in text
    assert "| folder gone | 1 | status 2, one line; checkpoint whole: True | `a: gone` |" in text
    assert "`run it` on cpu, seed 3, at `abc`: `f.json`." in text
    assert text.index("Trainings under fault") < text.index("Damaged files") < text.index("Attacks")


def test_exported_files_have_a_row_for_every_format(script: Any) -> None:
    refused = "refused in one line"
    attack = {"format": ".pt2", "name": "a guard", "outcome": refused, "expected": refused, "megabytes": 5.0}
    record = {
        "name": "fuzz_exports",
        "command": "run it",
        "seed": 3,
        "conditions": {"device": "cpu", "commit": "abc"},
        "bound_megabytes": 3072,
        "fuzz": {
            "files": {".onnx": {refused: 398, "accepted, gives the same": 1, "crash": 1}},
            "highest_megabytes_of_a_file": 7.2,
        },
        "attacks": [
            attack | {"torch_alone": "code was run"},
            attack | {"outcome": "accepted", "torch_alone": "code was run"},
            attack | {"name": "metadata: x"},
        ],
    }
    text = script.reliability({"e.json": record})
    assert "| .onnx | 400 | 398 | 1 | 1 |" in text
    assert "| .pt2 | everything else | 1 | 2 | 1 | 1 | 1 ran code |" in text
    assert "| .pt2 | metadata that lie | 1 | 1 | 1 | 0 |  |" in text
    assert "the most was 7. `run it` on cpu, seed 3, at `abc`: `e.json`." in text


def test_filling_twice_changes_nothing_more(script: Any, records: Path) -> None:
    page = f"before\n\n{script.BEGIN}\nold\n{script.END}\n\nafter\n"
    once = script.filled(page, script.tables(script.read_records(records)))
    assert once.startswith("before\n")
    assert once.endswith("\n\nafter\n")
    assert "old" not in once
    assert script.filled(once, script.tables(script.read_records(records))) == once


def test_lost_marks_are_refused(script: Any) -> None:
    with pytest.raises(ValueError, match="results:begin"):
        script.filled("a page without marks", "")
