"""Codecs: keypoints -> heatmaps to learn, and predicted heatmaps -> keypoints, in one object each.

With W the width of the crop, w that of the heatmap and stride s = W / w, a point x of the crop lies on the heatmap at

- ``x / s`` for the classic codecs (Gaussian, DARK), where W pixels become w, and at
- ``x * (w - 1) / (W - 1)`` for UDP, where the W - 1 gaps between pixel centres become w - 1. Mirroring the crop
  (x -> W - 1 - x) then mirrors the heatmap exactly; in the classic convention it is off by 1 - 1 / s heatmap pixels.

Sources: Xiao et al., ECCV 2018 (Gaussian); Zhang et al., CVPR 2020 (DARK); Huang et al., CVPR 2020 (UDP).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from polarpix.errors import InputError
from polarpix.pose.maps import (
    by_keypoint,
    gaussian_kernel,
    gaussians,
    newton,
    patches,
    peaks,
    smooth,
    spread,
    with_neighbours,
)
from polarpix.types import FloatArray

__all__ = ["CODECS", "Codec", "Dark", "Gaussian", "Udp", "UdpOffset", "build_codec"]


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

    def covariance(self, heatmaps: Tensor, keypoints: Tensor, fit: tuple[float, float] = (1.0, 0.0)) -> Tensor:
        """How sure heatmaps [B, K * channels, h, w] are of decoded keypoints [B, K, 2]: [B, K, 2, 2], crop pixels^2."""
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
        return gaussians(points, weight, self.heatmap_size, self.sigma, radius=int(3 * self.sigma)), weight

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps [B, K, h, w] -> keypoints [B, K, 2] in crop pixels and peak heights [B, K], both float32."""
        x, y, score = peaks(heatmaps)
        patch = patches(heatmaps, x, y, 1)  # [B, K, 3, 3]
        inside_x, inside_y = with_neighbours(x, y, self.heatmap_size)
        dx = torch.where(inside_x, torch.sign(patch[..., 1, 2] - patch[..., 1, 0]) * 0.25, 0.0)
        dy = torch.where(inside_y, torch.sign(patch[..., 2, 1] - patch[..., 0, 1]) * 0.25, 0.0)
        points = torch.stack((x + dx, y + dy), dim=-1)  # [B, K, 2]
        return points * torch.tensor(self._gap().tolist(), device=points.device), score

    def covariance(self, heatmaps: Tensor, keypoints: Tensor, fit: tuple[float, float] = (1.0, 0.0)) -> Tensor:
        """How sure heatmaps [B, K * channels, h, w] are of the keypoints [B, K, 2] that they were decoded to.

        A network that has learned Gaussians by their squared error gives, where it doubts, the mean of all Gaussians
        that may be: its map is then the density of the place, blurred by the target. The second moments of that around
        the keypoint are scaled as measured on a validation split.

        Args:
            heatmaps: as they were decoded.
            keypoints: in crop pixels.
            fit: factor on the moments, and squared heatmap pixels to add to both variances, as
                :attr:`polarpix.calibration.Calibration.covariance`.

        Returns:
            [B, K, 2, 2] in squared crop pixels, float32.
        """
        gap = torch.tensor(self._gap().tolist(), device=heatmaps.device)
        maps = heatmaps if self.channels_per_keypoint == 1 else heatmaps[:, :: self.channels_per_keypoint]
        moments = spread(maps, keypoints / gap)  # [B, K, 2, 2]
        floor = torch.eye(2, device=heatmaps.device) * fit[1]
        return (moments * fit[0] + floor) * (gap[:, None] * gap)

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
        return gaussians(points, weight, self.heatmap_size, self.sigma), weight

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps [B, K, h, w] -> keypoints [B, K, 2] in crop pixels and peak heights [B, K], both float32."""
        x, y, score = peaks(heatmaps)
        points = torch.stack((x, y), dim=-1) + newton(heatmaps, x, y, self.sigma)  # [B, K, 2]
        return points * torch.tensor(self._gap().tolist(), device=points.device), score


class Udp(Dark):
    """Unbiased data processing with heatmaps: DARK's target and decode, with sizes measured between pixel centres."""

    unbiased = True

    def _gap(self) -> FloatArray:
        (H, W), (h, w) = self.input_size, self.heatmap_size
        return np.array([(W - 1) / (w - 1), (H - 1) / (h - 1)], np.float32)


