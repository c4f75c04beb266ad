"""Losses on logits [B, C, H, W] and labels [B, H, W]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from polarpix.errors import InputError
from polarpix.seg.model import SegOutputs
from polarpix.seg.rmi import binary_cross_entropy, rmi_loss

__all__ = ["SEG_LOSSES", "SIDE_LOSSES", "cross_entropy", "ohem_cross_entropy", "seg_loss", "training_loss"]


def cross_entropy(logits: Tensor, label: Tensor, ignore: int = 255) -> Tensor:
    """Mean cross-entropy of logits [B, C, H, W] over the labelled pixels of [B, H, W]; 0 where none is labelled."""
    target = label.long()  # [B, H, W]
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore, reduction="sum")
    return total / (target != ignore).sum().clamp(min=1)


def ohem_cross_entropy(
    logits: Tensor, label: Tensor, ignore: int = 255, threshold: float = 0.7, min_kept: int | None = None
) -> Tensor:
    """Cross-entropy of the hard pixels only (online hard example mining); 0 where no pixel is labelled.

    Hard are the pixels whose true class has a probability below `threshold`, and at least the `min_kept` hardest.

    Args:
        logits: [B, C, H, W].
        label: [B, H, W].
        ignore: label of the pixels left out.
        threshold: probability of the true class.
        min_kept: smallest number of pixels of the batch; null for a sixteenth of the labelled ones.
    """
    target = label.long()  # [B, H, W]
    loss = F.cross_entropy(logits.float(), target, ignore_index=ignore, reduction="none")  # [B, H, W]
    loss = loss[target != ignore]  # [P]
    if not loss.numel():
        return logits.sum() * 0.0  # 0 with a gradient, so that every process of a multi-GPU run can step
    count = loss.numel() // 16 if min_kept is None else min_kept
    count = min(max(count, 1), loss.numel())
    hard = loss.detach() > -torch.log(torch.tensor(threshold, device=loss.device))  # [P]
    if int(hard.sum()) >= count:
        return loss[hard].mean()
    return loss.topk(count).values.mean()


Loss = Callable[[Tensor, Tensor, int], Tensor]
"""Logits [B, C, H, W], label [B, H, W], ignore label -> scalar."""

SEG_LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "ohem": ohem_cross_entropy,
    "rmi": rmi_loss,
}
SIDE_LOSSES: dict[str, Loss] = SEG_LOSSES | {"rmi": binary_cross_entropy}
"""The loss on what stands beside the main output: region mutual information is left out there, as published."""


def seg_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        InputError: no such loss.
    """
    if name not in SEG_LOSSES:
        raise InputError(f"loss is {name!r}: use one of {', '.join(SEG_LOSSES)}")
    return SEG_LOSSES[name]


def training_loss(
    outputs: SegOutputs, label: Tensor, ignore: int, name: str, aux_weight: float, scale_weight: float
) -> Tensor:
    """The main loss, plus ``aux_weight`` times that of the auxiliary output and ``scale_weight`` times each scale's.

    Raises:
        InputError: no such loss.
    """
    total = seg_loss(name)(outputs.logits, label, ignore)
    side = SIDE_LOSSES[name]
    if outputs.aux is not None and aux_weight:
        total = total + aux_weight * side(outputs.aux, label, ignore)
    for logits in outputs.scales if scale_weight else ():
        total = total + scale_weight * side(logits, label, ignore)
    return total
