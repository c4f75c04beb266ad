"""The evaluation protocol of one image: scales and mirror images averaged, each whole or in windows."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from polarpix.config import SegEvalConfig
from polarpix.errors import InputError
from polarpix.seg.model import OCRNet
from polarpix.seg.sliding import Network, sliding, whole

__all__ = ["predict_probabilities"]


def predict_probabilities(
    network: Network, image: Tensor, protocol: SegEvalConfig, crop_size: tuple[int, int]
) -> Tensor:
    """Class probabilities [B, C, H, W] in float32 of normalised images [B, 3, H, W].

    The probabilities of the scales are averaged; a network that fuses scales itself is given them instead.

    Args:
        network: gives logits.
        image: normalised, [B, 3, H, W].
        protocol: mode, scales and mirroring.
        crop_size: the window where the protocol names none.

    Raises:
        InputError: an unknown mode, no scale or one that is not positive, or what :func:`sliding` refuses.
    """
    if protocol.mode not in ("whole", "sliding"):
        raise InputError(f"eval.mode is {protocol.mode!r}: use whole or sliding")
    if not protocol.scales or not all(scale > 0 for scale in protocol.scales):
        raise InputError(f"eval.scales is {protocol.scales}: give at least one factor, all above 0")
    total = image.new_zeros(())
    scales = protocol.scales
    if isinstance(network, OCRNet) and network.hierarchical:
        network, scales = partial(network, scales=protocol.scales), [1.0]
    for scale in scales:
        resized = _resize(image, scale)  # [B, 3, h, w]
        for flipped in (False, True) if protocol.flip else (False,):
            view = resized.flip(3) if flipped else resized
            if protocol.mode == "whole":
                probabilities = whole(network, view)  # [B, C, h, w]
            else:
                probabilities = sliding(network, view, protocol.window or crop_size, protocol.overlap)
            probabilities = probabilities.flip(3) if flipped else probabilities
            if probabilities.shape[2:] != image.shape[2:]:
                probabilities = F.interpolate(
                    probabilities, size=image.shape[2:], mode="bilinear", align_corners=False
                )  # [B, C, H, W]
            total = total + probabilities
    return total / (len(scales) * (2 if protocol.flip else 1))


def _resize(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    size = [max(1, round(length * scale)) for length in image.shape[2:]]
    # Filtered where it shrinks, as the training crops are: what the network has learned to look at.
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
