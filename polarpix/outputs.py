"""What a prediction leaves on disk: overlays, label maps, videos, and COCO's JSON."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from polarpix.engine.artifact import write_text
from polarpix.errors import InputError
from polarpix.images import write_image
from polarpix.results import PoseResult, SegResult
from polarpix.sources import Frame, Medium
from polarpix.types import UInt8Array

__all__ = ["Outputs", "VideoFile", "image_ids", "overlay_names"]


def overlay_names(paths: Sequence[Path]) -> list[str]:
    """One name per file for what is written about it.

    Its stem; with its folder where several files have that stem; with a number where that is taken too.
    """
    shared = {stem for stem, times in Counter(path.stem for path in paths).items() if times > 1}
    taken: set[str] = {path.stem for path in paths} - shared
    names: list[str] = []
    for path in paths:
        name = path.stem
        if name in shared:
            base = f"{path.absolute().parent.name}_{name}"
            name = next(one for one in chain([base], (f"{base}_{i}" for i in count(2))) if one not in taken)
            taken.add(name)
        names.append(name)
    return names


def image_ids(paths: Sequence[Path]) -> list[int]:
    """One COCO image id per file: the number that is its name where every file has its own, else 1, 2, 3, ..."""
    numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))


class VideoFile:
    """An mp4 that is there under its name once it is closed.

    Args:
        path: must end in .mp4.
        size: width and height in pixels.
        rate: frames per second.

    Raises:
        InputError: OpenCV cannot write such a video.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        self.path, self.size = path, size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.mp4")
        self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        if not self._writer.isOpened():
            raise InputError(f"{path}: a video of {size[0]}x{size[1]} cannot be written here: choose another --out")

    def write(self, image: UInt8Array) -> None:
        """Add a frame [H, W, 3]; one of another size is fitted."""
        if image.shape[1::-1] != self.size:
            image = np.asarray(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA), np.uint8)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._writer.release()
        self._part.replace(self.path)


class Outputs:
    """The files below ``out`` for frames that come in order.

    :meth:`draw` may be called by several threads at once; :meth:`add` by one thread, in the order of the frames.

    Args:
        out: the folder.
        media: all that frames will come from: their names are made to differ.
        frame_labels: write label maps of video frames too, labels/NAME/000000.png.
        ellipses: probability of the ellipses drawn around keypoints; 0 draws none.
    """

    def __init__(self, out: Path, media: Sequence[Medium], frame_labels: bool = False, ellipses: float = 0.0) -> None:
        self.out, self.frame_labels, self.ellipses = out, frame_labels, ellipses
        paths = [medium.path for medium in media]
        self.names = {id(medium): name for medium, name in zip(media, overlay_names(paths), strict=True)}
        still = not any(medium.moving for medium in media)
        numbers = image_ids(paths) if still else []
        self.ids = {id(medium): number for medium, number in zip(media, numbers, strict=False)}
        self.keypoints: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.count = 0
        self._video: VideoFile | None = None
        self._medium: Medium | None = None

    def draw(self, frame: Frame, result: PoseResult | SegResult) -> UInt8Array | None:
        """Write a picture's overlay and label map; of a video's frame give the overlay."""
        name, moving = self.names[id(frame.medium)], frame.medium.moving
        if isinstance(result, SegResult) and not moving:
            result.save_label(self.out / "labels" / f"{name}.png")
        if isinstance(result, SegResult) and moving and self.frame_labels:
            result.save_label(self.out / "labels" / name / f"{frame.index:06d}.png")
        overlay = result.plot(ellipses=self.ellipses) if isinstance(result, PoseResult) else result.plot()
        if moving:
            return overlay
        write_image(self.out / "overlays" / f"{name}.jpg", overlay)
        return None

    def add(self, frame: Frame, result: PoseResult | SegResult, overlay: UInt8Array | None) -> None:
        """Note the result, and append a video's overlay to its file."""
        self.count += 1
        if isinstance(result, PoseResult):
            self.note(frame, result)
        if overlay is None:
            return
        if frame.medium is not self._medium:
            self.close_video()
            path = self.out / "overlays" / f"{self.names[id(frame.medium)]}.mp4"
            self._video = VideoFile(path, (overlay.shape[1], overlay.shape[0]), frame.rate)
            self._medium = frame.medium
        if self._video:
            self._video.write(overlay)

    def note(self, frame: Frame, result: PoseResult) -> None:
        """Keep the rows of the JSON files."""
        image_id = self.ids.get(id(frame.medium), self.count)
        self.keypoints += result.to_coco(image_id)
        height, width = result.image.shape[:2]
        row = {"id": image_id, "file_name": frame.file, "width": width, "height": height}
        if frame.medium.moving:
            row |= {"frame": frame.index, "time": round(frame.time, 6)}
        self.images.append(row)

    def close_video(self) -> None:
        """Finish the video that is being written."""
        video, self._video = self._video, None
        if video:
            video.close()

    def close(self) -> None:
        """Finish what is open; keypoints.json and images.json where anything was found."""
        try:
            self.close_video()
        finally:
            if self.images:
                write_text(self.out / "keypoints.json", json.dumps(self.keypoints))
                write_text(self.out / "images.json", json.dumps(self.images))
