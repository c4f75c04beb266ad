"""Every fault of a keypoint set is found where it is planted, and nothing in the clean set."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polarpix.doctor.check import check


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
