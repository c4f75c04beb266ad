"""Images -> predictions: the one inference path, used by the command line, the reports and the web page alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polarpix.config import PoseRun, SegRun
from polarpix.engine.adopt import open_weights
from polarpix.engine.artifact import Artifact, load_state
from polarpix.errors import InputError
from polarpix.images import normalize
from polarpix.pages import load_page, make_run
from polarpix.pose.crop import PoseTransform
from polarpix.pose.inference import instance_scores, predict_heatmaps, to_image_points
from polarpix.pose.model import build_pose_model
from polarpix.pose.oks import oks_nms
from polarpix.pose.task import run_codec
from polarpix.results import PoseResult, SegResult, Source, check_boxes, open_source
from polarpix.seg.model import build_seg_model
from polarpix.seg.multiscale import predict_probabilities
from polarpix.types import ClassTable, FloatArray, KeypointSchema, PosePrediction, PoseSample, SegPrediction, UInt8Array

__all__ = ["PosePredictor", "SegPredictor", "artifact_run", "load"]


class PosePredictor:
    """A pose network with its protocol; call it with an image and boxes.

    Args:
        artifact: a loaded weights file.
        run: its page, perhaps with overrides.
        device: where to compute.
        batch_size: crops per forward pass.
    """

    def __init__(self, artifact: Artifact, run: PoseRun, device: torch.device, batch_size: int = 32) -> None:
        if not isinstance(artifact.labels, KeypointSchema):
            raise InputError(f"{artifact.file}: holds a segmentation network, not a pose network")
        self.run, self.schema, self.device, self.batch_size = run, artifact.labels, device, batch_size
        self.model = build_pose_model(run.model, len(self.schema.names))
        load_state(self.model, artifact)
        self.model.eval().to(device)
        self.codec = run_codec(run)
        self.transform = PoseTransform(run.data, run.model, self.schema, training=False)

    def crops(self, image: UInt8Array, boxes: FloatArray) -> tuple[Tensor, Tensor]:
        """Crops uint8 [N, 3, H, W] and their affines back to the image [N, 2, 3]."""
        k = len(self.schema.names)
        cut = [
            self.transform(PoseSample(image, np.zeros((k, 2), np.float32), np.zeros(k, np.int64), box, 0.0, "", 0, 0))
            for box in boxes
        ]
        images = torch.from_numpy(np.stack([one[0] for one in cut])).permute(0, 3, 1, 2)
        return images, torch.from_numpy(np.stack([one[3] for one in cut]))

    @torch.no_grad()
    def locate(self, image: UInt8Array, boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keypoints [N, K, 2] in image pixels and scores [N, K] for boxes [N, 4]."""
        protocol = self.run.eval
        order = self.schema.flip_order if protocol.flip_test else None
        points, scores = [], []
        for start in range(0, len(boxes), self.batch_size):
            crops, to_image = self.crops(image, boxes[start : start + self.batch_size])
            heatmaps = predict_heatmaps(
                self.model,
                crops.to(self.device),
                order,
                protocol.shift_flipped,
                self.run.engine.channels_last,
                self.codec.channels_per_keypoint,
            )
            found, score = self.codec.decode(heatmaps)
            points.append(to_image_points(found.cpu(), to_image))
            scores.append(score.cpu())
        return torch.cat(points).numpy(), torch.cat(scores).numpy()

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
        whole = [[0, 0, width, height]]
        rows, box_scores = check_boxes(whole if boxes is None else boxes, array.shape, file)
        sure = box_scores >= self.run.eval.box_threshold
        rows, box_scores = rows[sure], box_scores[sure]
        k = len(self.schema.names)
        if not len(rows):
            empty = np.zeros((0, k, 2), np.float32), np.zeros((0, k), np.float32)
            return PoseResult(array, PosePrediction(*empty, rows, box_scores), self.schema, file)
        keypoints, scores = self.locate(array, rows)
        totals = instance_scores(
            torch.from_numpy(scores), torch.from_numpy(box_scores), self.run.eval.visibility
        ).numpy()
        areas = rows[:, 2] * rows[:, 3] * self.run.data.box_padding**2
        kept = np.sort(oks_nms(keypoints, totals, areas, self.schema.sigmas, self.run.eval.oks_nms))
        prediction = PosePrediction(keypoints[kept], scores[kept], rows[kept], box_scores[kept], totals[kept])
        return PoseResult(array, prediction, self.schema, file)

    def stream(self, images: Iterable[Source], boxes: Iterable[Any] | None = None) -> Iterator[PoseResult]:
        """Predict images one by one, lazily; ``boxes`` gives those of each image."""
        for image, rows in zip(images, boxes, strict=True) if boxes is not None else ((i, None) for i in images):
            yield self(image, rows)


