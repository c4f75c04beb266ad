"""Every fault of a set of masks is found where it is planted, in every layout, and nothing in clean ones."""

from pathlib import Path

import numpy as np

from polarpix.doctor.check import check
from polarpix.images import read_label, write_label
from polarpix.seg.classes import CAMVID, CITYSCAPES, VOC, cityscapes_label_ids


def test_the_clean_set_is_silent_and_its_classes_are_counted(mask_set: Path) -> None:
    result = check(mask_set, quiet=True)
    assert not result.found.names()
    assert result.class_values == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert result.pixels["train"][1] == 12 * 10 * 64
    assert result.pixels["train"].sum() == 12 * 48 * 64


def test_cityscapes_ids_in_each_others_files(city: Path) -> None:
    result = check(city, quiet=True)
    assert not result.found.names()
    assert result.class_values["car"] == 26
    files = sorted(city.glob("gtFine/*/*/*.png"))
    originals = {file: read_label(file) for file in files}
    for file in files:
        file.rename(file.with_name(file.name.replace("labelIds", "labelTrainIds")))
    assert check(city, quiet=True).found.names()[0] == "label_ids_as_train_ids"
    lookup = {int(v): i for i, v in enumerate(cityscapes_label_ids(np.arange(19, dtype=np.uint8)))}
    for file, label in originals.items():
        train = np.vectorize(lookup.get)(label).astype(np.uint8)
        train[0] = 255
        write_label(file, train)
        file.with_name(file.name.replace("labelIds", "labelTrainIds")).unlink()
    assert check(city, quiet=True).found.names()[0] == "train_ids_as_label_ids"
    for file in files:
        file.rename(file.with_name(file.name.replace("labelIds", "labelTrainIds")))
    assert not check(city, quiet=True).found.names()
    assert len(CITYSCAPES.names) == 19


def test_a_list_of_more_labels_than_there_are(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    (root / "ImageSets/Segmentation/trainaug.txt").write_text("\n".join(f"im{i}" for i in range(12)))
    assert "aug_missing" in check(voc, quiet=True).found
    assert "aug_missing" in check(voc, "voc_aug", quiet=True).found
    for file in (root / "SegmentationClass").iterdir():
        write_label(root / "SegmentationClassAug" / file.name, read_label(file))
    assert not check(voc, quiet=True).found.names()
    (root / "SegmentationClassAug" / "im3.png").unlink()
    result = check(voc, quiet=True)
    assert result.found.names() == ["aug_missing"]
    assert next(iter(result.found)).count == 1
    assert len(VOC.names) == 21


def test_camvid_is_read_with_its_void(camvid: Path) -> None:
    result = check(camvid, quiet=True)
    assert not result.found.names()
    assert result.class_values["bicyclist"] == 10
    assert "void" not in result.class_values
    assert len(CAMVID.names) == 11


def test_a_class_that_nothing_is_of(mask_set: Path) -> None:
    page = mask_set / "page.yaml"
    data = f"format: folder\n  root: {mask_set}\n  classes: [a, b, c, d, e]"
    page.write_text(f"task: seg\nname: m\ndata:\n  {data}\n")
    assert check(page, quiet=True).found.names() == ["class_absent", "class_not_tested"]
