"""`polarpix data split` of keypoints: the pictures of one COCO file shared out to a training and a validation file."""

from __future__ import annotations

from pathlib import Path

from polarpix.doctor.choose import Choice
from polarpix.doctor.layout import images_beside
from polarpix.doctor.tables import Options, Table, read_coco, write_coco
from polarpix.errors import InputError
from polarpix.images import check_place

__all__ = ["split_file", "split_table"]


def split_table(table: Table, choice: Choice, source: str | Path = "the table") -> tuple[Table, Table]:
    """Two tables whose pictures are apart, each with the annotations of its own; everything else is in both.

    Args:
        table: a COCO table.
        choice: which pictures the second table gets; neighbours are those of the next id.
        source: named in errors.

    Raises:
        InputError: one of the two is left without pictures.
    """
    ordered = sorted(table["images"], key=lambda entry: entry["id"])
    held = {ordered[i]["id"] for i in choice.held_out([entry["file_name"] for entry in ordered], source)}

    def part(inside: bool) -> Table:
        images = [entry for entry in table["images"] if (entry["id"] in held) is inside]
        notes = [note for note in table["annotations"] if (note["image_id"] in held) is inside]
        return {**table, "images": images, "annotations": notes}

    return part(False), part(True)


def split_file(source: str | Path, out: str | Path, choice: Choice) -> list[Path]:
    """Write ``train.json`` and ``val.json`` for a COCO keypoint file; a warning says where neighbours are alike.

    Args:
        source: the file; it stays as it is.
        out: the folder.
        choice: which pictures are for validation.

    Returns:
        The two files.

    Raises:
        InputError: no such file, files of an earlier split (they are not written over), or as :func:`split_table`.
    """
    source, paths = Path(source), [Path(out) / "train.json", Path(out) / "val.json"]
    for path in paths:
        if path.exists():
            raise InputError(f"{path}: is there already: name another --out, or remove it")
        check_place(path)
    whole = read_coco(source, Options())
    parts = split_table(whole, choice, source)
    names = [entry["file_name"] for entry in sorted(whole["images"], key=lambda entry: entry["id"])]
    folder = images_beside(source, names[0])
    if folder is not None:
        choice.warn_of_neighbours([folder / name for name in names], source)
    for table, path in zip(parts, paths, strict=True):
        write_coco(table, path, Options())
    return paths
