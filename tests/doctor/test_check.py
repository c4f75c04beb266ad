"""Leaks between splits, what is told and recorded, and what cannot be looked at."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from polarpix.demo.figures import write_figures
from polarpix.doctor.check import check, record, told, write_record
from polarpix.doctor.findings import KINDS, LEVELS
from polarpix.errors import InputError


def test_the_same_file_in_two_splits_and_twice_in_one(pose_set: Any) -> None:
    shutil.copyfile(pose_set.image("train", 5), pose_set.image("val", 1))
    shutil.copyfile(pose_set.image("train", 6), pose_set.image("train", 7))
    result = check(pose_set.root, quiet=True)
    assert result.found.names() == ["leak_exact", "twice"]
    assert "train_5.jpg in train" in next(iter(result.found)).worst()[0].detail


def test_one_file_listed_in_two_splits(pose_set: Any) -> None:
    shutil.copytree(pose_set.root / "images" / "val", pose_set.root / "images" / "train", dirs_exist_ok=True)
    pose_set.tables["val"]["images"][0]["file_name"] = "train_0.jpg"
    page = pose_set.save() / "page.yaml"
    files = "train_annotations: annotations/train.json\n  val_annotations: annotations/val.json"
    folders = "train_images: images/train\n  val_images: images/train"
    page.write_text(f"task: pose\nname: mice\ndata:\n  root: {pose_set.root}\n  {files}\n  {folders}\n")
    assert check(page, quiet=True).found.names() == ["leak_exact"]


def test_figures_of_both_tasks_are_silent(tmp_path: Path) -> None:
    write_figures(tmp_path, train=40, val=12, size=(64, 64), seed=5)
    result = check(tmp_path, quiet=True)
    assert result.kinds == ["keypoints", "masks (folder)"]
    assert not result.found.serious()
    assert result.images == {"train": 40, "val": 12}
    assert sum(result.pixels["val"]) == 12 * 64 * 64


def test_worst_first_on_the_terminal_and_in_the_record(pose_set: Any, tmp_path: Path) -> None:
    notes = pose_set.tables["train"]["annotations"]
    notes[0]["area"], notes[1]["area"], notes[2]["id"] = 0, 0, 2
    del pose_set.tables["train"]["categories"][0]["sigmas"]
    result = check(pose_set.save(), quiet=True)
    text = told(result).splitlines()
    heads = [line.split()[:2] for line in text if line.split()[0] in LEVELS]
    assert heads == [["error", "1"], ["warning", "2"], ["note", "1"]]
    assert text[-1] == "2 kinds of trouble"
    assert all(f"{KINDS[name].title}: {KINDS[name].mend}" in told(result) for name in result.found.names())
    write_record(result, tmp_path / "found.json")
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept == json.loads(json.dumps(record(result)))
    assert not kept["clean"]
    assert [(f["name"], f["level"], f["count"]) for f in kept["findings"]] == [
        ("duplicate_annotation_id", "error", 1),
        ("zero_area", "warning", 2),
        ("missing_sigmas", "note", 1),
    ]
    assert kept["findings"][1]["examples"][0]["file"].endswith("train_0.jpg")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: root / "none", "no such page"),
        (lambda root: root, "none of coco"),
        (lambda root: (root / "a.json").write_text("[]") and root / "a.json", "not a COCO keypoint file"),
        (lambda root: (root / "b.json").write_text("{") and root / "b.json", "not JSON"),
        (lambda root: (root / "c.yaml").write_text("a: 1") and root / "c.yaml", "task"),
    ],
)
def test_what_cannot_be_read_is_refused(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        check(make(tmp_path), quiet=True)


def test_unknown_formats_and_lost_images_are_refused(pose_set: Any) -> None:
    with pytest.raises(InputError, match="use one of coco"):
        check(pose_set.root, "kitti", quiet=True)
    with pytest.raises(InputError, match="no camvid"):
        check(pose_set.root, "camvid", quiet=True)
    moved = pose_set.root.parent / "elsewhere.json"
    shutil.move(pose_set.root / "annotations" / "train.json", moved)
    with pytest.raises(InputError, match="--images"):
        check(moved, quiet=True)
    assert not check(moved, images=str(pose_set.root / "images" / "train"), quiet=True).found.names()
