"""The predictors of exported files give what those of weights files give, without torch."""

import json
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from polarpix.errors import InputError
from polarpix.export.run import Export
from polarpix.predict import PosePredictor, SegPredictor, load
from polarpix.results import PoseResult, SegResult
from polarpix.runtime.predictors import (
    ExportedPosePredictor,
    ExportedSegPredictor,
    describe,
    load_exported,
    open_exported,
)
from polarpix.runtime.seal import blank_seal, sealed
from polarpix.runtime.sessions import open_session

BOXES = [[4, 4, 30, 40, 0.9], [20, 2, 40, 44, 0.5], [21, 2, 40, 44, 0.4]]
Picture = npt.NDArray[np.uint8]

# What is refused: everything that an installation without torch does not have.
LONELY = """
import sys

ABSENT = ("torch", "torchvision", "timm", "lightning", "pytorch_lightning", "jsonargparse", "yaml", "PIL",
    "safetensors", "tqdm", "faster_coco_eval", "pycocotools", "huggingface_hub", "onnx", "onnxscript", "scipy")


class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Refusing())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ABSENT else real(name, package)

import json, pathlib
import polarpix

pose_file, seg_file, image, out = sys.argv[1:]
out = pathlib.Path(out)
pose, seg = polarpix.load(pose_file), polarpix.load(seg_file)
found = pose(image, json.loads(BOXES))
found.save(out / "pose.png")
masks = next(iter(seg.stream([image])))
masks.save(out / "seg.jpg")
masks.save_label(out / "label.png")
assert not set(ABSENT) & {name.partition(".")[0] for name in sys.modules}
print(json.dumps([found.to_coco(7), masks.to_coco(7), list(found.plot().shape)]))
"""


@pytest.fixture(scope="module")
def poses(pose_export: Export) -> ExportedPosePredictor:
    found = load_exported(pose_export.file, "cpu")
    assert isinstance(found, ExportedPosePredictor)
    return found


@pytest.fixture(scope="module")
def masks(seg_export: Export) -> ExportedSegPredictor:
    found = load_exported(seg_export.file, "cpu")
    assert isinstance(found, ExportedSegPredictor)
    return found


def test_poses_are_those_of_the_weights(poses: ExportedPosePredictor, pose: PosePredictor, picture: Picture) -> None:
    wanted, found = pose(picture, BOXES), poses(picture, BOXES)
    assert isinstance(found, PoseResult)
    assert found.schema == wanted.schema
    np.testing.assert_allclose(found.prediction.keypoints, wanted.prediction.keypoints, atol=0.02)
    np.testing.assert_allclose(found.prediction.instance_scores, wanted.prediction.instance_scores, atol=1e-5)
    np.testing.assert_array_equal(found.prediction.boxes, wanted.prediction.boxes)
    whole = poses(picture)
    assert whole.prediction.boxes.tolist() == [[0, 0, 64, 48]]
    poses.batch_size, before = 1, poses.batch_size
    again = poses(picture, BOXES)
    poses.batch_size = before
    np.testing.assert_allclose(again.prediction.keypoints, found.prediction.keypoints, atol=1e-3)
    assert poses(picture, []).prediction.keypoints.shape == (0, 14, 2)


def test_streams_are_lazy_and_in_order(poses: ExportedPosePredictor, picture: Picture) -> None:
    other = picture[:, ::-1].copy()
    stream = poses.stream(chain([picture], repeat(other)), chain([BOXES], repeat(None)))  # without an end
    assert len(next(stream).prediction.boxes) == len(poses(picture, BOXES).prediction.boxes)
    np.testing.assert_array_equal(next(stream).image, other)
    stream.close()


def test_masks_are_those_of_the_weights(masks: ExportedSegPredictor, seg_folder: Path, picture: Picture) -> None:
    torch_predictor = load(seg_folder, "cpu", ["--eval.scales", "[0.5]"])
    assert isinstance(torch_predictor, SegPredictor)
    wanted, found = torch_predictor(picture), masks(picture)
    assert isinstance(found, SegResult)
    assert found.classes == wanted.classes
    assert (found.prediction.label != wanted.prediction.label).mean() <= 1e-3
    np.testing.assert_allclose(found.prediction.confidence, wanted.prediction.confidence, atol=1e-4)
    with pytest.raises(InputError, match="takes no boxes"):
        masks(picture, [[1, 2, 3, 4]])  # type: ignore[arg-type]  # what is refused


def test_a_fixed_size_is_held(masks: ExportedSegPredictor, picture: Picture) -> None:
    from dataclasses import replace

    fixed = ExportedSegPredictor(replace(masks.exported, size=(64, 80)))
    with pytest.raises(InputError, match=r"is 48x64, .* takes images of 64x80 only: resize it, or export without"):
        fixed(picture)


def test_a_file_describes_itself(pose_export: Export, seg_export: Export) -> None:
    text = describe(open_exported(pose_export.file, "cpu"))
    assert "test_resnet, attention psa_p (paper form, parallel)" in text
    assert "takes      crops of 64x64, any number" in text
    assert "inside     udp decoding, flip test" in text
    text = describe(open_exported(seg_export.file, "cpu"))
    assert "takes      images of any size" in text
    assert "argmax, whole images, scales [0.5]" in text


