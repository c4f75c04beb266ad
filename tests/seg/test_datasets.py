from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polarpix.config import SegDataConfig
from polarpix.errors import InputError
from polarpix.images import write_image, write_label
from polarpix.seg.classes import CITYSCAPES, VOC
from polarpix.seg.datasets import SEG_DATASETS, build_seg_dataset, with_coarse

PICTURE = np.full((4, 6, 3), 90, np.uint8)


def label_of(*values: int) -> np.ndarray:
    """A 4x6 label map that holds exactly these values."""
    return np.resize(np.array(values, np.uint8), (4, 6))


def put(root: Path, image: str, label: str | None, values: tuple[int, ...] = (0, 1)) -> None:
    write_image(root / image, PICTURE)
    if label is not None:
        write_label(root / label, label_of(*values))


def folder_page(root: Path, classes: int = 2) -> SegDataConfig:
    return SegDataConfig(format="folder", root=str(root), classes=[f"c{i}" for i in range(classes)])


def test_unknown_format_lists_the_table():
    with pytest.raises(InputError, match=r"ade20k.*camvid, voc, voc_aug, cityscapes, folder"):
        build_seg_dataset(SegDataConfig(format="ade20k"), "train")  # type: ignore[arg-type]
    assert list(SEG_DATASETS) == ["camvid", "voc", "voc_aug", "cityscapes", "folder"]


def test_camvid_pairs_images_of_any_kind_and_ignores_void(tmp_path):
    put(tmp_path, "train/b.jpg", "trainannot/b.png", (0, 10, 11))
    put(tmp_path, "train/a.png", "trainannot/a.png", (3,))
    dataset = build_seg_dataset(SegDataConfig(format="camvid", root=str(tmp_path)), "train")
    assert [image.name for image, _ in dataset.files] == ["a.png", "b.jpg"]
    sample = dataset[1]
    assert sample.image.shape == (4, 6, 3)
    assert sample.label.dtype == np.uint8
    assert sorted(set(sample.label.ravel())) == [0, 10, 255]
    assert sample.file == str(tmp_path / "train/b.jpg")
    assert dataset.classes.names[3] == "road"
    assert len(dataset) == 2


def test_unknown_split_lists_those_that_exist(tmp_path):
    put(tmp_path, "train/a.png", "trainannot/a.png")
    put(tmp_path, "val/a.png", "valannot/a.png")
    with pytest.raises(InputError, match="no split 'test': there are train, val"):
        build_seg_dataset(SegDataConfig(format="camvid", root=str(tmp_path)), "test")


@pytest.mark.parametrize("name", ["camvid", "voc", "voc_aug", "cityscapes", "folder"])
def test_missing_and_empty_roots_are_named(tmp_path, name):
    page = SegDataConfig(format=name, root=str(tmp_path / "nowhere"), classes=["a", "b"])
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        build_seg_dataset(page, "train")
    page.root = str(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)):
        build_seg_dataset(page, "train")


def voc_root(root: Path) -> Path:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for stem in ("one", "two", "three"):
        write_image(root / f"JPEGImages/{stem}.jpg", PICTURE)
    write_label(root / "SegmentationClass/one.png", label_of(0, 20, 255), palette=VOC.colors)
    write_label(root / "SegmentationClass/two.png", label_of(0, 5), palette=VOC.colors)
    write_label(root / "SegmentationClassAug/three.png", label_of(0, 7))
    (lists / "train.txt").write_text("one\n")
    (lists / "val.txt").write_text("two\n")
    return root


def test_voc_reads_palette_indices_not_colours(tmp_path):
    voc_root(tmp_path)
    dataset = build_seg_dataset(SegDataConfig(format="voc", root=str(tmp_path)), "train")
    assert Image.open(dataset.files[0][1]).mode == "P"
    np.testing.assert_array_equal(dataset[0].label, label_of(0, 20, 255))
    assert len(dataset) == 1
    with pytest.raises(InputError, match="no split 'test': there are train, val"):
        build_seg_dataset(SegDataConfig(format="voc", root=str(tmp_path)), "test")


def test_voc_is_found_inside_the_unpacked_archive(tmp_path):
    voc_root(tmp_path / "VOCdevkit" / "VOC2012")
    assert len(build_seg_dataset(SegDataConfig(format="voc", root=str(tmp_path)), "val")) == 1


@pytest.mark.parametrize("name", ["trainaug.txt", "train_aug.txt"])
def test_voc_aug_trains_on_the_extra_labels_and_is_judged_on_the_official_ones(tmp_path, name):
    voc_root(tmp_path)
    page = SegDataConfig(format="voc_aug", root=str(tmp_path))
    with pytest.raises(InputError, match=r"neither trainaug\.txt nor train_aug\.txt"):
        build_seg_dataset(page, "train")
    (tmp_path / "ImageSets/Segmentation" / name).write_text("three\n")
    train, val = build_seg_dataset(page, "train"), build_seg_dataset(page, "val")
    assert train.files[0][1] == tmp_path / "SegmentationClassAug/three.png"
    assert val.files[0][1] == tmp_path / "SegmentationClass/two.png"
    np.testing.assert_array_equal(train[0].label, label_of(0, 7))


