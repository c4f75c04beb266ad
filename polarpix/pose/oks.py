"""Object keypoint similarity: the similarity itself, suppression by it, COCO results and COCO's AP and AR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.pose.coco_json import read_area, read_box, read_page
from polarpix.types import IntArray

__all__ = [
    "OKS_METRICS",
    "OKS_STEPS",
    "coco_results",
    "evaluate_oks",
    "oks",
    "oks_nms",
    "oks_precision",
    "similarities",
]

OKS_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The keys of :func:`evaluate_oks`, in COCO's order: mean over OKS 0.50..0.95, at 0.50, at 0.75, medium, large."""

OKS_STEPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""The thresholds that COCO's AP and AR are means over."""

Array = npt.NDArray[np.floating]


def similarities(pred: Array, gt: Array, area: float | Array, sigmas: Sequence[float]) -> npt.NDArray[np.float64]:
    """Similarity of each keypoint, exp(-d^2 / (2 area (2 sigma)^2)), in 0..1: what the OKS is the mean of.

    Args:
        pred: points [..., K, 2].
        gt: points [K, 2], or [..., K, 2] that broadcast.
        area: of the annotated instance in square pixels, [...] or one number.
        sigmas: [K].

    Returns:
        [..., K]; NaN where a point is.
    """
    distance2 = ((np.asarray(pred, np.float64) - np.asarray(gt, np.float64)) ** 2).sum(axis=-1)  # [..., K]
    scale = 2 * (np.asarray(area, np.float64)[..., None] + np.spacing(1)) * (2 * np.asarray(sigmas)) ** 2
    return np.asarray(np.exp(-distance2 / scale))


def oks(
    pred: Array, gt: Array, visibility: npt.NDArray[np.integer], area: float | Array, sigmas: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Object keypoint similarity, in 0..1, of predictions and one annotation.

    The mean over the labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2)) with d the distance in pixels, as the COCO
    keypoint evaluation defines it.

    Args:
        pred: points [..., K, 2].
        gt: points [K, 2], or [..., K, 2] that broadcast.
        visibility: [K] or [..., K]; 0 is not labelled.
        area: of the annotated instance in square pixels, [...] or one number.
        sigmas: [K].

    Returns:
        [...]; 0 where nothing is labelled.
    """
    each = similarities(pred, gt, area, sigmas)  # [..., K]
    labelled = np.broadcast_to(np.asarray(visibility) > 0, each.shape)
    similar = np.where(labelled, each, 0).sum(axis=-1)
    return np.asarray(similar / np.maximum(labelled.sum(axis=-1), 1))


def oks_nms(keypoints: Array, scores: Array, areas: Array, sigmas: Sequence[float], threshold: float) -> IntArray:
    """Drop the lower-scored of two instances of one image that are more similar than ``threshold``.

    As in HRNet's evaluation, all keypoints count, and the area of a pair is the mean of the two.

    Args:
        keypoints: [N, K, 2].
        scores: [N], of the instances.
        areas: [N], square pixels.
        sigmas: [K].
        threshold: OKS; 0 or less drops nothing.

    Returns:
        Indices of the kept instances, highest score first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    if threshold <= 0:
        return order.astype(np.int64)
    areas = np.asarray(areas, np.float64)
    everywhere = np.ones(len(sigmas), np.int64)
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        similar = oks(keypoints[rest], keypoints[best], everywhere, (areas[rest] + areas[best]) / 2, sigmas)
        order = rest[similar <= threshold]
    return np.array(kept, np.int64)


def coco_results(
    image_ids: Sequence[int], keypoints: Array, keypoint_scores: Array, scores: Array, category_id: int = 1
) -> list[dict[str, Any]]:
    """Instances as a COCO keypoint result list, ready for JSON.

    Args:
        image_ids: [N].
        keypoints: [N, K, 2], image pixels.
        keypoint_scores: [N, K], written in the place of the visibility.
        scores: [N], of the instances.
        category_id: of all of them.
    """
    triples = np.concatenate((keypoints, keypoint_scores[..., None]), axis=-1).astype(np.float64)  # [N, K, 3]
    return [
        {"image_id": int(image), "category_id": category_id, "keypoints": flat.ravel().tolist(), "score": float(score)}
        for image, flat, score in zip(image_ids, triples, scores, strict=True)
    ]


