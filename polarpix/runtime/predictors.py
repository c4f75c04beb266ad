"""The predictors of exported files: the same calls and results as those of weights files; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.calibration import Calibration, described, read_calibration
from polarpix.config import PoseRun, SegRun
from polarpix.errors import InputError
from polarpix.framed import FramedPoses, FramedSegs
from polarpix.metadata import printable, read_labels, read_run
from polarpix.pose.instances import cut_crops
from polarpix.runtime.sessions import Session, Shape, open_session
from polarpix.sources import Frame
from polarpix.types import ClassTable, FloatArray, KeypointSchema, UInt8Array

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
    calibration: Calibration | None


def open_exported(path: str | Path, device: str = "auto") -> Exported:
    """Read an exported file.

    Raises:
        InputError: as :func:`polarpix.runtime.sessions.open_session` says, or a file whose metadata are damaged or are
            not those of its graph.
    """
    session, texts = open_session(path, device)
    try:
        task, size = texts["task"], json.loads(texts["size"])
        found = Exported(
            file=str(path),
            session=session,
            task=task,
            run=read_run(json.loads(texts["run"])),
            labels=read_labels(task, json.loads(texts["labels"])),
            metrics={str(name): float(value) for name, value in json.loads(texts["metrics"]).items()},
            udp=texts["udp"] == "true",
            size=None if size is None else (size[0], size[1]),
            form=texts["form"],
            layout=texts["layout"],
            commit=texts["commit"],
            version=texts["polarpix"],
            calibration=read_calibration(json.loads(texts["calibration"])),
        )
        check_graph(found)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: its metadata are damaged ({reason:.200}): copy or export it again") from error
    return found


def check_graph(exported: Exported) -> None:
    """Refuse metadata that are not those of the graph: what is cut for it, and what comes out, go by them.

    Raises:
        ValueError: names the first difference.
    """
    run, k = exported.run, len(exported.labels.names)
    if run.task != exported.task or (exported.task == "pose") != isinstance(run, PoseRun):
        raise ValueError(f"the page is of {run.task!r:.20}, the file of {exported.task!r:.20}")
    taken: tuple[Shape, ...]
    given: tuple[Shape, ...]
    if isinstance(run, PoseRun):
        taken = ((None, int(run.model.input_size[0]), int(run.model.input_size[1]), 3), (None, 2, 3))
        given = ((None, k, 2), (None, k), (None, k, 2, 2))
    else:
        sides = exported.size or (None, None)
        taken, given = ((None, *sides, 3),), ((None, *sides),) * 2
    # What goes in is settled when a network is traced; of what comes out a graph need not tell every size.
    for words, graph, told in (("takes", exported.session.inputs, taken), ("gives", exported.session.outputs, given)):
        known = [tuple(map(len, shapes)) for shapes in (graph, told)]
        pairs = [pair for one, two in zip(graph, told, strict=False) for pair in zip(one, two, strict=False)]
        if known[0] != known[1] or any(a != b and (words == "takes" or a is not None) for a, b in pairs):
            raise ValueError(f"its graph {words} {list(graph)!s:.100}, they say {list(told)!s:.100}")


def load_exported(
    path: str | Path, device: str = "auto", batch: int | None = None
) -> ExportedPosePredictor | ExportedSegPredictor:
    """The predictor of an exported file: .onnx (onnxruntime, without torch), .pt2 (torch.export) or .xml (OpenVINO).

    Args:
        path: the file.
        device: where to compute.
        batch: crops or images per run; by default 32 crops, 1 image.

    Raises:
        InputError: as :func:`polarpix.runtime.sessions.open_session` says.
    """
    exported = open_exported(path, device)
    if exported.task == "pose":
        return ExportedPosePredictor(exported, batch or 32)
    return ExportedSegPredictor(exported, batch or 1)


class ExportedPosePredictor(FramedPoses):
    """An exported pose network; call it with an image and boxes.

    Args:
        exported: the file.
        batch_size: crops per run.
    """

    def __init__(self, exported: Exported, batch_size: int = 32) -> None:
        assert isinstance(exported.run, PoseRun)
        assert isinstance(exported.labels, KeypointSchema)
        self.exported, self.run, self.schema, self.batch_size = exported, exported.run, exported.labels, batch_size
        self.file, self.size = exported.file, (self.run.model.input_size[0], self.run.model.input_size[1])
        self.calibration = exported.calibration

    def locate(
        self, image: UInt8Array | Sequence[UInt8Array], boxes: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Keypoints [N, K, 2] in image pixels, heights of the heatmaps [N, K] and covariances [N, K, 2, 2] in square
        pixels for boxes [N, 4] of one image, or each of its own."""
        k = len(self.schema.names)
        points, scores = [np.zeros((0, k, 2), np.float32)], [np.zeros((0, k), np.float32)]
        spread = [np.zeros((0, k, 2, 2), np.float32)]
        for start in range(0, len(boxes), self.batch_size):
            part = slice(start, start + self.batch_size)
            images = image if isinstance(image, np.ndarray) else image[part]
            crops, to_image = cut_crops(images, boxes[part], self.size, self.run.data.box_padding, self.exported.udp)
            b = len(crops)
            found, score, covariance = results(self.exported, ((b, k, 2), (b, k), (b, k, 2, 2)), crops, to_image)
            points.append(found)
            scores.append(score)
            spread.append(covariance)
        return np.concatenate(points), np.concatenate(scores), np.concatenate(spread)


