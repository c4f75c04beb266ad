from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from polarpix.web.limits import RefusedError
from polarpix.web.worker import Worker


class Gate:
    """A call that runs until it is let go."""

    def __init__(self, worker: Worker) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.future = worker.submit(self)
        assert self.begun.wait(10)

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(10)
        return "done"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(queue=2, seconds=0.05)
    yield worker
    worker.close()


def test_calls_run_one_after_the_other_in_order(worker: Worker) -> None:
    gate, seen = Gate(worker), list[int]()
    futures = [worker.submit(lambda number=number: seen.append(number)) for number in range(2)]  # type: ignore[misc]
    assert worker.waiting == 2
    assert not seen
    gate.go.set()
    for future in futures:
        future.result(10)
    assert seen == [0, 1]
    assert gate.future.result() == "done"


def test_a_full_line_refuses_and_has_room_again(worker: Worker) -> None:
    gate = Gate(worker)
    waiting = [worker.submit(lambda: None) for _ in range(2)]
    with pytest.raises(RefusedError, match="2 requests are waiting") as error:
        worker.submit(lambda: None)
    assert error.value.status == 503
    gate.go.set()
    for future in waiting:
        future.result(10)
    worker.submit(lambda: None).result(10)
    assert worker.waiting == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_who_waits_too_long_is_told_and_the_call_is_dropped(worker: Worker, blocking: bool) -> None:
    gate, ran = Gate(worker), threading.Event()
    call = worker.wait if blocking else lambda made: asyncio.run(worker.answer(made))
    with pytest.raises(RefusedError, match=r"no answer within 0\.05 s") as error:
        call(ran.set)
    assert error.value.status == 504
    gate.go.set()
    worker.submit(lambda: None).result(10)  # behind the dropped one
    assert not ran.is_set()
    assert worker.held == 0 or worker.waiting == 0


def test_answers_and_errors_come_back(worker: Worker) -> None:
    worker.seconds = 10
    assert worker.wait(lambda: 3) == 3
    assert asyncio.run(worker.answer(lambda: 4)) == 4

    def fail() -> None:
        raise RefusedError("no", 422)

    for call in (lambda: worker.wait(fail), lambda: asyncio.run(worker.answer(fail))):
        with pytest.raises(RefusedError, match="no"):
            call()
    assert worker.waiting == 0


def test_a_closed_worker_refuses(worker: Worker) -> None:
    worker.close()
    with pytest.raises(RefusedError, match="stopping"):
        worker.submit(lambda: None)
    assert worker.held == 0
