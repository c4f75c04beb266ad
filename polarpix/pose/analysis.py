"""Predictions of a whole split -> what is behind the metrics: per keypoint, per threshold, and where the misses lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.oks import oks, similarities
from polarpix.pose.pck import pck
from polarpix.types import FloatArray, KeypointSchema

__all__ = [
    "HIT",
    "KINDS",
    "KeypointRow",
    "Pairs",
    "error_kinds",
    "keypoint_rows",
    "match_results",
    "pair_up",
    "pck_curve",
]

Array = npt.NDArray[np.floating]

HIT = 0.5  # keypoint similarity from which a prediction lies at a place (Ronchi & Perona, ICCV 2017)
GOOD = 0.85  # and from which it is as near as annotators are to each other (the same)
PAIRED = 0.1  # OKS from which a detection counts as a prediction of an annotation
KINDS = ("good", "near", "mirrored", "other keypoint", "other instance", "nowhere")


@dataclass(frozen=True)
class Pairs:
    """Annotated instances, each with its prediction."""

    points: FloatArray  # [N, K, 2], predicted, image pixels; NaN where there is no prediction
    truth: FloatArray  # [N, K, 2]
    visibility: npt.NDArray[np.int64]  # [N, K], 0 is not labelled
    areas: npt.NDArray[np.float64]  # [N], square pixels
    images: npt.NDArray[np.int64]  # [N], image ids
    sigmas: tuple[float, ...]  # [K]

    @property
    def similarity(self) -> npt.NDArray[np.float64]:
        """Of each keypoint, [N, K] in 0..1: 0 where nothing was predicted, NaN where nothing is labelled."""
        found = similarities(self.points, self.truth, self.areas, self.sigmas)
        return np.where(self.visibility > 0, np.nan_to_num(found), np.nan)

    @property
    def oks(self) -> npt.NDArray[np.float64]:
        """Of each instance, [N] in 0..1; NaN where nothing is labelled."""
        labelled = self.visibility > 0  # [N, K]
        total = np.nansum(self.similarity, axis=1) / np.maximum(labelled.sum(axis=1), 1)
        return np.where(labelled.any(axis=1), total, np.nan)


@dataclass(frozen=True)
class KeypointRow:
    """How one keypoint fared over a split."""

    name: str
    labelled: int
    visible: int  # of these, annotated as visible and not hidden
    mean_error: float  # pixels
    similarity: float  # mean, 0..1: its part in the OKS
    pck: tuple[float, ...]  # for each threshold
    lost: float  # its share in all OKS that the split falls short of 1


def pair_up(truth: CocoKeypoints, points: FloatArray) -> Pairs:
    """Annotated instances with predictions [N, K, 2] that belong to them one to one."""
    ones = truth.instances
    return Pairs(
        points,
        np.stack([one.keypoints for one in ones]),
        np.stack([one.visibility for one in ones]),
        np.array([one.area for one in ones], np.float64),
        np.array([one.image_id for one in ones], np.int64),
        truth.schema.sigmas,
    )


def match_results(truth: CocoKeypoints, results: Sequence[Mapping[str, Any]]) -> FloatArray:
    """The prediction of each annotated instance, [N, K, 2], among COCO results of detected boxes; NaN without one.

    As in COCO's evaluation, the results of an image choose in the order of their scores: each takes the instance still
    free that it is most similar to, if the OKS is at least PAIRED.
    """
    shape = (len(truth), len(truth.schema.names), 2)
    points = np.full(shape, np.nan, np.float32)
    waiting: dict[int, list[int]] = {}
    for row, one in enumerate(truth.instances):
        waiting.setdefault(one.image_id, []).append(row)
    for result in sorted(results, key=lambda one: -float(one["score"])):
        rows = waiting.get(int(result["image_id"]), [])
        if not rows:
            continue
        found = np.array(result["keypoints"], np.float32).reshape(-1, 3)[:, :2]  # [K, 2]
        near = [
            float(oks(found, one.keypoints, one.visibility, one.area, truth.schema.sigmas))
            for one in (truth.instances[row] for row in rows)
        ]
        best = int(np.argmax(near))
        if near[best] >= PAIRED:
            points[rows.pop(best)] = found
    return points


def keypoint_rows(
    pairs: Pairs, names: Sequence[str], reference: Array, thresholds: Sequence[float]
) -> list[KeypointRow]:
    """One row per keypoint; a keypoint without a prediction counts as wrong, and in no mean error.

    Args:
        pairs: N instances of K keypoints.
        names: [K].
        reference: lengths [N] in pixels for PCK; instances with NaN are left out there.
        thresholds: of PCK, as shares of the reference.
    """
    similar, labelled = pairs.similarity, pairs.visibility > 0  # [N, K]
    distance = np.linalg.norm(pairs.points - pairs.truth, axis=-1)  # [N, K]
    lost = np.nan_to_num((1 - similar) / np.maximum(labelled.sum(axis=1), 1)[:, None]).sum(axis=0)  # [K]
    shares = [pck(pairs.points, pairs.truth, pairs.visibility, reference, one)[1] for one in thresholds]  # [T][K]
    rows = []
    for k, name in enumerate(names):
        seen = labelled[:, k]
        errors = distance[seen & np.isfinite(distance[:, k]), k]
        rows.append(
            KeypointRow(
                name,
                labelled=int(seen.sum()),
                visible=int((pairs.visibility[:, k] == 2).sum()),
                mean_error=float(errors.mean()) if errors.size else float("nan"),
                similarity=float(similar[seen, k].mean()) if seen.any() else float("nan"),
                pck=tuple(float(share[k]) for share in shares),
                lost=float(lost[k] / lost.sum()) if lost.sum() > 0 else 0.0,
            )
        )
    return rows


def pck_curve(pairs: Pairs, reference: Array, thresholds: Array) -> tuple[list[float], npt.NDArray[np.float64]]:
    """PCK over all keypoints for each threshold [T], and for each keypoint [T, K]."""
    found = [pck(pairs.points, pairs.truth, pairs.visibility, reference, float(one)) for one in thresholds]
    return [mean for mean, _ in found], np.array([each for _, each in found], np.float64)


def error_kinds(pairs: Pairs, schema: KeypointSchema) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """At whose place the labelled keypoints of a split were predicted.

    A prediction lies at the place of the keypoint it is meant for if their similarity is at least HIT. Otherwise it
    lies at that of the keypoint of the same instance it is most similar to, from HIT on; else at one of another
    annotated instance of the image; else nowhere (Ronchi & Perona, ICCV 2017, call these inversion, swap and miss).

    Returns:
        Places [K, K + 2]: how often keypoint a (row) was found at keypoint b, at another instance, nowhere. Kinds [6]:
        how many are of each of KINDS; good and near lie at their own place, from a similarity of GOOD on and below.
    """
    n, k = pairs.visibility.shape
    places = np.zeros((k, k + 2), np.int64)
    kinds = np.zeros(len(KINDS), np.int64)
    labelled, mirror = pairs.visibility > 0, schema.flip_order
    own = pairs.similarity  # [N, K]
    rows_of = {image: np.flatnonzero(pairs.images == image) for image in np.unique(pairs.images)}
    for i in range(n):
        # [K, K]: keypoint a, predicted, at keypoint b, annotated
        within = _at_places(pairs, i, i)
        missed = np.flatnonzero(labelled[i] & ~(own[i] >= HIT))
        hit = np.flatnonzero(labelled[i] & (own[i] >= HIT))
        places[hit, hit] += 1
        kinds[0] += int((own[i, hit] >= GOOD).sum())
        kinds[1] += int((own[i, hit] < GOOD).sum())
        others = [_at_places(pairs, i, int(j)).max(axis=1) for j in rows_of[pairs.images[i]] if j != i and len(missed)]
        abroad = np.max(others, axis=0) if others else np.zeros(k)  # [K]
        for a in missed:
            b = int(within[a].argmax())
            if within[a, b] >= HIT:
                places[a, b] += 1
                kinds[2 if b == mirror[a] else 3] += 1
            else:
                away = 0 if abroad[a] >= HIT else 1
                places[a, k + away] += 1
                kinds[4 + away] += 1
    return places, kinds


def _at_places(pairs: Pairs, i: int, j: int) -> npt.NDArray[np.float64]:
    """Similarity [K, K] of the keypoints predicted for instance i to those labelled of instance j; 0 to the others."""
    found = similarities(pairs.points[i][:, None], pairs.truth[j][None], pairs.areas[j], pairs.sigmas)  # [K, K]
    return np.where(pairs.visibility[j] > 0, np.nan_to_num(found), 0.0)
