"""The networks behind the page and the endpoint: who is asked, in which line, within which bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from polarpix.errors import InputError
from polarpix.types import UInt8Array
from polarpix.web.limits import Limits, RefusedError, open_picture
from polarpix.web.views import Predictor
from polarpix.web.worker import Worker

__all__ = ["Boxes", "Service", "named"]

T = TypeVar("T")
Boxes = list[list[float]] | None


def named(predictors: list[Predictor]) -> dict[str, Predictor]:
    """Predictors by the names of their pages; those that share one get their task added, and a number if need be."""
    times = Counter(predictor.run.name for predictor in predictors)
    found: dict[str, Predictor] = {}
    for predictor in predictors:
        run = predictor.run
        base = run.name if times[run.name] == 1 else f"{run.name}-{run.task}"
        name = next(one for one in chain([base], (f"{base}-{i}" for i in count(2))) if one not in found)
        found[name] = predictor
    return found


class Service:
    """Networks on one device, with the one worker that runs them.

    Args:
        predictors: by name; the first is asked when a request names none.
        limits: bounds of requests.
        folder: the temporary folder of the server; nothing is written elsewhere.
    """

    def __init__(self, predictors: Mapping[str, Predictor], limits: Limits, folder: Path) -> None:
        if not predictors:
            raise InputError("no network: give at least one weights file")
        self.predictors, self.limits, self.folder = dict(predictors), limits, folder
        self.worker = Worker(limits.queue, limits.seconds)

    def find(self, name: str | None) -> tuple[str, Predictor]:
        """The network of that name, by default the first.

        Raises:
            RefusedError: no such network (404).
        """
        chosen = name or next(iter(self.predictors))
        if chosen not in self.predictors:
            known = ", ".join(self.predictors)
            raise RefusedError(f"model: no {shortened(chosen)!r} here: choose one of {known}", 404)
        return chosen, self.predictors[chosen]

    def job(
        self,
        read: Callable[[], bytes],
        filename: str,
        model: str | None,
        boxes: Boxes,
        make: Callable[[Predictor, UInt8Array, Boxes], T],
    ) -> Callable[[], T]:
        """What the worker is to do for one request: read, judge and decode the picture, then make the answer.

        Args:
            read: gives the uploaded file; called by the worker, so that one picture at a time is in memory.
            filename: what the client calls it.
            model: the network's name.
            boxes: in pixels.
            make: takes the network, the picture and the boxes.

        Raises:
            RefusedError: no such network, or boxes for one that takes none.
        """
        name, predictor = self.find(model)
        if boxes is not None and not hasattr(predictor, "schema"):
            raise RefusedError(f"boxes: {name} is a segmentation network and takes none: leave them out", 422)

        def call() -> T:
            image = open_picture(read(), filename, self.limits)
            try:
                return make(predictor, image, boxes)
            except RefusedError:
                raise
            except InputError as error:
                raise RefusedError(str(error), 422) from None

        return call


def shortened(text: str, longest: int = 60) -> str:
    """Somebody's words, cut so that an error stays a line."""
    return text if len(text) <= longest else text[:longest] + "…"
