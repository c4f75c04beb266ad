"""The doctor's findings as one HTML page, the worst cases as pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from polarpix.doctor.check import Checkup, share
from polarpix.doctor.findings import Case, Shown
from polarpix.doctor.scan import special
from polarpix.draw import draw_boxes, draw_keypoints
from polarpix.errors import InputError
from polarpix.images import read_image
from polarpix.report import Report, Section, Table, Value
from polarpix.report_files import write_html
from polarpix.rgb import open_pillow
from polarpix.seg.classes import voc_palette
from polarpix.sheet import tile
from polarpix.types import KeypointSchema, UInt8Array

__all__ = ["draw_case", "write_page"]

PICTURES = 6  # of each kind
ROWS = 25
SIDE = 360  # pixels of a picture
RING = (255, 40, 200)


def write_page(result: Checkup, path: str | Path) -> None:
    """Write the page of a checkup."""
    found = list(result.found)
    levels = {level: sum(f.kind.level == level for f in found) for level in ("error", "warning", "note")}
    sections = [_split_section(result)]
    for finding in found:
        cases = finding.worst()
        rows: list[list[Value]] = [[case.file, case.detail] for case in cases[:ROWS]]
        pictures: list[tuple[str, UInt8Array]] = []
        for case in cases:
            if len(pictures) < PICTURES and (drawn := draw_case(case, result.skeletons)) is not None:
                pictures.append((f"{Path(case.file).name}: {case.detail}", drawn))
        title = f"{finding.kind.level}: {finding.kind.title} ({finding.count:,})"
        text = f"To mend it: {finding.kind.mend}."
        sections.append(Section(title, text, Table(["where", "what"], rows), pictures))
    report = Report(
        title=f"Data check of {Path(result.path).name}",
        subtitle=f"{' and '.join(result.kinds)}: {'' if result.found.serious() else 'no '}trouble found",
        summary=[("images", sum(result.images.values())), *((f"kinds of {name}", n) for name, n in levels.items())],
        sections=sections,
        conditions={"path": result.path},
    )
    write_html(report, path)


def _split_section(result: Checkup) -> Section:
    """Images and instances of each split, and the class histogram."""
    if not result.pixels:
        rows: list[list[Value]] = [[split, n, result.instances.get(split)] for split, n in result.images.items()]
        return Section("What was looked at", table=Table(["split", "images", "instances"], rows))
    columns = {split: share(total, result.class_values) for split, total in result.pixels.items()}
    table: list[list[Value]] = [[name, *(column[name] for column in columns.values())] for name in result.class_values]
    text = "Images: " + ", ".join(f"{split} {n:,}" for split, n in result.images.items()) + "."
    text += "\n\nPercent of the labelled pixels of each split:"
    return Section("What was looked at", text, Table(["class", *columns], table))


def draw_case(case: Case, skeletons: dict[str, KeypointSchema]) -> UInt8Array | None:
    """The picture of a case [H, W, 3]; None where there is none to draw."""
    shown = case.shown
    if shown is None or any(special(file) for file in (shown.image, shown.label, shown.other) if file):
        return None
    try:
        image = read_image(shown.image)
    except InputError:
        return None
    if shown.other is not None:
        return _beside(image, shown.other)
    if shown.label is not None:
        return _over_label(image, shown.label)
    if shown.points is not None and shown.schema in skeletons and np.isfinite(shown.points).any():
        return _pose(image, shown, skeletons[shown.schema])
    return _fitted(image)


def _fitted(image: UInt8Array, side: int = SIDE) -> UInt8Array:
    """A picture whose longer side is ``side``."""
    factor = side / max(image.shape[:2])
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def _beside(image: UInt8Array, other: Path) -> UInt8Array | None:
    try:
        second = read_image(other)
    except InputError:
        return None
    return tile([_fitted(image), _fitted(second)], 2)


def _over_label(image: UInt8Array, file: Path) -> UInt8Array | None:
    """The image beside the label in the colours of its values."""
    try:
        with open_pillow(file) as opened:
            values = np.asarray(opened)
    except Exception:  # of any class that Pillow's readers have
        return None
    colours = np.array(voc_palette(256), np.uint8)
    label = colours[values.astype(np.uint8)] if values.ndim == 2 else np.asarray(values[:, :, :3], np.uint8)
    small = _fitted(image)
    factor = SIDE / max(label.shape[:2])
    size = (max(round(label.shape[1] * factor), 1), max(round(label.shape[0] * factor), 1))
    return tile([small, np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), np.uint8)], 2)


def _pose(image: UInt8Array, shown: Shown, schema: KeypointSchema) -> UInt8Array:
    """The surroundings of a pose, with rings around what is meant; the paper shows where it leaves the image."""
    points = np.asarray(shown.points, np.float64)
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    if shown.box is not None:
        low, high = np.minimum(low, shown.box[:2]), np.maximum(high, np.add(shown.box[:2], shown.box[2:]))
    size = np.array(image.shape[1::-1])
    low, high = np.maximum(low, -size), np.minimum(high, 2 * size)  # what lies farther out is not worth drawing
    margin = 0.15 * float((high - low).max()) + 5
    x0, y0 = np.floor(low - margin).astype(int).tolist()
    x1, y1 = np.ceil(high + margin).astype(int).tolist()
    canvas = np.full((max(y1 - y0, 1), max(x1 - x0, 1), 3), 225, np.uint8)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, int(size[0])), min(y1, int(size[1]))
    if right > left and bottom > top:
        canvas[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    factor = SIDE / max(canvas.shape[:2])
    drawn = _fitted(canvas)
    moved = (points - [x0, y0] + 0.5) * factor - 0.5
    if shown.box is not None:
        x, y, w, h = shown.box
        drawn = draw_boxes(drawn, np.array([[(x - x0) * factor, (y - y0) * factor, w * factor, h * factor]]))
    drawn = draw_keypoints(drawn, moved[None].astype(np.float32), schema)
    for k in shown.marked:
        if np.isfinite(moved[k]).all():
            centre = tuple(int(v) for v in np.clip(moved[k], -1000, 5000))
            cv2.circle(drawn, centre, 11, RING, 2, cv2.LINE_AA)
    return drawn
