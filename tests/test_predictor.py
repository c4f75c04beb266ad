"""Any file to its predictor."""

from pathlib import Path

import pytest

import polarpix
from polarpix.errors import InputError
from polarpix.export.run import Export
from polarpix.predict import PosePredictor
from polarpix.runtime.predictors import ExportedPosePredictor


def test_the_suffix_decides(pose_export: Export, pose_folder: Path) -> None:
    assert isinstance(polarpix.load(pose_export.file, "cpu"), ExportedPosePredictor)
    assert isinstance(polarpix.load(pose_folder, "cpu"), PosePredictor)


def test_the_protocol_of_an_exported_file_is_fixed(pose_export: Export) -> None:
    with pytest.raises(InputError, match=r"--eval\.flip_test=false cannot change it: export again with it"):
        polarpix.load(pose_export.file, overrides=["--eval.flip_test=false"])
    with pytest.raises(InputError, match=r"--config page\.yaml cannot change it"):
        polarpix.load(pose_export.file, config="page.yaml")
