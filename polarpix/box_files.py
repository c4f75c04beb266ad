"""Boxes that come with the call: one for every image, or those of a COCO detection file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polarpix.errors import InputError
from polarpix.pose.coco_json import is_number, parse_json

__all__ = ["BoxSource", "boxes_of", "category_number", "image_key", "parse_boxes"]

BoxSource = dict[str, list[list[float]]] | list[list[float]] | None
"""Boxes by file stem, the same boxes for every image, or none."""


def parse_boxes(text: str, category: int | None = None) -> BoxSource:
    """``x,y,width,height`` or a COCO detection JSON.

    In a JSON list the image of a detection is its ``file_name``, or else its ``image_id``, which must be the number in
    the image's name (as in COCO: image_id 139 is 000000000139.jpg). A whole COCO file names its images itself.

    Args:
        text: the box or the file.
        category: the ``category_id`` of the detections to take; null where the file holds one category only.

    Raises:
        InputError: neither four numbers nor such a file, or several categories and none chosen.
    """
    if not text:
        return None
    path = Path(text)
    if path.suffix != ".json":
        try:
            box = [float(part) for part in text.split(",")]
        except ValueError:
            box = []
        if len(box) != 4:
            raise InputError(f"--boxes {text}: give x,y,width,height in pixels, or a COCO detection JSON file")
        return [box]
    if not path.is_file():
        raise InputError(f"--boxes {text}: no such file: give a COCO detection JSON, or x,y,width,height")
    page = parse_json(path)[0]
    names: dict[Any, str] = {}
    if isinstance(page, dict):
        images = page.get("images")
        listed = [one for one in images if isinstance(one, dict)] if isinstance(images, list) else []
        names = {one["id"]: str(one.get("file_name") or "") for one in listed if isinstance(one.get("id"), int)}
        page = page.get("annotations")
    if not isinstance(page, list):
        raise InputError(f"{path}: holds no list of detections: give a COCO detection file")
    check_category(page, category, path)
    found: dict[str, list[list[float]]] = {}
    for number, one in enumerate(page):
        if not isinstance(one, dict) or not ("image_id" in one or "file_name" in one):
            raise InputError(f"{path}: detection {number} has no image_id: add it")
        row = [*one["bbox"], one.get("score", 1.0)] if isinstance(one.get("bbox"), list) else []
        if len(row) != 5 or not all(map(is_number, row)):
            raise InputError(f"{path}: detection {number} has no bbox of x, y, width, height in numbers: mend it")
        if not one.get("iscrowd") and category in (None, one.get("category_id", category)):
            name, id = one.get("file_name"), one.get("image_id")
            if not (name if isinstance(name, str) else isinstance(id, int | str)):
                raise InputError(f"{path}: detection {number} has image_id {id!r:.40}: give a number or a file_name")
            found.setdefault(image_key(name or names.get(id) or str(id)), []).append(row)
    return found


def category_number(category: str) -> int:
    """A category_id.

    Raises:
        InputError: no number.
    """
    if not category.isdecimal():
        raise InputError(f"--category {category}: give the number of a category (names need a --detector)")
    return int(category)


def check_category(page: list[Any], category: int | None, path: Path) -> None:
    """Refuse detections of several categories of which none was chosen, and a choice that is not there."""
    found = [one.get("category_id") for one in page if isinstance(one, dict)]
    given = sorted({number for number in found if isinstance(number, int)})
    listed = ", ".join(map(str, given[:8])) + (", ..." if len(given) > 8 else "")
    if category is None and len(given) > 1:
        raise InputError(f"{path}: holds detections of the categories {listed}: choose one with --category")
    if category is not None and given and category not in given:
        raise InputError(f"{path}: holds no detection of category {category}: choose one of {listed}")


def image_key(name: str | Path) -> str:
    """What a detection and a file have in common: the stem, as a number where it is one."""
    stem = Path(name).stem
    return str(int(stem)) if stem.isdecimal() and len(stem) < 100 else stem


def boxes_of(boxes: BoxSource, path: Path) -> list[list[float]] | None:
    """The boxes of one file; a file without detections has none."""
    if isinstance(boxes, dict):
        return boxes.get(image_key(path), [])
    return boxes
