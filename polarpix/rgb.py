"""Any picture in memory to what everything here works on: uint8 [H, W, 3] RGB, the way it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.types import UInt8Array

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["exif_orientation", "from_pillow", "orient", "to_rgb"]

_ORIENTATION_TAG = 0x0112


def to_rgb(image: npt.NDArray[Any] | Image.Image) -> UInt8Array:
    """Turn a picture in memory into uint8 [H, W, 3] RGB.

    Args:
        image: an array [H, W] or [H, W, 1] (grey), [H, W, 2] (grey, alpha), [H, W, 3] (RGB) or [H, W, 4] (RGBA); bool,
            uint8, uint16 (0..65535), another integer type with values in 0..255, or float with values in 0..1. Or a
            Pillow image of any mode, whose EXIF orientation is applied. Alpha is laid over white.

    Raises:
        InputError: another shape, type or range of values.
    """
    if not isinstance(image, np.ndarray):
        if hasattr(image, "getexif"):  # Pillow's, which need not be installed
            return orient(from_pillow(image), exif_orientation(image))
        raise InputError(f"image is a {type(image).__name__}: give a numpy array [H, W, 3] or a Pillow image")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4):
        hint = "transpose it to [H, W, 3]" if image.ndim == 3 and image.shape[0] in (1, 3, 4) else "give [H, W, 3]"
        raise InputError(f"image has shape {list(image.shape)}: {hint}")
    if not image.size:
        raise InputError(f"image has shape {list(image.shape)}: it holds no pixel")
    array = _to_uint8(image)  # [H, W, 1..4]
    channels = array.shape[2]
    if channels in (2, 4):
        alpha = array[:, :, -1:].astype(np.uint16)
        colour = array[:, :, :-1].astype(np.uint16)
        array = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def exif_orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, as it is stored, where there is none or one that cannot be.

    A TIFF is turned by Pillow itself as it is loaded, and has none from then on.
    """
    if picture.format == "TIFF":
        picture.load()
    value = picture.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def orient(array: UInt8Array, orientation: int) -> UInt8Array:
    """Apply EXIF tag 0x0112 to [H, W] or [H, W, 3]: its eight values are the symmetries of a rectangle."""
    if orientation >= 5:  # rows and columns change places
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def from_pillow(picture: Image.Image) -> UInt8Array:
    """Any mode to uint8 [H, W, 3], orientation untouched."""
    if picture.mode.startswith("I;16"):
        return to_rgb(np.asarray(picture).astype(np.uint16))
    if picture.mode == "I":  # 32 bit; what some readers make of 16-bit files
        wide = np.asarray(picture)
        if wide.min() < 0 or wide.max() > 65535:
            raise InputError(f"image holds values {wide.min()}..{wide.max()}: scale them to 0..65535 or 0..255")
        return to_rgb(wide.astype(np.uint16))
    if picture.mode == "F":
        return to_rgb(np.asarray(picture))
    if picture.mode == "La":  # premultiplied; Pillow converts it to LA only
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        return to_rgb(np.asarray(picture.convert("RGBA")))
    return np.array(picture.convert("RGB"))


def _to_uint8(array: npt.NDArray[Any]) -> UInt8Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise InputError(f"image has type {array.dtype}: give uint8, uint16 or float in 0..1")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("image holds values that are not finite: replace them")
    low, high = array.min(), array.max()
    top = 1 if array.dtype.kind == "f" else 255
    if low < 0 or high > top:
        raise InputError(f"image of type {array.dtype} holds values {low:g}..{high:g}: scale them to 0..{top}")
    if array.dtype.kind == "f":
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    return array.astype(np.uint8)
