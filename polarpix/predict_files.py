"""Files in, files out: what ``polarpix predict`` writes for images, folders and globs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from polarpix.engine.artifact import write_text
from polarpix.errors import InputError
from polarpix.images import list_images
from polarpix.predict import PosePredictor, PoseResult, SegPredictor

__all__ = ["BoxSource", "parse_boxes", "predict_files"]

BoxSource = dict[str, list[list[float]]] | list[list[float]] | None
"""Boxes by file stem, the same boxes for every image, or none."""


def parse_boxes(text: str) -> BoxSource:
    """``x,y,width,height`` or a COCO detection JSON.

    In a JSON list the image of a detection is its ``file_name``, or else its ``image_id``, which must be the number in
    the image's name (as in COCO: image_id 139 is 000000000139.jpg). A whole COCO file names its images itself.

    Raises:
        InputError: neither four numbers nor such a file.
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
        page = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): give a COCO detection file") from error
    names: dict[int, str] = {}
    if isinstance(page, dict):
        names = {image["id"]: image["file_name"] for image in page.get("images", [])}
        page = page.get("annotations", [])
    found: dict[str, list[list[float]]] = {}
    for number, one in enumerate(page):
        if not isinstance(one, dict) or "bbox" not in one or not ("image_id" in one or "file_name" in one):
            raise InputError(f"{path}: detection {number} has no bbox or no image_id: add them")
        name = one.get("file_name") or names.get(one["image_id"]) or str(one["image_id"])
        found.setdefault(image_key(name), []).append([*one["bbox"], one.get("score", 1.0)])
    return found


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
    """One name per file for what is written about it: its stem, with its folder where two stems are the same."""
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.parent.name}_{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def predict_files(
    predictor: PosePredictor | SegPredictor, sources: Sequence[str], boxes: str, out: Path
) -> tuple[int, list[str]]:
    """Predict every image; write overlays/NAME.jpg and keypoints.json with images.json, or labels/NAME.png.

    One unreadable image does not stop the others.

    Returns:
        How many were predicted, and one line for each that was not.

    Raises:
        InputError: no image at all, or boxes that are none or belong to none of the images.
    """
    paths = [path for source in sources for path in list_images(source)]
    table = parse_boxes(boxes)
    if isinstance(table, dict) and not any(image_key(path) in table for path in paths):
        raise InputError(f"--boxes {boxes}: no detection is of these images: match image_id or file_name to the files")
    failed: list[str] = []
    keypoints: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    names = overlay_names(paths)
    for number, (path, name) in enumerate(zip(tqdm(paths, desc="predict", unit="image"), names, strict=True), start=1):
        try:
            if isinstance(predictor, SegPredictor):
                masks = predictor(path, boxes_of(table, path))  # type: ignore[arg-type]  # refused there, in words
                masks.save_label(out / "labels" / f"{name}.png")
                masks.save(out / "overlays" / f"{name}.jpg")
            else:
                found: PoseResult = predictor(path, boxes_of(table, path))
                found.save(out / "overlays" / f"{name}.jpg")
                key = image_key(path)
                image_id = int(key) if key.isdigit() else number
                keypoints += found.to_coco(image_id)
                height, width = found.image.shape[:2]
                images.append({"id": image_id, "file_name": str(path), "width": width, "height": height})
        except InputError as error:
            failed.append(str(error))
    if isinstance(predictor, PosePredictor):
        write_text(out / "keypoints.json", json.dumps(keypoints))
        write_text(out / "images.json", json.dumps(images))
    return len(paths) - len(failed), failed
