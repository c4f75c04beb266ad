"""What can be wrong with COCO keypoint tables and how they fit their images."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.doctor.findings import Findings, Shown
from polarpix.doctor.layout import PoseSplit, PoseView
from polarpix.doctor.scan import ImageFacts
from polarpix.doctor.sides import find_swaps
from polarpix.errors import InputError
from polarpix.places import safe_name
from polarpix.pose.coco_json import is_number
from polarpix.pose.schema import schema_from_category
from polarpix.types import KeypointSchema

__all__ = ["check_pose", "image_files", "schemas"]

SMALLEST, LARGEST = 0.005, 0.3  # OKS sigmas in between are plausible; COCO's are .025 to .107
MEAN = 0.0669  # of COCO's
UNEVEN = 2.0  # factor between the sigmas of a mirror pair above which they are odd


def image_files(split: PoseSplit) -> dict[int, Path]:
    """Image id -> file, of the entries that have both; a file that is not below the folder is not looked at."""
    entries = [one for one in split.table["images"] if isinstance(one, dict) and _is_id(one.get("id"))]
    return {one["id"]: split.folder / one["file_name"] for one in entries if _is_inside(one.get("file_name"))}


def schemas(view: PoseView, found: Findings) -> dict[str, KeypointSchema]:
    """Skeleton of each category with keypoints, by name; says which sigmas are missing or odd."""
    skeletons: dict[str, KeypointSchema] = {}
    for split in view.splits:
        for category in split.table["categories"]:
            name = str(category.get("name")) if isinstance(category, dict) else ""
            if not name or name in skeletons or not category.get("keypoints"):
                continue
            schema = _schema(category, split.file, found)
            if schema is not None and view.schema is not None and view.schema.names == schema.names:
                schema = view.schema
            if schema is not None:
                skeletons[name] = schema
                _check_sigmas(schema, split.file, found)
    return skeletons


def _schema(category: dict[str, Any], file: Path, found: Findings) -> KeypointSchema | None:
    """The skeleton of a category; one whose sigmas are no sigmas is taken as if they had been COCO's mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which defaults are used is a note of its own
        try:
            return schema_from_category(category, str(file))
        except InputError as error:
            found.add(
                "odd_sigmas" if "sigma" in str(error) else "bad_entry", file, str(error).removeprefix(f"{file}: ")
            )
        if not isinstance(category["keypoints"], list):
            return None
        try:
            names = category["keypoints"]
            return schema_from_category({**category, "sigmas": [MEAN] * len(names)}, str(file))
        except InputError:
            return None


def _check_sigmas(schema: KeypointSchema, file: Path, found: Findings) -> None:
    if schema.sigmas_from.startswith("default"):
        found.add("missing_sigmas", file, f"{schema.category}: {schema.sigmas_from}")
        return
    listed = list(zip(schema.names, schema.sigmas, strict=True))
    for name, sigma in listed:
        if not SMALLEST <= sigma <= LARGEST:
            found.add(
                "odd_sigmas", file, f"{name} has sigma {sigma:g}; plausible are {SMALLEST:g} to {LARGEST:g}", sigma
            )
    for a, b in schema.flip_pairs:
        low, high = sorted((schema.sigmas[a], schema.sigmas[b]))
        if high > UNEVEN * low:
            pair = f"{schema.names[a]} has sigma {schema.sigmas[a]:g}, {schema.names[b]} {schema.sigmas[b]:g}"
            found.add("odd_sigmas", file, f"{pair}: a mirror pair should have like ones", high / low)


def check_pose(
    view: PoseView, images: Mapping[Path, ImageFacts], skeletons: Mapping[str, KeypointSchema], found: Findings
) -> dict[str, int]:
    """Looks at every entry of every split, then at all poses together.

    Returns:
        Labelled instances of each split.
    """
    poses: dict[str, list[tuple[str, str, Any, Shown]]] = {name: [] for name in skeletons}
    counts: dict[str, int] = {}
    for split in view.splits:
        split_check = _Split(split, images, skeletons, found)
        split_check.images()
        for number, note in enumerate(split.table["annotations"]):
            split_check.annotation(number, note)
        counts[split.name] = split_check.labelled
        if not split.table["images"]:
            found.add("empty_split", split.file, f"{split.name} lists no image")
        elif split.table["annotations"] and not split_check.labelled:
            found.add("nothing_labelled", split.file, f"no keypoint is labelled in {split.name}")
        elif not split.table["annotations"] and split.name != "test" and "image_info" not in split.file.name:
            found.add("nothing_labelled", split.file, f"{split.name} holds no annotation")
        for name, rows in split_check.poses.items():
            poses[name] += rows
    for name, rows in poses.items():
        _check_sides(skeletons[name], name, rows, found)
    return counts