class SegPredictor:
    """A segmentation network with its protocol; call it with an image."""

    def __init__(self, artifact: Artifact, run: SegRun, device: torch.device) -> None:
        if not isinstance(artifact.labels, ClassTable):
            raise InputError(f"{artifact.file}: holds a pose network, not a segmentation network")
        self.run, self.classes, self.device = run, artifact.labels, device
        self.model = build_seg_model(run.model, len(self.classes.names))
        load_state(self.model, artifact)
        self.model.eval().to(device)

    def inputs(self, image: UInt8Array) -> Tensor:
        """Image [H, W, 3] -> normalised [1, 3, H, W] on the device."""
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(self.device)  # may be read-only
        layout = torch.channels_last if self.run.engine.channels_last else torch.contiguous_format
        return normalize(pixels).contiguous(memory_format=layout)

    @torch.no_grad()
    def __call__(self, image: Source, boxes: None = None) -> SegResult:
        """Predict one image, a file or an array.

        Raises:
            InputError: an unreadable image, or boxes, which a segmentation network does not take.
        """
        array, file = open_source(image)
        if boxes is not None:
            raise InputError(f"{file or 'image'}: a segmentation network takes no boxes: leave them out")
        probabilities = predict_probabilities(self.model, self.inputs(array), self.run.eval, self.run.data.crop_size)
        confidence, label = probabilities[0].max(dim=0)  # [H, W]
        prediction = SegPrediction(label.to(torch.uint8).cpu().numpy(), confidence.float().cpu().numpy())
        return SegResult(array, prediction, self.classes, file)

    def stream(self, images: Iterable[Source], boxes: None = None) -> Iterator[SegResult]:
        """Predict images one by one, lazily."""
        for image in images:
            yield self(image, boxes)


def load(
    path: str | Path, device: str = "auto", overrides: Sequence[str] = (), config: str | Path = ""
) -> PosePredictor | SegPredictor:
    """A predictor from a weights file or a run folder.

    Args:
        path: weights/best.safetensors, the run folder that holds it, or a published checkpoint with a page for it.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        overrides: page options such as ``--eval.flip_test=false``.
        config: a page to predict by instead of the one inside the weights file.

    Raises:
        InputError: no such file, one that does not fit, or a device that is not there.
    """
    artifact = open_weights(path, config, overrides)
    run = artifact_run(artifact, overrides, config=config)
    place = find_device(device)
    return PosePredictor(artifact, run, place) if isinstance(run, PoseRun) else SegPredictor(artifact, run, place)


def find_device(name: str) -> torch.device:
    """The device of that name, or a GPU if there is one for "auto".

    Raises:
        InputError: no such device, or none on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}): choose auto, cpu or cuda") from error
    return place


def artifact_run(
    artifact: Artifact, overrides: Sequence[str] = (), command: str = "predict", config: str | Path = ""
) -> PoseRun | SegRun:
    """The page inside a weights file, or another one for it, with overrides.

    The backbone's own starting weights are not needed again.

    Raises:
        InputError: a page or an override that is not in order.
    """
    run = load_page(config, overrides) if config else make_run(artifact.run, overrides, artifact.file, command)
    run.model.weights = run.model.backbone.weights = None
    return run
