"""`polarpix data convert`: annotations from one format to another, by way of a COCO table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polarpix.doctor.cvat import read_cvat, write_cvat
from polarpix.doctor.dlc import read_dlc, write_dlc
from polarpix.doctor.labelme import read_labelme, write_labelme
from polarpix.doctor.masks import write_masks
from polarpix.doctor.tables import Options, Table, read_coco, write_coco
from polarpix.doctor.yolo import read_yolo, write_yolo
from polarpix.errors import InputError

__all__ = ["READERS", "WRITERS", "convert"]

READERS: dict[str, Callable[[Path, Options], Table]] = {
    "coco": read_coco,
    "dlc": read_dlc,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_cvat,
}
WRITERS: dict[str, Callable[[Table, Path, Options], None]] = {
    "coco": write_coco,
    "dlc": write_dlc,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "masks": write_masks,
}
FOLDERS = ("yolo", "labelme", "masks")  # what is written into a folder


def convert(source: str | Path, target: str | Path, from_: str, to: str, options: Options) -> Table:
    """Read annotations and write them in another format.

    Args:
        source: the file, or the folder where the format has one.
        target: likewise; other files in a folder stay.
        from_: a key of :data:`READERS`.
        to: a key of :data:`WRITERS`.
        options: what the formats may need.

    Returns:
        The table in between.

    Raises:
        InputError: an unknown format, a target that cannot be, or a source that is not of its format.
    """
    for value, table, option in ((from_, READERS, "--from"), (to, WRITERS, "--to")):
        if value not in table:
            raise InputError(f"{option} is {value!r}: use one of {', '.join(table)}")
    source, target = Path(source), Path(target)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder: check the path")
    if to in FOLDERS and target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file, but {to} is written into a folder: name a folder")
    if to not in FOLDERS and target.is_dir():
        raise InputError(f"{target}: is a folder, but {to} is one file: name a file in it")
    table = READERS[from_](source, options)
    WRITERS[to](table, target, options)
    return table
