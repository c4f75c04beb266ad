"""Being asked to end: heard from the first line of a command to its last, whatever the trainer does in between."""

from __future__ import annotations

import atexit
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from polarpix.errors import TerminatedError

__all__ = ["Ending"]


def be_deaf() -> None:
    """Hear SIGTERM no more."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Ending:
    """Hears SIGTERM while it is entered; imports nothing heavy, so that a command can enter it first of all.

    Until :meth:`wait` is called, which the training does when it listens by itself, the command ends at once: nothing
    has begun. From then on it is only noted. The training ends in its own order; what is asked behind its last batch
    waits for the little that is left, the report, and is said when all is written. What comes later still, while the
    interpreter clears its things away, changes nothing any more: all is written and said.

    Outside of the main thread, where Python hears no signals, it does nothing.

    Raises:
        TerminatedError: on leaving it, or before the training began.
    """

    def __init__(self) -> None:
        self.asked = self.waits = False
        self.usual: Any = None

    def wait(self) -> None:
        """From now on something else ends in order."""
        self.waits = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.usual = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.usual)
            atexit.unregister(be_deaf)
            atexit.register(be_deaf)  # now, so that it is called before what was registered earlier
        if self.asked and error is None:
            raise TerminatedError("asked to end when the training was over: its weights and report are written")

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.waits:
            raise TerminatedError("asked to end before the training began: what a run already holds is kept")
