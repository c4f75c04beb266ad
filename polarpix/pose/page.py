"""What a pose evaluation shows beside its metrics: tables, curves, where the misses lie, best and worst instances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.config import PoseRun
from polarpix.draw import draw_keypoints
from polarpix.errors import InputError
from polarpix.findings import SPREAD, Findings, Sample, beside, choose, spread
from polarpix.pose.analysis import (
    KINDS,
    Pairs,
    error_kinds,
    keypoint_rows,
    match_results,
    pair_up,
    pck_curve,
)
from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.crop import PoseTransform, invert_matrix, move_points
from polarpix.pose.oks import OKS_STEPS, oks_precision
from polarpix.pose.pck import reference_length
from polarpix.report import Bars, Curves, Matrix, Section, Share, Table, Value
from polarpix.types import FloatArray, KeypointSchema, UInt8Array

__all__ = ["pose_findings"]

PCK_STEPS = (0.05, 0.1, 0.2)  # where the page names none


def pose_findings(
    run: PoseRun,
    dataset: CocoKeypoints,
    keypoints: FloatArray,
    results: Sequence[Mapping[str, Any]],
    pictures: int = 8,
    keep: int = 6,
) -> Findings:
    """Everything for the page from the predictions that an evaluation has made.

    Args:
        run: the page that was evaluated.
        dataset: N annotated or detected instances.
        keypoints: predicted for each, image pixels [N, K, 2].
        results: the COCO results of the evaluation.
        pictures: instances spread over the split to be drawn.
        keep: how many of the best, and of the worst, are drawn.
    """
    if not dataset.labelled:
        groups = {SPREAD: spread(len(dataset), pictures)}
        samples = [Sample(one.file, None, one.instance_id) for one in dataset.instances]
        shown = draw_instances(run, dataset, keypoints, groups)
        return Findings("OKS", samples=samples, shown=shown, groups=groups)
    truth, points, trouble = dataset, keypoints, ""
    if run.eval.boxes != "gt":
        try:
            truth = CocoKeypoints(dataset.annotations, dataset.images, schema=dataset.schema)
        except InputError as error:  # the metrics are there already and must not be lost
            return Findings("OKS", sections=[Section("Keypoints", alert=f"no tables: {error}")])
        points = match_results(truth, results)
        lonely = int(np.isnan(points).all(axis=(1, 2)).sum())
        trouble = f" {lonely} of {len(truth)} instances have no prediction; it counts as wrong, and in no mean error."
    pairs = pair_up(truth, points)
    boxes = np.stack([one.box for one in truth.instances])
    reference = reference_length(pairs.truth, pairs.visibility, boxes, truth.schema, run.eval.pck_reference)
    each = keypoint_table(pairs, truth.schema, reference, run.eval.pck or PCK_STEPS)
    scores = pairs.oks
    groups = choose(scores, keep) | {SPREAD: spread(len(truth), pictures)}
    return Findings(
        score_name="OKS",
        score_text="The OKS of an instance is the mean similarity of its labelled keypoints.",
        sections=[
            keypoint_section(each, run, trouble),
            Section(
                "Curves",
                curves=[
                    pck_curves(pairs, truth.schema, reference, run.eval.pck or PCK_STEPS),
                    *oks_curves(oks_precision(dataset.annotations, results, truth.schema.sigmas, dataset.category_id)),
                ],
            ),
            *place_sections(pairs, truth.schema),
        ],
        samples=[
            Sample(one.file, float(score) if math.isfinite(score) else None, one.instance_id)
            for one, score in zip(truth.instances, scores, strict=True)
        ],
        shown=draw_instances(run, truth, points, groups),
        groups=groups,
        each=each,
    )


def keypoint_table(pairs: Pairs, schema: KeypointSchema, reference: FloatArray, thresholds: Sequence[float]) -> Table:
    """One row per keypoint."""
    shares = [f"PCK@{one:g}" for one in thresholds]
    return Table(
        ["keypoint", "labelled", "visible", *shares, "mean error, px", "similarity", "share of lost OKS"],
        [
            [row.name, row.labelled, row.visible, *row.pck, row.mean_error, row.similarity, Share(row.lost)]
            for row in keypoint_rows(pairs, schema.names, reference, thresholds)
        ],
    )


def keypoint_section(each: Table, run: PoseRun, trouble: str) -> Section:
    """The table with what its columns mean, and the hardest keypoints as bars."""
    pair = run.eval.pck_reference
    length = f"the distance from {pair[0]} to {pair[1]}" if pair else "the longer side of the box"
    lost = sorted(((str(row[0]), float(str(row[-1]))) for row in each.rows), key=lambda one: -one[1])
    return Section(
        "Keypoint by keypoint",
        f"PCK counts what lies within a share of {length}. Similarity is the keypoint's mean part in the OKS, from 0 "
        "to 1. The last column says how the OKS that all instances together fall short of 1 is shared among the "
        f"keypoints: what could be won by mending one of them.{trouble}",
        table=each,
        bars=[Bars("share of the lost OKS", lost, None)],
    )


def pck_curves(pairs: Pairs, schema: KeypointSchema, reference: FloatArray, thresholds: Sequence[float]) -> Curves:
    """PCK over its threshold for all keypoints, and for the best and the worst one."""
    steps = np.linspace(0, max(0.2, 2 * max(thresholds)), 41)  # [T]
    mean, each = pck_curve(pairs, reference, steps)
    areas = np.nan_to_num(each).sum(axis=0)  # [K]
    counted = np.flatnonzero(~np.isnan(each).all(axis=0))
    series = {"all keypoints": list(zip(steps.tolist(), mean, strict=True))}
    if len(counted) > 1:
        for word, k in (("best", counted[areas[counted].argmax()]), ("worst", counted[areas[counted].argmin()])):
            series[f"{word}: {schema.names[k]}"] = list(zip(steps.tolist(), each[:, k].tolist(), strict=True))
    return Curves("PCK over its threshold", series, "share of the reference length")


def oks_curves(precision: npt.NDArray[np.float64]) -> list[Curves]:
    """AP over the OKS, and precision over recall at three of them, from precision [10, 101]."""
    recall = np.linspace(0, 1, precision.shape[1]).tolist()
    chosen = {f"OKS {OKS_STEPS[t]:.2f}": list(zip(recall, precision[t].tolist(), strict=True)) for t in (0, 5, 8)}
    return [
        Curves("AP over the OKS threshold", {"AP": list(zip(OKS_STEPS, precision.mean(axis=1), strict=True))}, "OKS"),
        Curves("Precision over recall", chosen, "recall"),
    ]


def place_sections(pairs: Pairs, schema: KeypointSchema) -> list[Section]:
    """Kinds of errors, the matrix of places, and the most frequent confusions."""
    places, kinds = error_kinds(pairs, schema)
    total = int(kinds.sum())
    labelled = places.sum(axis=1)  # [K]
    shares = places / np.maximum(labelled, 1)[:, None]
    shares[labelled == 0] = np.nan
    columns = [*schema.names, "another instance", "nowhere"]
    pairs_found = [
        (int(places[a, b]), a, b) for a, b in np.argwhere(places > 0).tolist() if a != b and b < len(schema.names)
    ]
    rows: list[list[Value]] = [
        [schema.names[a], schema.names[b], "yes" if schema.flip_order[a] == b else "", count, Share(shares[a, b])]
        for count, a, b in sorted(pairs_found, reverse=True)[:12]
    ]
    told: list[list[Value]] = [
        [word, int(count), Share(int(count) / max(total, 1))] for word, count in zip(KINDS, kinds, strict=True)
    ]
    return [
        Section(
            "Kinds of errors",
            "Each labelled keypoint by the place its prediction lies at. Good is as near as annotators are to each "
            "other (similarity 0.85), near is still its own place (0.5). Mirrored lies at the keypoint of the other "
            "side, nowhere at no annotated keypoint of the image (after Ronchi and Perona, ICCV 2017).",
            table=Table(["place", "keypoints", "share"], told),
        ),
        Section(
            "Which keypoint is taken for which",
            "Row: the keypoint that was meant. Column: at whose place the prediction lies. In per cent of the labelled "
            "keypoints of the row.",
            table=Table(["meant", "lies at", "mirrored", "times", "share"], rows) if rows else None,
            matrices=[Matrix("place of the predictions, %", schema.names, columns, shares.tolist())],
        ),
    ]


def draw_instances(
    run: PoseRun, truth: CocoKeypoints, points: FloatArray, groups: Mapping[str, Sequence[int]]
) -> dict[int, UInt8Array]:
    """Annotation beside prediction on the crop of the box, for every position of the groups; the files are read now."""
    transform = PoseTransform(run.data, run.model, truth.schema, training=False)
    shown: dict[int, UInt8Array] = {}
    for position in sorted({one for group in groups.values() for one in group}):
        crop, wanted, visible, to_image = transform(truth[position])
        found = move_points(invert_matrix(to_image.astype(np.float64)), points[position])  # [K, 2]
        zoom = max(1, round(240 / max(crop.shape)))
        shown[position] = beside(
            draw_keypoints(crop, wanted[None], truth.schema, visible[None], threshold=0, zoom=zoom),
            draw_keypoints(crop, found[None], truth.schema, zoom=zoom),
        )
    return shown
