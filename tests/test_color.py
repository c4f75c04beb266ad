import cv2
import numpy as np

from polarpix.color import jitter_color


def test_color_jitter_is_brightness_contrast_and_saturation() -> None:
    image = np.random.default_rng(0).integers(60, 190, (20, 30, 3), np.uint8)
    got = jitter_color(image, 0.2, np.random.default_rng(5))
    brightness, contrast, saturation = np.random.default_rng(5).uniform(0.8, 1.2, 3)
    luma = np.array([0.299, 0.587, 0.114])
    want = image * brightness
    mean = (want @ luma).mean()
    want = mean + (want - mean) * contrast
    grey = (want @ luma)[..., None]
    want = grey + (want - grey) * saturation
    np.testing.assert_allclose(got, np.clip(want, 0, 255), atol=0.6)  # rounded in fixed point
    assert got.dtype == np.uint8


def test_color_jitter_keeps_grey_grey_and_zero_strength_does_nothing() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (20, 30, 1), np.uint8), 3, axis=2)
    out = jitter_color(grey, 0.9, np.random.default_rng(1)).astype(int)
    assert np.ptp(out, axis=2).max() <= 1
    assert jitter_color(grey, 0.0, np.random.default_rng(1)) is grey
    assert cv2.mean(grey)[0] > 0  # the input is left as it was
