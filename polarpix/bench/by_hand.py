"""Loops over onnxruntime as one writes them without polarpix: numpy, OpenCV and a session, nothing checked.

They stand beside the predictor in `polarpix bench export`. Two for each task: over the exported file, which decodes
itself, and over the bare network, normalised and decoded in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["masks_bare", "masks_whole", "points_bare", "points_whole"]

Array = npt.NDArray[Any]
Loop = Callable[[], tuple[Array, Array]]

MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def session_of(path: Path) -> Any:
    """A session as most write it."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def affine_of(box: Array, size: tuple[int, int], padding: float) -> tuple[Array, Array]:
    """UDP's affine map [2, 3] from the image to the crop of a box, and its inverse."""
    across, down = size[1] - 1, size[0] - 1
    extent = max(box[2], box[3] * across / down) * padding
    scale = across / extent
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    there = np.array([[scale, 0, across / 2 - scale * x], [0, scale, down / 2 - scale * y]])
    back = np.array([[1 / scale, 0, x - across / 2 / scale], [0, 1 / scale, y - down / 2 / scale]], np.float32)
    return there, back


def points_whole(path: Path, image: Array, boxes: Array, size: tuple[int, int], padding: float) -> Loop:
    """Keypoints [N, K, 2] and scores [N, K] of the exported file."""
    session = session_of(path)

    def run() -> tuple[Array, Array]:
        affines = [affine_of(box, size, padding) for box in boxes]
        crops = np.stack([cv2.warpAffine(image, there, (size[1], size[0])) for there, _ in affines])
        points, scores, _ = session.run(None, {"image": crops, "to_image": np.stack([back for _, back in affines])})
        return points, scores

    return run


def points_bare(
    path: Path, image: Array, boxes: Array, size: tuple[int, int], padding: float, order: list[int], sigma: float
) -> Loop:
    """The same of a file that gives heatmaps [2N, K, h, w] of normalised crops: flip test and UDP's decode in numpy."""
    session = session_of(path)
    name = session.get_inputs()[0].name
    blur = 2 * int(np.ceil(2.5 * sigma)) + 1

    def run() -> tuple[Array, Array]:
        affines = [affine_of(box, size, padding) for box in boxes]
        crops = np.stack([cv2.warpAffine(image, there, (size[1], size[0])) for there, _ in affines])
        x = ((crops.astype(np.float32) - MEAN) / STD).transpose(0, 3, 1, 2)  # [N, 3, H, W]
        (both,) = session.run(None, {name: np.concatenate([x, x[..., ::-1]])})
        straight, mirrored = both[: len(x)], both[len(x) :]
        heatmaps = (straight + mirrored[:, order, :, ::-1]) / 2  # [N, K, h, w]
        points, scores = decode_udp(heatmaps, blur, sigma)
        h, w = heatmaps.shape[2:]
        points = points * np.array([(size[1] - 1) / (w - 1), (size[0] - 1) / (h - 1)], np.float32)
        back = np.stack([back for _, back in affines])
        return points @ back[:, :, :2].transpose(0, 2, 1) + back[:, None, :, 2], scores

    return run


def decode_udp(heatmaps: Array, blur: int, sigma: float) -> tuple[Array, Array]:
    """Peaks of heatmaps [N, K, h, w], refined by one Newton step on the smoothed logarithm: [N, K, 2] and [N, K]."""
    n, k, h, w = heatmaps.shape
    flat = heatmaps.reshape(n * k, h * w)
    at = flat.argmax(axis=1)
    scores = flat[np.arange(n * k), at].reshape(n, k)
    points = np.stack([at % w, at // w], axis=1).astype(np.float32)  # [N * K, 2]
    for i, (column, row) in enumerate(points.astype(int)):
        if 0 < column < w - 1 and 0 < row < h - 1:
            smooth = cv2.GaussianBlur(heatmaps.reshape(-1, h, w)[i], (blur, blur), sigma)
            L = np.log(np.maximum(smooth[row - 1 : row + 2, column - 1 : column + 2], 1e-10))
            gradient = np.array([L[1, 2] - L[1, 0], L[2, 1] - L[0, 1]]) / 2
            xy = (L[2, 2] - L[2, 0] - L[0, 2] + L[0, 0]) / 4
            hessian = np.array([[L[1, 2] - 2 * L[1, 1] + L[1, 0], xy], [xy, L[2, 1] - 2 * L[1, 1] + L[0, 1]]])
            if np.linalg.det(hessian) > 1e-10:
                points[i] -= np.clip(np.linalg.solve(hessian, gradient), -1, 1)
    return points.reshape(n, k, 2), scores


def masks_whole(path: Path, image: Array) -> Loop:
    """Labels [H, W] and confidence [H, W] of the exported file."""
    session = session_of(path)

    def run() -> tuple[Array, Array]:
        label, confidence = session.run(None, {"image": image[None]})
        return label[0], confidence[0]

    return run


def masks_bare(path: Path, image: Array) -> Loop:
    """The same of a file that gives logits [1, C, H, W] of normalised images: softmax and argmax in numpy."""
    session = session_of(path)
    name = session.get_inputs()[0].name

    def run() -> tuple[Array, Array]:
        x = ((image.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1)[None]
        (logits,) = session.run(None, {name: x})
        label = logits[0].argmax(axis=0).astype(np.uint8)  # [H, W]
        confidence = 1 / np.exp(logits[0] - logits[0].max(axis=0)).sum(axis=0)
        return label, confidence

    return run
