"""Every kind of finding, planted in a clean set and looked for by `polarpix data check`; the clean sets are silent."""

import json
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from polarpix.cli import run
from polarpix.doctor.findings import KEPT, KINDS, LEVELS, Findings
from polarpix.images import read_image, read_label, write_image, write_label
from polarpix.types import UInt8Array

SETS = ("pose_set", "paired_set", "mask_set", "named_masks", "city", "voc", "camvid")  # fixtures
Spoil = Callable[[Any], Any]


class Case(NamedTuple):
    """One way to spoil a set: a fixture, what is done to it, and which findings follow from that besides."""

    data: str
    spoil: Spoil
    also: tuple[str, ...] = ()


# Faults of keypoint tables.


def note(data: Any, number: int = 7) -> Any:
    return data.tables["train"]["annotations"][number]


def point(data: Any, place: int, value: float) -> None:
    note(data)["keypoints"][place] = value


def picture(data: Any) -> Any:
    return data.tables["train"]["images"][2]


def swap(data: Any, numbers: tuple[int, ...], pairs: tuple[tuple[int, int], ...]) -> None:
    """The keypoints of mirror pairs exchanged."""
    for points in (note(data, number)["keypoints"] for number in numbers):
        for a, b in pairs:
            left = points[3 * a : 3 * a + 3]
            points[3 * a : 3 * a + 3], points[3 * b : 3 * b + 3] = points[3 * b : 3 * b + 3], left


def unlabel(data: Any) -> None:
    for one in data.tables["val"]["annotations"]:
        one.update(keypoints=[0] * 12, num_keypoints=0)


def sigma(data: Any, values: Any) -> None:
    for table in data.tables.values():
        table["categories"][0]["sigmas"] = values


def no_sigmas(data: Any) -> None:
    for table in data.tables.values():
        del table["categories"][0]["sigmas"]


# Faults of files.


