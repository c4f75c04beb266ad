"""The predictors of exported files: the same calls and results as those of weights files; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.config import PoseRun, SegRun
from polarpix.errors import InputError
from polarpix.metadata import read_labels, read_run
from polarpix.pose.instances import cut_crops, keep_instances
from polarpix.results import PoseResult, SegResult, Source, check_boxes, open_source
from polarpix.runtime.sessions import Session, open_session
from polarpix.types import ClassTable, FloatArray, KeypointSchema, PosePrediction, SegPrediction, UInt8Array

__all__ = ["Exported", "ExportedPosePredictor", "ExportedSegPredictor", "describe", "load_exported", "open_exported"]


@dataclass(frozen=True)
class Exported:
    """An exported file, opened."""

    file: str
    session: Session
    task: str  # pose or seg
    run: PoseRun | SegRun  # the page; its protocol is inside the graph
    labels: KeypointSchema | ClassTable
    metrics: dict[str, float]  # of the weights, before they were exported
    udp: bool  # of a pose network: the convention of its crops
    size: tuple[int, int] | None  # height and width that a segmentation network is fixed to
    form: str
    layout: str
    commit: str  # of the training
    version: str  # of the polarpix that exported it


def open_exported(path: str | Path, device: str = "auto") -> Exported:
    """Read an exported file; see :func:`polarpix.runtime.sessions.open_session`, also for the errors."""
    session, texts = open_session(path, device)
    task, size = texts["task"], json.loads(texts["size"])
    return Exported(
        file=str(path),
        session=session,
        task=task,
        run=read_run(json.loads(texts["run"])),
        labels=read_labels(task, json.loads(texts["labels"])),
        metrics=json.loads(texts["metrics"]),
        udp=texts["udp"] == "true",
        size=None if size is None else (size[0], size[1]),
        form=texts["form"],
        layout=texts["layout"],
        commit=texts["commit"],
        version=texts["polarpix"],
    )


def load_exported(path: str | Path, device: str = "auto") -> ExportedPosePredictor | ExportedSegPredictor:
    """The predictor of an exported file: .onnx (onnxruntime, without torch), .pt2 (torch.export) or .xml (OpenVINO).

    Raises:
        InputError: as :func:`polarpix.runtime.sessions.open_session` says.
    """
    exported = open_exported(path, device)
    return ExportedPosePredictor(exported) if exported.task == "pose" else ExportedSegPredictor(exported)


class ExportedPosePredictor:
    """An exported pose network; call it with an image and boxes.

    Args:
        exported: the file.
        batch_size: crops per run.
    """

    def __init__(self, exported: Exported, batch_size: int = 32) -> None:
        assert isinstance(exported.run, PoseRun)
        assert isinstance(exported.labels, KeypointSchema)
        self.exported, self.run, self.schema, self.batch_size = exported, exported.run, exported.labels, batch_size
        self.size = (self.run.model.input_size[0], self.run.model.input_size[1])

    def locate(self, image: UInt8Array, boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keypoints [N, K, 2] in image pixels and scores [N, K] for boxes [N, 4]."""
        k = len(self.schema.names)
        points, scores = [np.zeros((0, k, 2), np.float32)], [np.zeros((0, k), np.float32)]
        for start in range(0, len(boxes), self.batch_size):
            part = boxes[start : start + self.batch_size]
            crops, to_image = cut_crops(image, part, self.size, self.run.data.box_padding, self.exported.udp)
            found, score = self.exported.session(crops, to_image)
            points.append(found)
            scores.append(score)
        return np.concatenate(points), np.concatenate(scores)

    def __call__(self, image: Source, boxes: Any = None) -> PoseResult:
        """Predict one image.

        Args:
            image: a file or an array.
            boxes: [N, 4] or [N, 5]: x, y, width, height[, score] in pixels of the image; null takes the whole image.

        Raises:
            InputError: an unreadable image, or boxes that are none.
        """
        array, file = open_source(image)
        height, width = array.shape[:2]
        rows, scores = check_boxes([[0, 0, width, height]] if boxes is None else boxes, array.shape, file)
        sure = scores >= self.run.eval.box_threshold
        return PoseResult(array, self.predict(array, rows[sure], scores[sure]), self.schema, file)

    def predict(self, image: UInt8Array, boxes: FloatArray, box_scores: FloatArray) -> PosePrediction:
        """The instances in boxes [N, 4] with scores [N]."""
        return keep_instances(*self.locate(image, boxes), boxes, box_scores, self.run, self.schema)

    def stream(self, images: Iterable[Source], boxes: Iterable[Any] | None = None) -> Iterator[PoseResult]:
        """Predict images one by one, lazily; ``boxes`` gives those of each image."""
        for image, rows in zip(images, boxes, strict=True) if boxes is not None else ((i, None) for i in images):
            yield self(image, rows)


class ExportedSegPredictor:
    """An exported segmentation network; call it with an image."""

    def __init__(self, exported: Exported) -> None:
        assert isinstance(exported.run, SegRun)
        assert isinstance(exported.labels, ClassTable)
        self.exported, self.run, self.classes = exported, exported.run, exported.labels

    def __call__(self, image: Source, boxes: None = None) -> SegResult:
        """Predict one image, a file or an array.

        Raises:
            InputError: an unreadable image, one of another size where the file is fixed to one, or boxes, which a
                segmentation network does not take.
        """
        array, file = open_source(image)
        if boxes is not None:
            raise InputError(f"{file or 'image'}: a segmentation network takes no boxes: leave them out")
        height, width = array.shape[:2]
        if self.exported.size not in (None, (height, width)):
            fixed = "x".join(map(str, self.exported.size or ()))
            raise InputError(
                f"{file or 'image'}: is {height}x{width}, {self.exported.file} takes images of {fixed} only: "
                "resize it, or export without --size"
            )
        label, confidence = self.exported.session(array[None])
        return SegResult(array, SegPrediction(label[0], confidence[0]), self.classes, file)

    def stream(self, images: Iterable[Source], boxes: None = None) -> Iterator[SegResult]:
        """Predict images one by one, lazily."""
        for image in images:
            yield self(image, boxes)


def describe(exported: Exported) -> str:
    """What an exported file is, in lines for the terminal."""
    backbone = exported.run.model.backbone
    kind = f" ({exported.form} form, {exported.layout})" if exported.form else ""
    if isinstance(exported.run, PoseRun):
        taken = f"crops of {'x'.join(map(str, exported.run.model.input_size))}, any number"
        inside = f"{exported.run.model.codec} decoding" + (", flip test" if exported.run.eval.flip_test else "")
    else:
        taken = "images of " + ("any size" if exported.size is None else "x".join(map(str, exported.size)))
        protocol = exported.run.eval
        inside = f"argmax, {protocol.mode} images"
        inside += "" if list(protocol.scales) == [1.0] else f", scales {list(protocol.scales)}"
        inside += ", mirrored too" if protocol.flip else ""
    lines = [
        exported.file,
        f"  task       {exported.task}",
        f"  network    {backbone.name}, attention {backbone.attention}{kind}",
        f"  outputs    {len(exported.labels.names)}: {', '.join(exported.labels.names)}",
        f"  takes      {taken}",
        f"  inside     {inside}",
        f"  trained on {exported.run.data.root}",
        f"  commit     {exported.commit or 'unknown'}",
        f"  exported   by polarpix {exported.version}",
    ]
    return "\n".join(lines)
