from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.config import SegDataConfig
from polarpix.errors import InputError
from polarpix.seg.augment import PADDING, SegTransform, centre_crop
from polarpix.types import SegSample

IGNORE = 255


def ramp(height: int, width: int, axis: int) -> SegSample:
    """The label is the pixel's coordinate along `axis`; the picture's red is twice that, its blue 0."""
    label = np.indices((height, width))[axis].astype(np.uint8)
    image = np.stack([2 * label, np.full_like(label, 200), np.zeros_like(label)], axis=2)
    return SegSample(image=image, label=label, file="ramp")


sizes = st.tuples(st.integers(1, 100), st.integers(1, 100))


@settings(max_examples=200, deadline=None)
@given(
    size=sizes, crop=sizes, low=st.floats(0.3, 2), spread=st.floats(1, 2), axis=st.integers(0, 1), seed=st.integers(0)
)
def test_label_stays_on_its_pixel(size, crop, low, spread, axis, seed):
    sample = ramp(*size, axis)
    data = SegDataConfig(crop_size=crop, scale=(low, low * spread))
    image, label = SegTransform(data, IGNORE, training=True)(sample, np.random.default_rng(seed))
    assert image.shape == (*crop, 3)
    assert label.shape == crop
    assert image.dtype == label.dtype == np.uint8
    assert image.flags.c_contiguous
    assert label.flags.c_contiguous
    padding = label == IGNORE
    np.testing.assert_array_equal(padding, (image == PADDING).all(axis=2))  # ignore is where the picture is padded
    inside = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    assert not padding[np.ix_(*inside)].any()  # what is not padding is one rectangle
    away = image[..., 0].astype(float)[~padding] / 2 - label[~padding]
    assert np.abs(away).max() <= 0.8  # half a pixel of the source, and the rounding of 8 bits


def test_label_is_not_shifted_on_average():
    sample = ramp(100, 100, 1)
    transform = SegTransform(SegDataConfig(crop_size=(50, 50), flip=0.0), IGNORE, training=True)
    rng = np.random.default_rng(0)
    away = []
    for _ in range(200):
        image, label = transform(sample, rng)
        known = label != IGNORE
        away.append((image[..., 0][known] / 2.0 - label[known]).mean())
    assert abs(np.mean(away)) < 0.1  # sampling the label at pixel corners instead gives 0.3


def test_evaluation_changes_nothing():
    sample = ramp(13, 17, 0)
    image, label = SegTransform(SegDataConfig(color=0.5), IGNORE, training=False)(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(image, sample.image)
    np.testing.assert_array_equal(label, sample.label)


def test_same_generator_same_crop_and_other_generator_another():
    sample = ramp(80, 90, 1)
    transform = SegTransform(SegDataConfig(crop_size=(40, 40), color=0.3), IGNORE, training=True)
    first, again, other = (transform(sample, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(("flip", "descending"), [(0.0, False), (1.0, True)])
def test_flip_is_the_share_asked_for(flip, descending):
    transform = SegTransform(SegDataConfig(crop_size=(8, 60), scale=(1, 1), flip=flip), IGNORE, training=True)
    _, label = transform(ramp(8, 60, 1), np.random.default_rng(0))
    assert (int(label[0, 0]) > int(label[0, -1])) == descending


def test_scale_is_drawn_from_the_whole_range():
    transform = SegTransform(SegDataConfig(crop_size=(40, 40), scale=(0.5, 2.0), flip=0.0), IGNORE, training=True)
    rng = np.random.default_rng(0)
    shown = []
    for _ in range(200):
        _, label = transform(ramp(100, 100, 1), rng)
        shown.append(1 + int(label.max()) - int(label.min()))
    assert min(shown) == 20
    assert 76 <= max(shown) <= 80


def test_focus_centres_the_crop_on_the_class():
    label = np.zeros((100, 120), np.uint8)
    label[50, 30] = label[52, 90] = 3
    sample = SegSample(image=np.zeros((100, 120, 3), np.uint8), label=label, file="x.png")
    data = SegDataConfig(crop_size=(21, 21), scale=(1.0, 1.0), flip=0.0)
    transform = SegTransform(data, IGNORE, training=True)
    rng = np.random.default_rng(0)
    for _ in range(10):
        _, crop = transform(sample, rng, focus=3)
        assert crop[10, 10] == 3
    label[:] = 0
    label[0, 119] = 3  # in the corner the crop stays inside the image
    _, crop = transform(sample, rng, focus=3)
    assert crop[0, 20] == 3
    with pytest.raises(InputError, match=r"x\.png: no pixel of class 4"):
        transform(sample, rng, focus=4)


def test_focus_takes_every_pixel_of_the_class():
    label = np.zeros((40, 40), np.uint8)
    label[20, [5, 30]] = 1
    sample = SegSample(image=np.zeros((40, 40, 3), np.uint8), label=label, file="x")
    transform = SegTransform(SegDataConfig(crop_size=(9, 9), scale=(1, 1), flip=0.0), IGNORE, training=True)
    rng = np.random.default_rng(0)
    columns = {int(np.flatnonzero(transform(sample, rng, focus=1)[1][4])[0]) for _ in range(40)}
    assert columns == {4}
    sample.image[20, 5] = 50
    reds = {int(transform(sample, rng, focus=1)[0][4, 4, 0]) for _ in range(40)}
    assert reds == {0, 50}


def test_colour_jitter_leaves_label_and_padding_alone_and_keeps_within_its_strength():
    sample = SegSample(np.full((10, 10, 3), 100, np.uint8), np.zeros((10, 10), np.uint8), "x")
    transform = SegTransform(SegDataConfig(crop_size=(30, 30), scale=(1, 1), color=0.2), IGNORE, training=True)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(100):
        image, label = transform(sample, rng)
        assert (label == 0).sum() == 100
        assert (image[label == IGNORE] == PADDING).all()
        seen.append(int(image[label == 0][0, 0]))  # a picture of one grey changes in brightness only
    assert 79 <= min(seen) < 90
    assert 110 < max(seen) <= 121


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"crop_size": (0, 5)}, "crop_size"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"color": 1.0}, "color"),
        ({"flip": 1.5}, "flip"),
        ({"uniform": -0.1}, "uniform"),
    ],
)
def test_impossible_settings_are_refused(change, match):
    with pytest.raises(InputError, match=match):
        SegTransform(SegDataConfig(**change), IGNORE, training=True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("size", "side"), [((40, 90), 20), ((90, 40), 20), ((30, 60), 60), ((33, 33), 33)])
def test_the_centre_of_the_resized_picture(size, side, axis):
    sample = ramp(*size, axis)
    image, label = centre_crop(sample, side)
    assert image.shape == (side, side, 3)
    assert label.shape == (side, side)
    factor = side / min(size)
    first = (size[axis] * factor - side) / 2  # of the crop in the resized picture
    expected = (first + np.arange(side) + 0.5) / factor - 0.5
    found = label.mean(axis=1 - axis)
    assert np.abs(found - expected).max() <= 1 + 0.5 / factor
    np.testing.assert_allclose(image[..., 0], 2.0 * label, atol=2 + 2 / factor)
    page = SegDataConfig(crop_size=(7, 7))
    cropped = SegTransform(page, IGNORE, training=False, centre=side)(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(cropped[1], label)


def test_training_knows_no_centre_crop():
    page = SegDataConfig(crop_size=(7, 7))
    image, _ = SegTransform(page, IGNORE, training=True, centre=50)(ramp(40, 40, 0), np.random.default_rng(0))
    assert image.shape == (7, 7, 3)
