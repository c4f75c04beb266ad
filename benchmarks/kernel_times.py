"""Every launch of the fused chain by itself, and the whole forward and backward, on the GPU.

    python benchmarks/kernel_times.py [--shapes "B,C,H,W ..."] [--kinds paper:parallel,...] [--json FILE.json]

The launches of one forward and one backward are noted, with their arguments, for so many inputs that together they are
larger than any second-level cache; then CUDA graphs replay them, each launch alone over one input after the other, so
that maps come from memory. Where a kernel's programs meet, they wait for each other only in the chain: alone they find
the counter as the last call left it. So what a launch adds to those before it is told as well.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from polarpix.bench.block import check_memory
from polarpix.bench.block_settings import DTYPES, FORMATS, SHAPES, parse_shapes
from polarpix.bench.record import Record, choose, figure, finished, machine, markdown, record_path, write_record
from polarpix.bench.timing import Candidate, captured, interleaved, measured_device, on
from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention, steps
from polarpix.report import Section, Table

SEED = 0
ROTATED = 200_000_000  # bytes of all inputs together at least; the largest second-level cache has 126 MB
MOST_INPUTS = 256
ROUNDS = 9
KINDS = ("paper:parallel", "paper:sequential", "released:parallel")
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Launch:
    """A launch that was noted: it can be done again, with the same arguments, on the stream that is current then."""

    step: Any
    grid: tuple[int, int, int]
    compiled: bool
    args: tuple[Any, ...]
    call: Callable[..., None]

    @property
    def name(self) -> str:
        """Of the kernel."""
        return str(self.step.kernel.__name__)

    def __call__(self) -> None:
        """Do it again."""
        stream = torch.cuda.current_stream().cuda_stream if self.compiled else None
        self.call(self.step, self.grid, stream, *self.args)


@dataclass(frozen=True)
class LaunchRow:
    """One launch: microseconds alone, and what it adds to the launches before it."""

    kernel: str
    direction: str
    kind: str
    shape: tuple[int, ...]
    memory: str
    inputs: int
    us: float
    us_added: float
    programs: int
    warps: int | None
    registers: int | None


@dataclass(frozen=True)
class ChainRow:
    """All launches of one direction: microseconds over inputs in turn, and on one input again and again."""

    direction: str
    kind: str
    shape: tuple[int, ...]
    memory: str
    inputs: int
    us: float
    us_one_input: float


@contextmanager
def noted() -> Iterator[list[Launch]]:
    """Notes the launches that happen inside."""
    call, found = steps.Step.__call__, []

    def note(self: Any, grid: tuple[int, int, int], stream: int | None, *args: Any) -> None:
        call(self, grid, stream, *args)
        found.append(Launch(self, grid, stream is not None, args, call))

    steps.Step.__call__ = note  # type: ignore[method-assign]
    try:
        yield found
    finally:
        steps.Step.__call__ = call  # type: ignore[method-assign]


def chain(block: torch.nn.Module, x: Tensor, d: Tensor) -> dict[str, list[Launch]]:
    """The launches of a forward and a backward by direction, for x [B, C, H, W] and d = dL/dout."""
    with noted() as forward:
        out = block(x)
    with noted() as backward:
        torch.autograd.grad(out, [x, *block.parameters()], d, allow_unused=True)
    return dict(zip(DIRECTIONS, (forward, backward), strict=True))


def count(shape: Sequence[int], dtype: str) -> int:
    """How many inputs are taken in turn."""
    return min(MOST_INPUTS, math.ceil(ROTATED / (math.prod(shape) * DTYPES[dtype].itemsize)))


def replayed(inputs: Sequence[Sequence[Launch]]) -> Candidate:
    """A graph of some launches on each input in turn."""

    def run() -> None:
        for launches in inputs:
            for one in launches:
                one()

    calls = max(1, 8 // len(inputs))
    return Candidate(captured(run, calls=calls).run, calls * len(inputs))


def measure(
    shape: tuple[int, ...], kind: str, memory: str, dtype: str, device: torch.device
) -> tuple[list[LaunchRow], list[ChainRow]]:
    """All launches on one shape, in turns."""
    form, layout = kind.split(":")
    block = PolarizedSelfAttention(shape[1], layout, form, impl="fused").to(device, DTYPES[dtype])
    inputs = []
    for _ in range(count(shape, dtype)):
        x, d = (
            torch.randn(shape, device=device, dtype=DTYPES[dtype]).contiguous(memory_format=FORMATS[memory])
            for _ in range(2)
        )  # [B, C, H, W]
        inputs.append(chain(block, x.requires_grad_(), d))
    candidates = {}
    for direction in DIRECTIONS:
        every = [one[direction] for one in inputs]
        for i in range(len(every[0])):
            candidates[direction, "alone", i] = replayed([one[i : i + 1] for one in every])
            candidates[direction, "until", i] = replayed([one[: i + 1] for one in every])
        candidates[direction, "one input", 0] = replayed(every[:1])
    found = interleaved({str(key): candidate for key, candidate in candidates.items()}, device, ROUNDS)
    times = {key: 1e3 * found[str(key)].timing().median for key in candidates}  # microseconds
    rows, chains = [], []
    for direction in DIRECTIONS:
        before = 0.0
        for i, one in enumerate(inputs[0][direction]):
            alone, until = times[direction, "alone", i], times[direction, "until", i]
            step, us, before = one.step, (alone, until - before), until
            told = (math.prod(one.grid), step.options.get("num_warps"), getattr(step.compiled, "n_regs", None))
            rows.append(LaunchRow(one.name, direction, kind, shape, memory, len(inputs), *us, *told))
        again = times[direction, "one input", 0]
        chains.append(ChainRow(direction, kind, shape, memory, len(inputs), before, again))
    return rows, chains


def copy_us(device: torch.device) -> float:
    """Microseconds of a copy of 512 MiB, the rate that passes over a map are held against."""
    source, target = (torch.empty(512 << 20, dtype=torch.uint8, device=device) for _ in range(2))
    copy = captured(lambda: target.copy_(source))
    return 1e3 * interleaved({"copy": copy}, device, ROUNDS)["copy"].timing().median


def sections(record: Record) -> list[Section]:
    """The page."""

    def cells(one: Any, *us: float) -> list[Any]:
        return [one.direction, one.kind, "x".join(map(str, one.shape)), one.memory, *map(figure, us)]

    where = ["direction", "form", "map", "memory"]
    launches = [[one.kernel, *cells(one, one.us, one.us_added)] for one in record.tables["launches"]]
    chains = [cells(one, one.us, one.us_one_input) for one in record.tables["chains"]]
    return [
        Section("Launches", "", Table(["kernel", *where, "µs alone", "µs added"], launches)),
        Section("Chains", "", Table([*where, "µs, inputs in turn", "µs, one input"], chains)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, write the record if a file is named, and print its page.

    Raises:
        InputError: an option that names nothing, a shape that there is no memory for, or no GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="", help="B,C,H,W, several apart by spaces; by default bench block's")
    parser.add_argument("--kinds", default=KINDS[0], help=f"comma list of {', '.join(KINDS)}")
    parser.add_argument("--formats", default="", help="contiguous, channels_last or both by a comma; by default both")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--json", default="", help="FILE.json for the record; FILE.md goes beside it")
    options = parser.parse_args(arguments)
    shapes = parse_shapes(options.shapes, "shapes") or SHAPES["cuda"]
    kinds = choose("kinds", options.kinds, KINDS)
    formats = choose("formats", options.formats, list(FORMATS))
    path = record_path(options.json)
    if not torch.cuda.is_available():
        raise InputError("no CUDA device: launches are timed on a GPU, run this on a machine that has one")
    device, started = measured_device("cuda"), time.perf_counter()
    check_memory(device, options.dtype, shapes)
    told = machine(device)
    protocol: dict[str, Any] = {
        "dtype": options.dtype,
        "inputs": f"so many that they are {ROTATED:,} bytes together, at most {MOST_INPUTS}, each with its results",
        "us": f"microseconds, median of {ROUNDS} samples in turns; CUDA graphs, without the host",
        "us_added": "of all launches until this one, less those before it",
        "copy_512_mib_us": copy_us(device),
    }
    command = " ".join(["python", "benchmarks/kernel_times.py", *(sys.argv[1:] if arguments is None else arguments)])
    record = Record("kernel times", command, SEED, told, protocol, {"launches": [], "chains": []})
    title, work = "Launches of the fused kernels", [(s, k, f) for s in shapes for k in kinds for f in formats]
    torch.manual_seed(SEED)
    with on(device):
        for shape, kind, memory in tqdm(work, desc="kernel times"):
            for table, rows in zip(
                record.tables.values(), measure(shape, kind, memory, options.dtype, device), strict=True
            ):
                table += rows
            finished(told, time.perf_counter() - started)
            if path is not None:
                write_record(record, title, sections(record), None, path)
    print(markdown(title, record, sections(record)))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
