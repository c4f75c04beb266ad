"""COCO keypoint files as a map-style data set: one item per annotated, or per detected, instance."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.errors import InputError
from polarpix.images import read_image
from polarpix.pose.schema import schema_from_category
from polarpix.types import FloatArray, IntArray, KeypointSchema, PoseSample

__all__ = ["CocoKeypoints", "Instance", "read_json"]


@dataclass(frozen=True)
class Instance:
    """A :class:`~polarpix.types.PoseSample` before its image is read."""

    file: str
    image_id: int
    image_size: tuple[int, int]  # height, width
    instance_id: int
    box: FloatArray  # [4], x, y, width, height
    area: float
    keypoints: FloatArray  # [K, 2]
    visibility: IntArray  # [K]
    box_score: float = 1.0


class CocoKeypoints:
    """The instances of a COCO keypoint file, of any skeleton.

    With annotated boxes there is one item per annotation that has labelled keypoints and is no crowd; its box is clipped
    to the image. With ``boxes`` there is one item per detection, its keypoints all unlabelled. What has to be dropped or
    changed is said in one warning for each kind of trouble.

    Args:
        annotations: COCO keypoint JSON.
        images: folder of its images.
        schema: the skeleton; None takes it from the category of the JSON.
        boxes: COCO detection JSON, a list of {image_id, category_id, bbox, score}.
        box_threshold: detections that score less are left out.
        whole_image: take the whole image as the box, for sets with one instance on every picture.
        training: leave out instances without a labelled keypoint inside the image; refuses ``boxes``.

    Attributes:
        annotations: the JSON file, for evaluation.
        schema: the skeleton.
        category_id: the COCO category the instances belong to.
        instances: light records of the items, without images.
        boxes_sha256: hash of the detection file for the protocol line; None for annotated boxes.

    Raises:
        InputError: a file that is missing, no JSON or no COCO; lengths, ids or keys that do not fit; a split that is
            empty; images that are not in the folder.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        schema: KeypointSchema | None = None,
        boxes: str | Path | None = None,
        box_threshold: float = 0.0,
        whole_image: bool = False,
        training: bool = False,
    ) -> None:
        self.annotations, self.images = Path(annotations), Path(images)
        self.boxes_sha256: str | None = None
        if boxes is not None and (training or whole_image):
            raise InputError(
                f"{boxes}: detected boxes carry no keypoints and replace the whole image: use them in eval"
            )
        page = _read_page(self.annotations)
        category = _category(page, schema, self.annotations)
        self.category_id = int(category["id"])
        self.schema = schema or schema_from_category(category, str(self.annotations))
        pictures = _pictures(page, self.annotations)
        if boxes is None:
            self.instances = self._annotated(page["annotations"], pictures, whole_image, training)
        else:
            self.instances = self._detected(Path(boxes), pictures, box_threshold)
        _check_images({instance.file for instance in self.instances}, self.images, self.annotations)

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, index: int) -> PoseSample:
        """Read the image of an instance.

        Raises:
            InputError: the image is missing, cut short, or has another size than the JSON says.
        """
        one = self.instances[index]
        image = read_image(self.images / one.file)
        if image.shape[:2] != one.image_size:
            (h, w), (H, W) = image.shape[:2], one.image_size
            raise InputError(
                f"{self.images / one.file}: image is {w}x{h} but {self.annotations} says {W}x{H}: "
                "annotations and images must belong together (EXIF rotation applied)"
            )
        return PoseSample(
            image,
            one.keypoints,
            one.visibility,
            one.box,
            one.area,
            one.file,
            one.image_id,
            one.instance_id,
            one.box_score,
        )

    def _annotated(
        self, annotations: list[Any], pictures: dict[int, _Picture], whole_image: bool, training: bool
    ) -> list[Instance]:
        source, K = self.annotations, len(self.schema.names)
        flat, outside, unlabelled = _Complaint(), _Complaint(), _Complaint()
        instances: list[Instance] = []
        for number, note in enumerate(annotations):
            where = f"{source}: annotation {note.get('id', f'number {number}') if isinstance(note, dict) else number}"
            keys = ("id", "image_id", "category_id", *(() if whole_image else ("bbox",)))
            _require(note, keys, where)
            if note["category_id"] != self.category_id or note.get("iscrowd", 0):
                continue
            points, visibility = _keypoints(note, K, where)
            if not (visibility > 0).any():
                continue
            if note["image_id"] not in pictures:
                raise InputError(
                    f"{where}: image_id {note['image_id']} is not among the images: add the image to the file"
                )
            picture = pictures[note["image_id"]]
            box = picture.whole if whole_image else _clip(_box(note, where), picture)
            if box is None:
                flat.add(where, f"bbox {note['bbox']}")
                continue
            # Both conventions are in use, pixel centres at 0 and at 0.5, so the last pixel may end at its number of pixels.
            inside = ((points >= -0.5) & (points <= (picture.size[1], picture.size[0]))).all(axis=1)
            lost = (visibility > 0) & ~inside
            if lost.any():
                first = int(lost.argmax())
                outside.add(where, f"{self.schema.names[first]} at {points[first].tolist()}")
                visibility[lost] = 0
                if training and not visibility.any():
                    unlabelled.add(where, "all its keypoints lie outside")
                    continue
            area = float(note.get("area") or box[2] * box[3])
            instances.append(
                Instance(picture.file, picture.id, picture.size, int(note["id"]), box, area, points, visibility)
            )
        outside.warn("with labelled keypoints outside the image; those points count as not labelled")
        flat.warn("dropped: the box has no area inside the image")
        unlabelled.warn("dropped: no keypoint inside the image")
        if not instances:
            raise InputError(
                f"{source}: no annotation with labelled keypoints and a box of positive area: the split is empty"
            )
        if whole_image:
            _refuse_crowded(instances, source)
        return instances

    def _detected(self, boxes: Path, pictures: dict[int, _Picture], threshold: float) -> list[Instance]:
        found, text = _read(boxes)
        self.boxes_sha256 = hashlib.sha256(text).hexdigest()
        if not isinstance(found, list):
            raise InputError(f"{boxes}: a detection file is a list of {{image_id, category_id, bbox, score}}: give one")
        K, flat = len(self.schema.names), _Complaint()
        instances: list[Instance] = []
        for number, note in enumerate(found):
            where = f"{boxes}: detection {number}"
            _require(note, ("image_id", "category_id", "bbox", "score"), where)
            if note["image_id"] not in pictures:
                raise InputError(
                    f"{where}: image_id {note['image_id']} is not in {self.annotations}: give its own detections"
                )
            if note["category_id"] != self.category_id or not float(note["score"]) >= threshold:
                continue
            picture, box = pictures[note["image_id"]], _box(note, where)
            if _clip(box, picture) is None:
                flat.add(where, f"bbox {note['bbox']}")
                continue
            empty = np.zeros((K, 2), np.float32), np.zeros(K, np.int64)
            area, score = float(box[2] * box[3]), float(note["score"])
            instances.append(Instance(picture.file, picture.id, picture.size, number, box, area, *empty, score))
        flat.warn("dropped: the box has no area inside the image")
        if not instances:
            raise InputError(
                f"{boxes}: none of {len(found)} detections has category_id {self.category_id} and scores {threshold} "
                "or more: lower box_threshold or give another file"
            )
        return instances


