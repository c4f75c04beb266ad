"""Mean errors: in pixels, and normalised by a length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["mean_error", "nme", "rmse"]

Array = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def mean_error(pred: Array, gt: Array, visibility: Labels) -> float:
    """Mean distance in pixels over all labelled keypoints; DeepLabCut's tables call this RMSE.

    Args:
        pred: points [N, K, 2].
        gt: points [N, K, 2].
        visibility: [N, K]; 0 is not labelled.

    Returns:
        Pixels; NaN where nothing is labelled.
    """
    return _mean(_distances(pred, gt)[visibility > 0])


def rmse(pred: Array, gt: Array, visibility: Labels) -> float:
    """Root of the mean squared distance in pixels over all labelled keypoints; arguments as :func:`mean_error`."""
    return float(np.sqrt(_mean(_distances(pred, gt)[visibility > 0] ** 2)))


def nme(pred: Array, gt: Array, visibility: Labels, reference: Array) -> float:
    """Mean distance in units of a reference length over all labelled keypoints.

    Args:
        pred: points [N, K, 2].
        gt: points [N, K, 2].
        visibility: [N, K]; 0 is not labelled.
        reference: lengths [N] in pixels; instances with NaN are left out.

    Returns:
        A share of the reference length; NaN where nothing is labelled.
    """
    counted = (visibility > 0) & np.isfinite(reference)[:, None]  # [N, K]
    return _mean((_distances(pred, gt) / reference[:, None])[counted])


def _distances(pred: Array, gt: Array) -> npt.NDArray[np.float64]:
    """Distances [N, K] of points [N, K, 2]."""
    return np.asarray(np.linalg.norm(np.asarray(pred, np.float64) - gt, axis=-1))


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