def test_voc_names_listed_files_that_are_missing_and_empty_lists(tmp_path):
    voc_root(tmp_path)
    lists = tmp_path / "ImageSets/Segmentation"
    page = SegDataConfig(format="voc", root=str(tmp_path))
    (lists / "val.txt").write_text("two\nthree\n")
    with pytest.raises(InputError, match=r"three\.jpg: image has no label"):
        build_seg_dataset(page, "val")
    (lists / "val.txt").write_text("two\nfour\n")
    with pytest.raises(InputError, match=r"four\.jpg: listed image has no file"):
        build_seg_dataset(page, "val")
    (lists / "val.txt").write_text("\n")
    with pytest.raises(InputError, match=r"val\.txt: split is empty"):
        build_seg_dataset(page, "val")


def test_cityscapes_maps_label_ids(tmp_path):
    for city in ("ulm", "bonn"):
        put(
            tmp_path,
            f"leftImg8bit/val/{city}/{city}_0_leftImg8bit.png",
            f"gtFine/val/{city}/{city}_0_gtFine_labelIds.png",
            (0, 7, 9, 33),
        )
    dataset = build_seg_dataset(SegDataConfig(format="cityscapes", root=str(tmp_path)), "val")
    assert [image.parent.name for image, _ in dataset.files] == ["bonn", "ulm"]
    np.testing.assert_array_equal(dataset[0].label, label_of(255, 0, 255, 18))
    write_label(dataset.files[1][1], label_of(7, 34))
    with pytest.raises(InputError, match=r"ulm_0_gtFine_labelIds\.png: label holds 34"):
        dataset[1]
    dataset.files[0][1].unlink()
    with pytest.raises(InputError, match="bonn_0_leftImg8bit"):
        build_seg_dataset(SegDataConfig(format="cityscapes", root=str(tmp_path)), "val")


def test_cityscapes_takes_train_ids_where_no_label_ids_are(tmp_path):
    put(
        tmp_path,
        "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png",
        "gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png",
        (0, 18, 255),
    )
    dataset = build_seg_dataset(SegDataConfig(format="cityscapes", root=str(tmp_path)), "train")
    np.testing.assert_array_equal(dataset[0].label, label_of(0, 18, 255))


def test_folder_takes_the_pages_classes(tmp_path):
    put(tmp_path, "images/train/a.tif", "labels/train/a.png", (0, 1, 2, 255))
    dataset = build_seg_dataset(folder_page(tmp_path, 3), "train")
    assert dataset.classes.names == ("c0", "c1", "c2")
    assert len(set(dataset.classes.colors)) == 3
    np.testing.assert_array_equal(dataset[0].label, label_of(0, 1, 2, 255))


@pytest.mark.parametrize(
    ("classes", "match"),
    [(None, "at least two"), (["a"], "at least two"), (["a", "a"], "repeats"), ([str(i) for i in range(256)], "255")],
)
def test_folder_refuses_class_lists_it_cannot_use(tmp_path, classes, match):
    put(tmp_path, "images/train/a.png", "labels/train/a.png")
    with pytest.raises(InputError, match=match):
        build_seg_dataset(SegDataConfig(format="folder", root=str(tmp_path), classes=classes), "train")


def test_pairs_without_a_partner_are_named(tmp_path):
    put(tmp_path, "images/train/a.png", "labels/train/a.png")
    put(tmp_path, "images/train/b.png", None)
    put(tmp_path, "images/train/c.png", None)
    with pytest.raises(InputError, match=r"b\.png: image has no label PNG .*2 such, next c\.png"):
        build_seg_dataset(folder_page(tmp_path), "train")
    for stem in ("b", "c", "d"):
        write_label(tmp_path / f"labels/train/{stem}.png", label_of(0, 1))
    with pytest.raises(InputError, match=r"d\.png: label has no image"):
        build_seg_dataset(folder_page(tmp_path), "train")
    put(tmp_path, "images/train/d.png", None)
    assert len(build_seg_dataset(folder_page(tmp_path), "train")) == 4
    put(tmp_path, "images/train/a.jpg", None)
    with pytest.raises(InputError, match=r"a\.png: a\.jpg has the same name"):
        build_seg_dataset(folder_page(tmp_path), "train")


