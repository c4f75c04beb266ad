"""Pictures in memory: every mode, type and shape becomes RGB in 8 bits, or is refused in one line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from polarpix.errors import InputError
from polarpix.rgb import to_rgb

Y, X = np.mgrid[:48, :64].astype(np.float64)
SMOOTH = np.stack([255 * X / 64, 255 * Y / 48, 128 + 0 * X], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_to_rgb_takes_every_pillow_mode(mode: str) -> None:
    step = {"La": "LA", "PA": "P"}.get(mode, "RGB")
    source = Image.fromarray(SMOOTH).convert(step).convert(mode)
    out = to_rgb(source)
    assert out.shape == (48, 64, 3)
    assert out.dtype == np.uint8
    reference = {"1": "L", "L": "L", "LA": "L", "La": "L"}.get(mode)
    wanted = np.asarray(Image.fromarray(SMOOTH).convert(reference or "RGB").convert("RGB")).astype(int)
    limit = 130 if mode == "1" else 40 if mode in ("P", "PA") else 6  # dithering and 256 colours cost something
    assert np.abs(out.astype(int) - wanted).mean() < limit


@settings(deadline=None, max_examples=60)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.bool_]),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 3, 4])),
    )
)
def test_to_rgb_keeps_shape_and_opaque_colours(array: np.ndarray) -> None:
    out = to_rgb(array)
    assert out.shape == (*array.shape[:2], 3)
    assert out.dtype == np.uint8
    top = {"uint8": 255, "uint16": 65535, "bool": 1}[array.dtype.name]
    values = array.astype(np.float64) / top
    alpha = values[:, :, -1:] if array.shape[2] in (2, 4) else np.ones((*array.shape[:2], 1))
    colour = values[:, :, : 3 if array.shape[2] >= 3 else 1]
    wanted = 255 * (colour * alpha + 1 - alpha)
    assert np.abs(out - wanted).max() <= 1.01
    if array.shape[2] == 1:
        np.testing.assert_array_equal(to_rgb(array[:, :, 0]), out)


@settings(deadline=None, max_examples=30)
@given(array=hnp.arrays(np.float32, (3, 4, 3), elements=st.floats(0, 1, width=32)))
def test_to_rgb_rounds_unit_floats(array: np.ndarray) -> None:
    assert np.abs(to_rgb(array) - array * 255.0).max() <= 0.501


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 8, 9), np.uint8), "transpose"),
        (np.zeros(5, np.uint8), "give"),
        (np.zeros((4, 4, 5), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixel"),
        (np.full((4, 4), 1.5), r"0\.\.1"),
        (np.full((4, 4), np.nan), "finite"),
        (np.full((4, 4), 300), r"0\.\.255"),
        (np.full((4, 4), -1), r"0\.\.255"),
        (np.full((4, 4), "a"), "type"),
        ([[1, 2]], "list"),
    ],
)
def test_to_rgb_refuses_what_is_no_picture(array: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        to_rgb(array)
    assert "\n" not in str(caught.value)
