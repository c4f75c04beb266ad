"""Confusion matrix of a whole data set and the scores read from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polarpix.types import ClassTable

__all__ = ["ConfusionMatrix", "SegScores"]


@dataclass(frozen=True)
class SegScores:
    """Scores of a segmentation over a whole data set, as shares from 0 to 1.

    A class that neither the truth nor the prediction holds has no IoU (nan) and counts in no mean; a class that is
    only predicted has IoU 0 and counts. A class the truth does not hold has no accuracy.
    """

    miou: float  # mean of the defined `iou`
    iou: tuple[float, ...]  # [C], intersection over union, nan where undefined
    pixel_accuracy: float
    mean_accuracy: float  # mean recall of the classes in the truth
    fw_iou: float  # IoU weighted by the class's share of the truth
    pixels: int  # labelled pixels counted

    def metrics(self, classes: ClassTable) -> dict[str, float]:
        """The scores by name: mIoU, the other means, and IoU/<class> of every class that has one."""
        named = {
            "mIoU": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "fw_IoU": self.fw_iou,
        }
        each = zip(classes.names, self.iou, strict=True)
        return named | {f"IoU/{name}": iou for name, iou in each if not math.isnan(iou)}


class ConfusionMatrix:
    """Pixel counts [C, C] in int64, rows the truth and columns the prediction, summed over a data set.

    Args:
        num_classes: C.
        ignore: label of the pixels left out.
        device: where the counts live; predictions are counted on their own device and moved.
    """

    def __init__(self, num_classes: int, ignore: int = 255, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.ignore = ignore
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)  # [C, C]

    def update(self, pred: Tensor, label: Tensor) -> Tensor:
        """Count predicted classes `pred` against `label`, two integer tensors of one shape; gives these counts [C, C].

        Raises:
            ValueError: shapes that differ, or a value outside the classes (a label may also be `ignore`).
        """
        if pred.shape != label.shape:
            raise ValueError(f"prediction is {tuple(pred.shape)}, label {tuple(label.shape)}: they must agree")
        known = label != self.ignore
        truth, guess = label[known].long(), pred[known].long()  # [P]
        for name, values in (("label", truth), ("prediction", guess)):
            if values.numel() and (int(values.min()) < 0 or int(values.max()) >= self.num_classes):
                raise ValueError(
                    f"{name} holds {int(values.min())}..{int(values.max())}: must lie in 0..{self.num_classes - 1}"
                )
        cells = torch.bincount(truth * self.num_classes + guess, minlength=self.num_classes**2)  # [C * C]
        cells = cells.view(self.num_classes, self.num_classes).to(self.counts.device)  # [C, C]
        self.counts += cells
        return cells

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix."""
        self.counts += other.counts.to(self.counts.device)

    def all_reduce(self) -> None:
        """Sum the counts over the processes of a distributed run; nothing happens in a single process."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            nccl = torch.distributed.get_backend() == "nccl"  # sums on the GPU only
            counts = self.counts.cuda() if nccl else self.counts
            torch.distributed.all_reduce(counts)
            self.counts = counts.to(self.counts.device)

    def reset(self) -> None:
        """Forget everything counted."""
        self.counts.zero_()

    def compute(self) -> SegScores:
        """The scores of what was counted; nan where nothing was."""
        counts = self.counts.cpu().double()  # [C, C]
        hit = counts.diagonal()  # [C]
        truth, guess = counts.sum(dim=1), counts.sum(dim=0)  # [C]
        total = counts.sum()
        iou = hit / (truth + guess - hit)  # [C], 0 / 0 = nan where the class is absent
        recall = hit / truth  # [C]
        return SegScores(
            miou=float(iou.nanmean()),
            iou=tuple(iou.tolist()),
            pixel_accuracy=float(hit.sum() / total),
            mean_accuracy=float(recall.nanmean()),
            fw_iou=float((truth / total * iou)[truth > 0].sum()) if total else float("nan"),
            pixels=int(total),
        )