def test_an_empty_split_is_named(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part / "train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"images/train: folder holds no images"):
        build_seg_dataset(folder_page(tmp_path), "train")


def test_label_values_outside_the_classes_are_named(tmp_path):
    put(tmp_path, "images/train/a.png", "labels/train/a.png", (0, 1, 2, 7))
    with pytest.raises(InputError, match=r"a\.png: label holds 2, 7, which means none of the 2 classes c0 \.\. c1"):
        build_seg_dataset(folder_page(tmp_path), "train")[0]


def test_a_label_of_another_size_is_named(tmp_path):
    put(tmp_path, "images/train/a.png", None)
    write_label(tmp_path / "labels/train/a.png", label_of(0, 1).T)
    with pytest.raises(InputError, match=r"a\.png: label is 4x6, its image 6x4"):
        build_seg_dataset(folder_page(tmp_path), "train")[0]


def test_a_coloured_label_is_refused(tmp_path):
    put(tmp_path, "images/train/a.png", None)
    write_image(tmp_path / "labels/train/a.png", np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    with pytest.raises(InputError, match=r"a\.png: label map holds colours"):
        build_seg_dataset(folder_page(tmp_path), "train")[0]


def test_masks_of_0_and_255_are_refused(tmp_path):
    put(tmp_path, "images/train/a.png", "labels/train/a.png", (0,))
    put(tmp_path, "images/train/b.png", "labels/train/b.png", (0, 255))
    dataset = build_seg_dataset(folder_page(tmp_path), "train")
    assert not dataset[0].label.any()
    for _ in range(2):
        with pytest.raises(InputError, match=r"b\.png: mask holds only 0 and 255, like all.*divide the masks by 255"):
            dataset[1]


def test_a_mask_of_background_and_void_is_fine_beside_one_that_names_a_class(tmp_path):
    put(tmp_path, "images/train/a.png", "labels/train/a.png", (0, 255))
    put(tmp_path, "images/train/b.png", "labels/train/b.png", (0, 1))
    dataset = build_seg_dataset(folder_page(tmp_path), "train")
    assert set(dataset[0].label.ravel()) == {0, 255}


@pytest.mark.parametrize("name", ["voc", "voc_aug", "cityscapes"])
def test_a_test_split_may_leave_its_labels_with_the_server(tiny_voc, tiny_cityscapes, name):
    page = SegDataConfig(format=name, root=str(tiny_cityscapes if name == "cityscapes" else tiny_voc))
    dataset = build_seg_dataset(page, "test")
    assert not dataset.labelled
    assert len(dataset) == 1
    assert (dataset[0].label == 255).all()
    assert dataset[0].label.shape == dataset[0].image.shape[:2]
    assert build_seg_dataset(page, "val").labelled


def test_no_other_split_may_be_without_labels(tiny_voc):
    with pytest.raises(InputError, match="image has no label such as"):
        build_seg_dataset(SegDataConfig(format="voc", root=str(tiny_voc)), "train_aug")


def test_coarse_pictures_follow_the_fine_ones(tiny_cityscapes):
    page = SegDataConfig(format="cityscapes", root=str(tiny_cityscapes))
    fine = build_seg_dataset(page, "train")
    assert with_coarse(page, fine) is fine
    page.coarse = "train_extra"
    both = with_coarse(page, fine)
    assert both.files[:3] == fine.files
    assert [label.name for _, label in both.files[3:]] == [
        "augsburg_000000_000018_gtCoarse_labelIds.png",
        "wurzburg_000000_000018_gtCoarse_labelIds.png",
    ]
    assert set(np.unique(both[4].label)) <= {*range(19), 255}
    assert both.classes is CITYSCAPES


def test_coarse_labels_that_cannot_be_had(tiny_voc, tiny_cityscapes, tmp_path):
    page = SegDataConfig(format="voc", root=str(tiny_voc), coarse="train_extra")
    with pytest.raises(InputError, match="voc has no coarse labels"):
        with_coarse(page, build_seg_dataset(page, "train"))
    page = SegDataConfig(format="cityscapes", root=str(tiny_cityscapes), coarse="train_extra", coarse_classes=["lane"])
    with pytest.raises(InputError, match=r"data\.coarse_classes names 'lane': choose from road, sidewalk"):
        with_coarse(page, build_seg_dataset(page, "train"))
    put(tmp_path, "leftImg8bit/train/a/a_0_0_leftImg8bit.png", "gtFine/train/a/a_0_0_gtFine_labelTrainIds.png")
    put(
        tmp_path,
        "leftImg8bit/train_extra/b/b_0_0_leftImg8bit.png",
        "gtCoarse/train_extra/b/b_0_0_gtCoarse_labelIds.png",
    )
    page = SegDataConfig(format="cityscapes", root=str(tmp_path), coarse="train_extra")
    with pytest.raises(InputError, match="coarse and fine labels are not of one kind"):
        with_coarse(page, build_seg_dataset(page, "train"))