def _check_sides(schema: KeypointSchema, name: str, rows: list[tuple[str, str, Any, Shown]], found: Findings) -> None:
    """Left and right of all poses of one skeleton."""
    if not rows:
        return
    points = np.stack([row[2] for row in rows])  # [N, K, 3]
    for swap in find_swaps(points[..., :2], points[..., 2] > 0, schema):
        file, where, _, shown = rows[swap.index]
        ends = [schema.flip_pairs[i] for i in swap.pairs]
        marked = tuple(end for pair in ends for end in pair)
        pairs = ", ".join(f"{schema.names[a]}/{schema.names[b]}" for a, b in ends)
        what = "all pairs" if len(ends) == len(schema.flip_pairs) > 1 else pairs
        detail = f"{where}: {what}, evidence {swap.ratio:.1f} times that for the median pose"
        drawn = Shown(shown.image, shown.points, marked, name, shown.box)
        found.add("mirrored" if swap.view else "swapped_sides", file, detail, swap.ratio, drawn)


class _Split:
    """The checks of one split, entry by entry."""

    def __init__(
        self,
        split: PoseSplit,
        facts: Mapping[Path, ImageFacts],
        skeletons: Mapping[str, KeypointSchema],
        found: Findings,
    ) -> None:
        self.split, self.facts, self.found = split, facts, found
        self.files = image_files(split)
        self.listed = {
            one.get("id") for one in split.table["images"] if isinstance(one, dict) and _is_id(one.get("id"))
        }
        self.sizes: dict[int, tuple[float, float]] = {}  # height, width
        categories = [c for c in split.table["categories"] if isinstance(c, dict)]
        self.names = {c["id"]: str(c.get("name")) for c in categories if _is_id(c.get("id"))}
        self.skeletons = skeletons
        self.seen: Counter[Any] = Counter()
        self.labelled = 0
        self.poses: dict[str, list[tuple[str, str, Any, Shown]]] = {name: [] for name in skeletons}

    def images(self) -> None:
        """Ids, sizes and EXIF of the entries of ``images``."""
        add, file = self.found.add, self.split.file
        known: set[Any] = set()
        for number, entry in enumerate(self.split.table["images"]):
            if not isinstance(entry, dict) or not _is_id(entry.get("id")) or not _is_inside(entry.get("file_name")):
                needs = "a whole-numbered id and a file_name that stays in its folder"
                add("bad_entry", file, f"image number {number} needs {needs}")
                continue
            if entry["id"] in known:
                add("duplicate_image_id", file, f"image id {entry['id']}, again at {entry['file_name']}")
            known.add(entry["id"])
            path = self.files[entry["id"]]
            facts = self.facts.get(path)
            size = (entry.get("height"), entry.get("width"))
            if not all(_is_number(side) and float(side or 0) >= 1 for side in size):
                add("bad_entry", file, f"image {entry['id']} has height, width {size}: give its size in pixels")
                size = facts.size if facts and not facts.error else (math.inf, math.inf)
            self.sizes[entry["id"]] = (float(size[0]), float(size[1]))  # type: ignore[arg-type]  # numbers by now
            if facts and not facts.error:
                self._fits(path, facts, (int(size[0]), int(size[1])))  # type: ignore[arg-type]  # as above

    def _fits(self, path: Path, facts: ImageFacts, told: tuple[int, int]) -> None:
        """The size told for a picture against the file."""
        (h, w), (H, W) = told, facts.size
        if told == facts.size:
            if facts.orientation > 1 and (facts.orientation < 5 or H == W):
                self.found.add("turned", path, f"EXIF orientation {facts.orientation}", shown=Shown(path))
        elif told == facts.stored:
            detail = f"listed as {w}x{h}, but looked at it is {W}x{H} (EXIF orientation {facts.orientation})"
            self.found.add("rotated", path, detail, shown=Shown(path))
        else:
            self.found.add("size_mismatch", path, f"listed as {w}x{h}, the file is {W}x{H}", shown=Shown(path))

    def annotation(self, number: int, note: Any) -> None:
        """One entry of ``annotations``."""
        add, file = self.found.add, self.split.file
        if not isinstance(note, dict) or not all(_is_id(note.get(k)) for k in ("id", "image_id", "category_id")):
            add("bad_entry", file, f"annotation number {number} needs whole-numbered id, image_id and category_id")
            return
        where = f"annotation {note['id']}"
        self.seen[note["id"]] += 1
        if self.seen[note["id"]] == 2:
            add("duplicate_annotation_id", file, f"annotation id {note['id']}")
        if note["category_id"] not in self.names:
            add("unknown_category", file, f"{where} is of category {note['category_id']}")
            return
        if note["image_id"] not in self.files:
            if note["image_id"] not in self.listed:  # else its entry is told already
                add("unknown_image", file, f"{where} is of image {note['image_id']}")
            return
        if note.get("iscrowd"):
            return
        path = self.files[note["image_id"]]
        box = self._box(note, where, path)
        points = self._points(note, where, path, box)
        area = note.get("area")
        if area is not None and not (_is_number(area) and area >= 0):
            add("bad_entry", file, f"{where} has area {area!r:.40}: give square pixels or leave it out")
        elif area is not None and area == 0 and (points is None or (points[:, 2] > 0).any()):
            add("zero_area", path, where, shown=Shown(path, _drawn(points), (), self.names[note["category_id"]], box))

    def _box(self, note: dict[str, Any], where: str, path: Path) -> tuple[float, float, float, float] | None:
        box = note.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            self.found.add("bad_entry", self.split.file, f"{where} has bbox {box!r:.60}: give x, y, width, height")
            return None
        x, y, w, h = (float(value) for value in box)
        H, W = self.sizes.get(note["image_id"], (math.inf, math.inf))
        if min(x + w, W) - max(x, 0) <= 0 or min(y + h, H) - max(y, 0) <= 0:
            self.found.add("flat_box", path, f"{where} has bbox {box}", shown=Shown(path))
            return None
        return x, y, w, h

    def _points(self, note: dict[str, Any], where: str, path: Path, box: Any) -> Any:
        """The keypoints [K, 3] of an annotation, if they are any."""
        name = self.names[note["category_id"]]
        schema, given = self.skeletons.get(name), note.get("keypoints")
        if schema is None or given is None:
            return None
        K, file = len(schema.names), self.split.file
        if not isinstance(given, list) or len(given) != 3 * K or not all(_is_real(value) for value in given):
            self.found.add("bad_entry", file, f"{where}: keypoints must be {3 * K} numbers: x, y, visibility for each")
            return None
        points = np.array(given, np.float64).reshape(K, 3)
        if not np.isin(points[:, 2], (0, 1, 2)).all():
            self.found.add("bad_entry", file, f"{where}: visibilities must be 0, 1 or 2, not {points[:, 2].tolist()}")
            return None
        there = points[:, 2] > 0
        if not np.isfinite(points[there]).all():
            self.found.add("bad_entry", file, f"{where}: a labelled keypoint is not finite: give it visibility 0")
            return None
        H, W = self.sizes.get(note["image_id"], (math.inf, math.inf))
        x, y = points[:, 0], points[:, 1]
        beyond = np.maximum.reduce([-0.5 - x, x - W, -0.5 - y, y - H])  # as CocoKeypoints takes it
        shown = Shown(path, _drawn(points), (), name, box)
        for k in np.flatnonzero(there & (beyond > 0)):
            detail = f"{where}: {schema.names[k]} at {x[k]:g}, {y[k]:g} in an image of {W:g}x{H:g}"
            drawn = Shown(path, shown.points, (int(k),), name, box)
            self.found.add("outside_image", path, detail, float(beyond[k]), drawn)
        count = note.get("num_keypoints")
        if count is not None and count != int(there.sum()):
            detail = f"{where} says {count!r:.20}, labelled are {int(there.sum())}"
            self.found.add("keypoint_count", path, detail, shown=shown)
        if there.any():
            self.labelled += 1
            self.poses[name].append((str(path), where, points, shown))
        return points


def _drawn(points: Any) -> Any:
    """Coordinates [K, 2], not finite where not labelled."""
    return None if points is None else np.where(points[:, 2:] > 0, points[:, :2], np.nan)


def _is_inside(name: Any) -> bool:
    try:
        return bool(safe_name(name, ""))
    except InputError:
        return False


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, float) or (_is_id(value) and abs(value) < 2**63)  # larger ones are no float


def _is_number(value: Any) -> bool:
    return _is_real(value) and is_number(value)
