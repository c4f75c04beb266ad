"""Every fault of a set of masks is found where it is planted, in every layout, and nothing in clean ones."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polarpix.doctor.check import check
from polarpix.images import read_image, read_label, write_image, write_label
from polarpix.seg.classes import CAMVID, CITYSCAPES, VOC, cityscapes_label_ids, voc_palette
from polarpix.types import UInt8Array

Change = Callable[[Path], None]


def labels(root: Path) -> list[Path]:
    return sorted((root / "labels").glob("*/*.png"))


def every(change: Callable[[UInt8Array], UInt8Array]) -> Change:
    """A change of all labels."""

    def spoil(root: Path) -> None:
        for file in labels(root):
            write_label(file, change(read_label(file)))

    return spoil


def in_colours(root: Path) -> None:
    """What cv2.imread and cv2.imwrite make of a palette PNG."""
    cv2.imwrite(str(labels(root)[3]), cv2.imread(str(labels(root)[3])))


def as_jpeg(root: Path) -> None:
    file = labels(root)[3]
    with Image.open(file) as opened:
        opened.convert("L").save(file.with_suffix(".jpg"))
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


def turn(root: Path, orientation: int) -> None:
    path = root / "images" / "train" / "02.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(read_image(path)).save(path, exif=exif, quality=95)


def void(root: Path) -> None:
    write_label(labels(root)[0], np.full((48, 64), 255, np.uint8))


def void_split(root: Path) -> None:
    for file in (root / "labels" / "val").iterdir():
        write_label(file, np.full((48, 64), 255, np.uint8))


def objects(root: Path) -> None:
    """Object numbers, another count on each image."""
    for i, file in enumerate(labels(root)):
        label = np.zeros((48, 64), np.uint8)
        for n in range(1 + i % 5):
            label[:, 10 * n : 10 * n + 8] = n + 1
        write_label(file, label)


def emptied(root: Path) -> None:
    for file in (*(root / "images" / "val").iterdir(), *(root / "labels" / "val").iterdir()):
        file.unlink()
    write_label(root / "labels" / "val" / "a.png", np.zeros((48, 64), np.uint8))
    (root / "labels" / "val" / "a.png").unlink()


PLANTED: dict[str, tuple[set[str], Change]] = {
    "0 and 255": ({"binary_masks"}, every(lambda label: np.where(label == 2, 255, 0).astype(np.uint8))),
    "palette read as RGB": ({"palette_as_rgb"}, in_colours),
    "a photograph": (
        {"palette_as_rgb"},
        lambda root: write_image(labels(root)[3], read_image(root / "images/train/00.jpg")),
    ),
    "JPEG": ({"lossy_label"}, as_jpeg),
    "another size": ({"size_mismatch"}, lambda root: write_label(labels(root)[3], read_label(labels(root)[3])[:-1])),
    "turned by EXIF": ({"rotated"}, lambda root: turn(root, 6)),
    "upside down by EXIF": ({"turned"}, lambda root: turn(root, 3)),
    "label cut off": ({"corrupt"}, lambda root: cut(labels(root)[3])),
    "image cut off": ({"corrupt"}, lambda root: cut(root / "images/train/03.jpg")),
    "no label": ({"missing_file"}, lambda root: labels(root)[3].unlink()),
    "no image": ({"missing_file"}, lambda root: (root / "images/train/03.jpg").unlink()),
    "all ignore": ({"void_label"}, void),
    "split all ignore": ({"nothing_labelled"}, void_split),
    "objects": ({"object_masks"}, objects),
    "empty split": ({"empty_split"}, emptied),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(case: str, mask_set: Path) -> None:
    kinds, spoil = PLANTED[case]
    spoil(mask_set)
    assert {*check(mask_set, quiet=True).found.names()} == kinds


def test_the_clean_set_is_silent_and_its_classes_are_counted(mask_set: Path) -> None:
    result = check(mask_set, quiet=True)
    assert not result.found.names()
    assert result.class_values == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert result.pixels["train"][1] == 12 * 10 * 64
    assert result.pixels["train"].sum() == 12 * 48 * 64


def page_of(root: Path, names: str) -> Path:
    page = root / "page.yaml"
    page.write_text(f"task: seg\nname: m\ndata:\n  format: folder\n  root: {root}\n  classes: [{names}]\n")
    return page


def test_with_named_classes_values_outside_and_absent_ones_are_found(mask_set: Path) -> None:
    assert not check(page_of(mask_set, "a, b, c, d"), quiet=True).found.names()
    result = check(page_of(mask_set, "a, b, c"), quiet=True)
    assert result.found.names() == ["outside_classes"]
    assert next(iter(result.found)).count == 8
    assert check(page_of(mask_set, "a, b, c, d, e"), quiet=True).found.names() == ["class_absent", "class_not_tested"]


def test_the_brightness_of_palette_colours_is_known(mask_set: Path) -> None:
    for file in labels(mask_set):
        with Image.open(file) as opened:
            grey = opened.convert("RGB").convert("L")
        grey.save(file)
    assert "palette_as_grey" in check(page_of(mask_set, "a, b, c, d"), quiet=True).found


def pictures(count: int, folder: Path, name: str, start: int = 0) -> None:
    for i in range(count):
        noise = np.random.default_rng(start + i).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        write_image(folder / name.format(i), cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A set of Cityscapes with labels of all 19 classes, as label ids."""
    for order, split in enumerate(("train", "val")):
        folder = tmp_path / "leftImg8bit" / split / "bonn"
        pictures(3, folder, "bonn_{}_leftImg8bit.png", 50 * order)
        for i in range(3):
            label = cityscapes_label_ids(np.arange(48 * 64).reshape(48, 64).astype(np.int64) // 150 % 19)
            write_label(tmp_path / "gtFine" / split / "bonn" / f"bonn_{i}_gtFine_labelIds.png", label)
    return tmp_path


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


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A set of VOC with object masks beside the class masks, every class in every split."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    pictures(20, root / "JPEGImages", "im{}.jpg")
    rng = np.random.default_rng(0)
    for i in range(20):
        label, number = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
        for n in range(1 + i % 4):
            where = np.s_[5:40, 16 * n : 16 * n + 12]
            label[where], number[where] = rng.integers(1, 21), n + 1
        label[0, :21] = np.arange(21) if i in (0, 12) else 0
        label[-2:] = number[-2:] = 255
        write_label(root / "SegmentationClass" / f"im{i}.png", label, voc_palette(256))
        write_label(root / "SegmentationObject" / f"im{i}.png", number, voc_palette(256))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(f"im{i}" for i in range(12)))
    (lists / "val.txt").write_text("\n".join(f"im{i}" for i in range(12, 20)))
    return tmp_path


def test_voc_of_the_right_folder_is_silent_of_objects_not(voc: Path) -> None:
    assert not check(voc, quiet=True).found.names()
    root = voc / "VOCdevkit" / "VOC2012"
    (root / "SegmentationClass").rename(root / "classes")
    (root / "SegmentationObject").rename(root / "SegmentationClass")
    assert check(voc, quiet=True).found.names() == ["object_masks"]


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


def test_camvid_is_read_with_its_void(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pictures(3, tmp_path / split, "{}.png", 10 * len(split))
        for i in range(3):
            label = (np.arange(48 * 64).reshape(48, 64) // 250 % 12).astype(np.uint8)
            write_label(tmp_path / f"{split}annot" / f"{i}.png", label)
    result = check(tmp_path, quiet=True)
    assert not result.found.names()
    assert result.class_values["bicyclist"] == 10
    assert "void" not in result.class_values
    assert len(CAMVID.names) == 11
