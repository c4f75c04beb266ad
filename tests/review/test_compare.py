"""`polarpix compare`: what is set side by side, what is flagged, and what is refused."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarpix import commands
from polarpix.errors import InputError
from polarpix.report import Change
from polarpix.report_files import write_html
from polarpix.review import commands as review
from polarpix.review.compare import compare_report, metric_table, terminal_lines, warning
from polarpix.review.runs import different, distinct, find_runs, flat_page, measures

Record = Callable[..., Path]
SMALL = {"backbone": {"name": "test_resnet", "attention": "none"}, "head_channels": [8], "input_size": [64, 64]}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Writes a made-up record into a folder of that name."""

    def write(name: str, task: str = "pose", **change: Any) -> Path:
        content = {
            "name": name,
            "task": task,
            "split": "test",
            "metrics": {"AP": 0.5, "mean_error": 4.0, "APL": -1, "PCK@0.2/nose": 0.25},
            "protocol": {"flip_test": True, "annotations": "a.json", "annotations_sha256": "x", "attention": "none"},
            "each": {"headers": ["keypoint", "mean error, px"], "rows": [["nose", 3.0], ["tail", None]]},
            "conditions": {"device": "cpu"},
            "config": {"task": task, "name": name, "monitor": "AP", "model": SMALL, "optim": {"lr": 0.1}},
        }
        folder = tmp_path / name
        folder.mkdir()
        (folder / "record.json").write_text(json.dumps(content | change))
        return folder

    return write


@pytest.fixture(scope="module")
def evaluated(pose_folder: Path, seg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pose run, the same with another protocol and training page, and a segmentation run; all evaluated."""
    root = tmp_path_factory.mktemp("runs")
    folders = {name: root / name for name in ("one", "two", "masks")}
    shutil.copytree(pose_folder, folders["one"])
    shutil.copytree(pose_folder, folders["two"])
    shutil.copytree(seg_folder, folders["masks"])
    assert commands.evaluate(str(folders["one"])) == 0
    assert commands.evaluate(str(folders["two"]), options=["--eval.flip_test=false", "--seed=5"]) == 0
    assert commands.evaluate(str(folders["masks"])) == 0
    return folders


def test_an_evaluation_leaves_what_can_be_compared(evaluated: dict[str, Path]) -> None:
    for name, folder in evaluated.items():
        place = folder / "eval" / "val"
        page = (place / "report.html").read_text()
        for word in ("Protocol", "Worst predictions", "Best predictions", "taken for which", "Course of the training"):
            assert word in page, (name, word)
        links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'>) ]*)""", page)
        assert all(link.startswith(("data:image/", "#")) for link in links)
        assert "http" not in page
        assert "<script" not in page
        table = json.loads((place / "samples.json").read_text())
        assert len(table["samples"]) == {"masks": 5}.get(name, 9)
        drawn = [row["picture"] for row in table["samples"] if "picture" in row]
        assert drawn
        assert all((place / one).is_file() for one in drawn)
        assert (place / "report.md").read_text().startswith("# ")
        kept = json.loads((place / "record.json").read_text(), parse_constant=lambda word: pytest.fail(word))
        assert len(kept["each"]["rows"]) == {"masks": 7}.get(name, 14)
        assert kept["split"] == "val"


