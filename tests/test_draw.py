"""Drawings: in the right place, in the right colour, and without touching what they are drawn on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA, draw_scene
from polarpix.draw import (
    draw_boxes,
    draw_gates,
    draw_heatmaps,
    draw_keypoints,
    draw_mask,
    keypoint_colors,
    palette,
)
from polarpix.errors import InputError
from polarpix.sheet import tile
from polarpix.types import ClassTable, KeypointSchema, PosePrediction

SCHEMA = KeypointSchema(
    names=("nose", "r_eye", "l_eye"),
    flip_pairs=((1, 2),),
    skeleton=((0, 1), (0, 2)),
    sigmas=(0.1, 0.1, 0.1),
    sigmas_from="test",
)
CLASSES = ClassTable(names=("background", "red", "green"), colors=((0, 0, 0), (250, 0, 0), (0, 250, 0)))
GREY = np.full((40, 60, 3), 100, np.uint8)
POINTS = np.array([[[10.0, 10.0], [30.0, 10.0], [10.0, 30.0]]], np.float32)


def changed(image: np.ndarray) -> np.ndarray:
    return (image != 100).any(axis=2)


def test_skeleton_marks_joints_and_lines_in_side_colours() -> None:
    out = draw_keypoints(GREY, POINTS, SCHEMA)
    assert (GREY == 100).all()
    marked = changed(out)
    assert marked[10, 10]
    assert marked[10, 20]  # on the line
    assert marked[20, 10]
    assert not marked[25, 40]
    right, left = out[10, 30].astype(int), out[30, 10].astype(int)
    assert right[2] > right[0] + 100  # blue
    assert left[0] > left[2] + 100  # orange
    np.testing.assert_allclose(out[10, 20], out[10, 30], atol=25)  # lines take the colour of their side
    np.testing.assert_allclose(out[20, 10], out[30, 10], atol=25)


@settings(deadline=None, max_examples=25)
@given(x=st.floats(8, 50), y=st.floats(8, 30), zoom=st.integers(1, 4))
def test_a_dot_is_centred_on_its_keypoint(x: float, y: float, zoom: int) -> None:
    points = np.array([[[x, y], [np.nan, 0], [np.inf, 1]]], np.float32)
    out = draw_keypoints(GREY, points, SCHEMA, zoom=zoom)
    assert out.shape == (40 * zoom, 60 * zoom, 3)
    weight = np.abs(out.astype(float) - 100).sum(axis=2)  # pixels at the rim are covered in part
    rows, columns = np.indices(weight.shape)
    near = 0.25 / zoom  # small dots are drawn up to 0.21 of their own pixels off, by OpenCV
    assert (np.average(columns, weights=weight) + 0.5) / zoom - 0.5 == pytest.approx(x, abs=near)
    assert (np.average(rows, weights=weight) + 0.5) / zoom - 0.5 == pytest.approx(y, abs=near)


def test_low_scores_and_their_lines_are_left_out() -> None:
    out = draw_keypoints(GREY, POINTS, SCHEMA, np.array([[0.9, 0.1, 0.9]]), threshold=0.2)
    assert not changed(out)[10, 20:].any()
    assert changed(out)[20, 10]
    scores = np.array([[0.9, 0.1, 0.9]], np.float32)
    prediction = PosePrediction(POINTS, scores, np.zeros((1, 4), np.float32), np.ones(1, np.float32))
    np.testing.assert_array_equal(draw_keypoints(GREY, prediction, SCHEMA, threshold=0.2), out)


def test_nobody_and_far_away_leave_the_picture_alone() -> None:
    np.testing.assert_array_equal(draw_keypoints(GREY, np.zeros((0, 3, 2), np.float32), SCHEMA), GREY)
    np.testing.assert_array_equal(draw_keypoints(GREY, POINTS + 1e9, SCHEMA), GREY)


def test_larger_instances_get_thicker_lines() -> None:
    wide = np.full((620, 620, 3), 100, np.uint8)
    small, large = draw_keypoints(wide, POINTS, SCHEMA), draw_keypoints(wide, POINTS * 20, SCHEMA)
    assert changed(large)[:, 400].sum() > changed(small)[:, 20].sum()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[N, 3, 2\]"):
        draw_keypoints(GREY, POINTS[:, :2], SCHEMA)
    with pytest.raises(InputError, match="scores"):
        draw_keypoints(GREY, POINTS, SCHEMA, np.ones((2, 3)))
    with pytest.raises(InputError, match="zoom"):
        draw_keypoints(GREY, POINTS, SCHEMA, zoom=0)
    with pytest.raises(InputError, match="same size"):
        draw_mask(GREY, np.zeros((3, 3), np.uint8), CLASSES)
    with pytest.raises(InputError, match=r"holds 7: must be in 0\.\.2"):
        draw_mask(GREY, np.full((40, 60), 7, np.uint8), CLASSES)
    with pytest.raises(InputError, match="heatmaps"):
        draw_heatmaps(GREY, np.zeros((2, 5, 5), np.float32), SCHEMA)
    with pytest.raises(InputError, match="gates"):
        draw_gates(GREY, np.zeros((2, 2)), np.zeros((4, 4)))
    with pytest.raises(InputError, match="pictures"):
        tile([])
    with pytest.raises(InputError, match="captions"):
        tile([GREY], captions=[])


def test_sides_come_from_names_or_else_from_the_order_of_the_pair() -> None:
    nose, right, left = keypoint_colors(SCHEMA)
    assert len({nose, right, left}) == 3
    assert left[0] > left[2]
    assert right[2] > right[0]
    unnamed = KeypointSchema(("a", "b"), ((0, 1),), (), (0.1, 0.1), "test")
    assert keypoint_colors(unnamed) == (left, right)
    sideless = KeypointSchema(("a", "b", "c"), (), (), (0.1,) * 3, "test")
    assert len(set(keypoint_colors(sideless))) == 3


def test_boxes_are_outlines() -> None:
    marked = changed(draw_boxes(GREY, np.array([[10, 10, 20, 15]])))
    assert marked[10, 10:29].all()
    assert marked[10:24, 29].all()
    assert not marked[14:20, 14:25].any()
    assert not changed(draw_boxes(GREY, np.zeros((0, 4)))).any()


def test_mask_mixes_colours_and_leaves_background_and_ignore() -> None:
    label = np.zeros((40, 60), np.uint8)
    label[:, 20:40], label[:, 40:] = 1, 255
    out = draw_mask(GREY, label, CLASSES, alpha=0.5)
    assert out[20, 5].tolist() == [100, 100, 100]
    assert out[20, 30].tolist() == [175, 50, 50]
    assert out[20, 55].tolist() == [100, 100, 100]
    assert out[20, 20].tolist() != out[20, 30].tolist()  # the border
    solid = draw_mask(GREY, label, CLASSES, alpha=1.0)
    assert solid[20, 5].tolist() == [0, 0, 0]
    assert solid[20, 30].tolist() == [250, 0, 0]
    assert draw_mask(GREY, label, CLASSES, zoom=3).shape == (120, 180, 3)


def test_heatmaps_glow_where_they_peak() -> None:
    heatmaps = np.zeros((3, 10, 15), np.float32)
    heatmaps[2, 5, 3] = 0.02  # faint, and the only one
    out = draw_heatmaps(GREY, heatmaps, SCHEMA).astype(int)
    row, column = np.unravel_index(out[:, :, 0].argmax(), (40, 60))
    assert abs(row - 21.5) <= 1
    assert abs(column - 13.5) <= 1
    assert out[:, :, 0].max() > 150
    assert draw_heatmaps(GREY, heatmaps, SCHEMA, top=1.0).max() < 60
    assert draw_heatmaps(GREY, np.zeros((3, 4, 4), np.float32)).max() == 45


def test_gates_show_place_and_spread() -> None:
    spatial = np.full((1, 1, 10, 15), 0.5, np.float32)
    spatial[0, 0, 2, 3] = 0.6
    channel = np.linspace(0.1, 0.9, 8).reshape(1, 8, 1, 1)
    out = draw_gates(GREY, channel, spatial).astype(int)
    assert out.shape[1] == 160  # wide enough for the figures
    assert out.shape[0] > 40 + 24
    heat = out[:40, :60, 0] - out[:40, :60, 2]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(row - 10) <= 4
    assert abs(column - 14) <= 4
    other = draw_gates(GREY, channel, (spatial - 0.5) / 4 + 0.5)  # looks the same but for the printed figures
    np.testing.assert_array_equal(other[:40], out[:40])
    assert (other != out).any()
    assert draw_gates(GREY, np.full((500,), 0.5), np.full((1, 1), 0.5)).shape == out.shape


def test_palette_is_distinct() -> None:
    colors = np.array(palette(20), int)
    apart = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 1000 * np.eye(20, dtype=int)
    assert apart.min() > 30
    assert palette(0) == ()


def test_a_scene_can_be_drawn_whole() -> None:
    scene = draw_scene(np.random.default_rng(0), (64, 64))
    skeleton = draw_keypoints(scene.image, scene.keypoints, FIGURE_SCHEMA, scene.visibility, threshold=0, zoom=2)
    mask = draw_mask(scene.image, scene.label, FIGURE_CLASSES, zoom=2)
    assert tile([skeleton, mask], 2, ["truth", "mask"]).shape[1] == 2 * 128 + 3 * 8
