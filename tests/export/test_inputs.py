"""What an export is compared on."""

from pathlib import Path

import numpy as np
import pytest

from polarpix.errors import InputError
from polarpix.export.inputs import Pictures, noise_crops, noise_images, picture_crops, real_pictures, sized
from polarpix.images import write_image
from polarpix.predict import PosePredictor, SegPredictor


def test_the_val_split_comes_first(pose: PosePredictor, seg: SegPredictor) -> None:
    found = real_pictures(pose.run)
    assert (found.source, len(found.images), len(found.boxes)) == ("val split", 8, 8)
    crops, affines = picture_crops(pose, found)
    assert (crops.shape, crops.dtype, affines.shape) == ((8, 64, 64, 3), np.uint8, (8, 2, 3))
    assert len(real_pictures(seg.run).images) == 5


def test_given_pictures_are_whole_boxes(pose: PosePredictor, tmp_path: Path) -> None:
    for number in range(10):
        write_image(tmp_path / f"{number}.png", np.full((20 + number, 30, 3), 25 * number, np.uint8))
    found = real_pictures(pose.run, str(tmp_path))
    assert len(found.images) == 8
    assert found.boxes[-1].tolist() == [0, 0, 30, 28]
    with pytest.raises(InputError, match="no such file or folder"):
        real_pictures(pose.run, str(tmp_path / "none"))


def test_pictures_come_in_odd_and_fixed_sizes() -> None:
    images = [np.zeros((40, 50, 3), np.uint8), np.zeros((40, 51, 3), np.uint8)]
    pictures = Pictures("here", images, [])
    assert [one.shape for one in sized(pictures, None)] == [(1, 40, 50, 3), (1, 39, 51, 3)]
    assert [one.shape for one in sized(pictures, (32, 48))] == [(1, 32, 48, 3)] * 2


def test_noise_is_the_same_every_time(seg: SegPredictor) -> None:
    assert [one.shape for one in noise_images(seg, None)] == [(1, 64, 64, 3), (3, 43, 49, 3)]
    assert [one.shape for one in noise_images(seg, (32, 48))] == [(1, 32, 48, 3), (3, 32, 48, 3)]
    first, second = noise_crops((32, 48), 3), noise_crops((32, 48), 3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