def test_onnx_is_predicted_without_torch(
    pose_export: Export, seg_export: Export, poses: ExportedPosePredictor, masks: ExportedSegPredictor, figures: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    image = figures / "images" / "val" / "0000.jpg"
    code = LONELY.replace("BOXES", repr(json.dumps(BOXES)))
    words = [sys.executable, "-c", code, *map(str, (pose_export.file, seg_export.file, image, tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    coco, stuff, shape = json.loads(done.stdout)
    wanted: Any = poses(image, BOXES).to_coco(7)
    assert [one["image_id"] for one in coco] == [7] * len(wanted)
    np.testing.assert_allclose([one["keypoints"] for one in coco], [one["keypoints"] for one in wanted], atol=0.01)
    assert [one["segmentation"] for one in stuff] == [one["segmentation"] for one in masks(image).to_coco(7)]
    assert shape == [64, 64, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"pose.png", "seg.jpg", "label.png"}


def retold(file: Path, path: Path, **changes: str) -> Path:
    """An ONNX file with other metadata, sealed as who means harm would."""
    import onnx

    model = onnx.load(file)
    texts = {one.key: one.value for one in model.metadata_props} | {"seal": blank_seal(".onnx")} | changes
    onnx.helper.set_model_props(model, texts)
    path.write_bytes(sealed(model.SerializeToString(), ".onnx"))
    return path


LIES: dict[str, dict[str, Any]] = {
    "metadata are damaged .*Expecting": {"run": "{"},
    "metadata are damaged .*not 'list'|metadata are damaged .*list indices": {"run": "[1]"},
    "metadata are damaged .*recursion": {"labels": "[" * 100_000},
    "the page is of 'pose', the file of 'seg'|unexpected keyword": {"task": "seg"},
    r"its graph takes .*64, 64, 3.*they say .*-64": {"input_size": [-64, 64]},
    r"its graph takes .*they say .*1000000": {"input_size": [10**6, 10**6]},
    "invalid literal": {"input_size": ["x", 64]},
    r"its graph gives .*14, 2.*they say .*13, 2": {"names": 13},
    "no calibration": {"calibration": '{"scores": [0, 1], "probabilities": [1, 0], "split": "", "samples": 1}'},
    "metadata are damaged": {"metrics": '["x"]'},
    "a text of more than 1,048,576 letters": {"commit": "x" * 2_000_000},
    "not exported by this polarpix": {"format": "polarpix-export-2"},
}


@pytest.mark.parametrize("words", LIES)
def test_metadata_that_lie_are_refused(words: str, pose_export: Export, tmp_path: Path) -> None:
    change = dict(LIES[words])
    texts = open_session(pose_export.file, "cpu")[1]
    if "input_size" in change:
        page = json.loads(texts["run"])
        page["model"]["input_size"] = change.pop("input_size")
        change["run"] = json.dumps(page)
    if "names" in change:
        k, labels = change.pop("names"), json.loads(texts["labels"])
        cut = {"names": labels["names"][:k], "sigmas": labels["sigmas"][:k], "flip_pairs": [], "skeleton": []}
        change["labels"] = json.dumps(labels | cut)
    path = retold(pose_export.file, tmp_path / "a.onnx", **change)
    with pytest.raises(InputError, match=rf"a\.onnx: .*({words})") as caught:
        load_exported(path, "cpu")
    assert "\n" not in str(caught.value)


def test_letters_that_terminals_obey_are_not_shown(pose_export: Export, tmp_path: Path) -> None:
    path = retold(pose_export.file, tmp_path / "a.onnx", commit="\x1b[2Jgone\r")
    assert "commit     ?[2Jgone?" in describe(open_exported(path, "cpu"))


def test_results_of_other_shapes_and_no_numbers_are_refused(
    poses: ExportedPosePredictor, masks: ExportedSegPredictor, picture: Picture
) -> None:
    from dataclasses import replace

    def giving(change: Any) -> Any:
        session = poses.exported.session
        odd = replace(session, run=lambda *inputs: change(session.run(*inputs)))
        return ExportedPosePredictor(replace(poses.exported, session=odd))

    with pytest.raises(InputError, match=r"pose\.onnx: gives \(1, 13, 2\).*must be \[\(1, 14, 2\)"):
        giving(lambda found: [found[0][:, 1:], *found[1:]])(picture)
    with pytest.raises(InputError, match=r"pose\.onnx: gives no finite numbers"):
        giving(lambda found: [found[0] * np.nan, *found[1:]])(picture)
    session = masks.exported.session
    odd = replace(session, run=lambda *inputs: [session.run(*inputs)[0] + np.uint8(200), session.run(*inputs)[1]])
    with pytest.raises(InputError, match=r"seg\.onnx: gives classes that it has no name for"):
        ExportedSegPredictor(replace(masks.exported, session=odd))(picture)
