"""What ``polarpix predict`` does with its sources: decode, find, draw and write, each while the others go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from polarpix.box_files import BoxSource, boxes_of, image_key, parse_boxes
from polarpix.detectors import Detector
from polarpix.errors import InputError
from polarpix.framed import FramedPoses, FramedSegs
from polarpix.images import check_place
from polarpix.outputs import Outputs
from polarpix.pipeline import DEPTH, LIVE_DEPTH, Behind, Clock, ahead
from polarpix.results import PoseResult, SegResult
from polarpix.sources import Frame, Medium, find_media, frame_tasks
from polarpix.streams import predict_groups

__all__ = ["FileJob", "predict_files", "seconds_line", "unique_media"]

Result = PoseResult | SegResult


@dataclass
class FileJob:
    """What to predict, where to write it, and how it went.

    Attributes:
        sources: files, folders, patterns, videos, addresses, numbers of webcams.
        out: the folder for what is written.
        boxes: x,y,width,height or a COCO detection JSON; "" for none.
        category: the category_id of the detections to take from that file.
        detector: finds the boxes instead.
        frames: how many frames of each video or webcam at most; 0 takes all.
        frame_labels: write label maps of video frames too.
        ellipses: probability of the ellipses drawn around keypoints; 0 draws none.
        done: how many frames were predicted.
        failed: one line for each that was not.
        clock: the seconds of every part.
    """

    sources: Sequence[str]
    out: Path
    boxes: str = ""
    category: int | None = None
    detector: Detector | None = None
    frames: int = 0
    frame_labels: bool = False
    ellipses: float = 0.0
    done: int = 0
    failed: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)


def unique_media(sources: Sequence[str]) -> list[Medium]:
    """The media of all sources, each once.

    Raises:
        InputError: a source that is not there.
    """
    media = [medium for source in sources for medium in find_media(source)]
    return list({(medium.kind, medium.place): medium for medium in media}.values())


def predict_files(predictor: FramedPoses | FramedSegs, job: FileJob) -> FileJob:
    """Predict every image and frame; write overlays, and keypoints.json with images.json or label maps.

    One unreadable source does not stop the others, and an interruption leaves what was found until then.

    Returns:
        The job, with what was done.

    Raises:
        InputError: no image at all, boxes that are none or belong to none of the images, or a place to write that is
            none.
    """
    if isinstance(predictor, FramedSegs) and (job.boxes or job.detector):
        option = f"--boxes {job.boxes}" if job.boxes else "--detector"
        raise InputError(f"{option}: a segmentation network takes no boxes: leave them out")
    media = unique_media(job.sources)
    table = parse_boxes(job.boxes, job.category)
    if isinstance(table, dict) and not any(image_key(medium.path) in table for medium in media):
        raise InputError(
            f"--boxes {job.boxes}: no detection is of these images: match image_id or file_name to the files"
        )
    check_place(job.out / "images.json")
    outputs, behind = Outputs(job.out, media, job.frame_labels, job.ellipses), Behind()
    pairs = prepared(predictor, located(job, read(job, media), table), job)
    waiting: deque[tuple[Frame, Result]] = deque()

    def hand_over() -> None:
        while waiting:
            frame, result = waiting.popleft()
            draw = job.clock.timed("write", partial(draw_one, outputs, frame, result))
            behind.put(draw, partial(finish, job, outputs, frame, result))

    with tqdm(total=total_frames(media, job.frames), desc="predict", unit="image") as bar:
        try:
            for found in job.clock.waiting("find", predict_groups(predictor, pairs)):
                waiting.extend(found)
                with job.clock.measure("waiting to write"):
                    hand_over()
                bar.update(len(found))
        finally:
            pairs.close()
            with job.clock.measure("waiting to write"), ExitStack() as last:
                last.callback(outputs.close)
                last.callback(bar.close)  # what is said next begins on a line of its own
                last.callback(behind.close)
                hand_over()  # what an interruption left
    return job


def seconds_line(clock: Clock) -> str:
    """Where the time went: what the network waited for, and what went on meanwhile."""
    spent = clock.seconds
    waited = spent["waiting to decode"]
    return (
        f"seconds: network {spent['find'] - waited:.2f}, waiting for decoding {waited:.2f}, for drawing and writing "
        f"{spent['waiting to write']:.2f}; meanwhile: decoding {spent['decode']:.2f}, drawing and writing "
        f"{spent['write']:.2f}"
    )


def total_frames(media: Sequence[Medium], limit: int) -> int | None:
    """How many frames will come, as far as that is known."""
    lengths = [medium.length() for medium in media]
    known = [
        min(length, limit) if limit and medium.moving else length
        for medium, length in zip(media, lengths, strict=True)
        if length is not None
    ]
    return sum(known) if len(known) == len(media) else None


def attempt(task: Callable[[], Frame]) -> Frame | InputError:
    """A frame, or what is wrong with it."""
    try:
        return task()
    except InputError as error:
        return error


def read(job: FileJob, media: Sequence[Medium]) -> Iterator[Frame]:
    """The frames that can be read, decoded ahead; the others are noted."""
    frames = job.clock.waiting("decode", frame_tasks(media, job.frames))  # videos are decoded by this
    tasks = (job.clock.timed("decode", partial(attempt, task)) for task in frames)
    depth = LIVE_DEPTH if any(medium.kind == "webcam" for medium in media) else DEPTH
    for found in job.clock.waiting("waiting to decode", ahead(tasks, depth=depth)):
        if isinstance(found, Frame):
            yield found
        else:
            job.failed.append(str(found))


def located(job: FileJob, frames: Iterator[Frame], table: BoxSource) -> Iterator[tuple[Frame, Any]]:
    """Each frame with its boxes: those of the detector, of the file, or none."""
    if job.detector:
        yield from job.detector.stream(frames)
    else:
        for frame in frames:
            yield frame, boxes_of(table, frame.medium.path)


def prepared(
    predictor: FramedPoses | FramedSegs, pairs: Iterator[tuple[Frame, Any]], job: FileJob
) -> Generator[tuple[Frame, Any]]:
    """The frames whose boxes are in order, with what the predictor makes of them; the others are noted."""
    for frame, boxes in pairs:
        try:
            ready = predictor.prepare(frame, boxes)
        except InputError as error:
            job.failed.append(str(error))
            continue
        yield frame, ready


def draw_one(outputs: Outputs, frame: Frame, result: Result) -> Any:
    """What :meth:`Outputs.draw` gives, or what is wrong with the picture."""
    try:
        return outputs.draw(frame, result)
    except InputError as error:
        return error


def finish(job: FileJob, outputs: Outputs, frame: Frame, result: Result, drawn: Any) -> None:
    """Note what was drawn, in order."""
    if isinstance(drawn, InputError):
        job.failed.append(str(drawn))
        return
    with job.clock.measure("write"):
        outputs.add(frame, result, drawn)
    job.done += 1
