"""Masks as COCO writes them: run lengths down the columns, in a text of 6 bits a letter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["encode_mask"]

_MOST_DIGITS = 7  # of 5 bits: 35 bits and the sign hold every difference of two runs of a picture


def encode_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The run-length code of a mask [H, W]: ``{"size": [H, W], "counts": text}``, as pycocotools gives it.

    The runs alternate, beginning with one of zeros, which may be empty. From the fourth on the difference to the run
    two before is written, in digits of 5 bits from the lowest up; a sixth bit says that another follows.
    """
    flat = np.asarray(mask, np.bool_).ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, 0] if flat.size and flat[0] else [0]
    runs = np.diff(np.concatenate([starts, turns, [flat.size]])).astype(np.int64)  # [n]
    values = runs.copy()
    values[3:] -= runs[1:-2]
    shifts = 5 * np.arange(_MOST_DIGITS)
    digits = values[:, None] >> shifts & 31  # [n, 7]
    rest = values[:, None] >> shifts + 5  # what the higher digits say
    ends = np.where(digits & 16, rest == -1, rest == 0)  # the sign is that of the last digit
    last = ends.argmax(axis=1)[:, None]  # [n, 1]
    place = np.arange(_MOST_DIGITS)
    letters = (digits | np.where(place < last, 32, 0)) + 48
    text = letters[place <= last].astype(np.uint8).tobytes().decode("ascii")
    return {"size": [int(side) for side in mask.shape], "counts": text}
