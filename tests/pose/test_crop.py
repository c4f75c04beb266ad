"""Crops: the two conventions to the letter, one affine there and back, pixels and points that move together."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.config import PoseDataConfig, PoseModelConfig
from polarpix.errors import InputError
from polarpix.pose.crop import PoseTransform, crop_matrix, invert_matrix, move_points, warp
from polarpix.types import KeypointSchema, PoseSample

SCHEMA = KeypointSchema(("nose", "left_hip", "right_hip"), ((1, 2),), (), (0.1,) * 3, "schema file")
STILL = {"scale": 0.0, "rotation": 0.0, "rotation_prob": 0.0, "flip": 0.0}

boxes = st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 200, allow_subnormal=False), st.floats(1, 200))
both_conventions = pytest.mark.parametrize("udp", [False, True])


def blobs(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H, W, 3] with a soft blob at each of three points, each in a channel of its own."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    channels = [255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 4.0**2)) for x, y in points]
    return np.stack(channels, -1).astype(np.uint8)


def centers(image: np.ndarray) -> np.ndarray:
    """The centre of mass [3, 2] of each channel."""
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    mass = image.astype(np.float64)
    total = mass.sum((0, 1))
    return np.stack(((mass * xs[..., None]).sum((0, 1)) / total, (mass * ys[..., None]).sum((0, 1)) / total), -1)


def make_sample(points: np.ndarray, box: tuple[float, ...] = (20, 15, 60, 70)) -> PoseSample:
    keypoints = points.astype(np.float32)
    box_array = np.array(box, np.float32)
    return PoseSample(blobs(points, (100, 120)), keypoints, np.array([2, 2, 1]), box_array, 1.0, "x.png", 1, 1)


POINTS = np.array([[40.0, 30.0], [60.0, 55.0], [45.0, 70.0]])


def test_classic_is_simple_baselines() -> None:
    box = (10, 20, 100, 50)  # wider than 3:4: the height becomes 100 * 4 / 3
    matrix = crop_matrix(box, (256, 192), padding=1.25, udp=False)
    scale = 192 / 125
    np.testing.assert_allclose(matrix, [[scale, 0, 96 - 60 * scale], [0, scale, 128 - 45 * scale]])


def test_udp_measures_between_pixel_centres() -> None:
    box = (10, 20, 50, 200)  # taller than the crop
    matrix = crop_matrix(box, (256, 192), padding=1.0, udp=True)
    corners = move_points(matrix, np.array([[35, 20], [35, 220], [35, 120]]))
    np.testing.assert_allclose(corners, [[95.5, 0], [95.5, 255], [95.5, 127.5]], atol=1e-4)


@both_conventions
def test_rotation_turns_counter_clockwise_about_the_centre(udp: bool) -> None:
    straight = crop_matrix((0, 0, 80, 80), (64, 64), padding=1.0, udp=udp)
    turned = crop_matrix((0, 0, 80, 80), (64, 64), rotation=90, padding=1.0, udp=udp)
    center, right, top = move_points(straight, np.array([[40, 40], [60, 40], [40, 20]]))
    np.testing.assert_allclose(move_points(turned, np.array([[40, 40], [60, 40]])), [center, top], atol=1e-4)
    assert right[0] > center[0]


@both_conventions
@settings(deadline=None, max_examples=40)
@given(box=boxes, rotation=st.floats(-180, 180), zoom=st.floats(0.5, 2), flip=st.booleans())
def test_there_and_back(udp: bool, box: tuple[float, ...], rotation: float, zoom: float, flip: bool) -> None:
    matrix = crop_matrix(box, (96, 72), rotation, zoom, 1.25, udp, flip)
    points = np.random.default_rng(0).uniform(-100, 200, (10, 2))
    there = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(move_points(invert_matrix(matrix), there), points, atol=1e-2)
    plain = crop_matrix(box, (96, 72), rotation, zoom, 1.25, udp)
    mirrored = there * [-1, 1] + [71, 0] if flip else there
    np.testing.assert_allclose(points @ plain[:, :2].T + plain[:, 2], mirrored, atol=1e-6)
    lengths = np.linalg.norm(np.diff(there, axis=0), axis=1) / np.linalg.norm(np.diff(points, axis=0), axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)  # the same scale everywhere: a similarity


def test_zoom_enlarges_the_content() -> None:
    points = np.array([[40, 40], [50, 40]])
    once, twice = (move_points(crop_matrix((0, 0, 80, 80), (64, 64), zoom=zoom), points) for zoom in (1, 2))
    np.testing.assert_allclose(twice[1] - twice[0], 2 * (once[1] - once[0]), rtol=1e-5)
    np.testing.assert_allclose(twice[0], once[0])


@both_conventions
@settings(deadline=None, max_examples=40)
@given(box=boxes)
def test_the_padded_box_fits_and_touches(udp: bool, box: tuple[float, ...]) -> None:
    x, y, w, h = box
    corners = move_points(crop_matrix(box, (96, 72), padding=1.25, udp=udp), np.array([[x, y], [x + w, y + h]]))
    extent = (corners[1] - corners[0]) * 1.25 / (np.array([71, 95]) if udp else np.array([72, 96]))
    assert extent.max() == pytest.approx(1, abs=1e-3)


@both_conventions
@pytest.mark.parametrize(("rotation", "zoom", "flip"), [(0, 1, False), (30, 1.2, False), (-75, 0.8, True)])
def test_pixels_move_as_points_do(udp: bool, rotation: float, zoom: float, flip: bool) -> None:
    matrix = crop_matrix((20, 15, 60, 70), (128, 96), rotation, zoom, 1.5, udp, flip)
    crop = warp(blobs(POINTS, (100, 120)), matrix, (128, 96))
    assert crop.shape == (128, 96, 3)
    np.testing.assert_allclose(centers(crop), move_points(matrix, POINTS), atol=0.3)


def test_a_udp_crop_mirrors_its_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 255, (100, 120, 3), np.uint8)
    args = ((20, 15, 60, 70), (64, 48), 20.0, 1.1, 1.25, True)
    plain = warp(image, crop_matrix(*args), (64, 48)).astype(int)
    flipped = warp(image, crop_matrix(*args, flip=True), (64, 48)).astype(int)
    assert np.abs(flipped[:, ::-1] - plain).mean() < 2  # the warp rounds positions to 1/32 pixel


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -1), (0, float("nan"), 5, 5)])
def test_bad_box(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="width and height must be positive"):
        crop_matrix(box, (64, 48))


@pytest.mark.parametrize("codec", ["gaussian", "dark", "udp"])
def test_evaluation_crop(codec: str) -> None:
    model = PoseModelConfig(input_size=(128, 96), codec=codec)
    transform = PoseTransform(PoseDataConfig(), model, SCHEMA)
    crop, keypoints, visible, to_image = transform(make_sample(POINTS))
    matrix = crop_matrix((20, 15, 60, 70), (128, 96), padding=1.25, udp=codec == "udp")
    np.testing.assert_allclose(keypoints, move_points(matrix, POINTS), atol=1e-4)
    np.testing.assert_allclose(centers(crop), keypoints, atol=0.3)
    np.testing.assert_allclose(move_points(to_image, keypoints), POINTS, atol=1e-3)
    np.testing.assert_array_equal(visible, [1, 1, 1])
    assert crop.dtype == np.uint8
    assert keypoints.dtype == visible.dtype == to_image.dtype == np.float32


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), codec=st.sampled_from(["gaussian", "udp"]))
def test_training_crop_keeps_pixels_and_points_together(seed: int, codec: str) -> None:
    model = PoseModelConfig(input_size=(128, 96), codec=codec)
    data = PoseDataConfig(scale=0.2, rotation=30, rotation_prob=0.6, flip=0.5, box_padding=1.5)
    transform = PoseTransform(data, model, SCHEMA, training=True)
    sample = make_sample(POINTS)
    crop, keypoints, _, to_image = transform(sample, np.random.default_rng(seed))
    flipped = np.linalg.det(to_image[:, :2]) < 0
    order = [0, 2, 1] if flipped else [0, 1, 2]
    np.testing.assert_allclose(move_points(to_image, keypoints), POINTS[order], atol=1e-2)
    inside = ((keypoints > 20) & (keypoints < [75, 107])).all(axis=1)
    np.testing.assert_allclose(centers(crop[..., order])[inside], keypoints[inside], atol=0.4)
    again = transform(sample, np.random.default_rng(seed))
    np.testing.assert_array_equal(again[0], crop)


def test_a_mirrored_crop_swaps_sides_and_their_visibility() -> None:
    model = PoseModelConfig(input_size=(128, 96))
    sample = replace(make_sample(POINTS), visibility=np.array([2, 2, 0]))
    plain = PoseTransform(PoseDataConfig(**STILL), model, SCHEMA, training=True)
    mirror = PoseTransform(PoseDataConfig(**STILL | {"flip": 1.0}), model, SCHEMA, training=True)
    _, keypoints, visible, _ = plain(sample, np.random.default_rng(0))
    _, mirrored, mirrored_visible, _ = mirror(sample, np.random.default_rng(0))
    np.testing.assert_allclose(mirrored[[0, 2, 1]], keypoints * [-1, 1] + [95, 0], atol=1e-4)
    np.testing.assert_array_equal(visible, [1, 1, 0])
    np.testing.assert_array_equal(mirrored_visible, [1, 0, 1])


def test_training_without_a_generator_is_refused() -> None:
    transform = PoseTransform(PoseDataConfig(), PoseModelConfig(), SCHEMA, training=True)
    with pytest.raises(ValueError, match="pass a numpy Generator"):
        transform(make_sample(POINTS))
