"""Any picture in memory to what everything here works on: uint8 [H, W, 3] RGB, the way it is looked at."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.types import UInt8Array

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

__all__ = ["MAX_PIXELS", "exif_orientation", "from_pillow", "open_pillow", "orient", "to_rgb"]

MAX_PIXELS = 178_956_970  # of one picture; what Pillow refuses to open, too
BLOCK = 2**20  # pixels that are converted at once
# Pillow knows many more, some of which call other programs; JPEG stands for MPO, too.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

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
    _check_values(image)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.ascontiguousarray(image)
    found = np.empty((*image.shape[:2], 3), np.uint8)
    step = max(1, BLOCK // image.shape[1])
    for top in range(0, image.shape[0], step):  # what lies in between would need several times the picture
        array = _to_uint8(image[top : top + step])  # [h, W, 1..4]
        if array.shape[2] in (2, 4):
            alpha = array[:, :, -1:].astype(np.uint16)
            colour = array[:, :, :-1].astype(np.uint16)
            array = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        found[top : top + step] = array  # one channel becomes three
    return found


def open_pillow(source: BinaryIO | Path) -> Image.Image:
    """A picture of one of the known formats, opened by Pillow without its pixels.

    Raises:
        PIL.UnidentifiedImageError: another format.
        PIL.Image.DecompressionBombError: more pixels than :data:`MAX_PIXELS`.
        Exception: damage, of any class that Pillow's readers have.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large, but not too large; odd metadata, which is not read
        return Image.open(source, formats=FORMATS)


def exif_orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, as it is stored, where there is none or one that cannot be.

    A TIFF is turned by Pillow itself as it is loaded, and has none from then on.
    """
    if picture.format == "TIFF":
        picture.load()
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block, of any class that its parser has, says nothing
        return 1
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


def _check_values(array: npt.NDArray[Any]) -> None:
    """Refuse what has no reading as a picture."""
    if array.dtype in (np.uint8, np.bool_, np.uint16):
        return
    if array.dtype.kind not in "iuf":
        raise InputError(f"image has type {array.dtype}: give uint8, uint16 or float in 0..1")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("image holds values that are not finite: replace them")
    low, high = array.min(), array.max()
    top = 1 if array.dtype.kind == "f" else 255
    if low < 0 or high > top:
        raise InputError(f"image of type {array.dtype} holds values {low:g}..{high:g}: scale them to 0..{top}")


def _to_uint8(array: npt.NDArray[Any]) -> UInt8Array:
    """The values as they are checked to be."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f":
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    return array.astype(np.uint8)
