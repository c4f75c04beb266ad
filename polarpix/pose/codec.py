"""Codecs: keypoints -> heatmaps to learn, and predicted heatmaps -> keypoints, in one object each.

With W the width of the crop, w that of the heatmap and stride s = W / w, a point x of the crop lies on the heatmap at

- ``x / s`` for the classic codecs (Gaussian, DARK), where W pixels become w, and at
- ``x * (w - 1) / (W - 1)`` for UDP, where the W - 1 gaps between pixel centres become w - 1. Mirroring the crop
  (x -> W - 1 - x) then mirrors the heatmap exactly; in the classic convention it is off by 1 - 1 / s heatmap pixels.

Sources: Xiao et al., ECCV 2018 (Gaussian); Zhang et al., CVPR 2020 (DARK); Huang et al., CVPR 2020 (UDP).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polarpix.errors import InputError
from polarpix.types import FloatArray

__all__ = ["CODECS", "Codec", "Dark", "Gaussian", "Udp", "build_codec", "flip_heatmaps"]


class Codec(Protocol):
    """What a codec offers; sizes are (height, width), points are (x, y) in crop pixels."""

    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    sigma: float
    channels_per_keypoint: int
    unbiased: bool  # the crop must use the UDP convention

    def __init__(self, input_size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float = 2.0) -> None: ...

    def encode(self, keypoints: FloatArray, visible: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keypoints [K, 2] and visible [K] -> target [K * channels, h, w] and weight [K] (0: not to be learned)."""
        ...

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps [B, K * channels, h, w] -> keypoints [B, K, 2] and scores [B, K], both float32."""
        ...


class Gaussian:
    """SimpleBaseline's codec: a Gaussian around the nearest heatmap pixel; decode shifts the peak by a quarter pixel.

    The target is cut off at 3 sigma. Decoding moves the highest pixel by 0.25 towards its higher neighbour, in x and in
    y. A point that lies outside of the heatmap gets weight 0 and an empty target.

    Args:
        input_size: height and width of the crop in pixels.
        heatmap_size: height and width of the heatmap.
        sigma: standard deviation in heatmap pixels.
    """

    channels_per_keypoint = 1
    unbiased = False

    def __init__(self, input_size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float = 2.0) -> None:
        if not sigma > 0:
            raise InputError(f"sigma is {sigma}: it must be positive")
        if min(*input_size, *heatmap_size) < 3:
            raise InputError(f"input {input_size} and heatmap {heatmap_size}: each side needs at least 3 pixels")
        self.input_size, self.heatmap_size, self.sigma = input_size, heatmap_size, float(sigma)

    def encode(self, keypoints: FloatArray, visible: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keypoints [K, 2] in crop pixels, visible [K] -> target [K, h, w], weight [K]."""
        points = np.floor(keypoints / self._gap() + 0.5)  # [K, 2]
        weight = self._weight(points, visible)
        return _gaussians(points, weight, self.heatmap_size, self.sigma, radius=int(3 * self.sigma)), weight

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps [B, K, h, w] -> keypoints [B, K, 2] in crop pixels and peak heights [B, K], both float32."""
        x, y, score = _peaks(heatmaps)
        patch = _patches(heatmaps, x, y, 1)  # [B, K, 3, 3]
        inside_x, inside_y = _inside(x, y, self.heatmap_size)
        dx = torch.where(inside_x, torch.sign(patch[..., 1, 2] - patch[..., 1, 0]) * 0.25, 0.0)
        dy = torch.where(inside_y, torch.sign(patch[..., 2, 1] - patch[..., 0, 1]) * 0.25, 0.0)
        points = torch.stack((x + dx, y + dy), dim=-1)  # [B, K, 2]
        return points * torch.tensor(self._gap().tolist(), device=points.device), score

    def _gap(self) -> FloatArray:
        """Crop pixels between two heatmap pixels, (x, y)."""
        (H, W), (h, w) = self.input_size, self.heatmap_size
        return np.array([W / w, H / h], np.float32)

    def _weight(self, points: FloatArray, visible: FloatArray) -> FloatArray:
        """Weight [K]: ``visible``, but 0 for the points [K, 2] whose nearest pixel is not on the heatmap."""
        h, w = self.heatmap_size
        inside = (points >= -0.5).all(axis=1) & (points[:, 0] < w - 0.5) & (points[:, 1] < h - 0.5)
        return np.where(inside, visible, 0).astype(np.float32)


class Dark(Gaussian):
    """DARK: an unquantised Gaussian target, and a decode that finds the summit between the pixels.

    Decoding smooths the heatmap with the target's own Gaussian and takes one Newton step on its logarithm from the
    highest pixel (Zhang et al., CVPR 2020, eq. 3 to 8), by at most one pixel each way. Within 1.5 sigma of the border
    the map is not smoothed, and a peak on the outermost pixels is refined only along the border.
    """

    def encode(self, keypoints: FloatArray, visible: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keypoints [K, 2] in crop pixels, visible [K] -> target [K, h, w], weight [K]."""
        points = keypoints / self._gap()  # [K, 2]
        weight = self._weight(points, visible)
        return _gaussians(points, weight, self.heatmap_size, self.sigma), weight

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps [B, K, h, w] -> keypoints [B, K, 2] in crop pixels and peak heights [B, K], both float32."""
        x, y, score = _peaks(heatmaps)
        points = torch.stack((x, y), dim=-1) + _newton(heatmaps, x, y, self.sigma)  # [B, K, 2]
        return points * torch.tensor(self._gap().tolist(), device=points.device), score


class Udp(Dark):
    """Unbiased data processing with heatmaps: DARK's target and decode, with sizes measured between pixel centres."""

    unbiased = True

    def _gap(self) -> FloatArray:
        (H, W), (h, w) = self.input_size, self.heatmap_size
        return np.array([(W - 1) / (w - 1), (H - 1) / (h - 1)], np.float32)


