"""The draws of a training crop: their ranges and shares, half bodies, colour."""

import numpy as np
import pytest

from polarpix.config import PoseDataConfig
from polarpix.pose.augment import draw_crop, half_body_box, lower_half
from polarpix.pose.schema import COCO_SIGMAS
from polarpix.types import KeypointSchema, PoseSample

COCO = KeypointSchema(tuple(COCO_SIGMAS), (), (), tuple(COCO_SIGMAS.values()), "coco")
LOWER = tuple(range(11, 17))


def sample(labelled: int = 17) -> PoseSample:
    """A person whose keypoint i lies at (10 + i, 20 + 5 i)."""
    index = np.arange(17)
    keypoints = np.stack((10 + index, 20 + 5 * index), -1).astype(np.float32)
    visibility = np.where(index < labelled, 2, 0)
    box = np.array([5, 15, 30, 90], np.float32)
    return PoseSample(np.zeros((120, 60, 3), np.uint8), keypoints, visibility, box, 1.0, "x.png", 1, 1)


def test_ranges_and_shares_of_the_draws() -> None:
    data = PoseDataConfig(scale=0.3, rotation=40, rotation_prob=0.6, flip=0.5)
    rng = np.random.default_rng(0)
    draws = [draw_crop(sample(), data, LOWER, 0.75, rng) for _ in range(2000)]
    extent = np.array([1 / draw.zoom for draw in draws])
    rotation = np.array([draw.rotation for draw in draws])
    assert 0.7 - 1e-9 <= extent.min() < 0.75
    assert 1.25 < extent.max() <= 1.3 + 1e-9
    clipped = np.isclose(extent, 0.7) | np.isclose(extent, 1.3)
    assert clipped.mean() == pytest.approx(0.317, abs=0.04)  # beyond one standard deviation
    assert np.abs(rotation).max() == pytest.approx(80)
    assert (rotation != 0).mean() == pytest.approx(0.6, abs=0.04)
    assert np.std(rotation[rotation != 0]) == pytest.approx(38, abs=3)
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.5, abs=0.04)
    assert all(draw.padding == 1.25 for draw in draws)


def test_half_bodies_are_drawn_as_often_as_asked() -> None:
    data = PoseDataConfig(half_body=0.3, half_body_min=8)
    rng = np.random.default_rng(0)
    draws = [draw_crop(sample(), data, LOWER, 0.75, rng) for _ in range(1000)]
    half = [draw for draw in draws if draw.padding == 1.5]
    assert len(half) / 1000 == pytest.approx(0.3, abs=0.05)
    low = [draw.box[1] + draw.box[3] / 2 > 70 for draw in half]
    assert np.mean(low) == pytest.approx(0.5, abs=0.1)
    assert all(draw_crop(sample(8), data, LOWER, 0.75, rng).padding == 1.25 for _ in range(50))  # not more than 8


def test_lower_half_by_name() -> None:
    assert lower_half(COCO) == LOWER
    names = ("snout", "leftear", "tailbase", "LHindpaw", "l_forepaw")
    assert lower_half(KeypointSchema(names, (), (), (0.1,) * 5, "schema file")) == (2, 3)


def test_half_body_box_holds_its_half_around_the_mean() -> None:
    one = sample()
    labelled = one.visibility > 0
    for upper, chosen in ((True, one.keypoints[:11]), (False, one.keypoints[11:])):
        box = half_body_box(one.keypoints, labelled, LOWER, 0.75, upper)
        assert box is not None
        np.testing.assert_allclose(box[:2] + box[2:] / 2, chosen.mean(axis=0))
        assert box[2] / box[3] == pytest.approx(0.75)
        assert box[3] >= np.ptp(chosen[:, 1]) - 1e-4


def test_half_body_falls_back_to_the_half_that_is_there() -> None:
    one = sample(labelled=13)  # two of the lower half
    box = half_body_box(one.keypoints, one.visibility > 0, LOWER, 0.75, upper=False)
    assert box is not None
    np.testing.assert_allclose(box[:2] + box[2:] / 2, one.keypoints[:11].mean(axis=0))
    assert half_body_box(one.keypoints, np.arange(17) < 2, LOWER, 0.75, upper=True) is None
