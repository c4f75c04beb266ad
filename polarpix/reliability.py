"""Whether scores mean what they say: figures, a reliability diagram and the coverage of ellipses for a page."""

from __future__ import annotations

from collections.abc import Mapping

from polarpix.calibration import Calibration, ScoreCounts, calibration_bins, calibration_error
from polarpix.report import Curves, Section, Share, Table, Value

__all__ = ["RIGHT", "coverage_section", "score_metrics", "score_section"]

RIGHT = {
    "pose": "a keypoint is right that lies within the OKS-0.5 radius of its annotated place",
    "seg": "a pixel is right that has its annotated class",
}
"""Task -> when a prediction counts as right."""


def score_metrics(counts: ScoreCounts, calibration: Calibration | None) -> dict[str, float]:
    """ECE of the scores as they are given out and, if they are calibrated, of those before."""
    metrics = {"ECE": calibration_error(counts, calibration)}
    if calibration is not None:
        metrics["ECE_uncalibrated"] = calibration_error(counts)
    return metrics


def score_section(task: str, counts: ScoreCounts, calibration: Calibration | None, split: str) -> Section:
    """The reliability diagram with its bins."""
    line = "calibrated" if calibration else "as it is"
    bins = calibration_bins(counts, calibration)
    series = {"a score that means what it says": [(0.0, 0.0), (1.0, 1.0)]}
    series[line] = [(row.score, row.right) for row in bins]
    if calibration:
        series["before"] = [(row.score, row.right) for row in calibration_bins(counts)]
        told = f"Fitted on {calibration.split}, {calibration.samples:,} samples."
        if calibration.split == split:
            told += " That is this very split: how well the scores hold on new data is to be seen on another one."
    else:
        told = "These weights are not calibrated: 'polarpix calibrate' fits a curve on the validation split."
    rows: list[list[Value]] = [
        [
            f"{row.low:.2f} to {row.high:.2f}",
            Share(row.count / counts.total),
            row.score,
            row.right,
            row.right - row.score,
        ]
        for row in bins
    ]
    return Section(
        "What the scores mean",
        f"How often predictions of one score were right; {RIGHT[task]}. ECE is how far the two are apart, in the mean "
        f"over all {counts.total:,} predictions (15 bins). {told}",
        table=Table(["score", "share of the predictions", "mean score", "right", "difference"], rows),
        curves=[Curves("Share that was right", series, "score")],
    )


def coverage_section(held: Mapping[float, tuple[float, float]], calibration: Calibration | None) -> Section:
    """What share of the annotated places ellipses held, from the result of `polarpix.pose.calibrate.coverage`."""
    if calibration is None:
        headers = ["claimed", "held by a Gaussian's ellipse"]
        rows: list[list[Value]] = [[Share(claim), Share(gauss)] for claim, (gauss, _) in held.items()]
        told = "These weights are not calibrated: the covariance is the bare spread of the heatmap."
    else:
        headers = ["claimed", "held by a Gaussian's ellipse", "held by the measured one"]
        rows = [[Share(claim), Share(gauss), Share(own)] for claim, (gauss, own) in held.items()]
        told = (
            "The covariance is scaled so that a Gaussian's 68 % held on the split it was fitted on; the radius of the "
            "measured ellipses was taken for each share there."
        )
    return Section(
        "What the ellipses hold",
        "Each keypoint has a covariance, read from its heatmap. An ellipse that claims a share is to hold the "
        f"annotated place that often. {told}",
        table=Table(headers, rows),
    )
