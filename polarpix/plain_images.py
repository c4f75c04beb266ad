"""Pictures from and to bytes with OpenCV and zlib alone: for reading where Pillow is not installed, and label PNGs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.rgb import orient, to_rgb
from polarpix.types import UInt8Array

__all__ = ["decode_plain", "encode_label"]

_COMPRESSION = 6


def decode_plain(data: bytes, path: str | Path) -> UInt8Array:
    """A picture as :func:`polarpix.images.read_image` gives it, of what OpenCV can read; ``path`` is named in errors.

    Raises:
        InputError: no image that OpenCV can read, cut off, or values that have no reading as a picture.
    """
    # What is cut off within its pixels has no end mark behind the last scan; OpenCV would fill it up.
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise InputError(f"{path}: image is damaged or cut off: fetch or save it again")
    if not data:
        raise InputError(f"{path}: image is empty: fetch or save it again")
    coded = np.frombuffer(data, np.uint8)
    # as it is looked at, without transparency
    turned: npt.NDArray[Any] | None = cv2.imdecode(coded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    stored = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    if turned is None or stored is None:
        raise InputError(f"{path}: not an image that OpenCV reads, or cut off: give JPEG or PNG, or install Pillow")
    if stored.ndim == 3 and stored.shape[2] == 4:
        turned = _with_alpha(stored, turned)
    try:
        return to_rgb(np.concatenate([turned[:, :, 2::-1], turned[:, :, 3:]], axis=2))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _with_alpha(stored: npt.NDArray[Any], turned: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """BGRA as stored, turned as its colours are; OpenCV does not say which of the eight ways that was."""
    ways = (orient(stored, way) for way in range(1, 9))
    return next((one for one in ways if np.array_equal(one[:, :, :3], turned)), stored)


def encode_label(label: UInt8Array, palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """A label map [H, W] as a PNG of 8 bits: grey, or with a palette whose colours show while the indices are kept."""
    height, width = label.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with the number of its filter: 0, none
    rows[:, 1:] = label
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0 if palette is None else 3, 0, 0, 0))]
    if palette is not None:
        colours = np.zeros((256, 3), np.uint8)  # of every index that 8 bits hold
        colours[: len(palette)] = palette
        chunks.append((b"PLTE", colours.tobytes()))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), _COMPRESSION)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(body)) + name + body + _checksum(name + body) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))
