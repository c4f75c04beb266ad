"""What codecs do with heatmaps [B, K, h, w]: draw Gaussians, find peaks, cut patches out, smooth, mirror."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polarpix.types import FloatArray

__all__ = [
    "by_keypoint",
    "flip_heatmaps",
    "gaussian_kernel",
    "gaussians",
    "newton",
    "patches",
    "peaks",
    "smooth",
    "spread",
    "with_neighbours",
]


def by_keypoint(maps: Tensor, channels: int) -> Tensor:
    """Maps [B, K * channels, h, w] as [B, K, channels, h, w]."""
    return maps.reshape(maps.shape[0], maps.shape[1] // channels, channels, *maps.shape[2:])


def flip_heatmaps(heatmaps: Tensor, flip_order: Sequence[int], shift: bool, channels: int = 1) -> Tensor:
    """Turn the maps [B, K * channels, h, w] of a mirrored crop back: mirror in x and swap left and right.

    Of three channels a keypoint, the second is an offset in x, which changes its sign.

    Args:
        heatmaps: the network's output on the mirrored crop.
        flip_order: the permutation [K] of :attr:`~polarpix.types.KeypointSchema.flip_order`.
        shift: move the result right by one pixel, which undoes most of the misalignment of the classic convention.
        channels: of each keypoint, as the codec has it.
    """
    order = torch.tensor(list(flip_order), device=heatmaps.device)
    back = by_keypoint(heatmaps.flip(-1), channels).index_select(1, order)  # [B, K, channels, h, w]
    if channels == 3:
        back = back * torch.tensor([1.0, -1.0, 1.0], dtype=back.dtype, device=back.device)[:, None, None]
    back = back.flatten(1, 2)
    return torch.cat((back[..., :1], back[..., :-1]), dim=-1) if shift else back


def gaussians(
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


def peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row and height of the highest pixel of each map, float32 [B, K] each."""
    flat = heatmaps.float().flatten(2)  # [B, K, h * w]
    at = flat.argmax(dim=-1)  # [B, K]
    w = heatmaps.shape[-1]
    return (at % w).float(), torch.div(at, w, rounding_mode="floor").float(), flat.amax(dim=-1)


def with_neighbours(x: Tensor, y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Whether the pixel has both neighbours in x, and in y."""
    h, w = size
    return (x > 0) & (x < w - 1), (y > 0) & (y < h - 1)


def patches(heatmaps: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """The squares [B, K, 2r + 1, 2r + 1] around the pixels x, y [B, K]; zero outside of the map."""
    padded = F.pad(heatmaps.float(), (radius,) * 4)
    width = padded.shape[-1]
    span = torch.arange(2 * radius + 1, device=heatmaps.device)
    offset = (span[:, None] * width + span).flatten()  # [(2r + 1)^2]
    corner = y.long() * width + x.long()  # [B, K], in padded pixels the square's first
    patch = padded.flatten(2).gather(2, corner[..., None] + offset)
    return patch.reshape(*patch.shape[:2], 2 * radius + 1, 2 * radius + 1)


def gaussian_kernel(radius: int, sigma: float) -> list[float]:
    """The 2 * radius + 1 weights of a Gaussian; their sum is 1."""
    kernel = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)]
    return [k / sum(kernel) for k in kernel]


def smooth(maps: Tensor, kernel: Sequence[float]) -> Tensor:
    """The maps [..., h, w] smoothed by a kernel in y and in x, mirrored at the border pixels; float32.

    In sums of shifted maps: a convolution would run in half precision under autocast. Both h and w must be larger than
    half the kernel.
    """
    radius, (h, w) = len(kernel) // 2, maps.shape[-2:]
    flat = F.pad(maps.float().flatten(0, -3), (radius,) * 4, mode="reflect")  # [N, h + 2r, w + 2r]
    rows = torch.stack([k * flat[..., i : i + h, :] for i, k in enumerate(kernel)]).sum(0)
    both = torch.stack([k * rows[..., i : i + w] for i, k in enumerate(kernel)]).sum(0)
    return both.reshape(maps.shape)


def spread(heatmaps: Tensor, points: Tensor) -> Tensor:
    """How far the maps [B, K, h, w] reach around points [B, K, 2] of theirs: second moments [B, K, 2, 2], float32.

    The mean of the products of the offsets in x and y, weighted by what stands above a tenth of the highest pixel:
    below lies what a network leaves everywhere. A map with nothing above zero says nothing of where: all pixels then
    count alike.
    """
    h, w = heatmaps.shape[-2:]
    maps = heatmaps.float()
    mass = (maps - 0.1 * maps.amax(dim=(-2, -1), keepdim=True)).clamp_min(0)  # [B, K, h, w]
    total = mass.sum(dim=(-2, -1), keepdim=True)
    mass = torch.where(total > 0, mass / total.clamp_min(1e-20), 1 / (h * w))
    dx = torch.arange(w, device=maps.device) - points[..., :1]  # [B, K, w]
    dy = torch.arange(h, device=maps.device) - points[..., 1:]  # [B, K, h]
    rows, columns = mass.sum(dim=-1), mass.sum(dim=-2)  # [B, K, h], [B, K, w]
    xx, yy = (columns * dx * dx).sum(-1), (rows * dy * dy).sum(-1)
    xy = ((mass * dx[..., None, :]).sum(-1) * dy).sum(-1)
    return torch.stack((torch.stack((xx, xy), dim=-1), torch.stack((xy, yy), dim=-1)), dim=-2)


def newton(heatmaps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """The step [B, K, 2] from pixels x, y to the summit of the smoothed log-heatmap, at most one pixel each way.

    Only the 3x3 values that the derivatives need are smoothed. The height of the map drops out of the derivatives, so
    the rescaling of the published method is not needed.
    """
    h, w = heatmaps.shape[-2:]
    radius = math.ceil(2.5 * sigma)
    kernel = gaussian_kernel(radius, sigma)
    rows = [[0.0] * i + kernel + [0.0] * (2 - i) for i in range(3)]
    blur = torch.tensor(rows, device=heatmaps.device)  # [3, 2r + 3]
    patch = patches(heatmaps, x, y, radius + 1)  # [B, K, 2r + 3, 2r + 3]
    smooth = (patch[..., None, :, :] * blur[:, None, :]).sum(-1)  # [B, K, 3 (x), 2r + 3]
    smooth = (smooth[..., None, :, :] * blur[:, None, :]).sum(-1)  # [B, K, 3 (y), 3 (x)]
    # Smoothing over the border pulls a peak inwards by up to 0.7 pixels, but by less than 0.07 beyond 1.5 sigma of it.
    margin = 1.5 * sigma
    near = (x < margin) | (x > w - 1 - margin) | (y < margin) | (y > h - 1 - margin)
    L = torch.where(near[..., None, None], patch[..., radius : radius + 3, radius : radius + 3], smooth)
    L = L.clamp_min(1e-10).log()
    inside_x, inside_y = with_neighbours(x, y, (h, w))  # a step across the border has no second derivative to go by
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
