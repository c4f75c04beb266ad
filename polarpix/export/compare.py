"""What an exported file gives beside what torch gives, on noise and on pictures, and how much they may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polarpix.calibration import covariance_fit
from polarpix.errors import InputError
from polarpix.images import normalize
from polarpix.pose.inference import predict_heatmaps, to_image_covariance, to_image_points
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.runtime.sessions import Session
from polarpix.seg.multiscale import predict_probabilities
from polarpix.types import FloatArray, UInt8Array

__all__ = ["TOLERANCES", "Difference", "check_differences", "compare_pose", "compare_seg", "difference_lines"]

TOLERANCES = {
    "keypoints": 0.1,  # pixels of the image
    "scores": 1e-3,
    "deviations": 0.1,  # pixels of the image: roots of the variances
    "labels": 1e-3,  # share of the pixels that have another class
    "confidence": 1e-3,
}
"""Measure -> the largest difference with which a file is kept."""
UNITS = {"keypoints": " px", "deviations": " px", "labels": " of the pixels"}
NOISE = 1e-4  # of a heatmap's largest value: more than two libraries' rounding differs
DRAWS = 4


@dataclass(frozen=True)
class Difference:
    """The largest differences found on one kind of input.

    Args:
        inputs: what was compared, in words.
        count: crops or images.
        largest: measure -> difference; of the keypoints over those that are decided.
        undecided: share of the keypoints that rounding alone may move, for the network sees several places alike.
    """

    inputs: str
    count: int
    largest: dict[str, float]
    undecided: float | None = None


@torch.no_grad()
def compare_pose(
    predictor: PosePredictor, session: Session, inputs: str, crops: UInt8Array, to_image: FloatArray
) -> Difference:
    """Decoded keypoints, scores and covariances of crops [B, H, W, 3] with their affines [B, 2, 3].

    A keypoint is undecided if noise of NOISE on its heatmap moves it further than the tolerance.

    Raises:
        InputError: the file gives another shape or type than it should.
    """
    run, codec = predictor.run, predictor.codec
    order = predictor.schema.flip_order if run.eval.flip_test else None
    image, affines = torch.from_numpy(crops).permute(0, 3, 1, 2), torch.from_numpy(to_image)
    heatmaps = predict_heatmaps(
        predictor.model, image, order, run.eval.shift_flipped, run.engine.channels_last, codec.channels_per_keypoint
    )
    found, scores = codec.decode(heatmaps)
    points = to_image_points(found, affines)  # [B, K, 2]
    spread = codec.covariance(heatmaps, found, covariance_fit(predictor.calibration))  # [B, K, 2, 2]
    spread = to_image_covariance(spread, affines)
    generator = torch.Generator().manual_seed(0)
    wobble = torch.zeros_like(scores)  # [B, K], pixels of the image
    for _ in range(DRAWS):
        noise = torch.randn(heatmaps.shape, generator=generator) * heatmaps.abs().amax(dim=(2, 3), keepdim=True)
        moved = to_image_points(codec.decode(heatmaps + NOISE * noise)[0], affines)
        wobble = torch.maximum(wobble, (moved - points).norm(dim=-1))
    decided = (wobble <= TOLERANCES["keypoints"]).numpy()
    theirs = _outputs(session(crops, to_image), (points, scores, spread))
    apart = np.linalg.norm(theirs[0] - points.numpy(), axis=-1)  # [B, K]
    largest = {
        "keypoints": float(apart[decided].max(initial=0)) if np.isfinite(apart).all() else float("nan"),
        "scores": float(np.abs(theirs[1] - scores.numpy()).max()),
        "deviations": float(np.abs(_deviations(theirs[2]) - _deviations(spread.numpy()))[decided].max(initial=0)),
    }
    return Difference(inputs, len(crops), largest, float(1 - decided.mean()))


@torch.no_grad()
def compare_seg(predictor: SegPredictor, session: Session, inputs: str, batches: Sequence[UInt8Array]) -> Difference:
    """Label maps and confidences of batches of images [B, H, W, 3], each of its own size.

    Raises:
        InputError: the file gives another shape or type than it should.
    """
    labels, confidences = 0.0, 0.0
    for batch in batches:
        pixels = normalize(torch.from_numpy(batch).permute(0, 3, 1, 2))
        run = predictor.run
        found = predict_probabilities(predictor.model, pixels, run.eval, run.data.crop_size).max(dim=1)
        label, confidence = _outputs(session(batch), (found.indices.to(torch.uint8), found.values))
        labels = max(labels, float((label != found.indices.numpy()).mean()))
        apart = np.abs(confidence - found.values.numpy()).max()
        confidences = float(np.maximum(confidences, apart))  # what is no number stays, whatever other batches give
    return Difference(inputs, sum(map(len, batches)), {"labels": labels, "confidence": confidences})


def _deviations(covariance: np.ndarray) -> np.ndarray:
    """Standard deviations [B, K, 2] in x and y of covariances [B, K, 2, 2]."""
    return np.asarray(np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1).clip(0)))


def _outputs(theirs: list[np.ndarray], own: tuple[Tensor, ...]) -> list[np.ndarray]:
    """The file's outputs, of the shapes and types of torch's."""
    for mine, one in zip(own, theirs, strict=True):
        wanted = mine.numpy()
        if one.shape != wanted.shape or one.dtype != wanted.dtype:
            raise InputError(
                f"the exported file gives {one.dtype} {list(one.shape)}, torch {wanted.dtype} {list(wanted.shape)}: "
                "nothing is kept"
            )
    return theirs


def check_differences(differences: Sequence[Difference]) -> None:
    """Refuse a file that differs by more than the tolerances, or of whose keypoints not one could be compared.

    Raises:
        InputError: the first such difference.
    """
    for one in differences:
        for measure, value in one.largest.items():
            if not value <= TOLERANCES[measure]:
                raise InputError(
                    f"{one.inputs}: {measure} of the exported file differ from torch by {value:.3g}"
                    f"{UNITS.get(measure, '')}, at most {TOLERANCES[measure]:g} is allowed: nothing is kept"
                )
    if all(one.undecided == 1 for one in differences):
        raise InputError(
            "no keypoint could be compared, the network sees all places alike: train it, or give other --check-images"
        )


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """The differences for the terminal, one kind of input a line."""
    lines = ["largest differences from torch (allowed):"]
    for one in differences:
        parts = [
            f"{measure} {value:.2g}{UNITS.get(measure, '')} ({TOLERANCES[measure]:g})"
            for measure, value in one.largest.items()
        ]
        if one.undecided is not None:
            parts.append(f"{one.undecided:.0%} of the keypoints undecided")
        lines.append(f"  {f'{one.count} x {one.inputs}':<28}{'   '.join(parts)}")
    return lines
