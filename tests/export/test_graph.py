"""The graph of a predictor gives what the predictor gives, before anything is exported."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from polarpix.export.graph import PoseGraph, SegGraph
from polarpix.export.trace import graph_of
from polarpix.pose.codec import CODECS, build_codec
from polarpix.pose.inference import predict_heatmaps, to_image_covariance, to_image_points
from polarpix.predict import PosePredictor, SegPredictor

ORDER = (1, 0, 2)


@pytest.mark.parametrize("flip", [None, ORDER], ids=["straight", "flip"])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_pose_graphs_decode_as_predictors_do(
    name: str, shift: bool, flip: tuple[int, ...] | None, maps: Callable[[int], nn.Module]
) -> None:
    codec = build_codec(name, (48, 64), (12, 16), 2.0)
    model = maps(3 * codec.channels_per_keypoint)
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 48, 64, 3), dtype=torch.uint8, generator=generator)
    to_image = torch.randn(3, 2, 3, generator=generator)
    heatmaps = predict_heatmaps(model, image.permute(0, 3, 1, 2), flip, shift, channels=codec.channels_per_keypoint)
    points, scores = codec.decode(heatmaps)
    with torch.no_grad():
        found = PoseGraph(model, codec, flip, shift, (0.5, 2.0))(image, to_image)
    spread = to_image_covariance(codec.covariance(heatmaps, points, (0.5, 2.0)), to_image)
    torch.testing.assert_close(found, (to_image_points(points, to_image), scores, spread), atol=1e-3, rtol=1e-4)


def test_the_protocol_of_the_page_is_inside(pose: PosePredictor, seg: SegPredictor) -> None:
    straight = graph_of(pose)
    assert isinstance(straight, PoseGraph)
    assert straight.flip_order == pose.schema.flip_order  # the page's flip test
    masks = graph_of(seg)
    assert isinstance(masks, SegGraph)
    assert masks.protocol is seg.run.eval


def test_seg_graphs_give_labels_at_input_size(seg: SegPredictor, picture: npt.NDArray[np.uint8]) -> None:
    (wanted_label,), (wanted_confidence,) = seg.label(picture[None])
    with torch.no_grad():
        label, confidence = graph_of(seg)(torch.from_numpy(picture)[None])
    assert label.dtype == torch.uint8
    np.testing.assert_array_equal(label[0].numpy(), wanted_label)
    np.testing.assert_allclose(confidence[0].numpy(), wanted_confidence, atol=1e-6)
