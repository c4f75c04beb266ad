"""Reading COCO JSON and doubting every entry of it: each trouble is one line that names the file and the entry."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.errors import InputError
from polarpix.places import safe_name
from polarpix.types import FloatArray, IntArray, KeypointSchema

__all__ = [
    "Picture",
    "check_images",
    "clip_box",
    "find_category",
    "index_pictures",
    "is_number",
    "parse_json",
    "read_area",
    "read_box",
    "read_keypoints",
    "read_page",
    "require",
]

IDS = ("id", "image_id", "category_id")
LARGEST = 1e15  # pixels; squares of it still fit into float32


@dataclass(frozen=True)
class Picture:
    """An entry of ``images``."""

    id: int
    file: str
    size: tuple[int, int]  # height, width

    @property
    def whole(self) -> FloatArray:
        """The box [4] of the whole image."""
        return np.array([0, 0, self.size[1], self.size[0]], np.float32)


def parse_json(path: Path) -> tuple[Any, bytes]:
    """The content of a JSON file, parsed and as it is.

    Raises:
        InputError: the file cannot be read or is not JSON.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}): check the path") from error
    try:
        return json.loads(text), text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error!s:.200}): give a COCO keypoint or detection file") from error


def read_page(path: Path, labelled: bool = True) -> dict[str, Any]:
    """A COCO keypoint file, with its three lists checked to be there and its annotation ids to be unique.

    Where ``labelled`` is false it may come without annotations, as COCO's lists of test images do.
    """
    page = parse_json(path)[0]
    if not labelled and isinstance(page, dict):
        page.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(page, dict) or not isinstance(page.get(key), list):
            raise InputError(f"{path}: no list {key!r}, so not a COCO keypoint file: give one")
    seen: set[Any] = set()
    for number, note in enumerate(page["annotations"]):
        require(note, ("id", "image_id", "category_id"), f"{path}: annotation number {number}")
        if note["id"] in seen:
            raise InputError(f"{path}: annotation id {note['id']} occurs more than once: number the annotations anew")
        seen.add(note["id"])
    return dict(page)


def require(note: Any, keys: Iterable[str], where: str) -> None:
    """Refuse an entry that is no object, lacks a key, or has an id that is no whole number."""
    if not isinstance(note, dict):
        raise InputError(f"{where} is {note!r:.40}, not an object: this is no COCO file")
    for key in keys:
        if note.get(key) is None:
            raise InputError(f"{where} has no {key!r}: add it")
        if key in IDS and not isinstance(note[key], int):
            raise InputError(f"{where} has {key} {note[key]!r:.40}: COCO's ids are whole numbers, give one")
        if key in IDS and abs(note[key]) >= 2**63:
            raise InputError(f"{where} has a {key} of more than 64 bits: number the entries anew")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that pixels, or their squares, can be counted by."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def find_category(page: dict[str, Any], schema: KeypointSchema | None, source: Path) -> dict[str, Any]:
    """The one category whose instances are meant: the only one with keypoints, or the one that fits the schema."""
    categories = page["categories"]
    for number, category in enumerate(categories):
        require(category, ("id",), f"{source}: category number {number}")
    named = [c for c in categories if isinstance(c.get("keypoints"), list) and c["keypoints"]]
    if schema is None:
        if len(named) == 1:
            return dict(named[0])
        trouble = f"categories {[c.get('name') for c in named]!r:.200} have" if named else "no category has"
        raise InputError(f"{source}: {trouble} keypoint names: give a schema file with the names of the one you mean")
    if named:
        same = [c for c in named if tuple(c["keypoints"]) == schema.names]
    else:  # the file leaves the names to the schema
        same = [c for c in categories if c.get("name") == schema.category] or categories
    if len(same) > 1:
        same = [c for c in same if c.get("name") == schema.category]
    if len(same) != 1:
        names = {id(c): ", ".join(map(str, c["keypoints"])) for c in named}
        listed = "; ".join(f"{c.get('name')}: {names.get(id(c), '')}" for c in categories)
        wanted = f"{schema.category}: {', '.join(schema.names)}"
        raise InputError(
            f"{source}: no single category fits the schema ({wanted!r:.200}); it has {listed!r:.200}: mend one of them"
        )
    return dict(same[0])