CODECS: dict[str, type[Codec]] = {
    "gaussian": Gaussian,
    "dark": Dark,
    "udp": Udp,
}


def build_codec(name: str, input_size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float) -> Codec:
    """The codec of that name.

    Raises:
        InputError: no such codec, or sizes or sigma that cannot be.
    """
    if name not in CODECS:
        raise InputError(f"codec is {name!r}: choose one of {', '.join(CODECS)}")
    return CODECS[name](input_size, heatmap_size, sigma)


def flip_heatmaps(heatmaps: Tensor, flip_order: Sequence[int], shift: bool) -> Tensor:
    """Turn the heatmaps [B, K, h, w] of a mirrored crop back: mirror in x and swap left and right.

    Args:
        heatmaps: the network's output on the mirrored crop.
        flip_order: the permutation [K] of :attr:`~polarpix.types.KeypointSchema.flip_order`.
        shift: move the result right by one pixel, which undoes most of the misalignment of the classic convention.
    """
    order = torch.tensor(list(flip_order), device=heatmaps.device)
    back = heatmaps.flip(-1).index_select(1, order)
    return torch.cat((back[..., :1], back[..., :-1]), dim=-1) if shift else back


def _gaussians(
    points: FloatArray, weight: FloatArray, size: tuple[int, int], sigma: float, radius: int | None = None
) -> FloatArray:
    """Gaussians [K, h, w] of height 1 around points [K, 2]; zero where the weight is, and beyond the radius."""
    h, w = size
    dx = np.arange(w, dtype=np.float32) - points[:, :1]  # [K, w]
    dy = np.arange(h, dtype=np.float32) - points[:, 1:]  # [K, h]
    gx, gy = (np.exp(-(d**2) / (2 * sigma**2)) for d in (dx, dy))
    if radius is not None:
        gx, gy = gx * (np.abs(dx) <= radius), gy * (np.abs(dy) <= radius)
    gy = np.where(weight[:, None] > 0, gy, 0)
    return np.asarray(gy[:, :, None] * gx[:, None, :], np.float32)


