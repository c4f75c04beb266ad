"""Calibration of a weights file: what changes in it, what evaluations and predictors then give, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from polarpix import commands
from polarpix.calibration import Calibration
from polarpix.engine.artifact import load_artifact, write_artifact
from polarpix.engine.calibrate import calibrate
from polarpix.engine.evaluate import evaluate
from polarpix.errors import InputError
from polarpix.predict import PosePredictor, artifact_run, load


@pytest.fixture
def bare_pose(pose_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file of its own without a calibration; few keypoints will do for one."""
    monkeypatch.setattr("polarpix.pose.calibrate.FEWEST", 10)
    write_artifact(tmp_path / "best.safetensors", replace(load_artifact(pose_folder), calibration=None))
    return tmp_path / "best.safetensors"


def test_only_the_meaning_of_scores_changes(bare_pose: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_artifact(bare_pose)
    bare = evaluate(before, artifact_run(before), "val", pictures=1)
    assert bare.calibration is not None
    assert commands.calibrate(str(bare_pose)) == 0
    assert "fitted on val" in capsys.readouterr().out
    after = load_artifact(bare_pose)
    assert after.calibration == bare.calibration
    assert after.calibration is not None
    assert after.calibration.split == "val"
    assert (after.run, after.labels, after.metrics, after.commit) == (
        before.run,
        before.labels,
        before.metrics,
        before.commit,
    )
    assert all(torch.equal(after.state[name], tensor) for name, tensor in before.state.items())
    found = evaluate(after, artifact_run(after), "val", pictures=1)
    assert found.metrics["ECE"] < found.metrics["ECE_uncalibrated"] == bare.metrics["ECE"]
    assert found.metrics["AP"] == bare.metrics["AP"]
    for one, other in zip(bare.results, found.results, strict=True):
        assert one["score"] == other["score"]
        wanted = after.calibration.probability(np.array(one["keypoints"][2::3]))
        np.testing.assert_allclose(other["keypoints"][2::3], wanted, atol=1e-6)
    titles = [section.title for section in found.findings.sections]
    assert titles[-2:] == ["What the scores mean", "What the ellipses hold"]
    assert found.metrics["coverage/68.27%"] == pytest.approx(0.6827, abs=0.02)


def test_predictors_give_probabilities_and_ellipses(bare_pose: Path, picture: npt.NDArray[np.uint8]) -> None:
    boxes = [[4, 4, 30, 40], [20, 2, 40, 44]]
    bare = load(bare_pose)(picture, boxes)
    artifact = load_artifact(bare_pose)
    done, _ = calibrate(artifact, artifact_run(artifact))
    calibration = done.calibration
    assert calibration is not None
    predictor = load(bare_pose)
    assert isinstance(predictor, PosePredictor)
    found = predictor(picture, boxes)
    np.testing.assert_array_equal(found.prediction.keypoints, bare.prediction.keypoints)
    np.testing.assert_array_equal(found.prediction.instance_scores, bare.prediction.instance_scores)
    np.testing.assert_array_equal(found.prediction.scores, calibration.probability(bare.prediction.scores))
    assert found.prediction.covariance is not None
    assert (np.linalg.eigvalsh(found.prediction.covariance) > 0).all()
    np.testing.assert_allclose(
        found.ellipses(0.9), found.prediction.covariance * calibration.radius(0.9) ** 2, rtol=1e-5
    )
    assert (found.plot(threshold=0.0, ellipses=0.9) != found.plot(threshold=0.0)).any()
    with pytest.raises(InputError, match=r"ellipses of 1\.5"):
        found.ellipses(1.5)


def test_training_leaves_calibrated_masks_behind(seg_folder: Path, picture: npt.NDArray[np.uint8]) -> None:
    artifact = load_artifact(seg_folder)
    assert artifact.calibration is not None
    assert artifact.calibration.protocol["mode"] == "whole"
    found = evaluate(artifact, artifact_run(artifact), "val", pictures=1)
    assert found.calibration == artifact.calibration  # the weights are those of the validation it was fitted on
    assert found.metrics["ECE"] < found.metrics["ECE_uncalibrated"]
    predictor, bare = load(seg_folder), load(seg_folder)
    bare.calibration = None
    given, raw = predictor(picture).prediction, bare(picture).prediction
    np.testing.assert_array_equal(given.label, raw.label)
    np.testing.assert_array_equal(given.confidence, artifact.calibration.probability(raw.confidence))


def test_what_cannot_be_calibrated_is_refused(bare_pose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = load_artifact(bare_pose)
    with pytest.raises(InputError, match="published checkpoint"):
        calibrate(replace(artifact, file="a.pth"), artifact_run(artifact))
    (tmp_path / "boxes.json").write_text("[]")
    detected = artifact_run(artifact, [f"--eval.boxes={tmp_path / 'boxes.json'}"])
    with pytest.raises(InputError, match="annotated boxes only"):
        calibrate(artifact, detected)
    monkeypatch.setattr("polarpix.pose.calibrate.FEWEST", 10**6)
    with pytest.raises(InputError, match="too few labels"):
        calibrate(artifact, artifact_run(artifact))
    with pytest.raises(InputError, match="no such file here"):
        commands.calibrate("body")


def test_a_damaged_calibration_is_named(bare_pose: Path, tmp_path: Path) -> None:
    artifact = load_artifact(bare_pose)
    falling = Calibration((0.1, 0.9), (0.8, 0.2), "val", 3)
    write_artifact(tmp_path / "odd.safetensors", replace(artifact, calibration=falling))
    with pytest.raises(InputError, match=r"odd\.safetensors: its metadata is damaged .no calibration"):
        load_artifact(tmp_path / "odd.safetensors")
    shutil.copy(bare_pose, tmp_path / "plain.safetensors")
    assert load_artifact(tmp_path / "plain.safetensors").calibration is None


def test_another_protocol_is_warned_of(seg_folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"another protocol \(flip was False\): they may be off"):
        load(seg_folder, overrides=["--eval.flip=true"])
