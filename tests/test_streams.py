"""Frames in batches: lazily, in order, errors after what came before them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from polarpix.errors import InputError
from polarpix.predict import PosePredictor, SegPredictor, load
from polarpix.sources import Frame, Medium
from polarpix.streams import MAX_WAITING, predict_groups, stream_results


class Counter:
    """Gives each frame's shade, and notes the batches; a frame fills as much as its boxes say."""

    batch_size = 4

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, frame: Frame, boxes: Any) -> Any:
        if boxes == "bad":
            raise InputError("bad boxes")
        return boxes or 1

    def share(self, frame: Frame, prepared: Any) -> tuple[int, Any]:
        return prepared, frame.image.shape

    def predict(self, frames: Sequence[Frame], prepared: Sequence[Any]) -> list[int]:
        self.batches.append(len(frames))
        return [int(frame.image[0, 0, 0]) for frame in frames]


def shade(value: int, size: int = 8) -> npt.NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def test_frames_share_batches_while_they_fit() -> None:
    counter = Counter()
    images = [shade(1), shade(2), shade(3), shade(4), shade(5, 9), shade(6)]
    assert list(stream_results(counter, images, [1, 3, 2, 9, 1, 1])) == [1, 2, 3, 4, 5, 6]
    assert counter.batches == [2, 1, 1, 1, 1]  # 1 + 3 fill it; 2; 9 alone; another size; the rest


def test_what_was_read_comes_before_an_error(tmp_path: Path) -> None:
    counter = Counter()
    results = stream_results(counter, [shade(1), shade(2), tmp_path / "gone.png"])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(InputError, match=r"gone\.png"):
        next(results)
    results = stream_results(counter, [shade(1), shade(2)], [1, "bad"])
    assert next(results) == 1
    with pytest.raises(InputError, match="bad boxes"):
        next(results)
    for count, words in ((1, "more frames than boxes"), (3, "more boxes than frames")):
        results = stream_results(counter, [shade(1), shade(2)], [1] * count)
        assert [next(results) for _ in range(min(count, 2))] == [1, 2][:count]
        with pytest.raises(InputError, match=f"there are {words}: give boxes for each frame"):
            next(results)


def test_a_webcam_waits_for_no_full_batch() -> None:
    counter = Counter()

    def frames(kind: Any, image: npt.NDArray[np.uint8]) -> Iterator[tuple[Frame, int]]:
        medium = Medium(kind, "0")
        return iter([(Frame(image, medium, index), 1) for index in range(3)])

    assert [len(found) for found in predict_groups(counter, frames("webcam", shade(1)))] == [1, 1, 1]
    assert [len(found) for found in predict_groups(counter, frames("video", shade(1)))] == [3]
    huge = np.broadcast_to(np.uint8(7), (MAX_WAITING // 3 + 1, 1, 3))
    assert [len(found) for found in predict_groups(counter, frames("video", huge))] == [1, 1, 1]


def test_a_video_streams_with_index_and_time(video: Path, pose: PosePredictor, seg_folder: Path) -> None:
    found = list(pose.stream(video))
    assert [one.index for one in found] == [0, 1, 2, 3, 4]
    assert [one.time for one in found] == pytest.approx([i / 12 for i in range(5)], abs=2e-3)
    assert {one.file for one in found} == {str(video)}
    one_by_one = load(seg_folder, "cpu")
    together = load(seg_folder, "cpu", batch=4)
    assert isinstance(one_by_one, SegPredictor)
    assert isinstance(together, SegPredictor)
    for a, b in zip(one_by_one.stream(video), together.stream([video]), strict=True):
        np.testing.assert_allclose(a.prediction.confidence, b.prediction.confidence, atol=1e-4)
        assert (a.prediction.label == b.prediction.label).mean() > 0.999
