"""One thread that computes and a bounded line in front of it, so that load never piles up in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from polarpix.web.limits import RefusedError

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs calls one after the other in a thread of its own.

    Args:
        queue: calls that may wait behind the one that runs.
        seconds: how long a caller waits for its answer.
    """

    def __init__(self, queue: int, seconds: float) -> None:
        self.queue, self.seconds = queue, seconds
        self.held = 0  # waiting and running
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="polarpix-worker")

    @property
    def waiting(self) -> int:
        """Calls in the line, without the one that runs."""
        return max(0, self.held - 1)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Put a call in the line.

        Raises:
            RefusedError: the line is full (503).
        """
        with self._lock:
            if self.held > self.queue:
                raise RefusedError(f"busy: {self.queue} requests are waiting already, try again in a moment", 503)
            self.held += 1
        try:
            future = self._thread.submit(call)
        except RuntimeError:  # shut down
            self._leave()
            raise RefusedError("the server is stopping", 503) from None
        future.add_done_callback(lambda _: self._leave())
        return future

    def _leave(self) -> None:
        with self._lock:
            self.held -= 1

    async def answer(self, call: Callable[[], T]) -> T:
        """What a call gives, waited for without holding up the event loop.

        Raises:
            RefusedError: the line is full (503), or no answer in time (504), and the call is dropped.
        """
        future = self.submit(call)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
        except TimeoutError:
            raise self._late() from None

    def wait(self, call: Callable[[], T]) -> T:
        """What a call gives, for callers with a thread of their own; raises as :meth:`answer` does."""
        future = self.submit(call)
        try:
            return future.result(self.seconds)
        except FutureTimeout:
            future.cancel()
            raise self._late() from None
        except CancelledError:
            raise RefusedError("the server is stopping", 503) from None

    def _late(self) -> RefusedError:
        return RefusedError(
            f"no answer within {self.seconds:g} s: send a smaller image or fewer boxes, or try later", 504
        )

    def close(self) -> None:
        """Drop what waits; what runs is finished by its thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
