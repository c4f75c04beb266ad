"""What scores are worth: counted against the truth, mapped to probabilities, and how far the claims are off."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.types import FloatArray

__all__ = [
    "CLAIMS",
    "Calibration",
    "CalibrationBin",
    "ScoreCounts",
    "calibration_bins",
    "calibration_error",
    "covariance_fit",
    "described",
    "fit_curve",
    "gaussian_radius",
    "read_calibration",
]

Array = npt.NDArray[np.floating]

FINE = 1000  # cells from 0 to 1 that scores are counted in: what is kept does not grow with the data
BINS = 15  # of the reliability diagram and its error (Guo et al., ICML 2017)
GROUPS = 100  # groups of equally many scores that a curve is fitted to, at most
FEWEST = 20  # scores in each
CLAIMS = (0.3935, 0.5, 0.6827, 0.8647, 0.9, 0.95, 0.9889)
"""Shares that ellipses claim to hold. A Gaussian in the plane has the first, fourth and last within 1, 2, 3 sigma."""


class ScoreCounts:
    """How many scores there were, and how many of them were right, in cells from 0 to 1; scores beyond count there."""

    def __init__(self) -> None:
        self.counts = np.zeros((2, FINE), np.int64)  # all, right

    def add(self, scores: Array, right: npt.NDArray[np.bool_]) -> None:
        """Count scores against whether each was right, arrays of one shape."""
        cells = np.clip(np.nan_to_num(scores.ravel()) * FINE, 0, FINE - 1).astype(np.int64)
        self.counts[0] += np.bincount(cells, minlength=FINE)
        self.counts[1] += np.bincount(cells[right.ravel()], minlength=FINE)

    @property
    def total(self) -> int:
        """Scores counted."""
        return int(self.counts[0].sum())

    def mapped(self, calibration: Calibration | None) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """The scores of the cells [M], calibrated or not, and the counts [2, M]; cells without any are left out."""
        held = self.counts[0] > 0
        middles = ((np.arange(FINE) + 0.5) / FINE)[held].astype(np.float32)
        return middles if calibration is None else calibration.probability(middles), self.counts[:, held]


@dataclass(frozen=True)
class Calibration:
    """What the scores of a network mean, fitted on a split that it was not trained on.

    Scores become probabilities along a curve that rises: that a keypoint lies within the OKS-0.5 radius of the
    annotated place (given that there is one), or that a pixel is of its class.

    Args:
        scores: knots of the curve [M], rising.
        probabilities: at the knots [M], never falling; straight between them, level beyond them.
        split: the data it was fitted on.
        samples: keypoints or pixels.
        protocol: settings of the page that the scores depend on.
        covariance: of keypoints: factor on the spread of a heatmap, and square pixels of the heatmap added to it.
        radii: of keypoints: for each of CLAIMS the Mahalanobis distance within which that share lay.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    split: str
    samples: int
    protocol: dict[str, Any] = field(default_factory=dict)
    covariance: tuple[float, float] = (1.0, 0.0)
    radii: tuple[float, ...] = ()

    def probability(self, scores: Array) -> FloatArray:
        """The probabilities of scores, of one shape."""
        return np.interp(scores, self.scores, self.probabilities).astype(np.float32)

    def radius(self, share: float) -> float:
        """The Mahalanobis distance within which a share of the places lies: as measured, between CLAIMS straight."""
        claimed, wanted = gaussian_radius(CLAIMS), float(gaussian_radius(share))
        if not self.radii:
            return wanted
        nearest = min(max(wanted, claimed[0]), claimed[-1])  # beyond the claims in proportion
        return float(np.interp(nearest, claimed, self.radii) * wanted / nearest)

    def check(self, settings: dict[str, Any], file: str) -> None:
        """Warn if scores depend on settings that are not those of the fit."""
        other = [f"{key} was {self.protocol.get(key)}" for key in settings if self.protocol.get(key) != settings[key]]
        if other and self.protocol:
            warnings.warn(
                f"{file}: its scores were calibrated by another protocol ({', '.join(other)}): they may be off, "
                "'polarpix calibrate' with the same options fits them anew",
                stacklevel=3,
            )

    def values(self) -> dict[str, Any]:
        """Plain values for JSON, as :func:`read_calibration` takes them."""
        return asdict(self)


