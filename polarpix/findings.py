"""What an evaluation found beside its metrics: sections of its page, the score of every sample, pictures of some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.report import Section, Table
from polarpix.sheet import PAPER
from polarpix.types import UInt8Array

__all__ = ["BEST", "SPREAD", "WORST", "Findings", "Sample", "beside", "choose", "spread"]

WORST, BEST, SPREAD = "worst", "best", "spread"
_WIDEST = 760  # pixels of a picture on the page: with 20 of them it stays below some 2 MB


@dataclass(frozen=True)
class Sample:
    """One picture or instance and how well it went.

    Args:
        file: the picture.
        instance: the annotation's id; null where the whole picture is the sample.
        score: its own, from 0 to 1; null where nothing of it is labelled.
    """

    file: str
    score: float | None
    instance: int | None = None

    @property
    def name(self) -> str:
        """File and instance in one line."""
        return self.file if self.instance is None else f"{self.file}, instance {self.instance}"


@dataclass(frozen=True)
class Findings:
    """What an evaluation found beside its metrics.

    Args:
        score_name: what the score of a sample is.
        score_text: what that means, in a sentence.
        sections: tables, curves and matrices for the page.
        samples: all of the split, in the order of the data set.
        shown: position of a sample -> truth and prediction side by side [H, W, 3].
        groups: "worst", "best" and "spread" -> positions, in the order they are shown.
        each: one row per keypoint or class.
    """

    score_name: str = ""
    score_text: str = ""
    sections: Sequence[Section] = ()
    samples: Sequence[Sample] = ()
    shown: dict[int, UInt8Array] = field(default_factory=dict)
    groups: dict[str, list[int]] = field(default_factory=dict)
    each: Table | None = None


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` positions, or all, spread evenly over `count`."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count)).astype(int)] if count else []


def choose(scores: npt.NDArray[np.floating], keep: int) -> dict[str, list[int]]:
    """The positions of the `keep` lowest and highest of the scores [N], no position twice; NaN is neither.

    Of few samples the worst come first: half of them are shown as the worst, the rest as the best.
    """
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    worst = order[: min(keep, (len(order) + 1) // 2)]
    best = order[::-1][: min(keep, len(order) - len(worst))]
    return {WORST: worst, BEST: best}


def beside(left: UInt8Array, right: UInt8Array) -> UInt8Array:
    """Two pictures of one size in one, narrowed where it would be wide: [H, W, 3]."""
    gap = np.full((left.shape[0], max(4, left.shape[1] // 50), 3), PAPER, np.uint8)
    both = np.concatenate([left, gap, right], axis=1)
    if both.shape[1] <= _WIDEST:
        return both
    size = _WIDEST, max(1, round(both.shape[0] * _WIDEST / both.shape[1]))
    return np.asarray(cv2.resize(both, size, interpolation=cv2.INTER_AREA), np.uint8)
