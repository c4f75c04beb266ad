"""Predictions of a whole split -> what is behind the metrics: class by class, picture by picture."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from polarpix.types import UInt8Array

__all__ = ["ClassRow", "Counts", "Ranking", "class_rows", "confusions", "picture_score"]

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassRow:
    """How one class fared over a split; shares from 0 to 1, NaN where there is nothing to divide by."""

    name: str
    iou: float
    accuracy: float  # recall: share of the class's pixels that were found
    precision: float  # share of the pixels given this class that are of it
    pixels: int  # of the truth
    predicted: int


def class_rows(counts: Counts, names: Sequence[str]) -> list[ClassRow]:
    """One row per class of a confusion matrix [C, C], rows the truth."""
    truth, guess, hit = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    return [
        ClassRow(
            name,
            iou=_share(hit[c], truth[c] + guess[c] - hit[c]),
            accuracy=_share(hit[c], truth[c]),
            precision=_share(hit[c], guess[c]),
            pixels=int(truth[c]),
            predicted=int(guess[c]),
        )
        for c, name in enumerate(names)
    ]


def confusions(counts: Counts, limit: int) -> list[tuple[int, int, int]]:
    """The `limit` largest (pixels, class of the truth, class predicted) off the diagonal of counts [C, C]."""
    found = [(int(counts[a, b]), a, b) for a, b in np.argwhere(counts > 0).tolist() if a != b]
    return sorted(found, key=lambda one: (-one[0], one[1], one[2]))[:limit]


def picture_score(counts: Counts) -> float:
    """Mean IoU of the classes that the truth of one picture holds, from its counts [C, C]; NaN where none is labelled.

    A class that is only predicted lowers the IoU of those it took its pixels from, and is no class of its own.
    """
    truth, guess, hit = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    held = truth > 0
    return float((hit[held] / (truth + guess - hit)[held]).mean()) if held.any() else float("nan")


class Ranking:
    """The score of every picture of a split, and the label maps of the best, the worst and some chosen ones.

    What is held does not grow with the split but for one number a picture.

    Args:
        chosen: positions whose predictions are kept whatever their score.
        keep: how many of the best, and of the worst, are kept.
    """

    def __init__(self, chosen: Sequence[int], keep: int) -> None:
        self.chosen, self.keep = set(chosen), keep
        self.scores: dict[int, float] = {}
        self.labels: dict[int, UInt8Array] = {}  # position -> [H, W]
        self._best: list[tuple[float, int]] = []  # a heap each: the one to go is on top
        self._worst: list[tuple[float, int]] = []

    def add(self, position: int, score: float, label: UInt8Array) -> None:
        """Take in the prediction [H, W] of one picture."""
        self.scores[position] = score
        self.labels[position] = label
        if np.isfinite(score):
            for heap, sign in ((self._best, 1), (self._worst, -1)):
                heapq.heappush(heap, (sign * score, -position))
                if len(heap) > self.keep:
                    heapq.heappop(heap)
        kept = self.chosen | {-one for _, one in (*self._best, *self._worst)}
        for gone in [one for one in self.labels if one not in kept]:
            del self.labels[gone]

    def gather(self) -> None:
        """Take in what the other processes of a distributed run have; nothing happens in a single process."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        everyone: list[tuple[dict[int, float], dict[int, UInt8Array]]] = [({}, {})] * dist.get_world_size()
        dist.all_gather_object(everyone, (self.scores, self.labels))
        for scores, labels in everyone:
            self.scores |= scores
            self.labels |= labels


def _share(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else float("nan")
