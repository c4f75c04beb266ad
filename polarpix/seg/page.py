"""What a segmentation shows beside its metrics: a table and bars per class, confusions, best and worst pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from polarpix.draw import draw_mask
from polarpix.findings import SPREAD, Findings, Sample, beside, choose
from polarpix.report import Bars, Matrix, Section, Share, Table, Value
from polarpix.seg.analysis import Counts, Ranking, class_rows, confusions
from polarpix.seg.datasets import SegDataset
from polarpix.types import ClassTable, UInt8Array

__all__ = ["Reader", "seg_findings"]

Reader = Callable[[int], tuple[UInt8Array, UInt8Array]]
"""Position -> image [H, W, 3] and label [H, W] as they were evaluated."""

LARGEST = 40  # classes that a matrix is drawn for


def seg_findings(
    dataset: SegDataset, counts: Counts, ranking: Ranking, read: Reader, root: Path, keep: int = 6
) -> Findings:
    """Everything for the page from what an evaluation has counted and kept.

    Args:
        dataset: the split.
        counts: pixels [C, C], rows the truth.
        ranking: score of every picture, label maps of some.
        read: gives a picture again, to be drawn on.
        root: folder that the pictures are named from.
        keep: how many of the best, and of the worst, are drawn.
    """
    scores = np.array([ranking.scores.get(i, math.nan) for i in range(len(dataset))])  # [N]
    groups = choose(scores, keep) | {SPREAD: sorted(ranking.chosen)}
    groups = {word: [one for one in group if one in ranking.labels] for word, group in groups.items()}
    samples = [
        Sample(_below(image, root), float(score) if math.isfinite(score) else None)
        for (image, _), score in zip(dataset.files, scores, strict=True)
    ]
    each = class_table(counts, dataset.classes) if counts.sum() else None
    return Findings(
        score_name="mIoU",
        score_text="The mIoU of a single picture is taken over the classes of its annotation.",
        sections=[class_section(each), *confusion_sections(counts, dataset.classes)] if each else [],
        samples=samples,
        shown=draw_pictures(dataset, ranking.labels, groups, read),
        groups=groups,
        each=each,
    )


def class_table(counts: Counts, classes: ClassTable) -> Table:
    """One row per class, in the order of the set."""
    total = max(int(counts.sum()), 1)
    return Table(
        ["class", "IoU", "accuracy", "precision", "pixels", "share of the pixels", "pixels predicted"],
        [
            [row.name, row.iou, row.accuracy, row.precision, row.pixels, Share(row.pixels / total), row.predicted]
            for row in class_rows(counts, classes.names)
        ],
    )


def class_section(each: Table) -> Section:
    """The table with what its columns mean, and the IoU as bars from the best class to the worst."""
    ious = [(str(row[0]), float(str(row[1]))) for row in each.rows]
    return Section(
        "Class by class",
        "IoU is intersection over union. Accuracy is the share of a class's pixels that were found (recall), precision "
        "the share of the pixels given this class that are of it. A dash stands where neither truth nor prediction "
        "holds the class.",
        table=each,
        bars=[Bars("IoU", sorted(ious, key=lambda one: -one[1] if math.isfinite(one[1]) else math.inf))],
    )


def confusion_sections(counts: Counts, classes: ClassTable) -> list[Section]:
    """The matrix, each row divided by the pixels of its class, and the largest confusions."""
    names, truth = classes.names, counts.sum(axis=1)
    held = [c for c in range(len(names)) if truth[c] or counts[:, c].any()]
    wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()  # [C]
    drawn = sorted(sorted(held, key=lambda c: -int(wrong[c]))[:LARGEST])
    shares = counts / np.maximum(truth, 1)[:, None]  # [C, C]
    shares[truth == 0] = np.nan
    few = f" Drawn are the {LARGEST} classes with the most wrong pixels." if len(drawn) < len(held) else ""
    everything = max(int(counts.sum()), 1)
    rows: list[list[Value]] = [
        [names[a], names[b], pixels, Share(shares[a, b]), Share(pixels / everything)]
        for pixels, a, b in confusions(counts, 12)
    ]
    matrix = Matrix(
        "predicted class, % of the pixels of the row",
        [names[c] for c in drawn],
        [names[c] for c in drawn],
        shares[np.ix_(drawn, drawn)].tolist(),
    )
    return [
        Section(
            "Which class is taken for which",
            f"Row: the truth. Column: the prediction. A row adds up to 100 %.{few}",
            table=Table(["truth", "predicted", "pixels", "share of the class", "share of all pixels"], rows)
            if rows
            else None,
            matrices=[matrix],
        )
    ]


def draw_pictures(
    dataset: SegDataset, labels: Mapping[int, UInt8Array], groups: Mapping[str, Sequence[int]], read: Reader
) -> dict[int, UInt8Array]:
    """Annotation beside prediction for every position of the groups; the files are read now."""
    shown: dict[int, UInt8Array] = {}
    for position in sorted({one for group in groups.values() for one in group}):
        image, label = read(position)
        zoom = max(1, round(240 / max(image.shape)))
        shown[position] = beside(
            draw_mask(image, label, dataset.classes, zoom=zoom),
            draw_mask(image, labels[position], dataset.classes, zoom=zoom),
        )
    return shown


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
