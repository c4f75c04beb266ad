"""Predictions drawn on pictures: arrays in, array out. Nothing here reads a file, changes its input or needs torch.

Pictures are uint8 [H, W, 3] RGB (see :func:`polarpix.rgb.to_rgb` for what else is taken); results are new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.rgb import to_rgb
from polarpix.sheet import PAPER, captioned
from polarpix.types import ClassTable, FloatArray, KeypointSchema, PosePrediction, UInt8Array

__all__ = [
    "draw_boxes",
    "draw_gates",
    "draw_heatmaps",
    "draw_keypoints",
    "draw_mask",
    "keypoint_colors",
    "palette",
]

Color = tuple[int, int, int]
Picture = npt.NDArray[Any]

_LEFT, _RIGHT, _MIDDLE = (255, 140, 40), (40, 170, 255), (190, 235, 90)
_SHIFT = 4  # cv2 takes coordinates with this many binary digits after the point


def palette(count: int) -> tuple[Color, ...]:
    """So many colours that are easy to tell apart: hues by the golden ratio, lightness in turns."""
    hues = np.arange(count) * 0.61803398875 % 1 * 180
    rows = [(hue, (200, 150, 225)[i % 3], (235, 255, 190)[i // 2 % 3]) for i, hue in enumerate(hues)]
    hsv = np.array(rows, np.uint8).reshape(1, -1, 3)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] if count else hsv[0]
    return tuple((int(r), int(g), int(b)) for r, g, b in rgb)


def keypoint_colors(schema: KeypointSchema) -> tuple[Color, ...]:
    """Orange for the left, blue for the right, green between; distinct hues where the schema knows no sides."""
    if not schema.flip_pairs:
        return palette(len(schema.names))
    colors = [_MIDDLE] * len(schema.names)
    for pair in schema.flip_pairs:
        swapped = _is_right(schema.names[pair[0]]) or _is_left(schema.names[pair[1]])
        left, right = pair[::-1] if swapped else pair
        colors[left], colors[right] = _LEFT, _RIGHT
    return tuple(colors)


def draw_keypoints(
    image: Picture,
    pose: PosePrediction | FloatArray,
    schema: KeypointSchema,
    scores: npt.NDArray[Any] | None = None,
    threshold: float = 0.2,
    zoom: int = 1,
    ellipses: FloatArray | None = None,
) -> UInt8Array:
    """Draw skeletons; lines and dots grow with the instance.

    Args:
        image: picture [H, W, 3].
        pose: a prediction, or keypoints [N, K, 2] in pixels of the picture. What is not finite is left out.
        schema: names, sides and lines.
        scores: [N, K]; for a prediction its own are taken unless given. COCO visibilities serve as well.
        threshold: keypoints scored at or below this are left out, with their lines.
        zoom: the result is so many times as large, so that small pictures carry fine lines.
        ellipses: matrices S [N, K, 2, 2] in square pixels; the points x around k with (x - k)^T S^-1 (x - k) = 1 are
            drawn as well.

    Raises:
        InputError: keypoints or scores of another shape than the schema's.
    """
    canvas, points = to_rgb(image), pose
    if isinstance(pose, PosePrediction):
        points, scores = pose.keypoints, pose.scores if scores is None else scores
    points = np.asarray(points, np.float64)  # [N, K, 2]
    k = len(schema.names)
    if points.ndim != 3 or points.shape[1:] != (k, 2):
        raise InputError(f"keypoints have shape {list(points.shape)}: the schema of {k} keypoints needs [N, {k}, 2]")
    shown: npt.NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=2))  # [N, K]
    if scores is not None:
        if np.shape(scores) != shown.shape:
            raise InputError(f"scores have shape {list(np.shape(scores))}: must be {list(shown.shape)}")
        shown = shown & (np.asarray(scores) > threshold)
    canvas = _zoomed(canvas, zoom)
    points = (points + 0.5) * zoom - 0.5
    colors = keypoint_colors(schema)
    if ellipses is not None:
        _draw_ellipses(canvas, points, np.asarray(ellipses, np.float64) * zoom**2, shown, colors)
    for keypoints, seen in zip(points, shown, strict=True):
        if seen.any():
            _draw_instance(canvas, keypoints, seen, schema, colors, zoom)
    return canvas


def draw_boxes(image: Picture, boxes: npt.NDArray[Any], color: Color = (255, 230, 80), zoom: int = 1) -> UInt8Array:
    """Draw boxes [N, 4] (x, y, width, height in pixels of the picture), `zoom` as for the keypoints."""
    canvas = _zoomed(to_rgb(image), zoom)
    for x, y, width, height in np.asarray(boxes, np.float64).reshape(-1, 4):
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]) * zoom - 0.5
        thick = max(1, round(min(canvas.shape[:2]) / 240))
        fixed = _fixed(corners)
        cv2.polylines(canvas, [fixed], True, (0, 0, 0), thick + 2, cv2.LINE_AA, _SHIFT)
        cv2.polylines(canvas, [fixed], True, color, thick, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_mask(
    image: Picture, label: npt.NDArray[np.integer[Any]], classes: ClassTable, alpha: float = 0.55, zoom: int = 1
) -> UInt8Array:
    """Lay the class colours over a picture, with a line where classes meet.

    A class named "background" and the ignore label stay clear.

    Args:
        image: picture [H, W, 3].
        label: class index or ignore [H, W].
        classes: names and colours.
        alpha: weight of the colours; 1 hides the picture and then paints the background too.
        zoom: the result is so many times as large.

    Raises:
        InputError: a label map of another size, or values outside the classes.
    """
    canvas = to_rgb(image)
    if label.shape != canvas.shape[:2]:
        raise InputError(f"label map is {list(label.shape)}, image {list(canvas.shape[:2])}: give both the same size")
    count = len(classes.names)
    wrong = label[((label < 0) | (label >= count)) & (label != classes.ignore)]
    if wrong.size:
        raise InputError(f"label map holds {int(wrong[0])}: must be in 0..{count - 1} or {classes.ignore}")
    table = np.zeros((256, 3), np.float32)
    table[:count] = classes.colors
    weight = np.zeros(256, np.float32)
    weight[:count] = alpha
    if alpha < 1 and "background" in classes.names:
        weight[classes.names.index("background")] = 0
    canvas = _zoomed(canvas, zoom)
    label = np.repeat(np.repeat(label, zoom, axis=0), zoom, axis=1).astype(np.uint8)  # [H * zoom, W * zoom]
    share = weight[label][..., None]  # [H, W, 1]
    mixed = canvas * (1 - share) + table[label] * share
    if alpha < 1:
        border = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
        clear = np.where(weight[label][..., None] > 0, table[label], mixed)
        mixed = np.where(border[..., None], 0.35 * mixed + 0.65 * np.minimum(clear * 1.15 + 20, 255), mixed)
    return _rounded(mixed)


def draw_heatmaps(
    image: Picture,
    heatmaps: FloatArray,
    schema: KeypointSchema | None = None,
    top: float | None = None,
    zoom: int = 1,
) -> UInt8Array:
    """Glow of the heatmaps [K, h, w] over the crop [H, W, 3] they were computed from, each in its keypoint's colour.

    Args:
        image: the crop.
        heatmaps: one map per keypoint; stretched over the crop.
        schema: gives left and right their colours; None for distinct hues.
        top: value of full brightness; None for the largest, so that faint maps can be seen too.
        zoom: the result is so many times as large.

    Raises:
        InputError: heatmaps without the axes [K, h, w], or not one per keypoint of the schema.
    """
    canvas = _zoomed(to_rgb(image), zoom)
    maps = np.asarray(heatmaps, np.float32)
    if maps.ndim != 3 or (schema is not None and len(maps) != len(schema.names)):
        raise InputError(f"heatmaps have shape {list(maps.shape)}: give [K, h, w], one per keypoint")
    colors = keypoint_colors(schema) if schema is not None else palette(len(maps))
    top = max(float(maps.max(initial=0)) if top is None else top, 1e-6)
    height, width = canvas.shape[:2]
    mixed = canvas * np.float32(0.45)
    for heatmap, color in zip(maps, colors, strict=True):
        glow = cv2.resize(np.clip(heatmap / top, 0, 1), (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
        mixed = mixed * (1 - glow) + np.asarray(color, np.float32) * glow
    return _rounded(mixed)


def draw_gates(image: Picture, channel: npt.NDArray[Any], spatial: npt.NDArray[Any], zoom: int = 1) -> UInt8Array:
    """The two gates of polarized self-attention on one picture.

    Above, the spatial gate as heat over the picture, blue for its smallest value and red for its largest; below, the
    channel gate, one bar per channel in order. Both are stretched to their own spread, which is printed beside them:
    a gate that does nothing looks lively too, and only the figures tell.

    Args:
        image: picture [H, W, 3] that the block saw.
        channel: [C], or with axes of length 1 around it.
        spatial: [h, w], likewise; stretched over the picture.
        zoom: the result is so many times as large.

    Raises:
        InputError: another number of axes.
    """
    bars, heat = np.asarray(channel, np.float32).squeeze(), np.asarray(spatial, np.float32)
    bars = np.atleast_1d(bars)
    heat = heat.reshape(heat.shape[-2:]) if heat.ndim >= 2 and heat.size == math.prod(heat.shape[-2:]) else heat
    if bars.ndim != 1 or heat.ndim != 2:
        raise InputError(f"gates are {list(np.shape(channel))} and {list(np.shape(spatial))}: give [C] and [h, w]")
    canvas = _zoomed(to_rgb(image), zoom)
    height, width = canvas.shape[:2]
    smooth = cv2.resize(np.clip(_stretched(heat), 0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    glow = cv2.applyColorMap(np.rint(smooth * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    picture = _rounded(canvas * 0.45 + glow * 0.55)
    tall = max(24, height // 6)
    grown = np.interp(np.linspace(0, len(bars) - 1, width), np.arange(len(bars)), _stretched(bars))
    if len(bars) <= width:  # whole bars rather than slopes
        grown = _stretched(bars)[np.arange(width) * len(bars) // width]
    filled = np.arange(tall)[::-1, None] < 1 + grown[None, :] * (tall - 2)  # [tall, W]
    plot = np.where(filled[..., None], np.array(_RIGHT, np.uint8), np.array(PAPER, np.uint8))
    margin = ((0, 0), (0, max(0, 160 - width)), (0, 0))  # the figures must stay readable beside a small picture
    picture, plot = (np.pad(part, margin, constant_values=PAPER[0]) for part in (picture, plot))
    above = captioned(picture, f"spatial {_spread(heat)}")
    below = captioned(plot, f"channel {_spread(bars)}")
    return np.concatenate([above, below])


def _is_left(name: str) -> bool:
    return name.lower().startswith(("left", "l_", "l-"))


def _is_right(name: str) -> bool:
    return name.lower().startswith(("right", "r_", "r-"))


def _zoomed(image: UInt8Array, zoom: int) -> UInt8Array:
    """A copy, so many times as large; pixel (0, 0) is spread over zoom x zoom pixels."""
    if zoom < 1:
        raise InputError(f"zoom is {zoom}: give a whole number from 1 on")
    if zoom == 1:
        return image.copy()
    return np.asarray(cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), np.uint8)


def _rounded(values: npt.NDArray[Any]) -> UInt8Array:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _draw_ellipses(
    canvas: UInt8Array,
    points: npt.NDArray[np.floating[Any]],
    matrices: npt.NDArray[np.floating[Any]],
    shown: npt.NDArray[np.bool_],
    colors: Sequence[Color],
) -> None:
    """Outlines around points [N, K, 2] by matrices [N, K, 2, 2], in pixels of the canvas."""
    angles = np.linspace(0, 2 * np.pi, 49)
    circle = np.stack([np.cos(angles), np.sin(angles)])  # [2, 49]
    for n, k in np.argwhere(shown):
        values, vectors = np.linalg.eigh(matrices[n, k])
        outline = points[n, k] + (vectors * np.sqrt(values.clip(0)) @ circle).T  # [49, 2]
        cv2.polylines(canvas, [_fixed(outline)], True, (0, 0, 0), 3, cv2.LINE_AA, _SHIFT)
        cv2.polylines(canvas, [_fixed(outline)], True, colors[k], 1, cv2.LINE_AA, _SHIFT)


def _fixed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Points as cv2 wants them, kept within what its integers hold."""
    return np.asarray(np.rint(np.clip(np.nan_to_num(points), -30000, 30000) * 2**_SHIFT), np.int32)


