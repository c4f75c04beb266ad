from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polarpix.errors import InputError
from polarpix.seg.sliding import sliding, whole, window_starts


def pixelwise(image: Tensor) -> Tensor:
    """Logits that depend on the pixel alone: however the image is cut, the answer is the same."""
    return torch.cat([image, image.sum(dim=1, keepdim=True)], dim=1)


@settings(max_examples=100, deadline=None)
@given(window=st.integers(1, 30), beyond=st.integers(0, 60), overlap=st.floats(0, 0.95))
def test_windows_cover_every_pixel_and_stay_inside(window, beyond, overlap):
    length = window + beyond
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] + window == length
    assert starts == sorted(set(starts))
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(gap <= max(1, round(window * (1 - overlap))) for gap in gaps)


def test_starts_by_hand():
    assert window_starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert window_starts(11, 4, 0.5) == [0, 2, 4, 6, 7]
    assert window_starts(4, 4, 0.0) == [0]
    assert window_starts(9, 4, 0.0) == [0, 4, 5]


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    window=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    seed=st.integers(0, 100),
)
def test_a_pixelwise_network_gives_the_same_in_windows(size, window, overlap, seed):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    found = sliding(pixelwise, image, window, overlap)
    assert found.shape == (2, 4, *size)
    torch.testing.assert_close(found, whole(pixelwise, image))


def test_overlapping_windows_are_averaged():
    def leftmost(image: Tensor) -> Tensor:
        """Sure of class 1 in the first column of a window, of class 0 elsewhere."""
        logits = torch.zeros(len(image), 2, *image.shape[2:])
        logits[:, 0] = 50
        logits[..., 0] = torch.tensor([0.0, 50.0]).view(1, 2, 1)
        return logits

    found = sliding(leftmost, torch.zeros(1, 3, 1, 6), (1, 4), 0.5)  # windows at 0 and 2
    torch.testing.assert_close(found[0, 1, 0], torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0, 0.0]))


def test_the_network_sees_windows_only():
    seen = []

    def network(image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        return pixelwise(image)

    sliding(network, torch.zeros(2, 3, 5, 20), (8, 8), 0.5)
    assert set(seen) == {(2, 3, 8, 8)}
    assert len(seen) == 4


def test_probabilities_are_single_precision_and_sum_to_1():
    found = sliding(lambda x: pixelwise(x).half(), torch.randn(1, 3, 9, 9), (4, 4), 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 9, 9))


@pytest.mark.parametrize(("window", "overlap", "match"), [((0, 4), 0.5, "window"), ((4, 4), 1.0, "overlap")])
def test_impossible_windows_are_refused(window, overlap, match):
    with pytest.raises(InputError, match=match):
        sliding(pixelwise, torch.zeros(1, 3, 8, 8), window, overlap)
