from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.errors import InputError
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.types import UInt8Array
from polarpix.web.views import (
    BOXES,
    FOUND,
    LAYERS,
    blocks,
    gate_picture,
    heatmap_picture,
    label_png,
    outputs,
    overlay,
    png,
)


@pytest.fixture(scope="module")
def image() -> UInt8Array:
    return np.random.default_rng(3).integers(0, 256, (50, 80, 3), dtype=np.uint8)


def test_names_of_outputs_and_blocks(pose: PosePredictor, seg: SegPredictor) -> None:
    assert outputs(pose) == pose.schema.names
    assert outputs(seg) == FIGURE_CLASSES.names
    for predictor in (pose, seg):
        found = blocks(predictor)
        assert found
        assert all(name.endswith("attention") for name in found)


def test_layers_of_the_overlay_are_drawn_as_asked(pose: PosePredictor, seg: SegPredictor, image: UInt8Array) -> None:
    found = pose(image, [[10, 5, 40, 40]])
    np.testing.assert_array_equal(overlay(found, [], zoom=1), image)
    np.testing.assert_array_equal(overlay(found, [FOUND], zoom=1), found.plot())
    boxed = overlay(found, [BOXES], zoom=1)
    assert (boxed[5, 20] != image[5, 20]).any()
    np.testing.assert_array_equal(boxed[20, 30], image[20, 30])
    assert overlay(found).shape == (400, 640, 3)  # small pictures are enlarged by a whole factor
    masks = seg(image)
    np.testing.assert_array_equal(overlay(masks, LAYERS, zoom=1), masks.plot())


def test_heatmaps_are_those_that_are_decoded(pose: PosePredictor, image: UInt8Array) -> None:
    box, name = [[10.0, 5.0, 40.0, 40.0]], pose.schema.names[3]
    assert heatmap_picture(pose, image, box, name).shape == (640, 640, 3)
    black = np.zeros_like(image)  # what is seen of it is the glow alone
    glow = heatmap_picture(pose, black, box, name)[5::10, 5::10].astype(int).sum(axis=2)  # the crop has 64 pixels
    y, x = np.unravel_index(glow.argmax(), glow.shape)
    _, to_image = pose.crops(black, np.asarray(box, np.float32))
    at = to_image[0].numpy() @ [x, y, 1]
    assert np.abs(at - pose(black, box).prediction.keypoints[0, 3]).max() < 4  # a pixel of the heatmap is 3.3 wide
    assert (heatmap_picture(pose, image, box, "all") != heatmap_picture(pose, image, box, name)).any()
    assert (heatmap_picture(pose, image, None, name) != heatmap_picture(pose, image, box, name)).any()


def test_probabilities_of_the_classes(seg: SegPredictor, image: UInt8Array) -> None:
    sheet = heatmap_picture(seg, image, None, "all")
    assert sheet.shape[1] > 4 * 80
    found = seg(image).prediction
    index = int(found.label[25, 40])
    one = heatmap_picture(seg, image, None, FIGURE_CLASSES.names[index])
    other = heatmap_picture(seg, image, None, FIGURE_CLASSES.names[index - 1])
    spot = np.s_[25 * 8 + 4, 40 * 8 + 4]
    ground = 0.45 * image[25, 40].astype(int)
    assert np.abs(one[spot] - ground).sum() > np.abs(other[spot] - ground).sum()


def test_gates_of_a_block(pose: PosePredictor, seg: SegPredictor, image: UInt8Array) -> None:
    for predictor in (pose, seg):
        pictures = [gate_picture(predictor, image, None, name) for name in blocks(predictor)]
        assert all(one.ndim == 3 and one.dtype == np.uint8 for one in pictures)
        assert (pictures[0] != pictures[-1]).any()


def test_what_is_not_there_is_named(pose: PosePredictor, seg: SegPredictor, image: UInt8Array) -> None:
    with pytest.raises(InputError, match="no output 'tail': choose all or one of"):
        heatmap_picture(pose, image, None, "tail")
    with pytest.raises(InputError, match="no block 'x': choose one of"):
        gate_picture(seg, image, None, "x")
    with pytest.raises(InputError, match="no label map"):
        label_png(pose(image))


def test_files_hold_what_they_are_made_of(seg: SegPredictor, image: UInt8Array) -> None:
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)
    result = seg(image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(label_png(result)))), result.prediction.label)
