"""The one inference path: any picture, in its own coordinates, and the figures of the evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from PIL import Image

from polarpix.engine.artifact import load_artifact
from polarpix.engine.evaluate import evaluate
from polarpix.errors import InputError
from polarpix.images import write_image
from polarpix.pose.coco import CocoKeypoints
from polarpix.predict import PosePredictor, SegPredictor, artifact_run, load


def turned(picture: npt.NDArray[np.uint8], path: Path) -> None:
    """Store the picture lying on its side, with the EXIF note that says how to look at it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for looking
    Image.fromarray(np.rot90(picture).copy()).save(path, exif=exif)


def sixteen_bits(picture: npt.NDArray[np.uint8], path: Path) -> None:
    cv2.imwrite(str(path), picture[:, :, ::-1].astype(np.uint16) * 257)


def cmyk(picture: npt.NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(picture).convert("CMYK").save(path.with_suffix(".tif"))
    path.with_suffix(".tif").rename(path)


MODES: dict[str, Callable[[npt.NDArray[np.uint8], Path], None]] = {
    "turned.png": turned,
    "16 bits.png": sixteen_bits,
    "cmyk.tif": cmyk,
    "rgba.png": lambda picture, path: Image.fromarray(picture).convert("RGBA").save(path),
    "grey.png": lambda picture, path: Image.fromarray(picture).convert("L").save(path),
    "palette.png": lambda picture, path: Image.fromarray(picture).quantize(16).save(path),
}


@pytest.mark.parametrize("name", MODES)
def test_any_mode_comes_out_as_it_is_looked_at(
    name: str, picture: npt.NDArray[np.uint8], pose: PosePredictor, seg: SegPredictor, tmp_path: Path
) -> None:
    path = tmp_path / name
    MODES[name](picture, path)
    expected = picture
    if name.startswith("grey"):
        expected = np.repeat(np.asarray(Image.fromarray(picture).convert("L"))[:, :, None], 3, 2)
    if name.startswith("palette"):
        expected = np.asarray(Image.fromarray(picture).quantize(16).convert("RGB"))
    boxes = [[8, 4, 40, 40], [0, 0, 64, 48]]
    found, truth = pose(path, boxes), pose(expected, boxes)
    assert found.file == str(path)
    assert found.image.shape == (48, 64, 3)
    assert np.abs(found.image.astype(int) - expected).max() <= (2 if name.startswith("cmyk") else 0)
    np.testing.assert_allclose(found.prediction.keypoints, truth.prediction.keypoints, atol=1.5)
    label = seg(path).prediction.label
    assert label.shape == (48, 64)
    assert (label == seg(expected).prediction.label).mean() > 0.97
    assert found.plot().shape == (48, 64, 3)


def test_prediction_is_the_evaluation(pose_folder: Path, figures: Path, pose: PosePredictor) -> None:
    """The same instance, by the predictor and by the evaluation of the split: the same points and score."""
    artifact = load_artifact(pose_folder)
    evaluated = evaluate(artifact, artifact_run(artifact, ["--eval.oks_nms=0"]), "val", pictures=1).results
    data = CocoKeypoints(figures / "annotations" / "val.json", figures / "images" / "val")
    assert len(evaluated) == len(data) == 9
    predictor = load(pose_folder, "cpu", ["--eval.oks_nms=0"])
    for number in range(len(data)):
        sample = data[number]
        one = predictor(figures / "images" / "val" / sample.file, [sample.box]).to_coco(sample.image_id)[0]
        near = [
            np.abs(np.subtract(one["keypoints"], other["keypoints"])).max()
            for other in evaluated
            if other["image_id"] == one["image_id"] and other["score"] == pytest.approx(one["score"], abs=1e-4)
        ]
        assert near
        assert min(near) < 1e-3


@pytest.mark.filterwarnings("ignore:.*keypoints outside the image")
def test_no_box_is_the_whole_image_of_the_evaluation(
    pose_folder: Path, figures: Path, tmp_path: Path, picture: npt.NDArray[np.uint8]
) -> None:
    page = json.loads((figures / "annotations" / "val.json").read_text())
    page["images"] = [page["images"][0] | {"width": 64, "height": 48}]
    page["annotations"] = [note for note in page["annotations"] if note["image_id"] == 1][:1]
    write_image(tmp_path / "0000.png", picture)
    page["images"][0]["file_name"] = "0000.png"
    (tmp_path / "whole.json").write_text(json.dumps(page))
    options = [f"--data.root={tmp_path}", "--data.val_annotations=whole.json", "--data.val_images=."]
    options += ["--data.whole_image=true", "--data.box_padding=1.0"]
    artifact = load_artifact(pose_folder)
    (evaluated,) = evaluate(artifact, artifact_run(artifact, options), "val", pictures=1).results
    (predicted,) = load(pose_folder, "cpu", options)(picture).to_coco()
    np.testing.assert_allclose(predicted["keypoints"], evaluated["keypoints"], atol=1e-3)


def test_a_page_may_stand_in_for_the_one_inside(
    seg_folder: Path, picture: npt.NDArray[np.uint8], tiny_page: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    page = tiny_page("seg") | {"eval": {"flip": True, "scales": [0.5, 1.0]}}
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(page))
    by_page = load(seg_folder, "cpu", config=tmp_path / "page.yaml")(picture).prediction
    by_options = load(seg_folder, "cpu", ["--eval.flip=true", "--eval.scales=[0.5, 1.0]"])(picture).prediction
    np.testing.assert_array_equal(by_page.confidence, by_options.confidence)
    assert (by_page.confidence != load(seg_folder, "cpu")(picture).prediction.confidence).any()
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(tiny_page("pose")))
    with pytest.raises(InputError, match="holds a segmentation network"):
        load(seg_folder, "cpu", config=tmp_path / "page.yaml")


