"""Evaluation: one figure whatever the number of processes, with all it depends on beside it."""

import hashlib
import json
import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import load_artifact
from polarpix.engine.evaluate import conditions, evaluate
from polarpix.errors import InputError
from polarpix.predict import artifact_run


def test_conditions_are_complete() -> None:
    found = conditions()
    assert set(found) >= {"commit", "python", "torch", "lightning", "device"}
    assert found["torch"] == torch.__version__
    assert all(isinstance(value, str) for value in found.values())


def test_a_figure_carries_its_protocol(pose_folder: Path, seg_folder: Path, figures: Path) -> None:
    artifact = load_artifact(pose_folder)
    found = evaluate(artifact, artifact_run(artifact), "test", pictures=1)
    notes = json.loads((figures / "annotations" / "test.json").read_text())["annotations"]
    labelled = [note for note in notes if note["num_keypoints"]]
    assert (found.task, found.split) == ("pose", "test")
    assert found.protocol["instances"] == len(labelled)
    assert found.protocol["images"] == 3
    assert found.protocol["images_with_boxes"] == len({note["image_id"] for note in labelled})
    annotations = (figures / "annotations" / "test.json").read_bytes()
    assert found.protocol["annotations_sha256"] == hashlib.sha256(annotations).hexdigest()
    assert found.protocol["protocol"] == "gt_boxes"
    assert found.protocol["detector_ap"] is found.protocol["boxes_sha256"] is None
    assert (found.protocol["input_size"], found.protocol["scales"]) == ([64, 64], [1.0])
    assert len(found.protocol["sigmas"]) == 14
    assert found.protocol["codec"] == "udp"
    assert found.protocol["flip_test"] is True
    assert found.protocol["attention"] == "psa_p"
    assert found.protocol["boxes"] == "ground truth"
    assert found.protocol["sigmas_from"]
    assert found.conditions["weights"] == artifact.file
    assert found.picture.dtype == np.uint8
    assert {one["image_id"] for one in found.results} <= {1, 2, 3}
    artifact = load_artifact(seg_folder)
    found = evaluate(artifact, artifact_run(artifact, ["--eval.flip=true", "--eval.scales=[0.5, 1.0]"]), "val")
    assert found.protocol["images"] == 5
    assert (found.protocol["mode"], found.protocol["flip"], found.protocol["scales"]) == ("whole", True, [0.5, 1.0])
    assert found.results == []
    assert {"mIoU", "pixel_accuracy", "IoU/background"} <= set(found.metrics)
    json.dumps([found.protocol, found.conditions, found.metrics])


def test_the_protocol_changes_the_figures(pose_folder: Path) -> None:
    artifact = load_artifact(pose_folder)
    plain = evaluate(artifact, artifact_run(artifact, ["--eval.flip_test=false"]), "val", pictures=1)
    flipped = evaluate(artifact, artifact_run(artifact), "val", pictures=1)
    assert plain.metrics["mean_error"] != flipped.metrics["mean_error"]
    bare = evaluate(artifact, artifact_run(artifact, ["--eval.pck=[]"]), "val", pictures=1)
    assert not [name for name in bare.metrics if name.startswith("PCK")]


def test_detected_boxes(pose_folder: Path, figures: Path, tmp_path: Path) -> None:
    notes = json.loads((figures / "annotations" / "val.json").read_text())["annotations"]
    boxes = [{key: note[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for note in notes]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([*boxes, boxes[0] | {"score": 0.1}]))
    artifact = load_artifact(pose_folder)
    options = [f"--eval.boxes={path}", "--eval.box_threshold=0.5", "--eval.detector_ap=56.4"]
    found = evaluate(artifact, artifact_run(artifact, options), "val", pictures=1)
    assert found.protocol["instances"] == len(boxes)
    assert found.protocol["boxes_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.protocol["protocol"], found.protocol["detector_ap"]) == ("detected_boxes", 56.4)
    assert "AP" in found.metrics
    assert "mean_error" not in found.metrics  # a detection has no annotation of its own


def test_what_cannot_be_evaluated(pose_folder: Path, seg_folder: Path) -> None:
    artifact = load_artifact(pose_folder)
    run = artifact_run(artifact)
    with pytest.raises(InputError, match="split is 'train': choose val or test"):
        evaluate(artifact, run, "train")
    with pytest.raises(InputError, match="holds a seg network, the page is for pose"):
        evaluate(load_artifact(seg_folder), run, "val")


def test_weights_know_their_skeleton_and_say_which_files_to_give(
    pose_folder: Path, figures: Path, tmp_path: Path
) -> None:
    """Outside the folder that a network was trained in neither its schema file nor its data are there."""
    artifact = load_artifact(pose_folder)
    there = {"schema": "gone/schema.yaml"}
    moved = replace(artifact, run=artifact.run | {"data": artifact.run["data"] | there})
    assert evaluate(moved, artifact_run(moved), "val", pictures=1).protocol["sigmas"] == list(artifact.labels.sigmas)
    with pytest.raises(InputError, match=r"other\.yaml: cannot read the keypoint schema"):
        evaluate(moved, artifact_run(moved, ["--data.schema=other.yaml"]), "val")
    moved = replace(artifact, run=artifact.run | {"data": artifact.run["data"] | there | {"root": str(tmp_path)}})
    with pytest.raises(InputError, match=r"val\.json, which is not here: add --data\.val_annotations FILE"):
        evaluate(moved, artifact_run(moved), "val")
    files = [f"--data.val_annotations={figures}/annotations/val.json", f"--data.val_images={figures}/images/val"]
    assert evaluate(moved, artifact_run(moved, files), "val", pictures=1).protocol["instances"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def evaluate_as_rank(rank: int, port: int, weights: Path, split: str, out: Path) -> None:
    """One of two processes; they were forked, so threads of the parent must not be waited for."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    artifact = load_artifact(weights)
    options = ["--engine.strategy=ddp", "--engine.devices=2", "--engine.batch_size=2"]
    found = evaluate(artifact, artifact_run(artifact, options), split, pictures=1)
    (out / f"{rank}.json").write_text(json.dumps({"metrics": found.metrics, "results": found.results}))


@pytest.mark.parametrize(("task", "split"), [("pose", "val"), ("seg", "val"), ("seg", "test")])
def test_two_processes_measure_what_one_does(
    task: str, split: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    weights = request.getfixturevalue(f"{task}_folder")
    artifact = load_artifact(weights)
    alone = evaluate(artifact, artifact_run(artifact), split, pictures=1)
    run = artifact_run(artifact)
    samples = alone.protocol["instances" if isinstance(run, PoseRun) else "images"]
    assert isinstance(run, PoseRun | SegRun)
    assert samples % 2 == 1, "an odd split, so that the processes get unequal shares"
    fork, port = multiprocessing.get_context("fork"), free_port()
    ranks = [fork.Process(target=evaluate_as_rank, args=(rank, port, weights, split, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        assert process.exitcode == 0
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["metrics"] == pytest.approx(alone.metrics, abs=1e-6, rel=1e-6)
        assert len(found["results"]) == len(alone.results)


def test_label_maps_for_a_server(seg_folder: Path, pose_folder: Path, tmp_path: Path) -> None:
    masks, points = load_artifact(seg_folder), load_artifact(pose_folder)
    with pytest.raises(InputError, match="'folder', servers are known for voc"):
        evaluate(masks, artifact_run(masks), "val", submission=tmp_path)
    with pytest.raises(InputError, match=r"--submission is for masks: .* results\.json"):
        evaluate(points, artifact_run(points), "val", submission=tmp_path)
