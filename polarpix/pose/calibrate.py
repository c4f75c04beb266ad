"""Keypoint scores and covariances against the annotated places: counted, and fitted on a validation split."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.calibration import CLAIMS, Calibration, ScoreCounts, covariance_fit, fit_curve, gaussian_radius
from polarpix.config import PoseRun
from polarpix.pose.analysis import HIT, pair_up
from polarpix.pose.coco import CocoKeypoints
from polarpix.types import FloatArray

__all__ = ["Located", "count_scores", "coverage", "fit_keypoints", "pose_settings"]

FEWEST = 100  # labelled keypoints that a calibration is fitted to
FLOORS = (0.01, *np.geomspace(0.03, 30, 16).tolist())  # square heatmap pixels tried beside the moments
ANCHOR = 0.6827  # share that the Gaussian of the covariance is scaled to hold

Array = npt.NDArray[np.float64]


class Located:
    """What an evaluation has found for N instances of K keypoints, all in pixels of the image.

    Args:
        keypoints: [N, K, 2].
        scores: [N, K], heights of the heatmaps.
        spread: [N, K, 2, 2], what the codec's ``covariance`` gives by the fit (1, 0), in square pixels.
        pixel: [N, K, 2, 2], what it gives by (0, 1): a square heatmap pixel.
    """

    def __init__(self, keypoints: FloatArray, scores: FloatArray, spread: FloatArray, pixel: FloatArray) -> None:
        self.keypoints, self.scores, self.spread, self.pixel = keypoints, scores, spread, pixel

    def covariance(self, fit: tuple[float, float]) -> Array:
        """[N, K, 2, 2] by a fit of :class:`polarpix.calibration.Calibration`."""
        return fit[0] * self.spread.astype(np.float64) + fit[1] * self.pixel


def pose_settings(run: PoseRun) -> dict[str, Any]:
    """What the scores of a network depend on besides its weights."""
    return {
        "flip_test": run.eval.flip_test,
        "shift_flipped": run.eval.shift_flipped,
        "box_padding": run.data.box_padding,
    }


def count_scores(truth: CocoKeypoints, found: Located) -> ScoreCounts:
    """Scores of the labelled keypoints against whether each lies within the OKS-0.5 radius of its annotated place.

    That is where its similarity, exp(-d^2 / (2 area (2 sigma)^2)), is at least 0.5.
    """
    pairs = pair_up(truth, found.keypoints)
    labelled = pairs.visibility > 0  # [N, K]
    counts = ScoreCounts()
    counts.add(found.scores[labelled], pairs.similarity[labelled] >= HIT)
    return counts


def squared_distances(truth: CocoKeypoints, found: Located, covariance: Array) -> Array:
    """Squared Mahalanobis distances [M] of the labelled places from what was predicted, by covariances [N, K, 2, 2]."""
    pairs = pair_up(truth, found.keypoints)
    labelled = pairs.visibility > 0
    error = (pairs.truth - pairs.points)[labelled].astype(np.float64)  # [M, 2]
    return np.asarray(np.einsum("mi,mij,mj->m", error, np.linalg.inv(covariance[labelled]), error))


def fit_keypoints(truth: CocoKeypoints, found: Located, split: str, settings: dict[str, Any]) -> Calibration | None:
    """The calibration of a network from its predictions for a split; null where fewer than 100 keypoints are labelled.

    Of the covariance ``factor * spread + floor`` the ratio of the two is the likeliest for Gaussian errors. The common
    scale is taken from how many places lay within, not from the likelihood, which a few lost keypoints rule: 68.27 % do
    by a Gaussian's radius. What other shares need is kept as radii.
    """
    counts = count_scores(truth, found)
    if counts.total < FEWEST:
        return None
    labelled = np.stack([one.visibility for one in truth.instances]) > 0
    likeliest, ratio = np.inf, FLOORS[0]
    for floor in FLOORS:
        covariance = found.covariance((1.0, floor))
        distances = squared_distances(truth, found, covariance)
        cost = 2 * np.log(distances.mean() / 2) + np.linalg.slogdet(covariance[labelled])[1].mean()
        if cost < likeliest:
            likeliest, ratio = float(cost), floor
    distances = squared_distances(truth, found, found.covariance((1.0, ratio)))
    factor = float(np.quantile(distances, ANCHOR) / gaussian_radius(ANCHOR) ** 2)
    radii = np.sqrt(np.quantile(distances / factor, CLAIMS))
    scores, probabilities = fit_curve(counts)
    fit = (round(factor, 6), round(factor * ratio, 6))
    return Calibration(
        scores, probabilities, split, counts.total, settings, fit, tuple(round(float(one), 6) for one in radii)
    )


def coverage(truth: CocoKeypoints, found: Located, calibration: Calibration | None) -> dict[float, tuple[float, float]]:
    """For each of CLAIMS the share of the labelled places that its ellipse held: a Gaussian's, and the measured one."""
    distances = squared_distances(truth, found, found.covariance(covariance_fit(calibration)))
    rows = {}
    for claim in CLAIMS:
        gauss = float(gaussian_radius(claim))
        own = gauss if calibration is None else calibration.radius(claim)
        rows[claim] = float((distances <= gauss**2).mean()), float((distances <= own**2).mean())
    return rows
