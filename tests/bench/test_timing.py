"""Sampling in turns under a clock that only moves when told to, and the arithmetic on what it gives."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.bench import timing
from polarpix.bench.timing import (
    Candidate,
    Samples,
    captured,
    fitted_exponent,
    geometric_mean,
    interleaved,
    keep_freed_memory,
    measured_device,
    paired_ratio,
    seconds_per_call,
    spread,
)
from polarpix.errors import InputError

CPU = torch.device("cpu")


class Clock:
    """A clock moved by the work itself."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.log.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_median_and_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.low, found.median, found.high, found.samples) == (2.0, 3.0, 4.0, 5)
    assert spread([1.0, 2.0]).low == 1.25
    with pytest.raises(InputError, match="0 samples"):
        spread([])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_quartiles_enclose_the_median(values: list[float]) -> None:
    found = spread(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert min(values) * 0.999 <= geometric_mean(values) <= max(values) * 1.001


def test_geometric_mean_is_of_ratios() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    for bad in ([], [1.0, 0.0]):
        with pytest.raises(InputError, match="above 0"):
            geometric_mean(bad)


def test_exponent_of_a_power_law_and_distance_from_it() -> None:
    exponent, distance = fitted_exponent([64, 128, 256, 512], [3.0 * n**1.5 for n in (64, 128, 256, 512)])
    assert exponent == pytest.approx(1.5)
    assert distance == pytest.approx(0.0, abs=1e-9)
    exponent, distance = fitted_exponent([1, 2, 4], [1.0, 4.0, 4.0])  # log2: 0, 2, 2 -> slope 1, offset 1/3
    assert exponent == pytest.approx(1.0)
    assert distance == pytest.approx(2 ** (2 / 3) - 1)
    for sizes, times in (([4, 4], [1.0, 2.0]), ([1, 2], [0.0, 1.0])):
        with pytest.raises(InputError, match="two sizes"):
            fitted_exponent(sizes, times)


def test_ratios_are_paired_by_round() -> None:
    ratio = paired_ratio(Samples({0: 2.0, 1: 6.0, 2: 9.0}), Samples({1: 3.0, 2: 3.0, 5: 1.0}))
    assert (ratio.median, ratio.samples) == (2.5, 2)
    with pytest.raises(InputError, match="0 samples"):
        paired_ratio(Samples({0: 1.0}), Samples({1: 1.0}))


def test_samples_are_seconds_per_call(clock: Clock) -> None:
    found = interleaved(
        {"one": Candidate(clock.work("one", 4e-4)), "ten": Candidate(clock.work("ten", 5e-3), per_run=10)},
        CPU,
        rounds=7,
    )
    assert found["one"].timing().median == pytest.approx(0.4)
    assert found["ten"].timing().median == pytest.approx(0.5)
    assert [len(samples.by_round) for samples in found.values()] == [7, 7]


def test_candidates_take_turns(clock: Clock) -> None:
    interleaved({"a": Candidate(clock.work("a", 0.1)), "b": Candidate(clock.work("b", 0.1))}, CPU, rounds=3)
    assert "".join(clock.log[-6:]) == "ababab"


def test_short_calls_are_repeated_and_refreshed(clock: Clock) -> None:
    ticks: list[int] = []
    interleaved({"a": Candidate(clock.work("a", 1e-3))}, CPU, rounds=2, tick=lambda: ticks.append(len(clock.log)))
    assert len(ticks) == 2
    assert ticks[1] - ticks[0] == 3  # one that is not timed, then 2 ms


def test_slow_candidates_take_part_in_fewer_rounds_evenly_spread(clock: Clock) -> None:
    found = interleaved(
        {
            "fast": Candidate(clock.work("fast", 0.03)),
            "slow": Candidate(clock.work("slow", 0.5)),
            "slower": Candidate(clock.work("slower", 9.0)),
        },
        CPU,
        rounds=12,
        seconds=2.0,
    )
    assert [len(found[name].by_round) for name in ("fast", "slow", "slower")] == [12, 4, 3]
    rounds = list(found["slow"].by_round)
    assert [b - a for a, b in pairwise(rounds)] == [3, 3, 3]


def test_garbage_is_collected_again_afterwards(clock: Clock) -> None:
    def fail() -> None:
        clock.now += 1.0
        if not gc.isenabled():
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):  # not while samples are taken
        interleaved({"a": Candidate(fail)}, CPU, rounds=2)
    assert gc.isenabled()
    with pytest.raises(InputError, match="rounds is 0"):
        interleaved({}, CPU, rounds=0)


