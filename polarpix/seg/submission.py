"""Predicted label maps in the files and folders that the servers of the public sets take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polarpix.config import SegRun
from polarpix.errors import InputError
from polarpix.images import write_label
from polarpix.seg.classes import cityscapes_label_ids, voc_palette
from polarpix.seg.datasets import SegDataset
from polarpix.types import UInt8Array

__all__ = ["SUBMISSIONS", "Submission"]


def voc(folder: Path, split: str, picture: Path, label: UInt8Array) -> None:
    """PASCAL VOC: results/VOC2012/Segmentation/comp6_<split>_cls/<picture>.png, class indices with VOC's palette.

    Competition 6 is the one that may be trained on more than VOC's own pictures.
    """
    path = folder / "results" / "VOC2012" / "Segmentation" / f"comp6_{split}_cls" / f"{picture.stem}.png"
    write_label(path, label, voc_palette(256))


def cityscapes(folder: Path, split: str, picture: Path, label: UInt8Array) -> None:
    """Cityscapes: <city>_<sequence>_<frame>_leftImg8bit.png with label ids (not training ids)."""
    write_label(folder / f"{picture.stem}.png", cityscapes_label_ids(label))


SUBMISSIONS: dict[str, Callable[[Path, str, Path, UInt8Array], None]] = {
    "voc": voc,
    "voc_aug": voc,
    "cityscapes": cityscapes,
}
"""Format of a set -> writes the prediction of one picture."""


class Submission:
    """Writes the predictions of a split below a folder, ready to be packed for the server of the set.

    Args:
        run: the page; it says which set.
        split: "val" or "test".
        dataset: that split.
        folder: where to write.

    Raises:
        InputError: a set without a server, or an evaluation of other pictures than the set's own.
    """

    def __init__(self, run: SegRun, split: str, dataset: SegDataset, folder: Path) -> None:
        if run.data.format not in SUBMISSIONS:
            known = ", ".join(SUBMISSIONS)
            raise InputError(f"--submission: data.format is {run.data.format!r}, servers are known for {known}")
        if run.eval.centre_crop is not None:
            raise InputError("--submission: a server wants whole pictures: add --eval.centre_crop null")
        self.save = SUBMISSIONS[run.data.format]
        self.split = str({"val": run.data.val, "test": run.data.test}[split])
        self.dataset = dataset
        self.folder = folder

    def write(self, position: int, label: UInt8Array) -> None:
        """Write the prediction [H, W], class indices, for the picture at that position of the split."""
        self.save(self.folder, self.split, self.dataset.files[position][0], label)
