"""The page shows every kind of case as a picture, with text taken as text."""

from pathlib import Path
from typing import Any

import numpy as np

from polarpix.doctor.check import check
from polarpix.doctor.findings import Case, Shown
from polarpix.doctor.page import SIDE, draw_case, write_page
from polarpix.images import write_image


def test_the_page_of_a_spoilt_set(pose_set: Any, tmp_path: Path) -> None:
    notes = pose_set.tables["train"]["annotations"]
    points = notes[7]["keypoints"]
    points[3:6], points[6:9] = points[6:9], points[3:6]
    notes[9]["keypoints"][0] = 80
    pose_set.tables["train"]["categories"][0]["name"] = pose_set.tables["val"]["categories"][0]["name"] = "<b>mouse"
    result = check(pose_set.save(), quiet=True)
    write_page(result, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img") == 2
    assert "left and right look swapped (1)" in text
    assert "To mend it" in text
    assert "<b>" not in text


def test_the_page_of_masks_has_the_class_histogram(mask_set: Path, tmp_path: Path) -> None:
    write_page(check(mask_set, quiet=True), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Percent of the labelled pixels" in text
    assert "no trouble found" in text
    assert "<img" not in text


def test_pictures_of_poses_labels_pairs_and_of_nothing(pose_set: Any, mask_set: Path, tmp_path: Path) -> None:
    result = check(pose_set.root, quiet=True)
    image = pose_set.image("train", 0)
    points = np.array([[10, 10], [20, 10], [70, 30], [np.nan, np.nan]], float)
    plain = draw_case(Case("a", "b", 0, Shown(image)), result.skeletons)
    pose = draw_case(Case("a", "b", 0, Shown(image, points, (2, 3), "mouse", (5, 5, 70, 30))), result.skeletons)
    label = draw_case(Case("a", "b", 0, Shown(image, label=mask_set / "labels/train/00.png")), {})
    pair = draw_case(Case("a", "b", 0, Shown(image, other=pose_set.image("train", 1))), {})
    assert plain is not None
    assert max(plain.shape) == SIDE
    assert pose is not None
    assert max(pose.shape) == SIDE
    assert (pose == [255, 40, 200]).all(axis=2).any()
    assert label is not None
    assert pair is not None
    assert min(label.shape[1], pair.shape[1]) > 2 * SIDE
    assert draw_case(Case("a", "b"), {}) is None
    (tmp_path / "bad.png").write_bytes(b"no")
    assert draw_case(Case("a", "b", 0, Shown(tmp_path / "bad.png")), {}) is None
    assert draw_case(Case("a", "b", 0, Shown(image, label=tmp_path / "bad.png")), {}) is None
    far = points.copy()
    far[0] = [1e12, -1e12]
    write_image(tmp_path / "far.png", draw_case(Case("a", "b", 0, Shown(image, far, (0,), "mouse")), result.skeletons))
