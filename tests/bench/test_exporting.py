"""The loops by hand find what the predictor finds, and the benchmark compares like with like."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from polarpix.bench import by_hand, exporting
from polarpix.bench.timing import Candidate
from polarpix.errors import InputError
from polarpix.export.run import Export
from polarpix.pose.codec import Udp
from polarpix.runtime.predictors import ExportedPosePredictor, ExportedSegPredictor, load_exported

BOXES = np.array([[4, 4, 30, 40], [20, 2, 40, 44]], np.float32)


def test_the_exported_files_give_the_same_by_hand(
    pose_export: Export, seg_export: Export, picture: npt.NDArray[np.uint8]
) -> None:
    poses, masks = load_exported(pose_export.file, "cpu"), load_exported(seg_export.file, "cpu")
    assert isinstance(poses, ExportedPosePredictor)
    assert isinstance(masks, ExportedSegPredictor)
    points, scores = by_hand.points_whole(pose_export.file, picture, BOXES, (64, 64), poses.run.data.box_padding)()
    found = poses.locate(picture, BOXES)
    np.testing.assert_allclose(points, found[0], atol=0.05)
    np.testing.assert_allclose(scores, found[1], atol=1e-4)
    label, confidence = by_hand.masks_whole(seg_export.file, picture)()
    np.testing.assert_array_equal(label, masks.label(picture[None])[0][0])
    np.testing.assert_array_equal(confidence, masks.label(picture[None])[1][0])


def test_the_decode_by_hand_is_udps() -> None:
    codec = Udp((128, 96), (32, 24), 1.5)  # the summits away from the border, where by hand all is smoothed
    truth = np.array([[40.3, 61.7], [50.0, 42.5], [41.1, 70.2]], np.float32)
    maps, _ = codec.encode(truth, np.ones(3, np.float32))
    wanted, heights = codec.decode(torch.from_numpy(maps)[None])
    points, scores = by_hand.decode_udp(maps[None], 9, 1.5)
    scale = np.array([95 / 23, 127 / 31], np.float32)
    np.testing.assert_allclose(points * scale, wanted.numpy(), atol=0.05)
    np.testing.assert_allclose(scores, heights.numpy())


class Session:
    """A bare network as onnxruntime would run it: what it gives depends on the input alone."""

    def __init__(self, run: Any) -> None:
        self.network = run

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "x"})]

    def run(self, names: None, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return [self.network(feed["x"])]


def test_bare_networks_are_normalised_and_decoded(
    monkeypatch: pytest.MonkeyPatch, picture: npt.NDArray[np.uint8]
) -> None:
    monkeypatch.setattr(by_hand, "session_of", lambda path: Session(lambda x: x))
    label, confidence = by_hand.masks_bare(Path("a.onnx"), picture)()
    x = torch.from_numpy((picture.astype(np.float32) - by_hand.MEAN) / by_hand.STD).softmax(-1)
    np.testing.assert_array_equal(label, x.argmax(-1).numpy())
    np.testing.assert_allclose(confidence, x.amax(-1).numpy(), rtol=1e-5)

    def dots(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The first two colours as heatmaps of a quarter of the size."""
        return np.stack([[cv2.resize(m, (16, 16), interpolation=cv2.INTER_AREA) for m in one[:2]] for one in x])

    monkeypatch.setattr(by_hand, "session_of", lambda path: Session(dots))
    spot = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(spot, (40, 20), 6, (255, 0, 0), -1)
    cv2.circle(spot, (16, 48), 6, (0, 255, 0), -1)
    box = np.array([[0, 0, 63, 63]], np.float32)
    loop = by_hand.points_bare(Path("a.onnx"), spot, box, (64, 64), 1.0, [0, 1], 1.0)
    np.testing.assert_allclose(loop()[0][0], [[40, 20], [16, 48]], atol=1.5)


def test_unlike_ways_are_refused() -> None:
    one = np.zeros((4, 4)), np.zeros(4)
    other = np.ones((4, 4)), np.zeros(4)
    assert set(exporting._alike(lambda: one, lambda: one, lambda: one)) == {
        exporting.OWN,
        exporting.WHOLE,
        exporting.BARE,
    }
    with pytest.raises(InputError, match="by hand, bare network finds something else"):
        exporting._alike(lambda: one, lambda: one, lambda: other)


def test_a_record_holds_times_and_ratios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def candidates(folder: Path, seed: int, shown: npt.NDArray[np.uint8]) -> dict[str, dict[str, Candidate]]:
        ways = (exporting.OWN, exporting.WHOLE, exporting.BARE)
        return {"one": {way: Candidate(lambda: sum(range(1000))) for way in ways}}

    monkeypatch.setattr(exporting, "pose_candidates", candidates)
    monkeypatch.setattr(exporting, "seg_candidates", candidates)
    text = exporting.bench_export(str(tmp_path / "latency.json"), rounds=3)
    record = json.loads((tmp_path / "latency.json").read_text())
    assert [(row["task"], row["input"]) for row in record["tables"]["rows"]] == [("pose", "one"), ("seg", "one")]
    row = record["tables"]["rows"][0]
    assert row["times"][exporting.OWN]["samples"] == 3
    assert set(row["ratio"]) == {exporting.WHOLE, exporting.BARE}
    assert (tmp_path / "latency.md").read_text() == text
    with pytest.raises(InputError, match="--rounds -1"):
        exporting.bench_export(rounds=-1)
