"""Tiny copies of the official layouts of PASCAL VOC (with the extra labels) and Cityscapes (with the coarse ones)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polarpix.images import write_image, write_label
from polarpix.seg.classes import CITYSCAPES, VOC, cityscapes_label_ids


def patches(rng: np.random.Generator, classes: int, size: tuple[int, int], cells: int = 4) -> np.ndarray:
    """A label map [H, W] of cells x cells patches of one class each."""
    small = rng.integers(0, classes, (cells, cells)).astype(np.uint8)
    rows, columns = (np.arange(length) * cells // length for length in size)
    return small[np.ix_(rows, columns)]


def picture_of(label: np.ndarray, colors: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> np.ndarray:
    """Each class in its colour, with noise."""
    plain = np.array(colors, np.int64)[np.minimum(label, len(colors) - 1)]
    return np.clip(plain + rng.integers(-20, 20, plain.shape), 0, 255).astype(np.uint8)


def write_voc(root: Path, size: tuple[int, int] = (60, 70), seed: int = 0) -> Path:
    """VOCdevkit/VOC2012: 2 training, 2 validation and 1 unlabelled test picture, and trainaug with 3 more."""
    rng = np.random.default_rng(seed)
    voc = root / "VOCdevkit" / "VOC2012"
    splits = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033", "2007_000042"], "test": ["2008_000006"]}
    splits["train_aug"] = [*splits["train"], "2008_000002", "2008_000007", "2008_000009"]
    for split, stems in splits.items():
        lists = voc / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
        for stem in stems:
            label = patches(rng, len(VOC.names), size)
            write_image(voc / "JPEGImages" / f"{stem}.jpg", picture_of(label, VOC.colors, rng))
            label[:2] = 255
            if split in ("train", "val"):
                write_label(voc / "SegmentationClass" / f"{stem}.png", label, palette=VOC.colors)
            if split == "train_aug":
                write_label(voc / "SegmentationClassAug" / f"{stem}.png", label)
    return root


def write_cityscapes(root: Path, size: tuple[int, int] = (32, 64), seed: int = 0) -> Path:
    """leftImg8bit, gtFine and gtCoarse: 3 training, 2 validation, 1 unlabelled test and 2 coarse pictures."""
    rng = np.random.default_rng(seed)
    pictures = {
        "train": [("aachen", "000000_000019"), ("aachen", "000001_000019"), ("ulm", "000000_000019")],
        "val": [("frankfurt", "000000_000294"), ("lindau", "000000_000019")],
        "test": [("berlin", "000000_000019")],
        "train_extra": [("augsburg", "000000_000018"), ("wurzburg", "000000_000018")],
    }
    for split, files in pictures.items():
        annotation = "gtCoarse" if split == "train_extra" else "gtFine"
        for city, frame in files:
            label = patches(rng, len(CITYSCAPES.names), size)
            stem = f"{city}_{frame}"
            image = picture_of(label, CITYSCAPES.colors, rng)
            write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
            ids = cityscapes_label_ids(label)
            ids[-4:] = 1  # the bonnet of the own car, which is not evaluated
            if split != "test":
                write_label(root / annotation / split / city / f"{stem}_{annotation}_labelIds.png", ids)
                write_label(root / annotation / split / city / f"{stem}_{annotation}_instanceIds.png", ids)
    return root


@pytest.fixture(scope="session")
def tiny_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds VOCdevkit; for reading only."""
    return write_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="session")
def tiny_cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds leftImg8bit, gtFine and gtCoarse; for reading only."""
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"))
