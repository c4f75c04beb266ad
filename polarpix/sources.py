"""Where pictures come from: files, folders, patterns, videos, webcams, addresses, arrays; one lazy row of frames.

A source becomes one medium or several (:func:`find_media`); a medium gives the tasks that make its frames
(:func:`frame_tasks`), to be run here (:func:`read_frames`) or by several threads (:mod:`polarpix.pipeline`).
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES, decode_image, list_images, read_image
from polarpix.rgb import to_rgb
from polarpix.types import UInt8Array

__all__ = [
    "VIDEO_SUFFIXES",
    "AnySource",
    "Frame",
    "Medium",
    "find_media",
    "frame_tasks",
    "is_single",
    "open_frame",
    "read_frames",
]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
AnySource = str | Path | int | npt.NDArray[Any]
"""A file, folder, pattern or http(s) address; the number of a webcam; or an array of one picture."""

USUAL_RATE = 30.0  # frames per second where a video or webcam does not say
MAX_PICTURE = 64 << 20  # bytes that are fetched of one address
MAX_VIDEO = 2 << 30
PATIENCE = 20.0  # seconds without an answer


@dataclass(frozen=True, eq=False)
class Medium:
    """One thing that frames come from."""

    kind: Literal["picture", "video", "webcam", "array"]
    place: str  # a path or an address; the number of a webcam; "" for an array
    array: npt.NDArray[Any] | None = None

    @property
    def moving(self) -> bool:
        """Whether there are many frames, each with a time."""
        return self.kind in ("video", "webcam")

    @property
    def path(self) -> Path:
        """What its results are named after: the file, an address without its host, webcam0, image."""
        if self.kind == "webcam":
            return Path(f"webcam{self.place}")
        return Path(unquote(urlsplit(self.place).path) if is_address(self.place) else self.place or "image")

    def length(self) -> int | None:
        """How many frames there are, as far as the file says; null where that is not known beforehand."""
        if not self.moving:
            return 1
        if self.kind == "webcam" or is_address(self.place):
            return None
        with capture_of(self.place) as capture:
            frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        return frames if frames > 0 else None


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture with where it is from."""

    image: UInt8Array  # [H, W, 3], RGB
    medium: Medium
    index: int = 0  # in its medium, from 0
    time: float = 0.0  # seconds since the medium's first frame
    rate: float = 0.0  # frames per second of the medium; 0 for a picture

    @property
    def file(self) -> str:
        """The medium's path or address; "" for an array."""
        return self.medium.place if self.medium.kind != "webcam" else str(self.medium.path)


def is_address(place: str) -> bool:
    """Whether this is to be fetched."""
    return place.lower().startswith(("http://", "https://"))


def is_single(source: Any) -> bool:
    """Whether this is one source, not several in a row."""
    return isinstance(source, str | Path | int | np.integer | np.ndarray)


