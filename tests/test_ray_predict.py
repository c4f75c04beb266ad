"""Prediction on a local Ray cluster of two workers: the local results, going on after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from polarpix.errors import InputError
from polarpix.export.run import Export
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.predict_files import FileJob, predict_files
from polarpix.predictor import load
from polarpix.ray_predict import RayJob, RayWorker, fetch_data, predict_ray


@pytest.fixture
def images(figures: Path, tmp_path: Path) -> Path:
    """A folder of five pictures, for breaking."""
    return shutil.copytree(figures / "images" / "val", tmp_path / "images")


@pytest.fixture
def cluster() -> Iterator[None]:
    """Whatever cluster the test starts is gone behind it."""
    yield
    import ray

    ray.shutdown()


def batch_of(places: list[str]) -> dict[str, Any]:
    """What Ray Data hands to a worker."""
    return fetch_data({"place": np.array(places), "image_id": np.arange(len(places))})


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_worker_writes_what_the_predictor_finds(
    images: Path, pose_folder: Path, pose: PosePredictor, tmp_path: Path
) -> None:
    (images / "0001.jpg").write_bytes(b"no picture")
    places = [str(images / f"{i:04d}.jpg") for i in (0, 1, 2, 9)]
    worker = RayWorker(RayJob(str(pose_folder), str(tmp_path / "out"), boxes="4,4,50,50", device="cpu"))
    told = worker(batch_of(places))
    assert list(told["place"]) == places
    assert [bool(error) for error in told["error"]] == [False, True, False, True]
    assert "0001.jpg: not an image" in told["error"][1]
    assert "0009.jpg: cannot be read" in told["error"][3]
    (part,) = (tmp_path / "out" / "parts").iterdir()
    rows = pq.read_table(part).to_pylist()
    assert [row["place"] for row in rows] == [places[0], places[2]]
    (instance,) = rows[1]["instances"]
    expected = pose(places[2], [4, 4, 50, 50]).to_coco()[0]
    np.testing.assert_allclose(instance["keypoints"], expected["keypoints"], atol=1e-3)
    assert instance["bbox"] == [4, 4, 50, 50]


def test_an_exported_file_works_as_well(images: Path, pose_export: Export, tmp_path: Path) -> None:
    job = RayJob(str(pose_export.file), str(tmp_path / "out"), device="cpu")
    RayWorker(job)(batch_of([str(images / "0000.jpg")]))
    assert predict_ray(job, [str(images / "0000.jpg")]) == (0, 1, [])
    row = read(tmp_path / "out" / "keypoints.json")[0]
    expected = load(pose_export.file, "cpu")(images / "0000.jpg").to_coco()[0]
    np.testing.assert_allclose(row["keypoints"], expected["keypoints"], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "gone.safetensors"}, "gone.safetensors: no such weights file"),
        ({"weights": "gone.pth", "config": "PAGE"}, "gone.pth: no such weights file"),
        ({"weights": "gone.onnx"}, "gone.onnx: no such file"),
        ({"options": ("--eval.flip_tset", "false")}, "did you mean --eval.flip_test"),
        ({"boxes": "1,2,3"}, "--boxes 1,2,3: give x,y,width,height"),
        ({"category": "dog", "boxes": "1,2,3,4"}, "--category dog: give the number"),
    ],
)
def test_what_is_wrong_is_said_before_a_cluster_starts(
    changes: dict[str, Any], message: str, images: Path, pose_folder: Path, tmp_path: Path
) -> None:
    if "config" in changes:
        changes = changes | {"config": str(pose_folder / "config.yaml")}
    with pytest.raises(InputError, match=message):
        predict_ray(replace(RayJob(str(pose_folder), str(tmp_path / "out")), **changes), [str(images)])
    assert not (tmp_path / "out").exists()


def test_a_segmentation_network_takes_no_boxes(images: Path, seg_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no boxes: leave out --boxes and --detector"):
        predict_ray(RayJob(str(seg_folder), str(tmp_path / "out"), boxes="1,2,3,4"), [str(images)])


def test_reading_needs_no_torch() -> None:
    """The processes that only fetch start quickly and stay small."""
    code = "import sys, polarpix.ray_predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_label_maps_are_in_the_file(images: Path, seg_folder: Path, seg: SegPredictor, tmp_path: Path) -> None:
    place = f"file://{images}/0003.jpg"
    RayWorker(RayJob(str(seg_folder), f"file://{tmp_path}/out", device="cpu"))(batch_of([place]))
    (part,) = (tmp_path / "out" / "parts").iterdir()
    (row,) = pq.read_table(part).to_pylist()
    label = cv2.imdecode(np.frombuffer(row["label"], np.uint8), cv2.IMREAD_COLOR)
    truth = seg(images / "0003.jpg")
    colors = np.array(truth.classes.colors, np.uint8)[truth.prediction.label]
    np.testing.assert_array_equal(label[:, :, ::-1], colors)
    assert [one["category_id"] for one in row["segments"]] == (np.unique(truth.prediction.label) + 1).tolist()


@pytest.mark.slow
def test_two_workers_find_what_one_process_finds(
    images: Path, pose_folder: Path, pose: PosePredictor, tmp_path: Path, cluster: None
) -> None:
    predict_files(pose, FileJob([str(images)], tmp_path / "local"))
    job = RayJob(str(pose_folder), str(tmp_path / "ray"), device="cpu", workers=2, shard=2)
    good = (images / "0004.jpg").read_bytes()
    (images / "0004.jpg").write_bytes(good[:500])
    # a worker that was killed after its first file: two pictures are there, nothing else
    RayWorker(job)(batch_of([str(images / f"{i:04d}.jpg") for i in (0, 1)]))
    (first,) = (tmp_path / "ray" / "parts").iterdir()
    before = first.stat().st_mtime_ns
    now, earlier, failed = predict_ray(job, [str(images)])
    assert (now, earlier, len(failed)) == (2, 2, 1)
    assert "0004.jpg" in failed[0]
    (images / "0004.jpg").write_bytes(good)
    RayWorker(job)(batch_of([str(images / "0004.jpg")]))
    assert predict_ray(job, [str(images)]) == (0, 5, [])  # nothing is left to do
    assert first.stat().st_mtime_ns == before
    assert read(tmp_path / "ray" / "images.json") == read(tmp_path / "local" / "images.json")
    local, spread = (read(tmp_path / name / "keypoints.json") for name in ("local", "ray"))
    assert [row["image_id"] for row in spread] == [row["image_id"] for row in local]
    for a, b in zip(spread, local, strict=True):
        assert a.keys() == b.keys()
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=1e-3)
    with pytest.raises(InputError, match="holds predictions with other boxes: choose another --out"):
        predict_ray(replace(job, boxes="1,2,3,4"), [str(images)])
