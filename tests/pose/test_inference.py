"""The forward pass that evaluation and prediction share."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polarpix.images import normalize
from polarpix.pose.codec import build_codec
from polarpix.pose.crop import crop_matrix, invert_matrix, move_points
from polarpix.pose.inference import predict_heatmaps, to_image_points


class Finder(nn.Module):
    """Finds the red dot as keypoint 0 and the green one as keypoint 1, each heatmap a pixel high."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return (x[:, :2] > 0).float()


def dots() -> Tensor:
    """A crop of 8x12 with a red dot at (2, 3) and a green one at (9, 5): uint8 [1, 3, 8, 12]."""
    image = torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
    image[0, 0, 3, 2] = 255
    image[0, 1, 5, 9] = 255
    return image


def peaks(heatmaps: Tensor) -> list[list[int]]:
    """(x, y) of each heatmap's highest pixel."""
    flat = heatmaps[0].flatten(1).argmax(1)
    return torch.stack((flat % heatmaps.shape[-1], flat // heatmaps.shape[-1]), 1).tolist()


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_network_gets_normalised_crops_in_its_layout(channels_last: bool) -> None:
    finder = Finder()
    found = predict_heatmaps(finder, dots(), channels_last=channels_last)
    assert peaks(found) == [[2, 3], [9, 5]]
    torch.testing.assert_close(finder.seen[0], normalize(dots()))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert finder.seen[0].is_contiguous(memory_format=layout)


class OffsetFinder(nn.Module):
    """Keypoint 0 is the red dot, keypoint 1 the green one; each a pixel, and half a pixel to the right of it."""

    def forward(self, x: Tensor) -> Tensor:
        right = x.flip(-1)[0, 0, 3, 2] > 0  # the mirrored crop has red in the same place from the right
        offset = torch.full_like(x[:, :1], -0.125 if right else 0.125)
        maps = [(x[:, :1] > 0).float(), offset, 0 * offset, (x[:, 1:2] > 0).float(), offset, 0 * offset]
        return torch.cat(maps, dim=1)


def test_the_flip_test_turns_offsets_round() -> None:
    plain = predict_heatmaps(OffsetFinder(), dots(), channels=3)
    assert plain.shape == (1, 6, 8, 12)
    torch.testing.assert_close(predict_heatmaps(OffsetFinder(), dots(), (0, 1), channels=3), plain)
    as_heatmaps = predict_heatmaps(OffsetFinder(), dots(), range(6))
    assert as_heatmaps[:, 1].abs().max() == 0  # the offsets of the two would cancel


def test_the_flip_test_swaps_sides_back() -> None:
    """Keypoints that are no pair: the mirrored prediction lands where the plain one is, and the mean is the same."""
    plain = predict_heatmaps(Finder(), dots())
    torch.testing.assert_close(predict_heatmaps(Finder(), dots(), (0, 1)), plain)
    swapped = predict_heatmaps(Finder(), dots(), (1, 0))  # the finder looks for colours: a pair would be mixed up
    torch.testing.assert_close(swapped[:, 0], swapped[:, 1])
    shifted = predict_heatmaps(Finder(), dots(), (0, 1), shift_flipped=True)
    assert shifted[0, 0, 3, 2] == shifted[0, 0, 3, 3] == 0.5


@settings(deadline=None, max_examples=25)
@given(x=st.floats(-20, 60), y=st.floats(-20, 60), w=st.floats(3, 90), h=st.floats(3, 90), angle=st.floats(-180, 180))
def test_points_go_back_to_the_image(x: float, y: float, w: float, h: float, angle: float) -> None:
    matrix = crop_matrix((x, y, w, h), (32, 24), rotation=angle)
    back = torch.from_numpy(invert_matrix(matrix)).float()[None]
    points = torch.tensor([[[x, y], [x + w, y], [x + w / 2, y + h / 2]]])
    there = torch.from_numpy(move_points(matrix, points[0].numpy()))[None]
    torch.testing.assert_close(to_image_points(there, back), points, atol=2e-3, rtol=1e-4)


def test_a_crop_found_is_a_point_on_the_image() -> None:
    """A blob painted at a known place of the crop comes back to that place of the image."""
    codec: Any = build_codec("udp", (64, 48), (16, 12), 1.5)
    matrix = crop_matrix((10, 20, 60, 80), (64, 48))
    truth = torch.tensor([[30.0, 50.0], [55.5, 77.25]])
    target, _ = codec.encode(move_points(matrix, truth.numpy()), torch.ones(2).numpy())
    points, scores = codec.decode(torch.from_numpy(target)[None])
    found = to_image_points(points, torch.from_numpy(invert_matrix(matrix)).float()[None])
    torch.testing.assert_close(found[0], truth, atol=0.3, rtol=0)
    assert (scores > 0.8).all()