class ExportedSegPredictor(FramedSegs):
    """An exported segmentation network; call it with an image.

    Args:
        exported: the file.
        batch_size: images of one size per run.
    """

    def __init__(self, exported: Exported, batch_size: int = 1) -> None:
        assert isinstance(exported.run, SegRun)
        assert isinstance(exported.labels, ClassTable)
        self.exported, self.run, self.classes, self.batch_size = exported, exported.run, exported.labels, batch_size
        self.file = exported.file
        self.calibration = exported.calibration

    def prepare(self, frame: Frame, boxes: Any) -> None:
        """Check a frame.

        Raises:
            InputError: an image of another size where the file is fixed to one, or boxes, which a segmentation network
                does not take.
        """
        super().prepare(frame, boxes)
        size = frame.image.shape[:2]
        if self.exported.size not in (None, size):
            fixed = "x".join(map(str, self.exported.size or ()))
            raise InputError(
                f"{frame.file or 'image'}: is {size[0]}x{size[1]}, {self.exported.file} takes images of {fixed} only: "
                "resize it, or export without --size"
            )

    def label(self, images: UInt8Array) -> tuple[UInt8Array, FloatArray]:
        """Class index and its probability [B, H, W] of images [B, H, W, 3]."""
        label, confidence = results(self.exported, (images.shape[:3],) * 2, images)
        if label.dtype != np.uint8 or label.max(initial=0) >= len(self.classes.names):
            raise InputError(f"{self.file}: gives classes that it has no name for: export it again")
        return label, confidence


def results(exported: Exported, shapes: Sequence[Shape], *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """What a graph makes of its inputs.

    Raises:
        InputError: it cannot be run, or gives other shapes than it should, or no numbers.
    """
    found = exported.session(*inputs)
    if [one.shape for one in found] != list(shapes):
        given = ", ".join(map(str, (one.shape for one in found)))
        raise InputError(f"{exported.file}: gives {given:.200}, must be {list(shapes)!s:.100}: export it again")
    if not all(np.isfinite(one).all() for one in found):
        raise InputError(f"{exported.file}: gives no finite numbers: its weights are damaged, export it again")
    return found


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
    data = Path(exported.run.data.root, getattr(exported.run.data, "train_annotations", ""))
    lines = [
        exported.file,
        f"  task       {exported.task}",
        f"  network    {backbone.name}, attention {backbone.attention}{kind}",
        f"  outputs    {len(exported.labels.names)}: {', '.join(exported.labels.names)}",
        f"  takes      {taken}",
        f"  inside     {inside}",
        f"  trained on {data}",
        f"  scores     {described(exported.calibration)}",
        f"  commit     {exported.commit or 'unknown'}",
        f"  exported   by polarpix {exported.version}",
    ]
    return printable("\n".join(lines))
