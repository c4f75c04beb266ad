"""Every fault of a keypoint set is found where it is planted, and nothing in the clean set."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polarpix.doctor.check import check
from polarpix.doctor.findings import KINDS

Spoil = Callable[[Any], None]


def note(data: Any) -> Any:
    return data.tables["train"]["annotations"][7]


def picture(data: Any) -> Any:
    return data.tables["train"]["images"][2]


def turn(data: Any, orientation: int) -> None:
    """An EXIF orientation on a file that stays as it is listed."""
    path = data.image("train", 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as opened:
        pixels = np.asarray(opened)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


def swap_ears(data: Any) -> None:
    points = note(data)["keypoints"]
    points[3:6], points[6:9] = points[6:9], points[3:6]


def unlabel(data: Any) -> None:
    for one in data.tables["val"]["annotations"]:
        one.update(keypoints=[0] * 12, num_keypoints=0)


def sigma(data: Any, values: Any) -> None:
    for table in data.tables.values():
        if values is None:
            del table["categories"][0]["sigmas"]
        else:
            table["categories"][0]["sigmas"] = values


PLANTED: dict[str, tuple[str, Spoil]] = {
    "left and right": ("swapped_sides", swap_ears),
    "point outside": ("outside_image", lambda d: note(d)["keypoints"].__setitem__(0, 64.5)),
    "point above": ("outside_image", lambda d: note(d)["keypoints"].__setitem__(1, -0.6)),
    "zero area": ("zero_area", lambda d: note(d).update(area=0)),
    "flat box": ("flat_box", lambda d: note(d).update(bbox=[5, 5, 0, 20])),
    "box beside the image": ("flat_box", lambda d: note(d).update(bbox=[70, 5, 10, 20])),
    "box of two numbers": ("bad_entry", lambda d: note(d).update(bbox=[5, 5])),
    "negative area": ("bad_entry", lambda d: note(d).update(area=-4)),
    "missing sigmas": ("missing_sigmas", lambda d: sigma(d, None)),
    "sigmas ten times too large": ("odd_sigmas", lambda d: sigma(d, [0.5, 0.5, 0.5, 0.5])),
    "sigmas uneven": ("odd_sigmas", lambda d: sigma(d, [0.05, 0.02, 0.09, 0.05])),
    "sigma zero": ("odd_sigmas", lambda d: sigma(d, [0.05, 0.0, 0.05, 0.05])),
    "one sigma short": ("odd_sigmas", lambda d: sigma(d, [0.05] * 3)),
    "size listed wrongly": ("size_mismatch", lambda d: picture(d).update(width=640, height=480)),
    "no size": ("bad_entry", lambda d: picture(d).update(width=None)),
    "turned by EXIF": ("rotated", lambda d: turn(d, 6)),
    "upside down by EXIF": ("turned", lambda d: turn(d, 3)),
    "cut off": ("corrupt", lambda d: d.image("train", 2).write_bytes(d.image("train", 2).read_bytes()[:600])),
    "no image": ("missing_file", lambda d: d.image("train", 2).unlink()),
    "a name out of the folder": ("bad_entry", lambda d: picture(d).update(file_name="../val/val_1.jpg")),
    "image id twice": ("duplicate_image_id", lambda d: d.tables["train"]["images"].append(dict(picture(d)))),
    "annotation id twice": ("duplicate_annotation_id", lambda d: note(d).update(id=3)),
    "unknown image": ("unknown_image", lambda d: note(d).update(image_id=99)),
    "unknown category": ("unknown_category", lambda d: note(d).update(category_id=99)),
    "id in quotes": ("bad_entry", lambda d: note(d).update(image_id="3")),
    "eleven numbers": ("bad_entry", lambda d: note(d)["keypoints"].pop()),
    "visibility 3": ("bad_entry", lambda d: note(d)["keypoints"].__setitem__(2, 3)),
    "not finite": ("bad_entry", lambda d: note(d)["keypoints"].__setitem__(0, math.nan)),
    "wrong count": ("keypoint_count", lambda d: note(d).update(num_keypoints=2)),
    "empty split": ("empty_split", lambda d: d.tables["val"].update(images=[], annotations=[])),
    "no annotations": ("nothing_labelled", lambda d: d.tables["val"].update(annotations=[])),
    "nothing labelled": ("nothing_labelled", unlabel),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(case: str, pose_set: Any) -> None:
    kind, spoil = PLANTED[case]
    spoil(pose_set)
    root = pose_set.save()
    result = check(root, quiet=True)
    assert result.found.names() == [kind]
    assert result.found.serious() == (KINDS[kind].level != "note")
    finding = next(iter(result.found))
    assert finding.count >= 1
    assert finding.worst()[0].detail


def page_of(data: Any) -> Path:
    path = data.root / "page.yaml"
    lines = [f"{split}_{key}" for split in ("train", "val") for key in ("annotations", "images")]
    values = ["annotations/train.json", "images/train", "annotations/val.json", "images/val"]
    keys = "\n".join(f"  {key}: {value}" for key, value in zip(lines, values, strict=True))
    path.write_text(f"task: pose\nname: mice\ndata:\n  root: {data.root}\n{keys}\n")
    return Path(path)


def test_the_clean_set_is_silent(pose_set: Any) -> None:
    for path in (pose_set.root, pose_set.root / "annotations" / "train.json", page_of(pose_set)):
        result = check(path, quiet=True)
        assert not result.found.names()
        assert not result.found.serious()
    assert result.images == {"train": 8, "val": 4}
    assert result.instances == {"train": 40, "val": 4}


def test_points_on_the_border_hidden_ones_and_crowds_are_clean(pose_set: Any) -> None:
    one = note(pose_set)
    one["keypoints"][:2] = [64, -0.5]
    one["keypoints"][9:12], one["num_keypoints"] = [0, 0, 0], 3
    one["keypoints"][5] = 1
    crowd = {"id": 900, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 0, 0], "area": 0}
    pose_set.tables["train"]["annotations"].append(crowd)
    assert not check(pose_set.save(), quiet=True).found.names()


def test_a_turned_image_with_coordinates_as_looked_at_is_clean(pose_set: Any) -> None:
    turn(pose_set, 8)
    picture(pose_set).update(width=48, height=64)
    for one in pose_set.tables["train"]["annotations"]:
        if one["image_id"] == 3:
            one.update(keypoints=[0] * 12, num_keypoints=0, bbox=[5, 4, 40, 50])
    assert not check(pose_set.save(), quiet=True).found.names()
