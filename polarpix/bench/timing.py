"""Time of calls that stand side by side in one process: warmed up, taken in turns, medians with their quartiles.

Candidates take turns because a machine is not equally fast from one second to the next: what slows one sample slows its
neighbours too, so ratios within a run hold where times of two runs do not. All times are of a warm cache: every sample
begins with the inputs that the last one used.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polarpix.devices import find_device
from polarpix.errors import InputError

__all__ = [
    "Candidate",
    "Run",
    "Samples",
    "Spread",
    "captured",
    "fitted_exponent",
    "geometric_mean",
    "interleaved",
    "keep_freed_memory",
    "measured_device",
    "on",
    "paired_ratio",
    "spread",
]

Run = Callable[[], object]

WARM_UP = 2  # calls before the first measurement
SAMPLE_SECONDS = 2e-3  # a sample repeats short calls until it lasts this long
REFRESH_BELOW = 20e-3  # calls shorter than this get one that is not timed before each sample, to warm the caches
LEAST_SAMPLES = 3
LEAST_SECONDS = 1e-9  # the events of an empty graph may lie at one time; ratios and logarithms need more than 0
GRAPH_CALLS = 8  # calls in one CUDA graph, so that starting the graph is not what is measured


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a number of samples; times are in milliseconds."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    samples: int


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Args:
        run: does the work once and drops what it made.
        per_run: how many calls of the function one ``run`` holds.
    """

    run: Run
    per_run: int = 1


@dataclass(frozen=True)
class Samples:
    """Seconds per call by the round they were taken in."""

    by_round: dict[int, float]

    def timing(self) -> Spread:
        """Milliseconds per call."""
        return spread([1e3 * seconds for seconds in self.by_round.values()])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated linearly between neighbours.

    Raises:
        InputError: no values.
    """
    if not values:
        raise InputError("spread of 0 samples: take at least 1")
    low, median, high = (float(q) for q in np.percentile(values, [25, 50, 75]))
    return Spread(median, low, high, len(values))


def paired_ratio(samples: Samples, base: Samples) -> Spread:
    """Time over the time of ``base`` within each round that has both: median and quartiles of the ratios.

    Raises:
        InputError: no round has both.
    """
    both = samples.by_round.keys() & base.by_round.keys()
    return spread([samples.by_round[i] / base.by_round[i] for i in sorted(both)])


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product of positive values.

    Raises:
        InputError: no values, or one that is not positive.
    """
    if not values or min(values) <= 0:
        raise InputError(f"geometric mean of {list(values)}: give at least one value, all above 0")
    return math.exp(sum(map(math.log, values)) / len(values))


def fitted_exponent(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """The k of time ~ size^k by least squares of the logarithms, and the largest relative distance from that curve.

    Raises:
        InputError: fewer than two different sizes, or a value that is not positive.
    """
    if len(set(sizes)) < 2 or min(*sizes, *times) <= 0:
        raise InputError(f"exponent of times {list(times)} over sizes {list(sizes)}: give two sizes, all above 0")
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(times, float))
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.abs(np.expm1(y - (slope * x + offset))).max())


def measured_device(name: str) -> torch.device:
    """The device of that name that times can be measured on.

    Raises:
        InputError: no such device, or neither CPU nor CUDA.
    """
    device = find_device(name)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: time is measured on cpu and cuda only: choose one of them")
    return device


def keep_freed_memory() -> str:
    """Have the C library keep what is freed, as torch does on CUDA. Gives what was done, for the record.

    Else every large map may come from the system anew, and its page faults cost more than the arithmetic on it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    trim, threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    if mallopt is None or not (mallopt(threshold, 32 << 20) and mallopt(trim, 1 << 30)):
        return "as it is"
    return "freed memory kept (mallopt: maps up to 32 MiB from the heap, trimmed above 1 GiB)"


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a CUDA device the one that streams, events and graphs belong to."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def captured(run: Run, pool: tuple[int, int] | None = None, calls: int = GRAPH_CALLS) -> Candidate:
    """The same calls in a CUDA graph, which replays them without the host's work.

    Args:
        run: the function; what it makes lives in the graph's own memory.
        pool: memory that several graphs may share whose results nobody reads.
        calls: how many calls the graph holds.

    Raises:
        Exception: what the function itself raised, not that its capture ended badly for it.
    """
    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP + 1):
            run()
    before = torch.cuda.current_stream()
    before.wait_stream(side)
    graph = cuda.CUDAGraph()
    try:
        with cuda.graph(graph, pool=pool):
            for _ in range(calls):
                run()
    except Exception as error:
        torch.cuda.set_stream(before)  # where the capture cannot end, torch stays on its stream
        raise error.__context__ or error from None
    return Candidate(graph.replay, calls)


def seconds_per_call(candidate: Candidate, runs: int, device: torch.device) -> float:
    """Wall time on the CPU; on CUDA between two events around all runs: of host and device, the slower."""
    run = candidate.run
    if device.type == "cuda":
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        elapsed = float(start.elapsed_time(end)) / 1e3
    else:
        started = time.perf_counter()
        for _ in range(runs):
            run()
        elapsed = time.perf_counter() - started
    return max(elapsed, LEAST_SECONDS) / (runs * candidate.per_run)


@dataclass(frozen=True)
class Plan:
    """How one candidate is sampled."""

    runs: int  # per sample
    samples: int
    refresh: bool

    def takes_part(self, i: int, rounds: int) -> bool:
        """Whether it is sampled in round i, so that its samples lie evenly among the rounds."""
        return i * self.samples // rounds != (i + 1) * self.samples // rounds


def plan(candidate: Candidate, device: torch.device, rounds: int, seconds: float | None) -> Plan:
    """Warm a candidate up and choose its runs per sample and its samples."""
    for _ in range(WARM_UP):
        candidate.run()
    once = seconds_per_call(candidate, 1, device) * candidate.per_run
    if once < REFRESH_BELOW:
        once = min(once, seconds_per_call(candidate, 3, device) * candidate.per_run)
    runs = max(1, math.ceil(SAMPLE_SECONDS / max(once, 1e-7)))
    refresh = once < REFRESH_BELOW
    if seconds is None:
        return Plan(runs, rounds, refresh)
    cost = once * (runs + refresh)
    return Plan(runs, min(rounds, max(LEAST_SAMPLES, int(seconds / cost))), refresh)


def interleaved(
    candidates: Mapping[str, Candidate],
    device: torch.device,
    rounds: int = 30,
    seconds: float | None = None,
    tick: Callable[[], object] | None = None,
) -> dict[str, Samples]:
    """Time the candidates in turns.

    Args:
        candidates: name -> what to time.
        device: where they work.
        rounds: how often each is sampled; every round samples one after the other.
        seconds: time for one candidate; slow ones then take part in fewer rounds, evenly spread, but in at least 3.
        tick: called after every round.

    Returns:
        Name -> samples.

    Raises:
        InputError: no rounds.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}: give at least 1")
    plans = {name: plan(candidate, device, rounds, seconds) for name, candidate in candidates.items()}
    found: dict[str, dict[int, float]] = {name: {} for name in candidates}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of a sample would be counted as the candidate's
    try:
        for i in range(rounds):
            for name, candidate in candidates.items():
                chosen = plans[name]
                if chosen.takes_part(i, rounds):
                    if chosen.refresh:
                        candidate.run()
                    found[name][i] = seconds_per_call(candidate, chosen.runs, device)
            if tick is not None:
                tick()
    finally:
        if collecting:
            gc.enable()
    return {name: Samples(by_round) for name, by_round in found.items()}