def _peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row and height of the highest pixel of each map, float32 [B, K] each."""
    flat = heatmaps.float().flatten(2)  # [B, K, h * w]
    at = flat.argmax(dim=-1)  # [B, K]
    w = heatmaps.shape[-1]
    return (at % w).float(), torch.div(at, w, rounding_mode="floor").float(), flat.amax(dim=-1)


def _inside(x: Tensor, y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Whether the pixel has both neighbours in x, and in y."""
    h, w = size
    return (x > 0) & (x < w - 1), (y > 0) & (y < h - 1)


def _patches(heatmaps: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """The squares [B, K, 2r + 1, 2r + 1] around the pixels x, y [B, K]; zero outside of the map."""
    padded = F.pad(heatmaps.float(), (radius,) * 4)
    width = padded.shape[-1]
    span = torch.arange(2 * radius + 1, device=heatmaps.device)
    offset = (span[:, None] * width + span).flatten()  # [(2r + 1)^2]
    corner = y.long() * width + x.long()  # [B, K], in padded pixels the square's first
    patch = padded.flatten(2).gather(2, corner[..., None] + offset)
    return patch.reshape(*patch.shape[:2], 2 * radius + 1, 2 * radius + 1)


def _newton(heatmaps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """The step [B, K, 2] from pixels x, y to the summit of the smoothed log-heatmap, at most one pixel each way.

    Only the 3x3 values that the derivatives need are smoothed. The height of the map drops out of the derivatives, so
    the rescaling of the published method is not needed.
    """
    h, w = heatmaps.shape[-2:]
    radius = math.ceil(2.5 * sigma)
    kernel = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)]
    rows = [[0.0] * i + [k / sum(kernel) for k in kernel] + [0.0] * (2 - i) for i in range(3)]
    blur = torch.tensor(rows, device=heatmaps.device)  # [3, 2r + 3]
    patch = _patches(heatmaps, x, y, radius + 1)  # [B, K, 2r + 3, 2r + 3]
    smooth = (patch[..., None, :, :] * blur[:, None, :]).sum(-1)  # [B, K, 3 (x), 2r + 3]
    smooth = (smooth[..., None, :, :] * blur[:, None, :]).sum(-1)  # [B, K, 3 (y), 3 (x)]
    # Smoothing over the border pulls a peak inwards by up to 0.7 pixels, but by less than 0.07 beyond 1.5 sigma of it.
    margin = 1.5 * sigma
    near = (x < margin) | (x > w - 1 - margin) | (y < margin) | (y > h - 1 - margin)
    L = torch.where(near[..., None, None], patch[..., radius : radius + 3, radius : radius + 3], smooth)
    L = L.clamp_min(1e-10).log()
    inside_x, inside_y = _inside(x, y, (h, w))  # a step across the border has no second derivative to go by
    gx = torch.where(inside_x, (L[..., 1, 2] - L[..., 1, 0]) / 2, 0.0)
    gy = torch.where(inside_y, (L[..., 2, 1] - L[..., 0, 1]) / 2, 0.0)
    hxx = torch.where(inside_x, L[..., 1, 2] - 2 * L[..., 1, 1] + L[..., 1, 0], -1.0)
    hyy = torch.where(inside_y, L[..., 2, 1] - 2 * L[..., 1, 1] + L[..., 0, 1], -1.0)
    hxy = (L[..., 2, 2] - L[..., 2, 0] - L[..., 0, 2] + L[..., 0, 0]) / 4
    hxy = torch.where(inside_x & inside_y, hxy, 0.0)
    det = hxx * hyy - hxy * hxy
    summit = (det > 1e-10) & (hxx < 0)  # else the surface has no summit here and the highest pixel stands
    det = torch.where(summit, det, 1.0)
    dx = torch.where(summit, (hxy * gy - hyy * gx) / det, 0.0)
    dy = torch.where(summit, (hxy * gx - hxx * gy) / det, 0.0)
    return torch.stack((dx, dy), dim=-1).clamp(-1, 1)
