"""The models in the box in the demonstration: on a photograph, or, where none is given, on what they never learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from polarpix.demo.figures import Scene
from polarpix.images import read_image
from polarpix.predict import PosePredictor, SegPredictor, load
from polarpix.report import Section
from polarpix.sheet import legend, tile
from polarpix.types import UInt8Array
from polarpix.zoo import MODELS

__all__ = ["boxed_section", "read_photo"]

SIDE = 960  # pixels of a photograph's longer side, at most
TITLE = "The models in the box"
DRAWN = (
    "Body and street learned from photographs, of people at sport and of streets, and have never seen a drawing: what "
    "they make of the figures shows how far they reach, not how good they are. Give a photograph of yours: "
    "make demo PHOTO=photo.jpg, or polarpix demo --photo photo.jpg."
)
PHOTO = (
    "Body takes the whole photograph for the box of one person, street for a street scene. On your own pictures: "
    "polarpix predict photo.jpg --model body"
)


def read_photo(path: Path) -> UInt8Array:
    """A photograph [H, W, 3], made smaller where it is large.

    Raises:
        InputError: no file, or no picture.
    """
    image = read_image(path)
    scale = SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def boxed_section(scenes: Sequence[Scene], photo: UInt8Array | None = None) -> Section | None:
    """What the models in the box see, for the page; null with one line where the installation lacks one of them.

    Args:
        scenes: drawn pictures with the boxes of their figures.
        photo: a photograph [H, W, 3] to take instead.
    """
    absent = [name for name, model in MODELS.items() if not model.file.is_file()]
    if absent:
        print(f"the models in the box are left out: {', '.join(absent)} not in this installation")
        return None
    body, street = load("body"), load("street")
    assert isinstance(body, PosePredictor)
    assert isinstance(street, SegPredictor)
    if photo is not None:
        cells, columns = [body(photo).plot(), street(photo).plot()], 2
    else:
        cells, columns = [], 4
        for scene in scenes:
            cells += [body(scene.image, scene.boxes).plot(zoom=2), street(scene.image).plot(zoom=2)]
    sheet = tile(cells, columns=columns, captions=["body", "street"] * (len(cells) // 2))
    return Section(TITLE, DRAWN if photo is None else PHOTO, pictures=[("", sheet), ("", legend(street.classes))])