def test_runs_side_by_side(evaluated: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "compare.html"
    assert review.compare([str(evaluated["one"]), str(evaluated["two"])], out=str(out)) == 0
    said = capsys.readouterr()
    assert "polarpix: warning: the protocols differ (flip_test)" in said.err
    assert re.search(r"^mean_error +[\d.]+ +[\d.]+ \([+-]", said.out, flags=re.M)
    page = out.read_text()
    words = (
        "The protocols differ",
        "flip_test",
        "seed",
        "Largest losses and gains",
        "The same pictures",
        "<svg",
        "parameters",
    )
    for word in words:
        assert word in page
    assert "http" not in page
    assert "A one" in page
    assert "B two" in page  # the runs have one name, the folders do not


def test_the_same_protocol_is_said_to_be_one(evaluated: dict[str, Path]) -> None:
    found = find_runs([str(evaluated["one"]), str(evaluated["one"] / "eval" / "val" / "record.json")])
    assert warning(found) == ""
    report = compare_report(found, "c")
    assert report.sections[0].alert == ""
    assert "same protocol" in report.sections[0].text
    params, macs = found[0].costs()
    assert params is not None
    assert macs is not None
    assert 1e4 < params < 1e7
    assert macs > params


def test_tasks_do_not_mix(evaluated: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="different tasks cannot be compared") as refused:
        find_runs([str(evaluated["one"]), str(evaluated["masks"])])
    assert "\n" not in str(refused.value)


def test_differences_to_the_first(record: Record, tmp_path: Path) -> None:
    worse = {"AP": 0.25, "mean_error": 5.0, "NME": 0.5}
    found = find_runs([str(record("a")), str(record("b", metrics=worse)), str(record("c") / "record.json")])
    rows = {str(row[0]): row[1:] for row in metric_table(found).rows}
    assert "APL" not in rows  # not measured
    assert rows["AP"] == [0.5, Change(-0.25, False, 0.25), Change(0.0, None, 0.5)]
    assert rows["mean_error"][1] == Change(1.0, False, 5.0)  # lower is better
    assert rows["NME"] == [None, 0.5, None]
    assert terminal_lines(found)[1].split() == ["AP", "0.5000", "0.2500", "(-0.2500)", "0.5000", "(+0.0000)"]
    write_html(compare_report(found, "c"), tmp_path / "page.html")
    assert "Mean error, px of each keypoint" in (tmp_path / "page.html").read_text()


def test_only_what_differs_is_listed(record: Record) -> None:
    assert different([{"a": 1, "b": 2}, {"a": 1, "c": 3}]) == {"b": [2, None], "c": [None, 3]}
    assert flat_page({"name": "x", "optim": {"lr": 1, "milestones": []}, "out": "y"}) == {
        "optim.lr": 1,
        "optim.milestones": [],
    }
    moved = {"flip_test": True, "annotations": "elsewhere.json", "annotations_sha256": "x", "attention": "psa_p"}
    assert warning(find_runs([str(record("a")), str(record("b", protocol=moved))])) == ""
    other = moved | {"annotations_sha256": "y"}
    assert "annotations" in warning(find_runs([str(record("c")), str(record("d", protocol=other))]))
    assert "(split)" in warning(find_runs([str(record("e")), str(record("f", split="val"))]))


def test_what_is_measured_of_each(record: Record) -> None:
    table = measures(json.loads((record("a") / "record.json").read_text()))
    assert table["PCK@0.2"] == {"nose": 0.25}
    assert table["mean error, px"]["nose"] == 3.0
    assert math.isnan(table["mean error, px"]["tail"])


def test_names_that_tell_runs_apart() -> None:
    assert distinct(["runs/pose/a", "runs/pose/b"]) == ["a", "b"]
    assert distinct(["x/a/eval", "y/a/eval"]) == ["x/a/eval", "y/a/eval"]
    assert distinct(["a", "a"]) == ["a", "a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "no record of an evaluation"), ("[]", "metrics is missing"), ('{"metrics": {}}', "protocol is missing")],
)
def test_files_that_are_no_record(record: Record, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(InputError, match=words):
        find_runs([str(record("a")), str(tmp_path / "other.json")])


def test_what_is_not_there(record: Record, tmp_path: Path) -> None:
    one = record("a")
    with pytest.raises(InputError, match="needs two runs or more, not 1"):
        find_runs([str(one)])
    with pytest.raises(InputError, match="no such file or folder"):
        find_runs([str(one), str(tmp_path / "none")])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"nothing evaluated here: run polarpix eval .*bare first"):
        find_runs([str(one), str(tmp_path / "bare")])
    for split in ("val", "test"):
        (tmp_path / f"only_{split}" / "eval" / split).mkdir(parents=True)
        shutil.copy(one / "record.json", tmp_path / f"only_{split}" / "eval" / split / "record.json")
    pair = [str(tmp_path / "only_val"), str(tmp_path / "only_test")]
    assert [run.folder.name for run in find_runs(pair)] == ["val", "test"]
    with pytest.raises(InputError, match="no evaluation of test but of val"):
        find_runs(pair, "test")


def test_records_of_earlier_versions(record: Record, tmp_path: Path) -> None:
    old = record("old")
    table = json.loads((old / "record.json").read_text())
    for key in ("each", "task", "split"):
        del table[key]
    (old / "record.json").write_text(json.dumps(table))
    found = find_runs([str(old), str(record("new"))])
    assert warning(found) == ""
    report = compare_report(found, "c")
    titles = [section.title for section in report.sections]
    assert "PCK@0.2 of each keypoint" in titles
    assert not [title for title in titles if title.startswith("Mean error")]
    assert np.isfinite([row[1] for row in report.sections[1].table.rows if row[1] is not None]).all()
