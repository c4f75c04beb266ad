"""Images -> predictions: the one inference path, used by the command line, the reports and the web page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from polarpix.calibration import covariance_fit
from polarpix.config import PoseRun, SegRun
from polarpix.devices import find_device
from polarpix.engine.adopt import open_weights
from polarpix.engine.artifact import Artifact, load_state
from polarpix.errors import InputError
from polarpix.framed import FramedPoses, FramedSegs, check_batch
from polarpix.hub.share import Shareable
from polarpix.images import normalize
from polarpix.pages import load_page, make_run
from polarpix.pose.calibrate import pose_settings
from polarpix.pose.crop import PoseTransform
from polarpix.pose.inference import predict_heatmaps, to_image_covariance, to_image_points
from polarpix.pose.model import build_pose_model
from polarpix.pose.task import run_codec
from polarpix.seg.model import build_seg_model
from polarpix.seg.multiscale import predict_probabilities
from polarpix.seg.task import pixel_settings
from polarpix.types import ClassTable, FloatArray, KeypointSchema, PoseSample, UInt8Array

__all__ = ["PosePredictor", "SegPredictor", "artifact_run", "load"]


class Predictor(Shareable):
    """What both predictors can: come from a name, and be given away."""

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> Self:
        """The predictor of that name or folder, as :func:`load` finds it.

        Raises:
            InputError: as in :func:`load`, or weights of the other task.
        """
        found = load(name, device, overrides)
        if not isinstance(found, cls):
            raise InputError(f"{name}: is for a {type(found).__name__}, not a {cls.__name__}: use polarpix.load")
        return found


class PosePredictor(FramedPoses, Predictor):
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
        self.artifact, self.file = replace(artifact, state=self.model.state_dict()), artifact.file
        self.codec = run_codec(run)
        self.transform = PoseTransform(run.data, run.model, self.schema, training=False)
        self.calibration = artifact.calibration
        if self.calibration is not None:
            self.calibration.check(pose_settings(run), artifact.file)

    def crops(self, image: UInt8Array | Sequence[UInt8Array], boxes: FloatArray) -> tuple[Tensor, Tensor]:
        """Crops uint8 [N, 3, H, W] of boxes [N, 4] and their affines back to the image [N, 2, 3].

        The boxes are of one image [H, W, 3], or each of its own.
        """
        k = len(self.schema.names)
        images = repeat(image) if isinstance(image, np.ndarray) else image
        cut = [
            self.transform(PoseSample(one, np.zeros((k, 2), np.float32), np.zeros(k, np.int64), box, 0.0, "", 0, 0))
            for one, box in zip(images, boxes, strict=False)
        ]
        crops = torch.from_numpy(np.stack([one[0] for one in cut])).permute(0, 3, 1, 2)
        return crops, torch.from_numpy(np.stack([one[3] for one in cut]))

    @torch.no_grad()
    def locate(
        self, image: UInt8Array | Sequence[UInt8Array], boxes: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Keypoints [N, K, 2] in image pixels, heights of the heatmaps [N, K] and covariances [N, K, 2, 2] in square
        pixels for boxes [N, 4] of one image, or each of its own."""
        protocol, k = self.run.eval, len(self.schema.names)
        order = self.schema.flip_order if protocol.flip_test else None
        points, scores = [np.zeros((0, k, 2), np.float32)], [np.zeros((0, k), np.float32)]
        spread, fit = [np.zeros((0, k, 2, 2), np.float32)], covariance_fit(self.calibration)
        for start in range(0, len(boxes), self.batch_size):
            part = slice(start, start + self.batch_size)
            crops, to_image = self.crops(image if isinstance(image, np.ndarray) else image[part], boxes[part])
            heatmaps = predict_heatmaps(
                self.model,
                crops.to(self.device),
                order,
                protocol.shift_flipped,
                self.run.engine.channels_last,
                self.codec.channels_per_keypoint,
            )
            found, score = self.codec.decode(heatmaps)
            points.append(to_image_points(found.cpu(), to_image).numpy())
            scores.append(score.cpu().numpy())
            covariance = self.codec.covariance(heatmaps, found, fit).cpu()
            spread.append(to_image_covariance(covariance, to_image).numpy())
        return np.concatenate(points), np.concatenate(scores), np.concatenate(spread)


class SegPredictor(FramedSegs, Predictor):
    """A segmentation network with its protocol; call it with an image.

    Args:
        artifact: a loaded weights file.
        run: its page, perhaps with overrides.
        device: where to compute.
        batch_size: images of one size per forward pass.
    """

    def __init__(self, artifact: Artifact, run: SegRun, device: torch.device, batch_size: int = 1) -> None:
        if not isinstance(artifact.labels, ClassTable):
            raise InputError(f"{artifact.file}: holds a pose network, not a segmentation network")
        self.run, self.classes, self.device, self.batch_size = run, artifact.labels, device, batch_size
        self.model = build_seg_model(run.model, len(self.classes.names))
        load_state(self.model, artifact)
        self.model.eval().to(device)
        self.artifact, self.file = replace(artifact, state=self.model.state_dict()), artifact.file
        self.calibration = artifact.calibration
        if self.calibration is not None:
            self.calibration.check(pixel_settings(run), artifact.file)

    def inputs(self, images: UInt8Array) -> Tensor:
        """One image [H, W, 3] or several [B, H, W, 3] -> normalised [B, 3, H, W] on the device."""
        pixels = torch.from_numpy(np.array(images)).view(-1, *images.shape[-3:])  # a copy: they may be read-only
        pixels = pixels.permute(0, 3, 1, 2).to(self.device)
        layout = torch.channels_last if self.run.engine.channels_last else torch.contiguous_format
        return normalize(pixels).contiguous(memory_format=layout)

    @torch.no_grad()
    def label(self, images: UInt8Array) -> tuple[UInt8Array, FloatArray]:
        """Class index and its probability [B, H, W] of images [B, H, W, 3]."""
        x = self.inputs(images)
        probabilities = predict_probabilities(self.model, x, self.run.eval, self.run.data.crop_size)
        confidence, label = probabilities.max(dim=1)  # [B, H, W]
        return label.to(torch.uint8).cpu().numpy(), confidence.float().cpu().numpy()


def load(
    path: str | Path,
    device: str = "auto",
    overrides: Sequence[str] = (),
    config: str | Path = "",
    batch: int | None = None,
) -> PosePredictor | SegPredictor:
    """A predictor from a weights file, a run folder, or a model's name.

    Args:
        path: weights/best.safetensors, the run folder that holds it, or a published checkpoint with a page for it;
            "body" or "street", the models in the box; "user/name", a model on the Hugging Face Hub.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        overrides: page options such as ``--eval.flip_test=false``.
        config: a page to predict by instead of the one inside the weights file.
        batch: crops or images per forward pass; by default 32 crops, 1 image.

    Raises:
        InputError: no such file, one that does not fit, a device that is not there, or a batch of none.
    """
    check_batch(batch)
    artifact = open_weights(path, config, overrides)
    run = artifact_run(artifact, overrides, config=config)
    place = find_device(device)
    if isinstance(run, PoseRun):
        return PosePredictor(artifact, run, place, batch or 32)
    return SegPredictor(artifact, run, place, batch or 1)


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
