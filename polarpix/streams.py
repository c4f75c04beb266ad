"""Frames through a predictor, lazily and in batches; whatever computes, torch or another runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

from polarpix.errors import InputError
from polarpix.pipeline import DEPTH, LIVE_DEPTH, ahead
from polarpix.sources import AnySource, Frame, find_media, frame_tasks, is_single

__all__ = ["FramePredictor", "predict_groups", "stream_results"]

R = TypeVar("R")
Pair = tuple[Frame, Any]
MAX_WAITING = 256 << 20  # bytes of frames that wait for a full batch


class FramePredictor(Protocol[R]):
    """What :func:`stream_results` needs of a predictor."""

    batch_size: int

    def prepare(self, frame: Frame, boxes: Any) -> Any:
        """Check what was given with a frame; raises InputError."""

    def share(self, frame: Frame, prepared: Any) -> tuple[int, Any]:
        """How much of a batch a frame fills, and a key that frames of one batch have in common."""

    def predict(self, frames: Sequence[Frame], prepared: Sequence[Any]) -> list[R]:
        """One result per frame."""


def groups(pairs: Iterable[Pair], predictor: FramePredictor[Any]) -> Iterator[list[Pair]]:
    """Frames that make up a batch; a webcam's frames each alone, since somebody waits for them.

    When the next pair cannot be had, those before it come first, then the error.
    """
    iterator = iter(pairs)
    pending: list[Pair] = []
    filled, waiting, common = 0, 0, None
    while True:
        try:
            frame, prepared = next(iterator)
        except StopIteration:
            break
        except Exception:
            if pending:
                yield pending
            raise
        size, key = predictor.share(frame, prepared)
        if pending and (key != common or filled + size > predictor.batch_size):
            yield pending
            pending, filled, waiting = [], 0, 0
        pending.append((frame, prepared))
        filled, waiting, common = filled + size, waiting + frame.image.nbytes, key
        if filled >= predictor.batch_size or waiting >= MAX_WAITING or frame.medium.kind == "webcam":
            yield pending
            pending, filled, waiting = [], 0, 0
    if pending:
        yield pending


def predict_groups(predictor: FramePredictor[R], pairs: Iterable[Pair]) -> Iterator[list[tuple[Frame, R]]]:
    """Frames with their results, in order, as many at once as made a batch.

    Args:
        predictor: batches what it can.
        pairs: frames with what ``prepare`` gave for them.
    """
    for group in groups(pairs, predictor):
        frames = [frame for frame, _ in group]
        yield list(zip(frames, predictor.predict(frames, [prepared for _, prepared in group]), strict=True))


def with_boxes(frames: Iterable[Frame], boxes: Iterable[Any]) -> Iterator[Pair]:
    """Each frame with its boxes.

    Raises:
        InputError: more frames than boxes, or fewer.
    """
    end: Any = object()
    for frame, rows in zip_longest(frames, boxes, fillvalue=end):
        if frame is end or rows is end:
            more, fewer = ("boxes", "frames") if frame is end else ("frames", "boxes")
            raise InputError(f"there are more {more} than {fewer}: give boxes for each frame, null for the whole of it")
        yield frame, rows


def stream_results(
    predictor: FramePredictor[R], sources: AnySource | Iterable[AnySource], boxes: Iterable[Any] | None = None
) -> Iterator[R]:
    """One result per frame, lazily and in order; threads read some frames ahead.

    Args:
        predictor: batches what it can.
        sources: one source, or any number of them.
        boxes: those of each frame.

    Raises:
        InputError: a source or boxes that are not in order, after the results of the frames before.
    """
    several: Any = [sources] if is_single(sources) else sources
    live = is_single(sources) and find_media(several[0])[0].kind == "webcam"
    tasks = frame_tasks(medium for source in several for medium in find_media(source))
    frames = ahead(tasks, depth=LIVE_DEPTH if live else DEPTH)
    paired = with_boxes(frames, boxes) if boxes is not None else ((frame, None) for frame in frames)
    for found in predict_groups(predictor, ((frame, predictor.prepare(frame, rows)) for frame, rows in paired)):
        for _, result in found:
            yield result
