"""`polarpix data split`: the pictures of one COCO keypoint file shared out to a training and a validation file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polarpix.doctor.tables import Options, Table, read_coco, write_coco
from polarpix.errors import InputError
from polarpix.images import check_place

__all__ = ["HOW", "split_file", "split_table"]

HOW = ("random", "last")


def split_table(table: Table, share: float, how: str, seed: int) -> tuple[Table, Table]:
    """Two tables whose pictures are apart, each with the annotations of its own; everything else is in both.

    Args:
        table: a COCO table.
        share: of the pictures for the second table, between 0 and 1; or their number, from 1 on.
        how: "random", drawn by the seed; "last", those with the highest ids: for the frames of a video, of which
            neighbours are alike.
        seed: of the draw.

    Raises:
        InputError: another way, or a number that leaves one of the two without pictures.
    """
    if how not in HOW:
        raise InputError(f"--how is {how!r}: use {' or '.join(HOW)}")
    ids = np.sort([entry["id"] for entry in table["images"]])
    count = round(share * len(ids)) if share < 1 else round(share)
    if not 0 < count < len(ids):
        raise InputError(
            f"--val {share:g} of {len(ids)} pictures are {count}: both files need some, give a share such as 0.1 or a "
            f"number up to {len(ids) - 1}"
        )
    drawn = np.random.default_rng(seed).choice(ids, count, replace=False) if how == "random" else ids[-count:]
    held = set(drawn.tolist())

    def part(inside: bool) -> Table:
        images = [entry for entry in table["images"] if (entry["id"] in held) is inside]
        notes = [note for note in table["annotations"] if (note["image_id"] in held) is inside]
        return {**table, "images": images, "annotations": notes}

    return part(False), part(True)


def split_file(source: str | Path, out: str | Path, share: float, how: str = "random", seed: int = 0) -> list[Path]:
    """Write ``train.json`` and ``val.json`` for a COCO keypoint file.

    Args:
        source: the file; it stays as it is.
        out: the folder.
        share: as for :func:`split_table`, like ``how`` and ``seed``.

    Returns:
        The two files.

    Raises:
        InputError: no such file, files of an earlier split (they are not written over), or as :func:`split_table`.
    """
    paths = [Path(out) / "train.json", Path(out) / "val.json"]
    for path in paths:
        if path.exists():
            raise InputError(f"{path}: is there already: name another --out, or remove it")
        check_place(path)
    for table, path in zip(split_table(read_coco(Path(source), Options()), share, how, seed), paths, strict=True):
        write_coco(table, path, Options())
    return paths