def test_boxes_may_be_one_none_or_many(pose: PosePredictor, picture: npt.NDArray[np.uint8]) -> None:
    whole = pose(picture)
    np.testing.assert_array_equal(whole.prediction.boxes, [[0, 0, 64, 48]])
    np.testing.assert_array_equal(whole.prediction.keypoints, pose(picture, [0, 0, 64, 48]).prediction.keypoints)
    none = pose(picture, [])
    assert none.prediction.keypoints.shape == (0, 14, 2)
    assert none.to_coco() == []
    np.testing.assert_array_equal(none.plot(), picture)
    assert len(pose(picture, np.zeros((0, 4))).prediction.boxes) == 0


def test_batches_change_nothing(pose_folder: Path, picture: npt.NDArray[np.uint8], pose: PosePredictor) -> None:
    boxes = np.array([[i, i, 30, 30] for i in range(5)], np.float32)
    run: Any = artifact_run(load_artifact(pose_folder))
    small = PosePredictor(load_artifact(pose_folder), run, torch.device("cpu"), batch_size=2)
    for a, b in zip(small.locate(picture, boxes), pose.locate(picture, boxes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_doubles_and_unsure_boxes_are_dropped(pose_folder: Path, picture: npt.NDArray[np.uint8]) -> None:
    boxes = [[8, 4, 40, 40, 0.5], [8, 4, 40, 40, 0.9], [30, 4, 30, 40, 0.1]]
    found = load(pose_folder, "cpu", ["--eval.box_threshold=0.2", "--eval.visibility=0"])(picture, boxes)
    np.testing.assert_allclose(found.prediction.box_scores, [0.9])
    kept = load(pose_folder, "cpu", ["--eval.oks_nms=0"])(picture, boxes)
    np.testing.assert_allclose(kept.prediction.box_scores, [0.5, 0.9, 0.1])


def test_streams_are_lazy_and_in_order(
    pose: PosePredictor, seg: SegPredictor, picture: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    boxes = [[[0, 0, 20, 20]], [[10, 10, 30, 30]]]
    found = list(pose.stream([picture, picture], boxes))
    assert [one.prediction.boxes[0, 0] for one in found] == [0, 10]
    stream = seg.stream([picture, tmp_path / "missing.png"])
    assert next(stream).prediction.label.shape == (48, 64)
    with pytest.raises(InputError, match=r"missing\.png"):
        next(stream)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[1, 2, 3]], "boxes have 3 numbers: give x, y, width, height"),
        ([[1, 2, 0, 5]], "box 1,2,0,5 has no area"),
        ([[1, 2, -4, 5]], "has no area"),
        ([[1, 2, float("nan"), 5]], "has no area"),
        ([[70, 2, 4, 5]], "lies outside the 64x48 image"),
        ([[-9, 2, 4, 5]], "lies outside the 64x48 image"),
        ([[1, 2, 3, 4], [1, 2]], "give rows of x, y, width, height"),
        ("1,2,3,4", "give rows of x, y, width, height"),
    ],
)
def test_boxes_that_are_none(boxes: Any, words: str, pose: PosePredictor, picture: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError) as caught:
        pose(picture, boxes)
    assert words in str(caught.value)
    assert str(caught.value).startswith("image: ")


def test_masks_take_no_boxes(seg: SegPredictor, picture: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="takes no boxes"):
        seg(picture, [[1, 2, 3, 4]])  # type: ignore[arg-type]  # wrong on purpose


def test_what_is_no_picture(pose: PosePredictor, tmp_path: Path) -> None:
    for source in (np.zeros((3, 8, 8), np.uint8), np.zeros((4, 4, 3), complex)):
        with pytest.raises(InputError, match="image has"):
            pose(source)
    text = tmp_path / "a.jpg"
    text.write_text("no picture")
    with pytest.raises(InputError, match=r"a\.jpg: not an image"):
        pose(text)


def test_devices_that_are_not_there(pose_folder: Path) -> None:
    for name in ("cuda:999", "quantum"):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used"):
            load(pose_folder, device=name)


def test_no_weights_are_fetched_again(pose_folder: Path) -> None:
    """A page that started from published weights predicts without them."""
    artifact = load_artifact(pose_folder)
    artifact.run["model"]["backbone"]["weights"] = "package:gone"
    assert artifact_run(artifact).model.backbone.weights is None
