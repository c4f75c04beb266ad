"""What a call costs besides time: memory it allocates, kernels it starts, operators it calls."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from polarpix.bench.timing import Run

__all__ = ["free_memory", "launches", "peak_memory"]


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device; where the system does not say, all that the machine has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    listing = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", listing.read_text(), re.M) if listing.is_file() else None
    return int(found[1]) << 10 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(run: Run, device: torch.device) -> int:
    """The most bytes alive at once of what a call allocates, its result included; what was there before is not.

    CUDA: the allocator's own peak. CPU: the running sum of every allocation and release that torch's allocator reports
    to the profiler, to the byte, also inside an operator; libraries with an allocator of their own are not seen.
    """
    run()  # what is allocated once and kept
    gc.collect()  # or what others left would be released, and counted, in between
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    alive = peak = 0
    for event in profiled(run, ProfilerActivity.CPU, memory=True):
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def launches(run: Run, device: torch.device) -> int | None:
    """CUDA: kernels, copies and fills that a call starts, null where they cannot be seen. CPU: operators that compute.

    Views are not counted as operators.
    """
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        events = profiled(run, ProfilerActivity.CUDA, memory=False)
        return sum(bool(event.device_type() == DeviceType.CUDA) for event in events) or None
    with OperatorCount() as count:
        run()
    return int(count.operators)


class OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook untyped
    """Counts the operators that reach the device, views aside; the backward pass too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.operators += not func.is_view
        return func(*args, **(kwargs or {}))


def profiled(run: Run, activity: ProfilerActivity, memory: bool) -> list[Any]:
    """The profiler's raw events of a call in the order of time."""
    with quiet(), profile(activities=[activity], profile_memory=memory) as found:
        run()
        if activity == ProfilerActivity.CUDA:
            torch.cuda.synchronize()
    raw: Any = found.profiler
    return sorted(raw.kineto_results.events(), key=lambda event: event.start_ns())


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stderr, which the profiler's C++ side writes its own lines to."""
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
