"""Files in, files out: names, ids, boxes, and one bad image among good ones."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarpix.box_files import parse_boxes
from polarpix.detectors import Detector
from polarpix.errors import InputError
from polarpix.images import read_image, read_label
from polarpix.predict import PosePredictor, SegPredictor, load
from polarpix.predict_files import FileJob, predict_files, seconds_line, unique_media
from polarpix.sources import read_frames


@pytest.fixture
def images(figures: Path, tmp_path: Path) -> Path:
    """A folder of five pictures, for breaking."""
    return shutil.copytree(figures / "images" / "val", tmp_path / "images")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def run(
    predictor: Any, sources: list[str], boxes: str, out: Path, category: int | None = None, **more: Any
) -> tuple[int, list[str]]:
    """How many were predicted, and what was not."""
    job = predict_files(predictor, FileJob(sources, out, boxes, category, **more))
    return job.done, job.failed


@pytest.mark.parametrize("source", ["{}", "{}/*.jpg", "{}/../*/000?.jpg"])
def test_folders_and_globs(source: str, images: Path, seg: SegPredictor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(seg, [source.format(images)], "", out) == (5, [])
    names = [f"{i:04d}" for i in range(5)]
    assert sorted(p.stem for p in (out / "labels").iterdir()) == names
    assert sorted(p.name for p in (out / "overlays").iterdir()) == [f"{name}.jpg" for name in names]
    np.testing.assert_array_equal(read_label(out / "labels" / "0003.png"), seg(images / "0003.jpg").prediction.label)
    assert read_image(out / "overlays" / "0003.jpg").shape == (64, 64, 3)


def test_keypoints_come_with_the_images_they_are_of(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(pose, [str(images), str(images / "0001.jpg")], "", out) == (5, [])  # each once
    pictures, found = read(out / "images.json"), read(out / "keypoints.json")
    assert [one["id"] for one in pictures] == [0, 1, 2, 3, 4]
    assert all((one["width"], one["height"]) == (64, 64) for one in pictures)
    assert [Path(one["file_name"]).name for one in pictures] == [f"{i:04d}.jpg" for i in range(5)]
    assert [one["image_id"] for one in found] == [0, 1, 2, 3, 4]
    expected = pose(images / "0002.jpg").to_coco(2)[0]
    np.testing.assert_allclose(found[2]["keypoints"], expected["keypoints"], atol=1e-3)


def test_bad_images_among_good_ones(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    (images / "0001.jpg").write_bytes((images / "0001.jpg").read_bytes()[:800])
    (images / "0003.jpg").write_bytes(b"")
    out = tmp_path / "out"
    done, failed = run(pose, [str(images)], "", out)
    assert done == 3
    assert [line.partition(": ")[0] for line in failed] == [str(images / "0001.jpg"), str(images / "0003.jpg")]
    assert all("\n" not in line for line in failed)
    assert [one["image_id"] for one in read(out / "keypoints.json")] == [0, 2, 4]
    before = (out / "keypoints.json").read_bytes()
    assert run(pose, [str(images / "0001.jpg")], "", out)[0] == 0
    assert (out / "keypoints.json").read_bytes() == before  # nothing found, nothing lost


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_keeps_what_was_found(
    stop: type[BaseException],
    images: Path,
    pose_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = PosePredictor.predict

    def call(self: PosePredictor, frames: Any, prepared: Any) -> Any:
        if Path(frames[0].file).stem == "0002":
            raise stop
        return usual(self, frames, prepared)

    monkeypatch.setattr(PosePredictor, "predict", call)
    with pytest.raises(stop):
        run(load(pose_folder, "cpu", batch=1), [str(images)], "", tmp_path / "out")
    assert [one["image_id"] for one in read(tmp_path / "out" / "keypoints.json")] == [0, 1]
    assert sorted(path.stem for path in (tmp_path / "out" / "overlays").iterdir()) == ["0000", "0001"]
    assert capsys.readouterr().err.endswith("\n")  # what is said next begins on a line of its own


def test_what_cannot_be_written_ends_the_work(
    images: Path, pose: PosePredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, image: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("polarpix.outputs.write_image", full)
    with pytest.raises(OSError, match="No space left"):
        run(pose, [str(images)], "", tmp_path / "out")


def test_a_video_comes_back_with_overlays(video: Path, seg: SegPredictor, tmp_path: Path) -> None:
    assert run(seg, [str(video)], "", tmp_path / "out") == (5, [])
    frames = list(read_frames(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 5
    assert frames[0].rate == pytest.approx(12)
    for drawn, frame in zip(frames, read_frames(video), strict=True):
        expected = seg(frame.image).plot().astype(int)
        assert np.abs(drawn.image - expected).mean() < 0.5 * np.abs(frame.image - expected).mean()


def test_keypoints_of_frames_come_with_their_times(
    video: Path, images: Path, pose: PosePredictor, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(pose, [str(images / "0001.jpg"), str(video)], "", out) == (6, [])
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["0001.jpg", "clip.mp4"]
    plain = list(read_frames(video))
    rows = read(out / "images.json")
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert "frame" not in rows[0]
    assert [row["frame"] for row in rows[1:]] == [0, 1, 2, 3, 4]
    assert [row["time"] for row in rows[1:]] == pytest.approx([0, 1 / 12, 2 / 12, 3 / 12, 4 / 12], abs=2e-3)
    found = read(out / "keypoints.json")
    assert [row["image_id"] for row in found] == [1, 2, 3, 4, 5, 6]
    expected = pose(plain[4].image).to_coco(6)[0]["keypoints"]
    np.testing.assert_allclose(found[5]["keypoints"], expected, atol=1e-3)


def test_labels_of_frames_only_on_request(video: Path, seg: SegPredictor, tmp_path: Path) -> None:
    assert run(seg, [str(video)], "", tmp_path / "a") == (5, [])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["overlays"]
    assert run(seg, [str(video)], "", tmp_path / "b", frame_labels=True, frames=2) == (2, [])
    labels = sorted((tmp_path / "b" / "labels" / "clip").iterdir())
    assert [path.name for path in labels] == ["000000.png", "000001.png"]
    second = list(read_frames(video))[1].image
    np.testing.assert_array_equal(read_label(labels[1]), seg(second).prediction.label)


def test_a_bad_video_among_good_pictures(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    (images / "a.mp4").write_bytes(b"no video")
    done, failed = run(pose, [str(images)], "", tmp_path / "out")
    assert done == 5
    assert failed == [f"{images / 'a.mp4'}: cannot be read as a video: give another file, or convert it to mp4"]


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_batches_over_frames_change_nothing(batch: int, images: Path, pose_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    boxes = [{"image_id": i, "bbox": [j, 2 * j, 40, 40]} for i in (0, 1, 3) for j in range(i + 1)]
    page.write_text(json.dumps(boxes))
    predictor = load(pose_folder, "cpu", ["--eval.oks_nms=0"], batch=batch)
    assert run(predictor, [str(images)], str(page), tmp_path / "out") == (5, [])
    found = read(tmp_path / "out" / "keypoints.json")
    assert [row["image_id"] for row in found] == [0, 1, 1, 3, 3, 3, 3]
    lone = predictor(images / "0003.jpg", [[3, 6, 40, 40]]).to_coco(3)[0]["keypoints"]
    np.testing.assert_allclose(found[-1]["keypoints"], lone, atol=1e-3)


def test_a_detector_finds_the_boxes(images: Path, pose: PosePredictor, seg: SegPredictor, tmp_path: Path) -> None:
    class Half(Detector):
        def find(self, images: Any) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            """The left half of each image for sure, the right one hardly, and another thing."""
            corners = torch.tensor([[0.0, 0, 32, 64], [32, 0, 64, 64], [0, 0, 9, 9]])
            return [(corners, torch.tensor([0.9, 0.2, 0.95]), torch.tensor([1, 1, 2])) for _ in images]

    detector = Half(torch.nn.Identity(), {"person": 1, "dog": 2}, torch.device("cpu"))
    detector.category = "person"
    assert run(pose, [str(images)], "", tmp_path / "out", detector=detector) == (5, [])
    found = read(tmp_path / "out" / "keypoints.json")
    assert [row["image_id"] for row in found] == [0, 1, 2, 3, 4]
    expected = pose(images / "0002.jpg", [[0, 0, 32, 64, 0.9]]).to_coco(2)[0]
    assert found[2]["score"] == pytest.approx(expected["score"], abs=1e-4)
    with pytest.raises(InputError, match="--detector: a segmentation network takes no boxes"):
        run(seg, [str(images)], "", tmp_path / "out", detector=detector)


def test_each_source_once_and_seconds_of_every_part(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    names = [medium.path.name for medium in unique_media([str(images), str(images / "0001.jpg")])]
    assert names == [f"{i:04d}.jpg" for i in range(5)]
    job = predict_files(pose, FileJob([str(images)], tmp_path / "out"))
    assert set(job.clock.seconds) == {"find", "decode", "write", "waiting to decode", "waiting to write"}
    assert all(value > 0 for value in job.clock.seconds.values())
    assert job.clock.seconds["find"] > job.clock.seconds["waiting to decode"]
    assert seconds_line(job.clock).startswith("seconds: network ")


def test_boxes_of_a_detector(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    def rows(out: Path) -> list[Any]:
        return [(one["image_id"], one["keypoints"]) for one in read(out / "keypoints.json")]

    box = [5.0, 4.0, 50.0, 55.0]
    page = tmp_path / "found.json"
    by_id = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.7}, {"image_id": 3, "bbox": box}]
    by_name = [{"file_name": "0001.jpg", "bbox": box, "score": 0.7}, {"file_name": "val/0003.jpg", "bbox": box}]
    coco = {
        "images": [{"id": 70, "file_name": "0001.jpg"}, {"id": 80, "file_name": "0003.jpg"}],
        "annotations": [
            {"image_id": 70, "bbox": box},
            {"image_id": 80, "bbox": box, "iscrowd": 0},
            {"image_id": 80, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    outs = []
    for number, content in enumerate((by_id, by_name, coco)):
        page.write_text(json.dumps(content))
        outs.append(tmp_path / str(number))
        assert run(pose, [str(images)], str(page), outs[-1]) == (5, [])
    assert [image for image, _ in rows(outs[0])] == [1, 3]
    assert rows(outs[0]) == rows(outs[1]) == rows(outs[2])
    expected = pose(images / "0001.jpg", [[*box, 0.7]]).to_coco(1)[0]
    assert read(outs[0] / "keypoints.json")[0]["score"] == pytest.approx(expected["score"])
    assert run(pose, [str(images / "0001.jpg")], "5,4,50,55", tmp_path / "text") == (1, [])
    # other batches, other sums: within a hundredth of a pixel
    assert rows(tmp_path / "text")[0][1] == pytest.approx(rows(outs[0])[0][1], abs=0.01)


def test_detections_of_several_categories(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    person, car = ({"image_id": 1, "category_id": c, "bbox": [5, 4, 50, 50 + c], "score": 0.9} for c in (1, 3))
    page.write_text(json.dumps([person, car]))
    with pytest.raises(InputError, match=r"found\.json: holds detections of the categories 1, 3: choose"):
        run(pose, [str(images)], str(page), tmp_path / "out")
    with pytest.raises(InputError, match="no detection of category 2: choose one of 1, 3"):
        run(pose, [str(images)], str(page), tmp_path / "out", category=2)
    assert parse_boxes(str(page), 3) == {"1": [[5, 4, 50, 53, 0.9]]}
    assert run(pose, [str(images)], str(page), tmp_path / "out", category=1) == (5, [])
    assert len(read(tmp_path / "out" / "keypoints.json")) == 1


def test_boxes_that_belong_to_no_image(images: Path, pose: PosePredictor, seg: SegPredictor, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    page.write_text(json.dumps([{"image_id": 99, "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(InputError, match="no detection is of these images"):
        run(pose, [str(images)], str(page), tmp_path / "out")
    with pytest.raises(InputError, match="a segmentation network takes no boxes"):
        run(seg, [str(images)], "1,2,3,4", tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        run(seg, [str(images), str(tmp_path / "none")], "", tmp_path / "out")
    with pytest.raises(InputError, match=r"found\.json is no folder: choose another place"):
        run(seg, [str(images)], "", page / "out")
    assert not (tmp_path / "out").exists()
    done, failed = run(pose, [str(images)], "60,60,-3,4", tmp_path / "out")
    assert (done, len(failed)) == (0, 5)
    assert not (tmp_path / "out" / "keypoints.json").exists()
