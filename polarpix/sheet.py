"""Pictures side by side with words: contact sheets, captions, legends. Arrays in, array out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.rgb import to_rgb
from polarpix.types import ClassTable, UInt8Array

__all__ = ["PAPER", "captioned", "legend", "tile"]

PAPER = (250, 250, 250)
_INK = (40, 44, 52)


def captioned(image: UInt8Array, text: str, size: int = 13) -> UInt8Array:
    """The picture over a line of text, which is cut to its width."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    width = image.shape[1]
    if font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    strip = Image.new("RGB", (width, size + 9), PAPER)
    ImageDraw.Draw(strip).text((width / 2, (size + 9) / 2), text, fill=_INK, font=font, anchor="mm")
    return np.concatenate([image, np.asarray(strip)])


def tile(
    images: Sequence[npt.NDArray[Any]], columns: int = 4, captions: Sequence[str] | None = None, gap: int = 8
) -> UInt8Array:
    """A contact sheet: pictures in rows, each centred in a cell of the largest size, its caption below.

    Args:
        images: at least one picture of any size.
        columns: pictures in one row.
        captions: one per picture, shortened to fit.
        gap: pixels around the cells.

    Raises:
        InputError: no picture, or another number of captions.
    """
    if not images or columns < 1:
        raise InputError(f"{len(images)} pictures in {columns} columns: give at least one of each")
    if captions is not None and len(captions) != len(images):
        raise InputError(f"{len(captions)} captions for {len(images)} pictures: give one each")
    cells = [to_rgb(image) for image in images]
    height, width = max(cell.shape[0] for cell in cells), max(cell.shape[1] for cell in cells)
    padded = []
    for i, cell in enumerate(cells):
        box = np.full((height, width, 3), PAPER, np.uint8)
        top, left = (height - cell.shape[0]) // 2, (width - cell.shape[1]) // 2
        box[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        padded.append(captioned(box, captions[i]) if captions is not None else box)
    height = padded[0].shape[0]
    columns = min(columns, len(padded))
    rows = math.ceil(len(padded) / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), PAPER, np.uint8)
    for i, cell in enumerate(padded):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = cell
    return sheet


def legend(classes: ClassTable, columns: int = 4, size: int = 15) -> UInt8Array:
    """Names beside patches of their colours, row by row; `size` is the height of the letters in pixels."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    columns = max(1, min(columns, len(classes.names)))
    cell = 3 * size + math.ceil(max(font.getlength(name) for name in classes.names))
    line = 2 * size
    rows = math.ceil(len(classes.names) / columns)
    sheet = Image.new("RGB", (columns * cell + size, rows * line + size // 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        x, y = size // 2 + i % columns * cell, size // 2 + i // columns * line
        pen.rounded_rectangle((x, y, x + 1.4 * size, y + 1.2 * size), size // 4, fill=color, outline=(140, 140, 140))
        pen.text((x + 2 * size, y + 0.6 * size), name, fill=_INK, font=font, anchor="lm")
    return np.asarray(sheet).copy()