def evaluate_oks(
    annotations: str | Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    sigmas: Sequence[float],
    category_id: int | None = None,
) -> dict[str, float]:
    """COCO's keypoint AP and AR over all images of an annotation file, with at most 20 instances an image.

    What an annotation leaves out is filled in: ``iscrowd`` 0, ``num_keypoints`` by counting, ``area`` from the box.

    Args:
        annotations: COCO keypoint JSON, as a file or as read.
        results: as :func:`coco_results` gives them; may be empty.
        sigmas: [K].
        category_id: evaluate this category only; None takes all, which must have the same keypoints.

    Returns:
        The ten ``OKS_METRICS`` in 0..1; -1, as COCO has it, where no annotation is of that size.

    Raises:
        InputError: the file is no COCO keypoint file; a result of an image that it does not have; a number of keypoints
            that is not that of the sigmas; an annotation without a scale.
    """
    stats = _accumulated(annotations, results, sigmas, category_id, summary=True).stats
    return dict(zip(OKS_METRICS, (float(value) for value in stats), strict=True))


def oks_precision(
    annotations: str | Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    sigmas: Sequence[float],
    category_id: int | None = None,
) -> npt.NDArray[np.float64]:
    """COCO's precision [10, 101] for each of OKS_STEPS at recall 0, 0.01 .. 1, over instances of all sizes.

    The mean of a row is the AP at that OKS. Arguments and errors as :func:`evaluate_oks`; NaN without annotations.
    """
    run = _accumulated(annotations, results, sigmas, category_id)
    precision = np.asarray(run.eval["precision"], np.float64)[:, :, :, 0, -1].mean(axis=2)  # [T, R] of [T, R, K, A, M]
    return np.where(precision < 0, np.nan, precision)


def _accumulated(
    annotations: str | Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    sigmas: Sequence[float],
    category_id: int | None,
    summary: bool = False,
) -> Any:
    """COCO's evaluator when it has counted."""
    from faster_coco_eval import COCO, COCOeval_faster

    page = annotations if isinstance(annotations, Mapping) else read_page(Path(annotations))
    source = "annotations" if isinstance(annotations, Mapping) else str(annotations)
    K = len(sigmas)
    notes = [
        _complete(note, K, source)
        for note in page["annotations"]
        if category_id is None or note["category_id"] == category_id
    ]
    categories = {note["category_id"] for note in notes}
    _check_results(results, {image["id"] for image in page["images"]}, K, source)
    truth = COCO(
        {
            "images": [dict(image) for image in page["images"]],
            "categories": [dict(c) for c in page["categories"] if c["id"] in categories],
            "annotations": notes,
        }
    )
    found = truth.loadRes([dict(one) for one in results if one["category_id"] in categories])
    run = COCOeval_faster(
        truth, found, "keypoints", kpt_oks_sigmas=np.asarray(sigmas, np.float64), print_function=_silent
    )
    run.evaluate()
    run.accumulate()
    if summary:
        run.summarize()
    return run


def _complete(note: Mapping[str, Any], K: int, source: str) -> dict[str, Any]:
    """A copy of an annotation with every key that the evaluation reads, and without the mask, which it does not."""
    filled = {key: value for key, value in note.items() if key != "segmentation" and value is not None}
    where = f"{source}: annotation {note['id']}"
    filled.setdefault("iscrowd", 0)
    keypoints = filled.setdefault("keypoints", [0] * (3 * K))
    if len(keypoints) != 3 * K:
        raise InputError(f"{where} has {len(keypoints)} keypoint numbers; {K} sigmas need {3 * K}: choose its category")
    filled.setdefault("num_keypoints", sum(v > 0 for v in keypoints[2::3]))
    if "area" not in filled and "bbox" not in filled:
        raise InputError(f"{where} has neither area nor bbox, OKS needs a scale: add one")
    filled.setdefault("bbox", [0, 0, 0, 0])
    if read_area(filled, where) is None:
        _, _, width, height = read_box(filled, where).tolist()
        filled["area"] = width * height
    return filled


def _check_results(results: Sequence[Mapping[str, Any]], images: set[int], K: int, source: str) -> None:
    for number, one in enumerate(results):
        if one["image_id"] not in images:
            raise InputError(f"result {number} is of image_id {one['image_id']}, which {source} does not have")
        if len(one["keypoints"]) != 3 * K:
            raise InputError(f"result {number} has {len(one['keypoints'])} keypoint numbers; {K} sigmas need {3 * K}")
        if not np.isfinite(one["score"]):
            raise InputError(f"result {number} has the score {one['score']}: the network diverged, take other weights")


def _silent(*_: object) -> None:
    """Takes the place of the evaluator's printing; the caller prints the figures it wants."""
