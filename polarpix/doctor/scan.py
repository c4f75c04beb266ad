"""What every file of a set is, read once by several processes: size, EXIF, damage, hashes; of labels the values."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from polarpix.rgb import exif_orientation, open_pillow, orient
from polarpix.types import UInt8Array

__all__ = ["COLOURS", "SPECIAL", "THUMB", "ImageFacts", "LabelFacts", "image_facts", "label_facts", "scan", "special"]

THUMB = 32  # side of the grey thumbnail
POOL_FROM = 400  # files from which processes of their own pay
COLOURS = 300  # a label of more colours than this is a photograph
SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # what lies where a file should be and may never end, or never begin


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What a picture file is; sizes are (height, width)."""

    file: Path
    error: str = ""
    stored: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: bytes = b""
    thumb: UInt8Array | None = None  # [THUMB, THUMB] grey, as looked at

    @property
    def size(self) -> tuple[int, int]:
        """As looked at."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


@dataclass(frozen=True, eq=False)
class LabelFacts:
    """What a label file is."""

    file: Path
    error: str = ""
    size: tuple[int, int] = (0, 0)  # height, width, as looked at
    counts: npt.NDArray[np.int64] | None = None  # [256] pixels of each value
    lossy: bool = False
    colours: tuple[tuple[int, int, int], ...] = ()  # of a file of colours
    digest: bytes = b""


def special(file: Path) -> str:
    """What a path leads to that is neither file nor folder, a value of :data:`SPECIAL`; "" of all others."""
    try:
        return SPECIAL.get(stat.S_IFMT(file.stat().st_mode), "")
    except (OSError, ValueError):  # not there, or no name of a file
        return ""


def image_facts(file: Path) -> ImageFacts:
    """Reads one picture; a JPEG at an eighth of its size, which still finds where it is cut off."""
    if what := special(file):
        return ImageFacts(file, what)
    try:
        data = file.read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).digest()
        with open_pillow(io.BytesIO(data)) as picture:
            stored = (picture.height, picture.width)
            orientation = exif_orientation(picture)
            # a JPEG's blocks may reach beyond its edge: "inside" is where the picture itself ends, in parts of a pixel
            _, inside = picture.draft("L", (2 * THUMB, 2 * THUMB)) or ("", None)
            deep = picture.mode.startswith(("I", "F"))
            grey = Image.fromarray(_eight_bits(picture)) if deep else picture.convert("L")
            small = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BILINEAR, inside))
    except FileNotFoundError:
        return ImageFacts(file, "missing")
    except UnidentifiedImageError:
        return ImageFacts(file, "not an image, or cut off at its start")
    except Exception as error:  # of any class that Pillow's readers have
        return ImageFacts(file, " ".join(str(error).split())[:200] or type(error).__name__)
    return ImageFacts(file, "", stored, orientation, digest, np.ascontiguousarray(orient(small, orientation)))


def _eight_bits(picture: Image.Image) -> UInt8Array:
    """Deep grey values stretched to 0..255, for the thumbnail only."""
    values = np.nan_to_num(np.asarray(picture, np.float64))
    span = float(values.max() - values.min()) or 1.0
    return np.asarray((values - values.min()) / span * 255, np.uint8)


def label_facts(file: Path) -> LabelFacts:
    """Reads one label map as :func:`polarpix.images.read_label` does, but says what is odd instead of refusing it."""
    if what := special(file):
        return LabelFacts(file, what)
    try:
        data = file.read_bytes()
        with open_pillow(io.BytesIO(data)) as picture:
            lossy = picture.format in ("JPEG", "MPO")
            orientation = exif_orientation(picture)
            array = np.asarray(picture)  # palette pictures give their indices
    except FileNotFoundError:
        return LabelFacts(file, "missing")
    except UnidentifiedImageError:
        return LabelFacts(file, "not an image, or cut off at its start")
    except Exception as error:  # of any class that Pillow's readers have
        return LabelFacts(file, " ".join(str(error).split())[:200] or type(error).__name__)
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
    size = (array.shape[1], array.shape[0]) if orientation >= 5 else (array.shape[0], array.shape[1])
    if array.ndim == 3:
        channels = array[:, :, :3] if array.shape[2] >= 3 else array[:, :, [0, 0, 0]]
        if (channels != channels[:, :, :1]).any():
            colours = tuple((c >> 16, c >> 8 & 255, c & 255) for c in _packed_colours(channels))
            return LabelFacts(file, "", size, None, lossy, colours, digest)
        array = channels[:, :, 0]
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        return LabelFacts(file, "label map holds fractions, not class indices", size)
    if array.min() < 0 or array.max() > 255:
        return LabelFacts(
            file, f"label map holds values {array.min()}..{array.max()}, not class indices in 0..255", size
        )
    counts = np.bincount(array.astype(np.uint8).ravel(), minlength=256).astype(np.int64)
    return LabelFacts(file, "", size, counts, lossy, (), digest)


def _packed_colours(channels: UInt8Array) -> list[int]:
    """The colours of [H, W, 3] as red, green, blue in one number each; a few more than COLOURS at most."""
    found: set[int] = set()
    step = max(1, 2**20 // channels.shape[1])
    for top in range(0, channels.shape[0], step):  # a whole picture would take 24 bytes a pixel
        rows = channels[top : top + step].reshape(-1, 3).astype(np.uint32)
        found |= set(np.unique(rows @ np.array([1 << 16, 1 << 8, 1], np.uint32))[: COLOURS + 1].tolist())
        if len(found) > COLOURS:
            break
    return sorted(found)[: COLOURS + 1]


def scan(
    images: Sequence[Path], labels: Sequence[Path], workers: int | None = None, quiet: bool = False
) -> tuple[dict[Path, ImageFacts], dict[Path, LabelFacts]]:
    """The facts of all files, with a progress bar.

    Args:
        images: picture files; each is read once.
        labels: label files.
        workers: processes; None for one per core, none of their own for few files.
        quiet: no progress bar.
    """
    images, labels = list(dict.fromkeys(images)), list(dict.fromkeys(labels))
    total = len(images) + len(labels)
    bar = tqdm(total=total, desc="reading", unit="file", disable=quiet or None, leave=False)
    found: tuple[dict[Path, ImageFacts], dict[Path, LabelFacts]] = ({}, {})
    count = workers if workers is not None else ((os.cpu_count() or 1) if total >= POOL_FROM else 0)
    with bar:
        if count < 2:
            for image in images:
                found[0][image] = image_facts(image)
                bar.update()
            for label in labels:
                found[1][label] = label_facts(label)
                bar.update()
            return found
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_alone) as pool:
            for one in pool.map(image_facts, images, chunksize=32):
                found[0][one.file] = one
                bar.update()
            for facts in pool.map(label_facts, labels, chunksize=32):
                found[1][facts.file] = facts
                bar.update()
    return found


def _alone() -> None:
    """One thread for each process."""
    cv2.setNumThreads(0)
