"""Percentage of correct keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.types import FloatArray, KeypointSchema

__all__ = ["pck", "reference_length", "reference_pair"]

Array = npt.NDArray[np.floating]


def reference_length(
    gt: Array, visibility: npt.NDArray[np.integer], boxes: Array, schema: KeypointSchema, pair: Sequence[str] | None
) -> FloatArray:
    """The length [N] in pixels that an error is measured by; NaN where an instance has none.

    Args:
        gt: annotated points [N, K, 2].
        visibility: [N, K]; 0 is not labelled.
        boxes: [N, 4], x, y, width, height.
        schema: knows the names.
        pair: two keypoints whose distance is the length (left_shoulder and right_hip for the torso of LSP); an instance
            without both has none. None takes the longer side of the box.

    Raises:
        InputError: the pair is not two names of the schema.
    """
    if pair is None:
        return np.asarray(boxes[:, 2:].max(axis=1), np.float32)
    a, b = reference_pair(schema, pair)
    length = np.linalg.norm(gt[:, a] - gt[:, b], axis=-1)
    return np.where((visibility[:, [a, b]] > 0).all(axis=1) & (length > 0), length, np.nan).astype(np.float32)


def reference_pair(schema: KeypointSchema, pair: Sequence[str]) -> tuple[int, int]:
    """The indices of the two keypoints whose distance is the reference.

    Raises:
        InputError: the pair is not two names of the schema.
    """
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(schema.names):
        raise InputError(f"eval.pck_reference is {list(pair)}: give two of {', '.join(schema.names)}")
    return schema.names.index(pair[0]), schema.names.index(pair[1])


def pck(
    pred: Array, gt: Array, visibility: npt.NDArray[np.integer], reference: Array, threshold: float
) -> tuple[float, FloatArray]:
    """Share of labelled keypoints that lie within ``threshold`` times the reference length (Yang & Ramanan, PAMI 2013).

    Args:
        pred: points [N, K, 2].
        gt: points [N, K, 2].
        visibility: [N, K]; 0 is not labelled.
        reference: lengths [N] in pixels; instances with NaN are left out.
        threshold: share of the reference length; a point at exactly that distance is correct.

    Returns:
        The share over all labelled keypoints, and for each keypoint [K], in 0..1; NaN where none is labelled.
    """
    counted = (visibility > 0) & np.isfinite(reference)[:, None]  # [N, K]
    correct = counted & (np.linalg.norm(pred - gt, axis=-1) <= threshold * np.nan_to_num(reference)[:, None])
    hits, total = correct.sum(axis=0), counted.sum(axis=0)  # [K]
    each = np.where(total > 0, hits / np.maximum(total, 1), np.nan).astype(np.float32)
    return (float(hits.sum() / total.sum()) if total.sum() else float("nan")), each