@dataclass(frozen=True)
class _Picture:
    """An entry of ``images``."""

    id: int
    file: str
    size: tuple[int, int]  # height, width

    @property
    def whole(self) -> FloatArray:
        return np.array([0, 0, self.size[1], self.size[0]], np.float32)


class _Complaint:
    """Counts one kind of trouble and remembers the first case."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def add(self, where: str, what: str) -> None:
        self.count += 1
        self.first = self.first or f"{where} ({what})"

    def warn(self, text: str) -> None:
        if self.count:
            warnings.warn(f"{self.first}{f' and {self.count - 1} more' * (self.count > 1)}: {text}", stacklevel=4)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: the file cannot be read or is not JSON.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Any, bytes]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}): check the path") from error
    try:
        return json.loads(text), text
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): give a COCO keypoint or detection file") from error


def _read_page(path: Path) -> dict[str, Any]:
    page = read_json(path)
    missing = [key for key in ("images", "annotations", "categories") if not _is_list(page, key)]
    if missing:
        raise InputError(
            f"{path}: not a COCO keypoint file, no list {missing[0]!r}: it needs images, annotations, categories"
        )
    ids = [note.get("id") for note in page["annotations"] if isinstance(note, dict)]
    if len(set(ids)) != len(ids):
        double = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{path}: annotation id {double} occurs more than once: number the annotations anew")
    return dict(page)


def _is_list(page: Any, key: str) -> bool:
    return isinstance(page, dict) and isinstance(page.get(key), list)


def _require(note: Any, keys: Iterable[str], where: str) -> None:
    if not isinstance(note, dict):
        raise InputError(f"{where}: is {type(note).__name__}, must be an object: this is no COCO file")
    for key in keys:
        if key not in note:
            raise InputError(f"{where}: has no {key!r}: COCO needs it, add it")


def _category(page: dict[str, Any], schema: KeypointSchema | None, source: Path) -> dict[str, Any]:
    """The one category whose instances are meant."""
    categories = page["categories"]
    for category in categories:
        _require(category, ("id",), f"{source}: category")
    named = [c for c in categories if c.get("keypoints")]
    if schema is None:
        if len(named) == 1:
            return dict(named[0])
        trouble = "several categories have keypoints" if named else "no category names keypoints"
        raise InputError(f"{source}: {trouble}: give a schema file with the names of the one you mean")
    same = [c for c in named if tuple(c["keypoints"]) == schema.names]
    if not named:  # the file leaves the names to the schema
        same = [c for c in categories if c.get("name") == schema.category] or categories
    if len(same) > 1:
        same = [c for c in same if c.get("name") == schema.category]
    if len(same) != 1:
        listed = "; ".join(f"{c.get('name')}: {', '.join(map(str, c.get('keypoints', ())))}" for c in categories)
        raise InputError(f"{source}: no single category fits schema {schema.category} {schema.names}; it has {listed}")
    return dict(same[0])


def _pictures(page: dict[str, Any], source: Path) -> dict[int, _Picture]:
    pictures: dict[int, _Picture] = {}
    for number, note in enumerate(page["images"]):
        _require(note, ("id", "file_name", "width", "height"), f"{source}: image {number}")
        if note["id"] in pictures:
            raise InputError(f"{source}: image id {note['id']} occurs more than once: number the images anew")
        pictures[note["id"]] = _Picture(note["id"], note["file_name"], (int(note["height"]), int(note["width"])))
    if not pictures:
        raise InputError(f"{source}: holds no images: the split is empty")
    return pictures


def _keypoints(note: dict[str, Any], K: int, where: str) -> tuple[FloatArray, IntArray]:
    """Keypoints [K, 2] and visibility [K] of an annotation; none labelled where it has no keypoints at all."""
    given = note.get("keypoints")
    if given is None:
        return np.zeros((K, 2), np.float32), np.zeros(K, np.int64)
    if not isinstance(given, list) or len(given) != 3 * K:
        size = len(given) if isinstance(given, list) else given
        raise InputError(
            f"{where}: keypoints has {size} numbers, the schema's {K} names need {3 * K}: give x, y, v for each"
        )
    try:
        triple = np.array(given, np.float64).reshape(K, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: keypoints are not numbers: {given}") from error
    visibility = triple[:, 2].astype(np.int64)
    labelled = visibility > 0
    if not np.isfinite(triple).all() or not np.isin(triple[:, 2], (0, 1, 2)).all():
        raise InputError(f"{where}: keypoints must be finite and their visibility 0, 1 or 2, got {given}: mend them")
    return np.where(labelled[:, None], triple[:, :2], 0).astype(np.float32), visibility


def _box(note: dict[str, Any], where: str) -> FloatArray:
    box = note["bbox"]
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, int | float) and math.isfinite(v) for v in box)
    ):
        raise InputError(f"{where}: bbox is {box}, must be four numbers x, y, width, height: mend it")
    return np.array(box, np.float32)


def _clip(box: FloatArray, picture: _Picture) -> FloatArray | None:
    """The part of a box inside the image; None where there is none."""
    H, W = picture.size
    x, y = max(float(box[0]), 0.0), max(float(box[1]), 0.0)
    width, height = min(float(box[0] + box[2]), W) - x, min(float(box[1] + box[3]), H) - y
    return np.array([x, y, width, height], np.float32) if width > 0 and height > 0 else None


def _refuse_crowded(instances: list[Instance], source: Path) -> None:
    seen: set[int] = set()
    for one in instances:
        if one.image_id in seen:
            raise InputError(
                f"{source}: image {one.file} has several instances: whole_image is for sets with one on each"
            )
        seen.add(one.image_id)


def _check_images(files: set[str], folder: Path, source: Path) -> None:
    """One listing of the folder finds what is missing; names with folders in them are looked up one by one."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such image folder (of {source}): check the path")
    here = {entry.name for entry in folder.iterdir()}
    missing = sorted(file for file in files if file not in here and not (folder / file).is_file())
    if missing:
        raise InputError(
            f"{folder / missing[0]}: image of {source} is missing, {len(missing)} of {len(files)} are: check the folder"
        )
