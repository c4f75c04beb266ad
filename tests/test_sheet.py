"""Contact sheets and legends: nothing is lost, everything fits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.errors import InputError
from polarpix.sheet import captioned, legend, tile


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 7), columns=st.integers(1, 5), named=st.booleans())
def test_tile_holds_every_picture(count: int, columns: int, named: bool) -> None:
    images = [np.full((10 + i, 20 - i, 3), 10 + i, np.uint8) for i in range(count)]
    out = tile(images, columns, [f"picture {i} with a long name" for i in range(count)] if named else None, gap=3)
    for i, image in enumerate(images):
        assert (out == 10 + i).all(axis=2).sum() >= image[:, :, 0].size
    across = min(columns, count)
    assert out.shape[1] == across * (20 + 3) + 3


def test_legend_shows_every_colour() -> None:
    out = legend(FIGURE_CLASSES)
    for color in FIGURE_CLASSES.colors:
        assert (out == color).all(axis=2).sum() > 50


def test_a_caption_is_below_and_cut_to_fit() -> None:
    picture = np.full((20, 60, 3), 7, np.uint8)
    short, long = captioned(picture, "abc"), captioned(picture, "a caption that is far too long for sixty pixels")
    assert short.shape == long.shape
    assert short.shape[1] == 60
    for sheet in (short, long):
        np.testing.assert_array_equal(sheet[:20], picture)
        assert (sheet[20:] < 128).any()
    assert (long[20:, -1] > 200).all()  # no letter runs over the edge


def test_sheets_that_cannot_be() -> None:
    with pytest.raises(InputError, match="0 pictures"):
        tile([])
    with pytest.raises(InputError, match="2 captions for 1 pictures"):
        tile([np.zeros((4, 4, 3), np.uint8)], captions=["a", "b"])
