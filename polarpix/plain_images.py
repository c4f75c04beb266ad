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
from polarpix.rgb import MAX_PIXELS, orient, to_rgb
from polarpix.types import UInt8Array

__all__ = ["decode_plain", "encode_label", "picture_size"]

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
    size = picture_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS // 2:  # each of two arrays holds up to 8 bytes a pixel
        raise InputError(f"{path}: image is too large to be read safely: cut it into smaller images, or install Pillow")
    turned: npt.NDArray[Any] | None = None
    stored: npt.NDArray[Any] | None = None
    if size is not None:
        coded = np.frombuffer(data, np.uint8)
        try:
            # as it is looked at, without transparency
            turned = cv2.imdecode(coded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
            stored = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            reason = " ".join(str(error).split())[-200:]
            raise InputError(f"{path}: image is damaged ({reason}): fetch or save it again") from None
    if turned is None or stored is None:
        raise InputError(f"{path}: not an image that OpenCV reads, or cut off: give JPEG or PNG, or install Pillow")
    if stored.ndim == 3 and stored.shape[2] == 4:
        turned = _with_alpha(stored, turned)
    try:
        return to_rgb(np.concatenate([turned[:, :, 2::-1], turned[:, :, 3:]], axis=2))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that the header of a picture tells, before anything is made for its pixels.

    None for what is no JPEG, PNG, BMP, GIF, WebP, TIFF, PGM or PPM, or ends within its header.
    """
    readers = {
        b"\x89PNG": _png_size,
        b"\xff\xd8": _jpeg_size,
        b"BM": _bmp_size,
        b"GIF8": lambda data: struct.unpack_from("<HH", data, 6)[::-1],
        b"RIFF": _webp_size,
        b"II*\0": _tiff_size,
        b"MM\0*": _tiff_size,
        b"P": _pnm_size,
    }
    reader = next((one for magic, one in readers.items() if data.startswith(magic)), None)
    try:
        height, width = reader(data) if reader is not None else (0, 0)
    except (struct.error, ValueError, IndexError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    at, name = 8, b""
    while name != b"IEND":
        name = data[at + 4 : at + 8]
        at += 12 + struct.unpack_from(">I", data, at)[0]
        if at > len(data):  # OpenCV would make room for a chunk before it looks for it
            raise ValueError("a chunk ends behind the file")
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of the largest frame: a second one would count for some readers."""
    at, largest = 2, (0, 0)
    while at + 9 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0, 0xFF) or 0xD0 <= marker <= 0xD9 or marker == 1:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            largest = max(largest, (height, width), key=lambda size: size[0] * size[1])
        if marker == 0xDA and largest != (0, 0):
            break  # the pixels
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return largest


def _bmp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    sides = {256: 0, 257: 0}  # tags of width and height
    for k in range(struct.unpack_from(f"{order}H", data, at)[0]):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * k)
        if tag in sides:
            sides[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, at + 10 + 12 * k)[0]
    return sides[257], sides[256]


def _pnm_size(data: bytes) -> tuple[int, int]:
    words = b" ".join(line.partition(b"#")[0] for line in data[:4096].splitlines()).split()
    if words[0] not in (b"P2", b"P3", b"P5", b"P6"):
        raise ValueError("no grey or colour picture")
    return int(words[2]), int(words[1])


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
