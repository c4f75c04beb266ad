"""COCO keypoint files as a map-style data set: one item per annotated, or per detected, instance."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.errors import InputError
from polarpix.images import read_image
from polarpix.pose.coco_json import (
    Picture,
    check_images,
    clip_box,
    find_category,
    index_pictures,
    is_number,
    parse_json,
    read_area,
    read_box,
    read_keypoints,
    read_page,
    require,
)
from polarpix.pose.schema import schema_from_category
from polarpix.types import FloatArray, IntArray, KeypointSchema, PoseSample

__all__ = ["CocoKeypoints", "Instance"]

FLAT = "dropped, the box has no area inside the image: mend bbox (x, y, width, height in pixels)"
OUTSIDE = "keypoints outside the image count as not labelled: mend them, or give them visibility 0"
EMPTY = "dropped, no labelled keypoint lies inside the image: mend its keypoints"


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

    With annotated boxes there is one item per annotation that has labelled keypoints and is no crowd; its box is cut
    off at the border of the image. With ``boxes`` there is one item per detection, and none of its keypoints is
    labelled. What has to be dropped or changed is said in one warning for each kind of trouble.

    Args:
        annotations: COCO keypoint JSON.
        images: folder of its images.
        schema: the skeleton; None takes it from the category of the JSON.
        boxes: COCO detection JSON, a list of {image_id, category_id, bbox, score}. The annotations may then be a list
            of images only, as COCO's test sets have it: their labels are with the server.
        box_threshold: detections that score less are left out.
        whole_image: take the whole image as the box, for sets with one instance on every picture.
        training: leave out instances without a labelled keypoint inside the image; refuses ``boxes``.
        names_from: COCO keypoint JSON that names the keypoints where the annotations do not, as a list of test images.

    Attributes:
        annotations: the JSON file, for evaluation.
        schema: the skeleton.
        category_id: the COCO category the instances belong to.
        instances: light records of the items, without images.
        labelled: whether the JSON file holds annotations.
        annotations_sha256: hash of the JSON file.
        image_count: images in the JSON file, with instances or without: what AP is taken over.
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
        names_from: str | Path | None = None,
    ) -> None:
        self.annotations, self.images = Path(annotations), Path(images)
        self.boxes_sha256: str | None = None
        if boxes is not None and (training or whole_image):
            use = "training, which needs keypoints" if training else "whole_image, which needs none"
            raise InputError(f"{boxes}: detected boxes cannot be used with {use}: leave one out")
        page = read_page(self.annotations, labelled=boxes is None)
        self.labelled = bool(page["annotations"])
        if schema is None and names_from is not None and not any(one.get("keypoints") for one in page["categories"]):
            source = Path(names_from)
            schema = schema_from_category(find_category(read_page(source), None, source), str(source))
        category = find_category(page, schema, self.annotations)
        self.category_id = int(category["id"])
        self.schema = schema or schema_from_category(category, str(self.annotations))
        pictures = index_pictures(page, self.annotations)
        self.annotations_sha256 = hashlib.sha256(self.annotations.read_bytes()).hexdigest()
        self.image_count = len(pictures)
        if boxes is None:
            self.instances = self._annotated(page["annotations"], pictures, whole_image, training)
        else:
            self.instances = self._detected(Path(boxes), pictures, box_threshold)
        check_images({instance.file for instance in self.instances}, self.images, self.annotations)

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
                f"{self.images / one.file}: image is {w}x{h} as it is looked at (EXIF applied) but {self.annotations} "
                f"says {W}x{H}: annotate the image as it is looked at, or mend width and height"
            )
        return PoseSample(
            image=image,
            keypoints=one.keypoints,
            visibility=one.visibility,
            box=one.box,
            area=one.area,
            file=one.file,
            image_id=one.image_id,
            instance_id=one.instance_id,
            box_score=one.box_score,
        )

    def _annotated(
        self, notes: list[dict[str, Any]], pictures: dict[int, Picture], whole_image: bool, training: bool
    ) -> list[Instance]:
        flat, outside, empty = _Complaint(FLAT), _Complaint(OUTSIDE), _Complaint(EMPTY)
        instances: list[Instance] = []
        for note in notes:
            if note["category_id"] != self.category_id or note.get("iscrowd"):
                continue
            where = f"{self.annotations}: annotation {note['id']}"
            points, visibility = read_keypoints(note, len(self.schema.names), where)
            if not visibility.any():
                continue
            if note["image_id"] not in pictures:
                raise InputError(f"{where}: image_id {note['image_id']} is not among the images: add that image")
            picture = pictures[note["image_id"]]
            if not whole_image:
                require(note, ("bbox",), where)
            given = read_box(note, where) if note.get("bbox") is not None else picture.whole
            box = picture.whole if whole_image else clip_box(given, picture)
            if box is None:
                flat.add(f"{where} (bbox {note['bbox']!r:.100})")
                continue
            lost = (visibility > 0) & ~_on_image(points, picture)
            if lost.any():
                first = int(lost.argmax())
                place = [round(value, 1) for value in points[first].tolist()]
                outside.add(f"{where} ({self.schema.names[first]} at {place})")
                visibility[lost] = 0
            if training and not visibility.any():
                empty.add(where)
                continue
            area = read_area(note, where) or float(given[2] * given[3])
            instances.append(
                Instance(picture.file, picture.id, picture.size, int(note["id"]), box, area, points, visibility)
            )
        complaints = [complaint for complaint in (flat, outside, empty) if complaint.count]
        if not instances:
            reasons = [str(complaint).removeprefix(f"{self.annotations}: ") for complaint in complaints]
            why = reasons[0] if reasons else "add annotations, or name another file"
            raise InputError(
                f"{self.annotations}: no annotation has labelled keypoints and a box, the split is empty: {why}"
            )
        for complaint in complaints:
            complaint.warn()
        if whole_image:
            _refuse_several(instances, self.annotations)
        return instances

    def _detected(self, boxes: Path, pictures: dict[int, Picture], threshold: float) -> list[Instance]:
        found, text = parse_json(boxes)
        self.boxes_sha256 = hashlib.sha256(text).hexdigest()
        if not isinstance(found, list):
            raise InputError(f"{boxes}: no list of {{image_id, category_id, bbox, score}}: give a COCO detection file")
        flat = _Complaint(FLAT)
        points, visibility = read_keypoints({}, len(self.schema.names), str(boxes))
        instances: list[Instance] = []
        for number, note in enumerate(found):
            where = f"{boxes}: detection number {number}"
            require(note, ("image_id", "category_id", "bbox", "score"), where)
            if note["image_id"] not in pictures:
                raise InputError(
                    f"{where}: image_id {note['image_id']} is not in {self.annotations}: use its own boxes"
                )
            box, score = read_box(note, where), note["score"]
            if not is_number(score):
                raise InputError(f"{where}: score is {score!r:.40}, must be a number: mend it")
            if note["category_id"] != self.category_id or score < threshold:
                continue
            picture = pictures[note["image_id"]]
            if clip_box(box, picture) is None:
                flat.add(f"{where} (bbox {note['bbox']!r:.100})")
                continue
            area = float(box[2] * box[3])
            instances.append(
                Instance(picture.file, picture.id, picture.size, number, box, area, points, visibility, float(score))
            )
        if flat.count:
            flat.warn()
        if not instances:
            wanted = f"has category_id {self.category_id} and scores at least {threshold}"
            raise InputError(f"{boxes}: none of its {len(found)} detections {wanted}: lower box_threshold")
        return instances


class _Complaint:
    """Counts the cases of one kind of trouble and says them in one warning."""

    def __init__(self, text: str) -> None:
        self.text, self.count, self.first = text, 0, ""

    def add(self, where: str) -> None:
        self.count += 1
        self.first = self.first or where

    def __str__(self) -> str:
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return f"{self.first}{more}: {self.text}"

    def warn(self) -> None:
        warnings.warn(str(self), stacklevel=4)


def _on_image(points: FloatArray, picture: Picture) -> np.ndarray:
    """Whether points [K, 2] lie on the image, [K].

    Pixel centres are at 0 in some files and at 0.5 in others, so a point may lie anywhere from -0.5 to the width.
    """
    H, W = picture.size
    return np.asarray(((points >= -0.5) & (points <= (W, H))).all(axis=1))


def _refuse_several(instances: list[Instance], source: Path) -> None:
    seen: set[int] = set()
    for one in instances:
        if one.image_id in seen:
            raise InputError(f"{source}: image {one.file} has several instances: turn whole_image off")
        seen.add(one.image_id)