def find_media(source: AnySource) -> list[Medium]:
    """The media that a source names, in order: those of a folder or a pattern sorted by name.

    A number is a webcam, unless a file has that name. Nothing is read or fetched yet.

    Raises:
        InputError: nothing is there.
    """
    if isinstance(source, np.ndarray):
        return [Medium("array", "", source)]
    text = str(source)
    if isinstance(source, int | np.integer) or (text.isdecimal() and not Path(text).exists()):
        return [Medium("webcam", str(int(text)))]
    if is_address(text):
        if not urlsplit(text).hostname:
            raise InputError(f"{text}: names no host: give a whole address")
        return [Medium("video" if is_video(urlsplit(text).path) else "picture", text)]
    return [
        Medium("video" if is_video(path) else "picture", str(path))
        for path in list_images(source, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    ]


def is_video(place: str | Path) -> bool:
    """Whether the name ends like that of a video."""
    return Path(place).suffix.lower() in VIDEO_SUFFIXES


def open_frame(source: AnySource) -> Frame:
    """The picture of a file, an address or an array.

    Raises:
        InputError: it cannot be read, or has many frames.
    """
    if isinstance(source, np.ndarray):
        return _picture(Medium("array", "", source))
    if isinstance(source, int | np.integer) or is_video(str(source)):
        raise InputError(f"{source}: has many frames: give it to stream(), or predict it from the command line")
    return _picture(Medium("picture", str(source)))


def frame_tasks(media: Iterable[Medium], limit: int = 0) -> Iterator[Callable[[], Frame]]:
    """One task per frame, in order; each gives its frame, or raises what is wrong with it.

    Videos are decoded while this is iterated, pictures when their task is called, which may be done in any thread.

    Args:
        media: read one after the other.
        limit: how many frames of each video or webcam at most; 0 takes all.
    """
    for medium in media:
        if not medium.moving:
            yield partial(_picture, medium)
            continue
        try:
            yield from _video(medium, limit)
        except InputError as error:
            yield partial(_fail, error)


def read_frames(sources: AnySource | Iterable[AnySource]) -> Iterator[Frame]:
    """The frames of one source or of several, each read when it is asked for.

    Raises:
        InputError: a source that is not there or cannot be read, when its turn comes.
    """
    several: Any = [sources] if is_single(sources) else sources
    for task in frame_tasks(medium for source in several for medium in find_media(source)):
        yield task()


def fetch(address: str, limit: int, what: str) -> bytes:
    """What an address answers with, ``limit`` bytes at most.

    Raises:
        InputError: no network, no such host or page, an answer that is too large or not ``what``.
    """
    request = Request(address, headers={"User-Agent": "polarpix"})
    try:
        with urlopen(request, timeout=PATIENCE) as answer:
            kind = answer.headers.get_content_type()
            if kind.startswith(("text/", "image/", "video/", "audio/")) and not kind.startswith(f"{what}/"):
                raise InputError(f"{address}: answers with {kind}: give the address of the {what} itself")
            data: bytes = answer.read(limit + 1)
    except HTTPError as error:
        raise InputError(f"{address}: the server answers {error.code} ({error.reason}): check the address") from None
    except (URLError, TimeoutError, ConnectionError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{address}: cannot be fetched ({reason}): check the address and the network") from None
    if len(data) > limit:
        raise InputError(f"{address}: is larger than {limit >> 20} MiB: fetch it yourself and give the file")
    return data


@contextmanager
def capture_of(place: str | int) -> Iterator[Any]:
    """OpenCV's reader of a video file or webcam, open or not; its own words about it are kept back."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(place)
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        yield capture
    finally:
        capture.release()


def _picture(medium: Medium) -> Frame:
    if medium.array is not None:
        return Frame(to_rgb(medium.array), medium)
    if is_address(medium.place):
        return Frame(decode_image(fetch(medium.place, MAX_PICTURE, "image"), medium.place), medium)
    return Frame(read_image(medium.place), medium)


def _video(medium: Medium, limit: int) -> Iterator[Callable[[], Frame]]:
    if not is_address(medium.place):
        yield from _captured(medium, int(medium.place) if medium.kind == "webcam" else medium.place, limit)
        return
    with tempfile.NamedTemporaryFile(suffix=Path(urlsplit(medium.place).path).suffix) as file:
        file.write(fetch(medium.place, MAX_VIDEO, "video"))
        file.flush()
        yield from _captured(medium, file.name, limit)


def _captured(medium: Medium, place: str | int, limit: int) -> Iterator[Callable[[], Frame]]:
    with capture_of(place) as capture:
        if not capture.isOpened():
            if medium.kind == "webcam":
                raise InputError(f"webcam {place}: cannot be opened: check its number, and that nothing else uses it")
            raise InputError(f"{medium.place}: cannot be read as a video: give another file, or convert it to mp4")
        rate, told = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        read, began = 0, 0.0
        for index in range(limit) if limit else count():
            ok, pixels = capture.read()
            if not ok:
                break
            live = medium.kind == "webcam"
            now = time.monotonic() if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # unevenly spaced, perhaps
            began = began if read else now
            read += 1
            spent = now - began if live or now > began else index / rate
            yield partial(_frame, pixels, Frame(np.empty((0, 0, 3), np.uint8), medium, index, spent, rate))
        if not read:
            raise InputError(f"{medium.place or place}: holds no frame that can be read: fetch or save it again")
        if medium.kind == "video" and read < told and read != limit:
            warnings.warn(f"{medium.place}: ends after {read} of {told} frames: it may be cut off", stacklevel=1)


def _frame(pixels: npt.NDArray[Any], empty: Frame) -> Frame:
    return replace(empty, image=np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))


def _fail(error: InputError) -> NoReturn:
    raise error