def test_devices() -> None:
    assert measured_device("cpu").type == "cpu"
    for bad, words in (("gpu", "cannot be used"), ("meta", "cpu and cuda only")):
        with pytest.raises(InputError, match=words):
            measured_device(bad)


def test_what_became_of_the_allocator_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_freed_memory().startswith(("as it is", "freed memory kept"))
    monkeypatch.setattr("polarpix.bench.timing.sys.platform", "darwin")
    assert keep_freed_memory() == "as it is"


class Cuda:
    """Streams, graphs and events as torch.cuda has them: work is done at once, a clock counts it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.now = self.main = self.Stream()
        self.capturing: list[Callable[[], None]] | None = None
        self.log: list[str] = []
        cuda = self

        class Graph:
            def __init__(self) -> None:
                self.work: list[Callable[[], None]] = []

            def replay(self) -> None:
                for one in self.work:
                    one()

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at: float | None = None

            def record(self) -> None:
                self.at = cuda.clock.now

            def synchronize(self) -> None:
                cuda.log.append("synchronize")

            def elapsed_time(self, end: Any) -> float:
                assert cuda.log[-1] == "synchronize"
                return 1e3 * (end.at - self.at)

        self.CUDAGraph, self.Event = Graph, Event

    class Stream:
        def wait_stream(self, other: Any) -> None:
            assert isinstance(other, Cuda.Stream)

    def current_stream(self) -> Any:
        return self.now

    def set_stream(self, stream: Any) -> None:
        self.now = stream

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before

    @contextmanager
    def graph(self, graph: Any, pool: Any) -> Iterator[None]:
        """Like torch, stays on its own stream if the capture cannot end."""
        before, self.now = self.now, self.Stream()
        self.capturing = graph.work
        try:
            yield
        except ZeroDivisionError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        finally:
            self.capturing = None
        self.now = before

    def kernel(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.clock.now += seconds

        return lambda: work() if self.capturing is None else self.capturing.append(work)


@pytest.fixture
def cuda(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    found = Cuda(clock)
    for name in ("Stream", "stream", "current_stream", "set_stream", "CUDAGraph", "graph", "Event"):
        monkeypatch.setattr(torch.cuda, name, getattr(found, name))
    return found


def test_times_on_cuda_are_those_between_events(cuda: Cuda) -> None:
    run = cuda.kernel(3e-3)
    assert seconds_per_call(Candidate(run, per_run=2), 5, torch.device("cuda")) == pytest.approx(1.5e-3)
    assert seconds_per_call(Candidate(lambda: None), 5, torch.device("cuda")) > 0


def test_a_graph_holds_several_calls_and_nothing_is_timed_in_its_capture(cuda: Cuda) -> None:
    candidate = captured(cuda.kernel(2e-3), calls=4)
    at = cuda.clock.now
    assert at == pytest.approx(3 * 2e-3)  # the warm-up
    candidate.run()
    assert cuda.clock.now - at == pytest.approx(4 * 2e-3)
    assert candidate.per_run == 4
    assert cuda.now is cuda.main


def test_what_cannot_be_captured_says_why_and_leaves_the_stream(cuda: Cuda) -> None:
    def run() -> None:
        if cuda.capturing is not None:
            raise ZeroDivisionError("waits for the device")

    with pytest.raises(ZeroDivisionError, match="waits for the device"):
        captured(run)
    assert cuda.now is cuda.main