def read_calibration(values: dict[str, Any] | None) -> Calibration | None:
    """A calibration from its JSON; null where there is none.

    Raises:
        ValueError: values that are no calibration.
    """
    if values is None:
        return None
    try:
        frozen: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        found = Calibration(**frozen)
        curve = np.array([found.scores, found.probabilities], np.float64)  # [2, M]
        more = np.array([*found.covariance, *found.radii], np.float64)
        rising = curve.ndim == 2 and curve.size and (np.diff(curve[0]) > 0).all() and (np.diff(curve[1]) >= 0).all()
        sound = rising and np.isfinite(curve).all() and curve[1].min() >= 0 and curve[1].max() <= 1
        sound = sound and np.isfinite(more).all() and (more >= 0).all() and isinstance(found.protocol, dict)
        sound = sound and len(found.covariance) == 2 and len(found.radii) in (0, len(CLAIMS))
    except (TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise ValueError("no calibration: a curve of probabilities that rises, a covariance and a radius per claim")
    return found


def covariance_fit(calibration: Calibration | None) -> tuple[float, float]:
    """What a codec's ``covariance`` takes: as measured, or nothing changed."""
    return (1.0, 0.0) if calibration is None else calibration.covariance


def described(calibration: Calibration | None) -> str:
    """What the scores of a network are, in a few words."""
    if calibration is None:
        return "as the network gives them ('polarpix calibrate' makes them probabilities)"
    return f"probabilities, calibrated on {calibration.split} ({calibration.samples:,} samples)"


def fit_curve(found: ScoreCounts) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The rising curve that comes closest to whether scores were right: isotonic regression.

    Scores are taken in groups of equally many. Stretches where the curve would fall are levelled (pool adjacent
    violators; Zadrozny & Elkan, KDD 2002). A probability never becomes 0 or 1:
    half a hit and half a miss are added to every level.

    Returns:
        Knots of the scores and their probabilities.

    Raises:
        ValueError: nothing was counted.
    """
    if not found.total:
        raise ValueError("no score was counted")
    middles, (every, right) = found.mapped(None)
    size = max(FEWEST, found.total / GROUPS)
    group = np.floor((np.cumsum(every) - every / 2) / size).astype(int)  # [M]
    levels: list[list[float]] = []  # scores, of those right, weighted sum of scores
    for one in np.unique(group):
        cells = group == one
        levels.append([float(every[cells].sum()), float(right[cells].sum()), float(middles[cells] @ every[cells])])
        while len(levels) > 1 and levels[-2][1] * levels[-1][0] >= levels[-1][1] * levels[-2][0]:
            last = levels.pop()
            levels[-1] = [a + b for a, b in zip(levels[-1], last, strict=True)]
    knots = tuple(round(total / count, 6) for count, _, total in levels)
    heights = np.maximum.accumulate([(hits + 0.5) / (count + 1) for count, hits, _ in levels])
    return knots, tuple(round(float(height), 6) for height in heights)


@dataclass(frozen=True)
class CalibrationBin:
    """The scores of one bin of the reliability diagram."""

    low: float
    high: float
    count: int
    score: float  # mean
    right: float  # share


def calibration_bins(found: ScoreCounts, calibration: Calibration | None = None) -> list[CalibrationBin]:
    """The bins of equal width from 0 to 1 that hold any score, calibrated or as it is."""
    scores, (every, right) = found.mapped(calibration)
    place = np.clip(np.ceil(scores * BINS) - 1, 0, BINS - 1).astype(int)  # [M]
    rows = []
    for b in np.unique(place):
        cells = place == b
        count = int(every[cells].sum())
        mean = float(scores[cells].astype(np.float64) @ every[cells]) / count
        rows.append(CalibrationBin(b / BINS, (b + 1) / BINS, count, mean, float(right[cells].sum()) / count))
    return rows


def calibration_error(found: ScoreCounts, calibration: Calibration | None = None) -> float:
    """Expected calibration error: how far score and share of hits are apart, in the mean over all scores.

    Over 15 bins of equal width (Naeini et al., AAAI 2015; Guo et al., ICML 2017); NaN where nothing was counted.
    """
    rows = calibration_bins(found, calibration)
    return sum(row.count * abs(row.score - row.right) for row in rows) / found.total if rows else math.nan


def gaussian_radius(shares: float | Sequence[float] | Array) -> npt.NDArray[np.float64]:
    """The Mahalanobis distance within which a Gaussian in the plane has that share."""
    return np.asarray(np.sqrt(-2 * np.log1p(-np.asarray(shares, np.float64))))