def index_pictures(page: dict[str, Any], source: Path) -> dict[int, Picture]:
    """The images of a file by id."""
    pictures: dict[int, Picture] = {}
    for number, note in enumerate(page["images"]):
        require(note, ("id", "file_name", "width", "height"), f"{source}: image number {number}")
        if note["id"] in pictures:
            raise InputError(f"{source}: image id {note['id']} occurs more than once: number the images anew")
        size = (note["height"], note["width"])
        if not all(is_number(side) and side >= 1 for side in size):
            raise InputError(f"{source}: image {note['id']} has height, width {size!r:.80}: give its size in pixels")
        file = safe_name(note["file_name"], f"{source}: image {note['id']}")
        pictures[note["id"]] = Picture(note["id"], file, (int(size[0]), int(size[1])))
    if not pictures:
        raise InputError(f"{source}: 'images' is empty: the split has nothing in it, give another file")
    return pictures


def read_keypoints(note: dict[str, Any], K: int, where: str) -> tuple[FloatArray, IntArray]:
    """Keypoints [K, 2] and visibility [K] of an annotation; zeros where not labelled."""
    given = note.get("keypoints")
    if given is None:
        return np.zeros((K, 2), np.float32), np.zeros(K, np.int64)
    if not isinstance(given, list) or len(given) != 3 * K:
        count = f"{len(given)} numbers" if isinstance(given, list) else f"{given!r:.40}"
        raise InputError(f"{where}: keypoints holds {count}; {K} names need {3 * K}: give x, y, visibility for each")
    try:
        triples = np.array(given, np.float64).reshape(K, 3)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: keypoints {given!r:.200} are not all numbers: mend them") from error
    if not np.isin(triples[:, 2], (0, 1, 2)).all():
        raise InputError(f"{where}: visibilities are {triples[:, 2].tolist()!r:.200}; COCO knows 0, 1 and 2: mend them")
    labelled = triples[:, 2] > 0
    if not (np.abs(triples[labelled]) <= LARGEST).all():  # nor nan
        raise InputError(f"{where}: a labelled keypoint is not finite in {given!r:.200}: give it visibility 0")
    return np.where(labelled[:, None], triples[:, :2], 0).astype(np.float32), triples[:, 2].astype(np.int64)


def read_box(note: dict[str, Any], where: str) -> FloatArray:
    """The ``bbox`` [4] of an annotation or a detection."""
    box = note["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise InputError(f"{where}: bbox is {box!r:.100}; it must be four numbers, x, y, width, height: mend it")
    return np.array(box, np.float32)


def read_area(note: dict[str, Any], where: str) -> float | None:
    """The ``area`` of an annotation in square pixels; None where it has none."""
    area = note.get("area")
    if area is None:
        return None
    if not is_number(area) or area < 0:
        raise InputError(
            f"{where}: area is {area!r:.40}; it must be a number of square pixels: mend it or leave it out"
        )
    return float(area)


def clip_box(box: FloatArray, picture: Picture) -> FloatArray | None:
    """The part of a box [4] that lies on the image; None where there is none."""
    H, W = picture.size
    x, y = max(float(box[0]), 0.0), max(float(box[1]), 0.0)
    width, height = min(float(box[0] + box[2]), W) - x, min(float(box[1] + box[3]), H) - y
    return np.array([x, y, width, height], np.float32) if width > 0 and height > 0 else None


def check_images(files: set[str], folder: Path, source: Path) -> None:
    """Refuse a folder that lacks images; one listing finds them, names with a folder in them are looked up singly."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images, of {source}: check the path")
    here = {entry.name for entry in folder.iterdir()}
    missing = sorted(file for file in files if file not in here and not (folder / file).is_file())
    if missing:
        count = f"{len(missing)} of {len(files)} images of {source}"
        raise InputError(f"{folder / missing[0]}: no such image; {count} are missing: check the folder")