def turn(file: Path, orientation: int) -> None:
    """An EXIF orientation on a file that stays as it is listed."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(file)
    Image.fromarray(pixels).save(file, exif=exif, quality=95)


def cut(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/null")


def listener(file: Path) -> None:
    """A socket; its name may have 107 bytes only, so that of a relative path is used."""
    file.unlink()
    here = Path.cwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(file.name)
    finally:
        os.chdir(here)


def pipe_beside_a_page(data: Any) -> Path:
    """A page that names two tables, of which one is a pipe."""
    page = data.root / "page.yaml"
    pipe(data.root / "annotations" / "piped.json")
    tables = "train_annotations: annotations/train.json\n  val_annotations: annotations/piped.json"
    folders = "train_images: images/train\n  val_images: images/val"
    page.write_text(f"task: pose\nname: mice\ndata:\n  root: {data.root}\n  {tables}\n  {folders}\n")
    return Path(page)


# Faults of label maps.


def labels(root: Path, split: str = "*") -> list[Path]:
    return sorted((root / "labels").glob(f"{split}/*.png"))


def every(change: Callable[[UInt8Array], Any], split: str = "*") -> Spoil:
    """A change of all labels, of a folder or of those beside a page."""

    def spoil(data: Path) -> None:
        for file in labels(data.parent if data.suffix else data, split):
            write_label(file, change(read_label(file)).astype(np.uint8))

    return spoil


def as_jpeg(root: Path) -> None:
    file = labels(root)[3]
    with Image.open(file) as opened:
        opened.convert("L").save(file.with_suffix(".jpg"))
    file.unlink()


def in_colours(file: Path) -> None:
    cv2.imwrite(str(file), cv2.imread(str(file)))


def as_grey(page: Path) -> None:
    """What reading palette PNGs as grey pictures makes of them."""
    for file in labels(page.parent):
        with Image.open(file) as opened:
            grey = opened.convert("RGB").convert("L")
        grey.save(file)


def objects(root: Path) -> None:
    """Object numbers, another count on each image."""
    for i, file in enumerate(labels(root)):
        label = np.zeros((48, 64), np.uint8)
        for n in range(1 + i % 5):
            label[:, 10 * n : 10 * n + 8] = n + 1
        write_label(file, label)


def emptied(root: Path) -> None:
    for file in (*(root / "images" / "val").iterdir(), *labels(root, "val")):
        file.unlink()


def without(value: int, split: str) -> Spoil:
    return every(lambda label: np.where(label == value, 0, label), split)


def devkit(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012"


def wrong_folder(root: Path) -> None:
    (devkit(root) / "SegmentationClass").rename(devkit(root) / "classes")
    (devkit(root) / "SegmentationObject").rename(devkit(root) / "SegmentationClass")


def list_of(root: Path, name: str) -> Path:
    return devkit(root) / "ImageSets" / "Segmentation" / f"{name}.txt"


def label_ids(root: Path) -> list[Path]:
    return sorted(root.glob("gtFine/*/*/*_labelIds.png"))


def renamed(root: Path) -> None:
    for file in label_ids(root):
        file.rename(file.with_name(file.name.replace("labelIds", "labelTrainIds")))


def training_ids(root: Path) -> None:
    for file in label_ids(root):
        label = read_label(file)
        ids = np.searchsorted(np.unique(label), label)  # both in the same order
        ids[0] = 255
        write_label(file, ids)


PLANTED: dict[str, dict[str, Case]] = {
    "unreadable_table": {
        "half a file": Case("pose_set", lambda d: (d.root / "annotations" / "extra.json").write_text("{")),
    },
    "missing_file": {
        "no picture of a table": Case("pose_set", lambda d: d.image("train", 2).unlink()),
        "no label": Case("mask_set", lambda root: labels(root)[3].unlink()),
        "no image": Case("mask_set", lambda root: (root / "images/train/03.jpg").unlink()),
        "no label of a list": Case("voc", lambda root: (devkit(root) / "SegmentationClass" / "im3.png").unlink()),
        "no label of a city": Case("city", lambda root: label_ids(root)[0].unlink()),
    },
    "special_file": {
        "picture of a table": Case("pose_set", lambda d: pipe(d.image("train", 2))),
        "first picture of a table": Case("pose_set", lambda d: pipe(d.image("train", 0))),
        "picture of another finding": Case(
            "pose_set", lambda d: (pipe(d.image("train", 1)), note(d).update(area=0)), ("zero_area",)
        ),
        "table": Case("pose_set", lambda d: pipe(d.root / "annotations" / "extra.json")),
        "table of a page": Case("pose_set", pipe_beside_a_page),
        "picture": Case("mask_set", lambda root: pipe(root / "images/train/03.jpg")),
        "label": Case("mask_set", lambda root: pipe(labels(root)[3])),
        "label, a socket": Case("mask_set", lambda root: listener(labels(root)[3])),
        "link to a device": Case("mask_set", lambda root: device(root / "images/train/03.jpg")),
        "label of a list": Case("voc", lambda root: pipe(devkit(root) / "SegmentationClass" / "im3.png")),
        "list": Case("voc", lambda root: pipe(list_of(root, "more"))),
        "label of a city": Case("city", lambda root: pipe(label_ids(root)[0])),
    },
    "corrupt": {
        "picture of a table cut off": Case("pose_set", lambda d: cut(d.image("train", 2), 600)),
        "label cut off": Case("mask_set", lambda root: cut(labels(root)[3], 60)),
        "image cut off": Case("mask_set", lambda root: cut(root / "images/train/03.jpg", 60)),
        "image empty": Case("mask_set", lambda root: cut(root / "images/train/03.jpg", 0)),
        "a folder for a file": Case("mask_set", lambda root: folder(root / "images/train/03.jpg")),
    },
    "empty_split": {
        "no entries": Case("pose_set", lambda d: d.tables["val"].update(images=[], annotations=[])),
        "no files": Case("mask_set", emptied),
    },
    "nothing_labelled": {
        "no annotations": Case("pose_set", lambda d: d.tables["val"].update(annotations=[])),
        "no keypoint": Case("pose_set", unlabel),
        "all ignore": Case("mask_set", every(lambda label: np.full_like(label, 255), "val")),
    },
    "binary_masks": {"of one class": Case("mask_set", every(lambda label: np.where(label == 2, 255, 0)))},
    "train_ids_as_label_ids": {"mapped": Case("city", training_ids)},
    "label_ids_as_train_ids": {"renamed": Case("city", renamed)},
    "palette_as_rgb": {
        "what OpenCV makes of one": Case("mask_set", lambda root: in_colours(labels(root)[3])),
        "a photograph": Case("mask_set", lambda r: write_image(labels(r)[3], read_image(r / "images/train/00.jpg"))),
    },
    "palette_as_grey": {"all": Case("named_masks", as_grey, ("class_absent", "class_not_tested"))},
    "lossy_label": {"JPEG": Case("mask_set", as_jpeg)},
    "object_masks": {
        "renumbered": Case("mask_set", objects),
        "the wrong folder of VOC": Case("voc", wrong_folder),
    },
    "aug_missing": {"no folder": Case("voc", lambda root: copy(list_of(root, "train"), list_of(root, "trainaug")))},
    "outside_classes": {
        "a class too many": Case("named_masks", every(lambda label: label + (label == 3) * (np.arange(64) % 2))),
    },
    "size_mismatch": {
        "listed": Case("pose_set", lambda d: picture(d).update(width=640, height=480)),
        "label": Case("mask_set", lambda root: write_label(labels(root)[3], read_label(labels(root)[3])[:-1])),
    },
    "rotated": {
        "picture of a table": Case("pose_set", lambda d: turn(d.image("train", 2), 6)),
        "picture of a label": Case("mask_set", lambda root: turn(root / "images/train/02.jpg", 6)),
    },
    "leak_exact": {"a copy": Case("pose_set", lambda d: copy(d.image("train", 5), d.image("val", 1)))},
    "duplicate_image_id": {"again": Case("pose_set", lambda d: d.tables["train"]["images"].append(dict(picture(d))))},
    "duplicate_annotation_id": {"again": Case("pose_set", lambda d: note(d).update(id=3))},
    "unknown_image": {"99": Case("pose_set", lambda d: note(d).update(image_id=99))},
    "unknown_category": {"99": Case("pose_set", lambda d: note(d).update(category_id=99))},
    "bad_entry": {
        "box of two numbers": Case("pose_set", lambda d: note(d).update(bbox=[5, 5])),
        "negative area": Case("pose_set", lambda d: note(d).update(area=-4)),
        "no size": Case("pose_set", lambda d: picture(d).update(width=None)),
        "a name out of the folder": Case("pose_set", lambda d: picture(d).update(file_name="../val/val_1.jpg")),
        "id in quotes": Case("pose_set", lambda d: note(d).update(image_id="3")),
        "eleven numbers": Case("pose_set", lambda d: note(d)["keypoints"].pop()),
        "visibility 3": Case("pose_set", lambda d: point(d, 2, 3)),
        "not finite": Case("pose_set", lambda d: point(d, 0, math.nan)),
    },
    "swapped_sides": {
        "ears": Case("pose_set", lambda d: swap(d, (7,), ((1, 2),))),
        "one pair of two": Case("paired_set", lambda d: swap(d, (7,), ((4, 5),))),
    },
    "flat_box": {
        "no width": Case("pose_set", lambda d: note(d).update(bbox=[5, 5, 0, 20])),
        "beside the image": Case("pose_set", lambda d: note(d).update(bbox=[70, 5, 10, 20])),
    },
    "zero_area": {"of labelled keypoints": Case("pose_set", lambda d: note(d).update(area=0))},
    "outside_image": {
        "to the right": Case("pose_set", lambda d: point(d, 0, 64.5)),
        "above": Case("pose_set", lambda d: point(d, 1, -0.6)),
    },
    "odd_sigmas": {
        "ten times too large": Case("pose_set", lambda d: sigma(d, [0.5, 0.5, 0.5, 0.5])),
        "uneven": Case("pose_set", lambda d: sigma(d, [0.05, 0.02, 0.09, 0.05])),
        "zero": Case("pose_set", lambda d: sigma(d, [0.05, 0.0, 0.05, 0.05])),
        "one short": Case("pose_set", lambda d: sigma(d, [0.05] * 3)),
    },
    "keypoint_count": {"two of four": Case("pose_set", lambda d: note(d).update(num_keypoints=2))},
    "leak_near": {
        "saved and lit anew": Case(
            "mask_set",
            lambda root: write_image(
                root / "images/val/02.jpg",
                cv2.convertScaleAbs(read_image(root / "images/train/05.jpg"), alpha=0.9, beta=8),
            ),
        ),
    },
    "class_absent": {"from training": Case("named_masks", without(3, "train"))},
    "missing_sigmas": {"none": Case("pose_set", no_sigmas)},
    "turned": {
        "picture of a table": Case("pose_set", lambda d: turn(d.image("train", 2), 3)),
        "picture of a label": Case("mask_set", lambda root: turn(root / "images/train/02.jpg", 3)),
    },
    "mirrored": {"all pairs of many": Case("paired_set", lambda d: swap(d, tuple(range(0, 40, 4)), ((1, 2), (4, 5))))},
    "void_label": {"one": Case("mask_set", lambda root: write_label(labels(root)[0], np.full((48, 64), 255)))},
    "twice": {"in training": Case("pose_set", lambda d: copy(d.image("train", 6), d.image("train", 7)))},
    "class_not_tested": {"from validation": Case("named_masks", without(3, "val"))},
}


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """A reader that waits for a pipe fails instead."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError("waits for a pipe")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 20, 1)  # again, for whoever catches the first
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def checked(path: Path, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """The status of the command and its findings; the page is written, too."""
    record, page = folder / "record" / "found.json", folder / "record" / "found.html"
    status = run(["data", "check", str(path), "--json", str(record), "--html", str(page)])
    return status, json.loads(record.read_text())["findings"]


def place(data: Any) -> Path:
    """Where a set lies, its tables saved."""
    return data if isinstance(data, Path) else Path(data.save())


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind, cases in PLANTED.items() for words in cases])
def test_a_planted_fault_is_found_and_nothing_else(
    kind: str, words: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    case = PLANTED[kind][words]
    data = request.getfixturevalue(case.data)
    other = case.spoil(data)
    status, found = checked(other if isinstance(other, Path) else place(data), tmp_path)
    assert [one["name"] for one in found] == [kind, *case.also]
    assert status == (1 if {"error", "warning"} & {one["level"] for one in found} else 0)
    assert found[0]["level"] == KINDS[kind].level
    assert all(example["detail"] for one in found for example in one["examples"])


@pytest.mark.parametrize("data", SETS)
def test_the_sets_are_silent_before(data: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert checked(place(request.getfixturevalue(data)), tmp_path) == (0, [])


def test_every_kind_is_planted() -> None:
    """A new kind needs a case here, in a set that is looked at clean."""
    assert {kind for kind, cases in PLANTED.items() if cases} == {*KINDS}
    assert {case.data for cases in PLANTED.values() for case in cases.values()} <= {*SETS}
    assert all(kind.level in LEVELS for kind in KINDS.values())


def test_many_cases_are_counted_and_the_worst_kept() -> None:
    found = Findings()
    for i in range(5 * KEPT):
        found.add("outside_image", "a", "b", weight=i % (5 * KEPT // 2))
    finding = next(iter(found))
    assert finding.count == 5 * KEPT
    assert len(finding.cases) <= 2 * KEPT
    assert finding.worst()[0].weight == 5 * KEPT // 2 - 1