def _draw_instance(
    canvas: UInt8Array,
    points: npt.NDArray[np.float64],
    seen: npt.NDArray[np.bool_],
    schema: KeypointSchema,
    colors: Sequence[Color],
    zoom: int,
) -> None:
    """Lines, then dots, each over a dark rim, mixed into the canvas in place."""
    extent = float(np.ptp(points[seen], axis=0).max()) if seen.sum() > 1 else 60.0 * zoom
    thick = max(1, min(round(extent / 90), 14))
    radius = max(2.0, 1.25 * thick + 0.5) if thick > 1 else 1.6
    fixed = [(int(x), int(y)) for x, y in _fixed(points)]
    layer = canvas.copy()
    lines = [(a, b) for a, b in schema.skeleton if seen[a] and seen[b]]
    for a, b in lines:
        cv2.line(layer, fixed[a], fixed[b], (20, 20, 20), thick + 2, cv2.LINE_AA, _SHIFT)
    for a, b in lines:
        sides = {colors[a], colors[b]}
        plain = sides - {_MIDDLE}
        color = plain.pop() if schema.flip_pairs and len(plain) == 1 else _MIDDLE if len(sides) > 1 else colors[a]
        cv2.line(layer, fixed[a], fixed[b], color, thick, cv2.LINE_AA, _SHIFT)
    for k in np.flatnonzero(seen).tolist():
        cv2.circle(layer, fixed[k], round((radius + 1) * 2**_SHIFT), (20, 20, 20), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(layer, fixed[k], round(radius * 2**_SHIFT), colors[k], -1, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(layer, 0.88, canvas, 0.12, 0, dst=canvas)


def _stretched(values: npt.NDArray[Any]) -> FloatArray:
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-12)).astype(np.float32)


def _spread(values: npt.NDArray[Any]) -> str:
    return f"{values.min():.3g} .. {values.max():.3g}"
