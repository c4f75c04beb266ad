"""One image to class probabilities: in one piece, or in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from polarpix.errors import InputError

__all__ = ["Network", "sliding", "whole", "window_starts"]

Network = Callable[[Tensor], Tensor]
"""Normalised images [B, 3, H, W] -> logits [B, C, H, W]."""


def whole(network: Network, image: Tensor) -> Tensor:
    """Probabilities [B, C, H, W] in float32 of normalised images [B, 3, H, W], in one piece."""
    logits = network(image).float()  # [B, C, H, W]
    if torch.compiler.is_exporting():  # onnxruntime takes as long for a softmax over this axis as for a quarter of all
        powers = (logits - logits.amax(dim=1, keepdim=True)).exp()
        return powers / powers.sum(dim=1, keepdim=True)
    return logits.softmax(dim=1)


def sliding(network: Network, image: Tensor, window: tuple[int, int], overlap: float) -> Tensor:
    """Probabilities [B, C, H, W] in float32, the mean over all windows that show a pixel.

    The last window of a row or column is moved back inside the image. An image smaller than the window is padded with
    0, the mean colour, and the result cropped.

    Args:
        network: gives logits.
        image: normalised, [B, 3, H, W].
        window: height and width in pixels.
        overlap: share of a window that the next one covers again, at least 0 and below 1.

    Raises:
        InputError: a window below 1 pixel or an overlap out of range.
    """
    h, w = image.shape[2:]
    padded = F.pad(image, (0, max(window[1] - w, 0), 0, max(window[0] - h, 0)))  # [B, 3, H', W']
    height, width = padded.shape[2:]
    total: Tensor | None = None
    count = torch.zeros(height, width, device=image.device)  # [H', W']
    for top in window_starts(height, window[0], overlap):
        for left in window_starts(width, window[1], overlap):
            part = slice(top, top + window[0]), slice(left, left + window[1])
            probabilities = whole(network, padded[:, :, part[0], part[1]])  # [B, C, window]
            if total is None:
                total = probabilities.new_zeros(*probabilities.shape[:2], height, width)  # [B, C, H', W']
            total[:, :, part[0], part[1]] += probabilities
            count[part] += 1
    assert total is not None  # every axis has at least one window
    return (total / count)[:, :, :h, :w]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First pixels of the windows that cover `length` pixels; `length` is at least `window`.

    Raises:
        InputError: a window below 1 pixel or an overlap out of range.
    """
    if window < 1:
        raise InputError(f"eval.window is {window} pixels: give at least 1")
    if not 0 <= overlap < 1:
        raise InputError(f"eval.overlap is {overlap}: give a share from 0 to below 1")
    step = max(1, round(window * (1 - overlap)))
    last = length - window
    return [*range(0, last, step), last]
