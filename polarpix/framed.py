"""What a predictor does with frames, whatever computes: boxes are checked, batches made, results cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from polarpix.calibration import Calibration
from polarpix.config import PoseRun, SegRun
from polarpix.errors import InputError
from polarpix.pose.instances import keep_instances
from polarpix.results import PoseResult, SegResult, check_boxes
from polarpix.sources import AnySource, Frame, open_frame
from polarpix.streams import stream_results
from polarpix.types import ClassTable, FloatArray, KeypointSchema, SegPrediction, UInt8Array

__all__ = ["FramedPoses", "FramedSegs", "check_batch"]


def check_batch(batch: int | None) -> int | None:
    """A number of crops or images that can go through a network at a time; null for the default.

    Raises:
        InputError: none.
    """
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}: at least one crop or image goes through the network at a time")
    return batch


class FramedPoses(ABC):
    """A pose predictor over its ``locate``."""

    run: PoseRun
    schema: KeypointSchema
    file: str  # what it was loaded from
    calibration: Calibration | None
    batch_size: int  # crops per forward pass

    @abstractmethod
    def locate(
        self, image: UInt8Array | Sequence[UInt8Array], boxes: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Keypoints [N, K, 2] in image pixels, heights of the heatmaps [N, K] and covariances [N, K, 2, 2] in square
        pixels for boxes [N, 4] of one image, or each of its own."""

    def prepare(self, frame: Frame, boxes: Any) -> tuple[FloatArray, FloatArray]:
        """Boxes [N, 4] and their scores [N], those below ``eval.box_threshold`` left out; null is the whole image.

        Raises:
            InputError: boxes that are none.
        """
        height, width = frame.image.shape[:2]
        given = [[0, 0, width, height]] if boxes is None else boxes
        rows, scores = check_boxes(given, frame.image.shape, frame.file)
        sure = scores >= self.run.eval.box_threshold
        return rows[sure], scores[sure]

    def share(self, frame: Frame, prepared: tuple[FloatArray, FloatArray]) -> tuple[int, None]:
        """A frame's part of a batch: its boxes; crops of all frames go together."""
        return max(1, len(prepared[0])), None

    def predict(self, frames: Sequence[Frame], prepared: Sequence[tuple[FloatArray, FloatArray]]) -> list[PoseResult]:
        """One result per frame; the crops of all frames share the batches."""
        images = [frame.image for frame, (rows, _) in zip(frames, prepared, strict=True) for _ in rows]
        keypoints, scores, spread = self.locate(images, np.concatenate([rows for rows, _ in prepared]))
        results, end = [], 0
        for frame, (rows, box_scores) in zip(frames, prepared, strict=True):
            start, end = end, end + len(rows)
            part = keypoints[start:end], scores[start:end], spread[start:end]
            found = keep_instances(part, rows, box_scores, self.run, self.schema, self.calibration)
            results.append(
                PoseResult(frame.image, found, self.schema, frame.file, frame.index, frame.time, self.calibration)
            )
        return results

    def __call__(self, image: AnySource, boxes: Any = None) -> PoseResult:
        """Predict one image.

        Args:
            image: a file, an address or an array.
            boxes: [N, 4] or [N, 5]: x, y, width, height[, score] in pixels of the image; null takes the whole image.

        Raises:
            InputError: an unreadable image, or boxes that are none.
        """
        frame = open_frame(image)
        return self.predict([frame], [self.prepare(frame, boxes)])[0]

    def stream(
        self, images: AnySource | Iterable[AnySource], boxes: Iterable[Any] | None = None
    ) -> Iterator[PoseResult]:
        """One result per frame, lazily and in order, ``batch_size`` boxes at a time; threads read ahead.

        Args:
            images: one or several of: file, folder, pattern, video, address, number of a webcam, array.
            boxes: those of each frame; by default the whole frame.

        Raises:
            InputError: a source or boxes that are not in order, after the results of the frames before.
        """
        return stream_results(self, images, boxes)


class FramedSegs(ABC):
    """A segmentation predictor over its ``label``."""

    run: SegRun
    classes: ClassTable
    file: str  # what it was loaded from
    calibration: Calibration | None
    batch_size: int  # images of one size per forward pass

    @abstractmethod
    def label(self, images: UInt8Array) -> tuple[UInt8Array, FloatArray]:
        """Class index and its probability, not yet calibrated, [B, H, W] of images [B, H, W, 3]."""

    def prepare(self, frame: Frame, boxes: Any) -> None:
        """Nothing is given with a frame.

        Raises:
            InputError: boxes, which a segmentation network does not take.
        """
        if boxes is not None:
            raise InputError(f"{frame.file or 'image'}: a segmentation network takes no boxes: leave them out")

    def share(self, frame: Frame, prepared: None) -> tuple[int, tuple[int, ...]]:
        """A frame's part of a batch: one; the frames of a batch are of one size."""
        return 1, frame.image.shape

    def predict(self, frames: Sequence[Frame], prepared: Sequence[None] = ()) -> list[SegResult]:
        """One result per frame; all are of one size."""
        labels, confidence = self.label(np.stack([frame.image for frame in frames]))
        if self.calibration is not None:
            confidence = self.calibration.probability(confidence)
        return [
            SegResult(frame.image, SegPrediction(*found), self.classes, frame.file, frame.index, frame.time)
            for frame, *found in zip(frames, labels, confidence, strict=True)
        ]

    def __call__(self, image: AnySource, boxes: None = None) -> SegResult:
        """Predict one image: a file, an address or an array.

        Raises:
            InputError: an unreadable image, one of a size that the network is not for, or boxes, which a segmentation
                network does not take.
        """
        frame = open_frame(image)
        self.prepare(frame, boxes)
        return self.predict([frame])[0]

    def stream(self, images: AnySource | Iterable[AnySource], boxes: None = None) -> Iterator[SegResult]:
        """One result per frame, lazily and in order, ``batch_size`` frames of one size at a time; threads read ahead.

        Args:
            images: one or several of: file, folder, pattern, video, address, number of a webcam, array.
            boxes: none.

        Raises:
            InputError: a source that is not in order, after the results of the frames before.
        """
        return stream_results(self, images, boxes)
