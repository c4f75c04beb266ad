"""Work before and behind the network, in threads: bounded, in order, and nothing that was begun is lost."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

__all__ = ["DEPTH", "LIVE_DEPTH", "Behind", "Clock", "ahead"]

T = TypeVar("T")

WORKERS = min(4, os.cpu_count() or 1)
DEPTH = 8  # frames that wait at most, on either side
LIVE_DEPTH = 1  # of a webcam: what waits is late
TICK = 0.1  # seconds after which a thread that waits looks whether it is still needed


class Clock:
    """Seconds by name, added up from any thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - start

    def timed(self, name: str, task: Callable[[], T]) -> Callable[[], T]:
        """The task, its time added to ``name``."""

        def run() -> T:
            with self.measure(name):
                return task()

        return run

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items, the time until each is there added to ``name``."""
        iterator = iter(items)
        end = object()
        while True:
            with self.measure(name):
                item: Any = next(iterator, end)
            if item is end:
                return
            yield item


def ahead(tasks: Iterable[Callable[[], T]], workers: int = WORKERS, depth: int = DEPTH) -> Iterator[T]:
    """What the tasks give, in order, computed by threads while the caller is busy with what came before.

    The tasks are fetched by one thread and called by ``workers`` others, at most ``depth`` before they are asked for.
    An error of a task comes up in its place. Closing the iterator ends the threads.
    """
    waiting: Queue[Future[T] | None] = Queue(depth)
    closed = Event()
    pool = ThreadPoolExecutor(workers)

    def put(item: Future[T] | None) -> bool:
        while not closed.is_set():
            try:
                waiting.put(item, timeout=TICK)
            except Full:
                continue
            return True
        return False

    def fetch() -> None:
        try:
            for task in tasks:
                if not put(pool.submit(task)):
                    break
        except BaseException as error:
            failed: Future[T] = Future()
            failed.set_exception(error)
            put(failed)
        finally:
            if hasattr(tasks, "close"):
                tasks.close()  # in the thread that ran it: a video is let go
            put(None)

    thread = Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while (future := waiting.get()) is not None:
            yield future.result()
    finally:
        closed.set()
        thread.join(timeout=10 * TICK)  # it may hang in what the caller gave; it is left to itself then
        pool.shutdown(wait=False, cancel_futures=True)


class Behind:
    """Calls work by threads and finishes it in order by one more, while the caller goes on."""

    def __init__(self, workers: int = WORKERS, depth: int = DEPTH) -> None:
        self._pool = ThreadPoolExecutor(workers)
        self._waiting: Queue[tuple[Future[Any], Callable[[Any], None]] | None] = Queue(depth)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._finish, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], T], finish: Callable[[T], None]) -> None:
        """Have ``finish(work())`` done; waits while ``depth`` others do. The first error of earlier work comes up here.

        One thread runs every ``finish``, in the order of the calls.
        """
        if self._error:
            raise self._error
        self._waiting.put((self._pool.submit(work), finish))

    def close(self) -> None:
        """Wait until all that was put is done; the first error comes up."""
        self._waiting.put(None)
        self._thread.join()
        self._pool.shutdown()
        if self._error:
            raise self._error

    def _finish(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, finish = item
            try:
                finish(future.result())
            except BaseException as error:  # raised where the caller is next
                self._error = self._error or error