class UdpOffset(Udp):
    """Unbiased data processing with offsets: a disk around the keypoint and, on the disk, the way to its centre.

    Three maps a keypoint (Huang et al., CVPR 2020, sec. 3.3): 1 within the radius of the keypoint and 0 elsewhere, then
    the offset from each pixel of the disk to the keypoint in x and in y, in radii. Decoding smooths all of them as the
    published code does (15 x 15 and 7 x 7 Gaussians), and adds the offset found at the highest pixel of the disk. That
    pixel's smoothed height is the score: at most about 0.7 for a disk of radius 4.

    Args:
        input_size: height and width of the crop in pixels.
        heatmap_size: height and width of the maps, each at least 8.
        sigma: radius of the disk in pixels of the maps; 4 as published, whatever their size.
    """

    channels_per_keypoint = 3

    # What OpenCV, and so the published decode, takes for kernels of 15 and 7 pixels.
    DISK_BLUR = tuple(gaussian_kernel(7, 2.6))
    OFFSET_BLUR = (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125)

    def __init__(self, input_size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float = 4.0) -> None:
        super().__init__(input_size, heatmap_size, sigma)
        if min(heatmap_size) < 8:
            raise InputError(f"heatmap {heatmap_size}: decoding offsets smooths over 15 pixels, each side needs 8")

    def encode(self, keypoints: FloatArray, visible: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keypoints [K, 2] in crop pixels, visible [K] -> target [3 * K, h, w], weight [K]."""
        points = keypoints / self._gap()  # [K, 2]
        weight = self._weight(points, visible)
        h, w = self.heatmap_size
        x = (points[:, :1] - np.arange(w)) / self.sigma  # [K, w]
        y = (points[:, 1:] - np.arange(h)) / self.sigma  # [K, h]
        x, y = np.broadcast_arrays(x[:, None, :], y[:, :, None])  # [K, h, w] each
        disk = (x**2 + y**2 <= 1) & (weight > 0)[:, None, None]
        target = np.stack((disk, x * disk, y * disk), axis=1)  # [K, 3, h, w]
        return target.reshape(-1, h, w).astype(np.float32), weight

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, 3 * K, h, w] -> keypoints [B, K, 2] in crop pixels, smoothed peak heights [B, K], both float32."""
        disk, offsets = heatmaps[:, ::3], by_keypoint(heatmaps, 3)[:, :, 1:]  # [B, K, h, w], [B, K, 2, h, w]
        x, y, score = peaks(smooth(disk, self.DISK_BLUR))
        at = (y * self.heatmap_size[1] + x).long()[..., None, None].expand(-1, -1, 2, 1)  # [B, K, 2, 1]
        step = smooth(offsets, self.OFFSET_BLUR).flatten(3).gather(3, at)[..., 0]  # [B, K, 2]
        points = torch.stack((x, y), dim=-1) + step * self.sigma
        return points * torch.tensor(self._gap().tolist(), device=points.device), score


CODECS: dict[str, type[Codec]] = {
    "gaussian": Gaussian,
    "dark": Dark,
    "udp": Udp,
    "udp_offset": UdpOffset,
}
"""Name -> codec: encode and decode in one object."""


def build_codec(name: str, input_size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float) -> Codec:
    """The codec of that name.

    Raises:
        InputError: no such codec, or sizes or sigma that cannot be.
    """
    if name not in CODECS:
        raise InputError(f"codec is {name!r}: choose one of {', '.join(CODECS)}")
    return CODECS[name](input_size, heatmap_size, sigma)
