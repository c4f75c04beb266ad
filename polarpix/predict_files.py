"""Files in, files out: what ``polarpix predict`` writes for images, folders and globs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from polarpix.engine.artifact import write_text
from polarpix.errors import InputError
from polarpix.images import check_place, list_images
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.runtime.predictors import ExportedPosePredictor, ExportedSegPredictor

__all__ = ["BoxSource", "parse_boxes", "predict_files"]

Predictor = PosePredictor | SegPredictor | ExportedPosePredictor | ExportedSegPredictor
MASKS = (SegPredictor, ExportedSegPredictor)

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
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): give a COCO detection file") from error
    names: dict[Any, str] = {}
    if isinstance(page, dict):
        names = {one.get("id"): one.get("file_name", "") for one in page.get("images", []) if isinstance(one, dict)}
        page = page.get("annotations")
    if not isinstance(page, list):
        raise InputError(f"{path}: holds no list of detections: give a COCO detection file")
    check_category(page, category, path)
    found: dict[str, list[list[float]]] = {}
    for number, one in enumerate(page):
        if not isinstance(one, dict) or not ("image_id" in one or "file_name" in one):
            raise InputError(f"{path}: detection {number} has no image_id: add it")
        row = [*one["bbox"], one.get("score", 1.0)] if isinstance(one.get("bbox"), list) else []
        if len(row) != 5 or not all(isinstance(value, int | float) for value in row):
            raise InputError(f"{path}: detection {number} has no bbox of x, y, width, height in numbers: mend it")
        if not one.get("iscrowd") and category in (None, one.get("category_id", category)):
            name = one.get("file_name") or names.get(one.get("image_id")) or str(one["image_id"])
            found.setdefault(image_key(name), []).append(row)
    return found


def check_category(page: list[Any], category: int | None, path: Path) -> None:
    """Refuse detections of several categories of which none was chosen, and a choice that is not there."""
    found = {one.get("category_id") for one in page if isinstance(one, dict)}
    given = sorted(number for number in found if isinstance(number, int))
    listed = ", ".join(map(str, given[:8])) + (", ..." if len(given) > 8 else "")
    if category is None and len(given) > 1:
        raise InputError(f"{path}: holds detections of the categories {listed}: choose one with --category")
    if category is not None and given and category not in given:
        raise InputError(f"{path}: holds no detection of category {category}: choose one of {listed}")


def image_key(name: str | Path) -> str:
    """What a detection and a file have in common: the stem, as a number where it is one."""
    stem = Path(name).stem
    return str(int(stem)) if stem.isdigit() else stem


def boxes_of(boxes: BoxSource, path: Path) -> list[list[float]] | None:
    """The boxes of one file; a file without detections has none."""
    if isinstance(boxes, dict):
        return boxes.get(image_key(path), [])
    return boxes


def overlay_names(paths: Sequence[Path]) -> list[str]:
    """One name per file for what is written about it.

    Its stem; with its folder where several files have that stem; with a number where that is taken too.
    """
    shared = {stem for stem, times in Counter(path.stem for path in paths).items() if times > 1}
    taken: set[str] = {path.stem for path in paths} - shared
    names: list[str] = []
    for path in paths:
        name = path.stem
        if name in shared:
            base = f"{path.absolute().parent.name}_{name}"
            name = next(one for one in chain([base], (f"{base}_{i}" for i in count(2))) if one not in taken)
            taken.add(name)
        names.append(name)
    return names


def image_ids(paths: Sequence[Path]) -> list[int]:
    """One COCO image id per file: the number that is its name where every file has its own, else 1, 2, 3, ..."""
    numbers = [int(path.stem) for path in paths if path.stem.isdigit()]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))


def predict_files(
    predictor: Predictor,
    sources: Sequence[str],
    boxes: str,
    out: Path,
    category: int | None = None,
) -> tuple[int, list[str]]:
    """Predict every image; write overlays/NAME.jpg and keypoints.json with images.json, or labels/NAME.png.

    One unreadable image does not stop the others, and an interruption leaves what was found until then.

    Returns:
        How many were predicted, and one line for each that was not.

    Raises:
        InputError: no image at all, boxes that are none or belong to none of the images, or a place to write that is
            none.
    """
    if boxes and isinstance(predictor, MASKS):
        raise InputError(f"--boxes {boxes}: a segmentation network takes no boxes: leave them out")
    paths = list(dict.fromkeys(path for source in sources for path in list_images(source)))
    table = parse_boxes(boxes, category)
    if isinstance(table, dict) and not any(image_key(path) in table for path in paths):
        raise InputError(f"--boxes {boxes}: no detection is of these images: match image_id or file_name to the files")
    check_place(out / "images.json")
    failed: list[str] = []
    keypoints: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    bar = tqdm(paths, desc="predict", unit="image")
    try:
        for path, name, image_id in zip(bar, overlay_names(paths), image_ids(paths), strict=True):
            try:
                if isinstance(predictor, MASKS):
                    masks = predictor(path)
                    masks.save_label(out / "labels" / f"{name}.png")
                    masks.save(out / "overlays" / f"{name}.jpg")
                else:
                    found = predictor(path, boxes_of(table, path))
                    found.save(out / "overlays" / f"{name}.jpg")
                    keypoints += found.to_coco(image_id)
                    height, width = found.image.shape[:2]
                    images.append({"id": image_id, "file_name": str(path), "width": width, "height": height})
            except InputError as error:
                failed.append(str(error))
    finally:
        bar.close()  # what is said next begins on a line of its own
        if images:
            write_text(out / "keypoints.json", json.dumps(keypoints))
            write_text(out / "images.json", json.dumps(images))
    return len(paths) - len(failed), failed
