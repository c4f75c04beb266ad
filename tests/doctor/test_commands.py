"""The commands as a shell calls them: exit status, files, and words on the terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from polarpix.cli import run
from polarpix.doctor.check import check
from polarpix.errors import InputError
from polarpix.pose.schema import load_schema


def test_the_status_says_clean_or_not(pose_set: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", str(pose_set.root)]) == 0
    assert "no trouble found" in capsys.readouterr().out
    del pose_set.tables["train"]["categories"][0]["sigmas"]
    assert run(["data", "check", str(pose_set.save())]) == 0  # a note
    pose_set.tables["train"]["annotations"][0]["area"] = 0
    files = [tmp_path / "out" / "a.json", tmp_path / "out" / "a.html"]
    words = ["data", "check", str(pose_set.save()), "--json", str(files[0]), "--html", str(files[1])]
    assert run(words) == 1
    assert json.loads(files[0].read_text())["findings"][0]["name"] == "zero_area"
    assert "zero" in files[1].read_text()
    with pytest.raises(InputError, match="no such page"):
        run(["data", "check", str(tmp_path / "none")])
    with pytest.raises(InputError, match="--workers -1: give at least 1"):
        run(["data", "check", str(pose_set.root), "--workers", "-1"])
    with pytest.raises(InputError, match="is a folder"):
        run(["data", "check", str(pose_set.root), "--json", str(tmp_path)])


def test_convert_takes_from_and_to(pose_set: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(pose_set.root / "annotations" / "train.json")
    assert run(["data", "convert", source, str(tmp_path / "a.xml"), "--from", "coco", "--to", "cvat"]) == 0
    assert run(["data", "convert", str(tmp_path / "a.xml"), str(tmp_path / "a.json"), "--from=cvat", "--to=coco"]) == 0
    assert "8 images, 40 annotations" in capsys.readouterr().out
    assert not check(tmp_path / "a.json", images=str(pose_set.root / "images" / "train"), quiet=True).found.serious()
    with pytest.raises(InputError, match="--from is ''"):
        run(["data", "convert", source, str(tmp_path / "b.json")])


def test_sigmas_writes_a_schema(pose_set: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = pose_set.root / "annotations" / "train.json"
    for i, note in enumerate(pose_set.tables["train"]["annotations"]):
        note["keypoints"][0::3] = [x + 0.3 * (-1) ** i for x in note["keypoints"][0::3]]
    (tmp_path / "second.json").write_text(json.dumps(pose_set.tables["train"]))
    out = tmp_path / "mouse.yaml"
    assert run(["data", "sigmas", str(first), str(tmp_path / "second.json"), "--out", str(out)]) == 0
    assert "40 instances annotated repeatedly" in capsys.readouterr().out
    assert load_schema(out).sigmas == pytest.approx([0.3 / 2**0.5 / 30] * 4, rel=1e-3)
