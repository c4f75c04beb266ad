"""What a request may bring: bytes, pixels, boxes, refused before anything is decoded or computed."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from polarpix.errors import InputError
from polarpix.images import decode_image
from polarpix.types import UInt8Array

__all__ = ["Limits", "RefusedError", "check_rows", "open_picture", "read_boxes"]

# Pillow knows many more, some of which call other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")


@dataclass(frozen=True)
class Limits:
    """Bounds of the server.

    Args:
        megabytes: of one request's body, in units of 10^6 bytes.
        pixels: of one picture, width times height.
        boxes: in one request.
        queue: requests that may wait for the network.
        seconds: for one answer, waiting included.
        upload_seconds: for a client to send its headers, and again for its body.

    Raises:
        InputError: a bound that lets nothing through.
    """

    megabytes: float = 20.0
    pixels: int = 16_000_000
    boxes: int = 100
    queue: int = 32
    seconds: float = 60.0
    upload_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, option, least in (
            ("megabytes", "--max-megabytes", 0),
            ("pixels", "--max-pixels", 1),
            ("boxes", "--max-boxes", 1),
            ("queue", "--queue", 1),
            ("seconds", "--timeout", 0),
            ("upload_seconds", "--upload-timeout", 0),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least and value > 0):
                raise InputError(f"{option} is {value:g}: give a number {'from 1 on' if least else 'above 0'}")

    @property
    def bytes(self) -> int:
        """Bytes of one request's body."""
        return int(self.megabytes * 1_000_000)


class RefusedError(InputError):
    """A request that is not answered: one line and its HTTP status."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


def open_picture(data: bytes, name: str, limits: Limits) -> UInt8Array:
    """An uploaded file as uint8 [H, W, 3]; its size is read from the header and judged before it is decoded.

    Args:
        data: the file.
        name: what the client calls it.
        limits: how many pixels it may have.

    Raises:
        RefusedError: it is no picture (415), has too many pixels (413), or is damaged (400).
    """
    name = shown(name)
    if not data:
        raise RefusedError(f"{name}: file is empty: send a picture", 400)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
    except UnidentifiedImageError:
        raise RefusedError(f"{name}: not an image: send JPEG, PNG, WebP, TIFF, BMP, GIF or PPM", 415) from None
    except Image.DecompressionBombError:
        raise RefusedError(f"{name}: image has too many pixels: send at most {limits.pixels}", 413) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedError(f"{name}: image is damaged ({error}): save it again", 400) from None
    if width * height > limits.pixels:
        raise RefusedError(
            f"{name}: image is {width}x{height}: at most {limits.pixels} pixels are taken, make it smaller", 413
        )
    try:
        return decode_image(data, name)
    except InputError as error:
        raise RefusedError(str(error), 400) from None


def shown(name: str | None, longest: int = 60) -> str:
    """A client's file name as an error may repeat it: no folder, one line, not too long."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable())
    return plain[:longest] or "image"


def read_boxes(text: str | None, limits: Limits) -> list[list[float]] | None:
    """Boxes as JSON, ``[[x, y, width, height], ...]`` with an optional fifth number, the score; null for none.

    Raises:
        RefusedError: another thing (422), or too many of them (413).
    """
    if text is None or not text.strip():
        return None
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("boxes: not JSON: send [[x, y, width, height], ...] in pixels", 422) from None
    return None if rows is None else check_rows(rows, limits)


def check_rows(rows: Any, limits: Limits) -> list[list[float]]:
    """Rows of 4 or 5 finite numbers, all alike; one row alone is a list of one.

    Raises:
        RefusedError: anything else.
    """
    if isinstance(rows, list) and rows and not any(isinstance(row, list) for row in rows):
        rows = [rows]
    if not isinstance(rows, list) or not rows:
        raise RefusedError("boxes: no list of boxes: send [[x, y, width, height], ...] in pixels, or none", 422)
    if len(rows) > limits.boxes:
        raise RefusedError(f"boxes: {len(rows)} of them: at most {limits.boxes} are taken in one request", 413)
    found: list[list[float]] = []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) not in (4, 5) or len(row) != len(rows[0]):
            raise RefusedError(f"boxes: row {number} is not x, y, width, height[, score] like the others", 422)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in row):
            raise RefusedError(f"boxes: row {number} holds something else than numbers", 422)
        if not all(abs(value) < 1e6 for value in row):  # also false for what is not a number
            raise RefusedError(f"boxes: row {number} holds a number that is out of range", 422)
        found.append([float(value) for value in row])
    return found
