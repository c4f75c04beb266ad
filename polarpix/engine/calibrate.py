"""Fit what the scores of a weights file mean on its validation split, and keep it in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from polarpix.calibration import ScoreCounts
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import Artifact, load_artifact, write_artifact
from polarpix.engine.evaluate import evaluate
from polarpix.errors import InputError

__all__ = ["calibrate"]


def calibrate(artifact: Artifact, run: PoseRun | SegRun) -> tuple[Artifact, ScoreCounts]:
    """Calibrate the scores of a weights file by the "val" split of a page, and write it anew with the result.

    Everything else in the file stays as it was.

    Args:
        artifact: the weights; an earlier calibration is replaced.
        run: the page whose split and protocol count.

    Returns:
        What was written, and the bare scores against the truth.

    Raises:
        InputError: no weights file of polarpix, a split that cannot be evaluated, detected boxes, too few labels, or a
            place that cannot be written.
    """
    path = Path(artifact.file)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a published checkpoint cannot hold a calibration: train or publish from it first")
    if isinstance(run, PoseRun) and run.eval.boxes != "gt":
        raise InputError(
            f"eval.boxes is {run.eval.boxes}: whether a keypoint is right can be told in annotated boxes only: add "
            "--eval.boxes gt"
        )
    found = evaluate(replace(artifact, calibration=None), run, "val", pictures=1)
    if found.calibration is None or found.counts is None:
        raise InputError(f"{path}: the val split has too few labels to calibrate by (100 keypoints at least): add some")
    done = replace(load_artifact(path), calibration=found.calibration)
    write_artifact(path, done)
    return done, found.counts
