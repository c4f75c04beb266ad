"""What a predictor takes and gives: sources, boxes, and the results of one image; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.calibration import Calibration, gaussian_radius
from polarpix.draw import draw_keypoints, draw_mask
from polarpix.errors import InputError
from polarpix.images import encode_label, write_image, write_label
from polarpix.pose.oks import coco_results
from polarpix.rle import encode_mask
from polarpix.seg.classes import CITYSCAPES, cityscapes_label_ids
from polarpix.sources import open_frame
from polarpix.types import ClassTable, FloatArray, KeypointSchema, PosePrediction, SegPrediction, UInt8Array

__all__ = ["PoseResult", "SegResult", "Source", "check_boxes", "open_source"]

Source = str | Path | npt.NDArray[Any]
"""A file or an address, or an array in memory: grey [H, W], RGB [H, W, 3] or RGBA [H, W, 4]."""


@dataclass(frozen=True)
class PoseResult:
    """The keypoints found on one image, with what is needed to draw and to write them."""

    image: UInt8Array  # [H, W, 3]
    prediction: PosePrediction
    schema: KeypointSchema
    file: str = ""
    index: int = 0  # of the frame in its video, from 0
    time: float = 0.0  # seconds since the video's first frame
    calibration: Calibration | None = None  # that the scores and covariances have gone through

    def plot(self, threshold: float = 0.2, zoom: int = 1, ellipses: float = 0.0) -> UInt8Array:
        """The picture, ``zoom`` times as large, with skeletons; keypoints scored up to ``threshold`` are left out.

        Args:
            threshold: of the scores.
            zoom: factor on the size.
            ellipses: also draw for each keypoint the ellipse that is to hold its true place with this probability.

        Raises:
            InputError: ellipses of a probability that is not below 1.
        """
        shapes = self.ellipses(ellipses) if ellipses else None
        return draw_keypoints(self.image, self.prediction, self.schema, threshold=threshold, zoom=zoom, ellipses=shapes)

    def ellipses(self, share: float = 0.9) -> FloatArray:
        """Matrices S [N, K, 2, 2] in square pixels: the true place x of a keypoint k lies where
        (x - k)^T S^-1 (x - k) <= 1 with that probability.

        The covariance times the square of a radius: the measured one of that share where the network is calibrated,
        else a Gaussian's.

        Raises:
            InputError: a share that is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise InputError(f"ellipses of {share:g}: give the probability of holding the place, between 0 and 1")
        radius = float(gaussian_radius(share)) if self.calibration is None else self.calibration.radius(share)
        covariance = self.prediction.covariance
        assert covariance is not None  # every predictor gives it
        return covariance * np.float32(radius**2)

    def save(self, path: str | Path) -> None:
        """Write the overlay; the ending picks the format."""
        write_image(path, self.plot())

    def to_coco(self, image_id: int = 0, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO keypoint results: one dict per instance."""
        found = self.prediction
        ids = [image_id] * len(found.boxes)
        return coco_results(ids, found.keypoints, found.scores, found.instance_scores, category_id)

    def to_supervision(self) -> Any:
        """``supervision.KeyPoints``: points [N, K, 2] in pixels with their scores [N, K], and the covariances
        [N, K, 2, 2] in ``data["covariance"]``, where its ellipse annotators look for them.

        Raises:
            InputError: supervision is not installed.
        """
        found = self.prediction
        data = {} if found.covariance is None else {"covariance": found.covariance}
        return supervision().KeyPoints(xy=found.keypoints, keypoint_confidence=found.scores, data=data)


@dataclass(frozen=True)
class SegResult:
    """The label map of one image, with what is needed to draw and to write it."""

    image: UInt8Array  # [H, W, 3]
    prediction: SegPrediction
    classes: ClassTable
    file: str = ""
    index: int = 0  # of the frame in its video, from 0
    time: float = 0.0  # seconds since the video's first frame

    def plot(self, alpha: float = 0.55, zoom: int = 1) -> UInt8Array:
        """The picture, ``zoom`` times as large, with the classes laid over it."""
        return draw_mask(self.image, self.prediction.label, self.classes, alpha, zoom)

    def save(self, path: str | Path) -> None:
        """Write the overlay; the ending picks the format."""
        write_image(path, self.plot())

    def save_label(self, path: str | Path) -> None:
        """Write the class indices as a palette PNG; of Cityscapes the label ids that its evaluation takes, in grey."""
        write_label(path, *self.label_file())

    def label_bytes(self) -> bytes:
        """What :meth:`save_label` writes."""
        return encode_label(*self.label_file())

    def label_file(self) -> tuple[UInt8Array, Sequence[tuple[int, int, int]] | None]:
        """The values of the label map's file [H, W], and its palette."""
        if self.classes == CITYSCAPES:
            return cityscapes_label_ids(self.prediction.label), None
        return self.prediction.label, self.classes.colors

    def to_supervision(self) -> Any:
        """``supervision.Detections``: one mask [H, W] per class that occurs, with its mean confidence and its name.

        Raises:
            InputError: supervision is not installed.
        """
        labels = np.unique(self.prediction.label)
        masks = self.prediction.label[None] == labels[:, None, None]  # [N, H, W]
        sv = supervision()
        return sv.Detections(
            xyxy=sv.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=np.array([self.prediction.confidence[mask].mean() for mask in masks], np.float32),
            class_id=labels.astype(int),
            data={"class_name": np.array([self.classes.names[label] for label in labels])},
        )

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO stuff results: one run-length encoded mask per class that occurs, categories counted from 1."""
        results: list[dict[str, Any]] = []
        for index in np.unique(self.prediction.label):
            region = self.prediction.label == index  # [H, W]
            code = encode_mask(region)
            score = float(self.prediction.confidence[region].mean())
            results.append({"image_id": image_id, "category_id": int(index) + 1, "segmentation": code, "score": score})
        return results


def open_source(source: Source) -> tuple[UInt8Array, str]:
    """The image [H, W, 3] of a file, an address or an array, and where it is from ("" for an array)."""
    frame = open_frame(source)
    return frame.image, frame.file


def supervision() -> Any:
    """The package of that name.

    Raises:
        InputError: it is not installed.
    """
    try:
        import supervision as package
    except ImportError as error:
        raise InputError("to_supervision() needs supervision 0.31 or later: pip install supervision") from error
    return package


def check_boxes(boxes: Any, shape: tuple[int, ...], name: str) -> tuple[FloatArray, FloatArray]:
    """Boxes [N, 4] and scores [N] of [N, 4] or [N, 5] rows (x, y, width, height[, score]).

    Raises:
        InputError: another shape, a box without area, or one outside the image.
    """
    try:
        rows = np.asarray(boxes, np.float32)
    except (ValueError, TypeError):
        raise InputError(f"{name or 'image'}: boxes {boxes!r}: give rows of x, y, width, height[, score]") from None
    rows = rows[None] if rows.ndim == 1 and rows.size else rows.reshape(-1, rows.shape[-1] if rows.size else 4)
    if rows.shape[1] not in (4, 5):
        raise InputError(f"{name or 'image'}: boxes have {rows.shape[1]} numbers: give x, y, width, height[, score]")
    for x, y, w, h in rows[:, :4]:
        if not (w > 0 and h > 0 and np.isfinite([x, y, w, h]).all()):
            raise InputError(
                f"{name or 'image'}: box {x:g},{y:g},{w:g},{h:g} has no area: width and height must be > 0"
            )
        if x >= shape[1] or y >= shape[0] or x + w <= 0 or y + h <= 0:
            raise InputError(
                f"{name or 'image'}: box {x:g},{y:g},{w:g},{h:g} lies outside the {shape[1]}x{shape[0]} image: "
                "boxes are x, y, width, height in pixels"
            )
    scores = rows[:, 4] if rows.shape[1] == 5 else np.ones(len(rows), np.float32)
    return rows[:, :4].copy(), scores.copy()
