"""Threads before and behind the network: order, bounds, errors, and an end."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from polarpix.pipeline import Behind, Clock, ahead


def test_results_come_in_order_whichever_is_done_first() -> None:
    later = threading.Event()

    def first() -> int:
        assert later.wait(timeout=30)  # only the third task lets it go on
        return 0

    def third() -> int:
        later.set()
        return 2

    assert list(ahead([first, lambda: 1, third], workers=3)) == [0, 1, 2]


def test_only_so_many_are_fetched_ahead() -> None:
    fetched: list[int] = []
    reached = threading.Event()

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(50):
            fetched.append(number)
            if len(fetched) == 5:
                reached.set()
            yield partial(int, number)

    results = ahead(tasks(), workers=1, depth=3)
    assert next(results) == 0
    assert reached.wait(timeout=30)
    assert len(fetched) <= 6  # one taken, three waiting, one in hand, one just begun
    assert list(results) == list(range(1, 50))


def test_an_error_comes_in_its_place() -> None:
    def bad() -> int:
        raise ValueError("bad")

    results = ahead([lambda: 1, bad, lambda: 3])
    assert next(results) == 1
    with pytest.raises(ValueError, match="bad"):
        next(results)

    def broken() -> Iterator[Callable[[], int]]:
        yield lambda: 1
        raise OSError("gone")

    results = ahead(broken())
    assert next(results) == 1
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_closing_lets_everything_go() -> None:
    ended = threading.Event()

    def endless() -> Iterator[Callable[[], int]]:
        try:
            while True:
                yield lambda: 1
        finally:
            ended.set()

    before = threading.active_count()
    results = ahead(endless(), workers=1)
    assert next(results) == 1
    results.close()  # type: ignore[attr-defined]  # a generator
    assert ended.wait(timeout=30)
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(timeout=30)
    assert threading.active_count() <= before


def test_work_is_finished_in_order() -> None:
    later = threading.Event()
    done: list[int] = []

    def first() -> int:
        assert later.wait(timeout=30)
        return 0

    def second() -> int:
        later.set()
        return 1

    behind = Behind(workers=2)
    behind.put(first, done.append)
    behind.put(second, done.append)
    behind.close()
    assert done == [0, 1]


def test_an_error_stops_nothing_that_was_put() -> None:
    def bad() -> int:
        raise OSError("full")

    done: list[int] = []
    hold = threading.Event()
    behind = Behind(workers=1, depth=4)
    behind.put(hold.wait, lambda _: None)
    behind.put(bad, done.append)
    behind.put(lambda: 2, done.append)
    hold.set()
    with pytest.raises(OSError, match="full"):
        behind.close()
    assert done == [2]
    with pytest.raises(OSError, match="full"):
        behind.put(lambda: 3, done.append)


def test_seconds_add_up_by_name() -> None:
    clock = Clock()
    assert clock.timed("a", lambda: 5)() == 5
    assert list(clock.waiting("b", iter([1, 2]))) == [1, 2]
    with clock.measure("a"):
        first = clock.seconds["a"]
    assert clock.seconds["a"] > first > 0
    assert clock.seconds["b"] > 0
