"""Region mutual information: how much the labels of a pixel's neighbourhood say about the predictions of it.

Zhao et al., "Region Mutual Information Loss for Semantic Segmentation", NeurIPS 2019, with the settings that
hierarchical multi-scale attention was trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from polarpix.errors import InputError

__all__ = ["binary_cross_entropy", "region_information", "rmi_loss"]

RADIUS = 3  # side of the neighbourhood; its RADIUS**2 values are one point in space
STRIDE = 4  # of the mean that labels and predictions are reduced by
SHARE = 0.5  # of the binary cross-entropy in the loss
FLOOR = 1e-6  # added to every probability
RIDGE = 5e-4  # added to the diagonal of a covariance, so that it can be inverted


def binary_cross_entropy(logits: Tensor, label: Tensor, ignore: int = 255) -> Tensor:
    """Cross-entropy of each class against the rest, summed over classes, averaged over labelled pixels plus one.

    Args:
        logits: [B, C, H, W]; a sigmoid makes them probabilities.
        label: [B, H, W].
        ignore: label of the pixels left out.
    """
    known, truth = _one_hot(logits, label, ignore)
    each = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")  # [B, C, H, W]
    return (each * known).sum() / (known.sum() + 1)


def rmi_loss(logits: Tensor, label: Tensor, ignore: int = 255) -> Tensor:
    """Half the binary cross-entropy and half the lower bound of the conditional entropy of the regions.

    Args:
        logits: [B, C, H, W]; a sigmoid makes them probabilities.
        label: [B, H, W].
        ignore: label of the pixels left out.

    Raises:
        InputError: pictures too small for one neighbourhood.
    """
    known, truth = _one_hot(logits, label, ignore)
    probabilities = logits.float().sigmoid() * known + FLOOR  # [B, C, H, W]
    entropy = region_information(truth, probabilities)
    return SHARE * binary_cross_entropy(logits, label, ignore) + (1 - SHARE) * entropy


def region_information(truth: Tensor, probabilities: Tensor) -> Tensor:
    """What the predictions of a region leave open about its labels: a scalar, the lower the better.

    Labels and probabilities are averaged over 4x4 cells (half of one padded all round); each 3x3 neighbourhood of cells
    is a point Y (labels) and P (probabilities) of 9 numbers. With S the sums of products of the centred points::

        M = S_YY - S_YP (S_PP + r I)^-1 S_YP'
        sum over classes of the mean over pictures of  log det(M + r I) / (2 * 9),   r = 5e-4

    in double precision. The products are summed and not averaged, against underflow; that adds a constant.

    Args:
        truth: one-hot labels [B, C, H, W], 0 where there is none.
        probabilities: [B, C, H, W].

    Raises:
        InputError: pictures too small for one neighbourhood.
    """
    y, p = _points(truth).detach(), _points(probabilities)  # [B, C, 9, N]
    ridge = RIDGE * torch.eye(RADIUS**2, dtype=y.dtype, device=y.device)  # [9, 9]
    yy, pp, yp = y @ y.mT, p @ p.mT, y @ p.mT  # [B, C, 9, 9]
    explained = yp @ torch.cholesky_solve(yp.mT, torch.linalg.cholesky(pp + ridge))  # [B, C, 9, 9]
    left = torch.linalg.cholesky(yy - explained + ridge)  # [B, C, 9, 9]
    half_log_det: Tensor = left.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)  # [B, C]
    return (half_log_det.mean(dim=0).sum() / RADIUS**2).float()


def _one_hot(logits: Tensor, label: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Which pixels are labelled, [B, 1, H, W], and the labels as [B, C, H, W], in float32."""
    known = label != ignore  # [B, H, W]
    classes = torch.arange(logits.shape[1], device=label.device).view(1, -1, 1, 1)
    truth = (label.unsqueeze(1).long() == classes) & known.unsqueeze(1)  # [B, C, H, W]
    return known.unsqueeze(1).float(), truth.float()


def _points(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> centred neighbourhoods [B, C, 9, N] of the reduced maps, in float64."""
    cells = F.avg_pool2d(maps, STRIDE, stride=STRIDE, padding=STRIDE // 2)  # [B, C, h, w]
    b, c, h, w = cells.shape
    if min(h, w) < RADIUS:
        raise InputError(
            f"loss rmi on {maps.shape[2]}x{maps.shape[3]} pixels: its regions need {STRIDE * (RADIUS - 1)} each way: "
            "raise data.crop_size"
        )
    points = F.unfold(cells, RADIUS).view(b, c, RADIUS**2, -1).double()  # [B, C, 9, N]
    return points - points.mean(dim=3, keepdim=True)
