"""Kernels compiled for a card that need not be here, and what the compiler made of each.

Registers and spills come from the assembler, the width of each access to a map from the PTX that carries the line it
was written on.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from polarpix.bench.kernels_jobs import CARDS, GRID, ITEMSIZE, Card, Grid, Job, constants, jobs, kernel_of
from polarpix.bench.kernels_page import Compiled
from polarpix.errors import InputError

__all__ = ["compile_all", "compile_kernel", "each", "occupancy", "resources", "settled", "tool", "widest", "widths"]

T = TypeVar("T")
S = TypeVar("S")


def compile_kernel(job: Job) -> Any:
    """A kernel as the launch would compile it, with float32 weights and pointers aligned to 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, fixed = kernel_of(job.step.name), constants(job)
    kinds: dict[str, str] = {"factor": "fp32"}
    kinds |= dict.fromkeys(("PV", "P", "tiles", "splits", "parts", "B"), "i32")
    kinds |= dict.fromkeys(("x", "out", "d", "dx"), f"*{job.dtype}")
    signature = {key: "constexpr" if key in fixed else kinds.get(key, "*fp32") for key in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, key in enumerate(kernel.arg_names) if signature[key][0] == "*"}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in fixed.items()}, aligned)
    target = GPUTarget("cuda", job.card.capability, 32)
    return triton.compile(source, target=target, options=job.options)


def widest(channels: int, pixels: int, dtype: str, last: bool) -> int:
    """Bytes of the largest aligned piece that every run of neighbours in memory divides into, at most 16."""
    return math.gcd(16, (channels if last else pixels) * ITEMSIZE[dtype])


def widths(ptx: str) -> tuple[list[int], list[int]]:
    """Bytes per thread of the loads and stores of maps: those written on the lines of the functions that make them."""
    from polarpix.psa import tiles

    lines: dict[str, set[int]] = {"ld": set(), "st": set()}
    for kind, function in (
        ("ld", tiles.load_tile),
        ("ld", tiles.load_pixels),
        ("st", tiles.store_tile),
        ("st", tiles.store_pixels),
    ):
        text, first = inspect.getsourcelines(function.fn)
        lines[kind] |= set(range(first, first + len(text)))
    file = re.search(r'\.file\s+(\d+)\s+"[^"]*psa/tiles\.py"', ptx)
    here, found = ("", 0), {"ld": set[int](), "st": set[int]()}
    inline = told = False  # within inline assembly only its first line counts: some versions number on from there
    for line in ptx.splitlines():
        if "inline asm" in line:
            inline, told = "begin" in line, False
        elif (place := re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", line)) and not told:
            here, told = (place[1], int(place[2])), inline
        access = re.search(r"\b(ld|st)\.global\S*?(?:\.v(\d))?\.[bfu](\d+)", line)
        if access and file and here[0] == file[1] and here[1] in lines[access[1]]:
            found[access[1]].add(int(access[2] or 1) * int(access[3]) // 8)
        copied = re.search(r"cp\.async\.c[ag]\.shared\.global.*?\],\s*(0x[0-9a-f]+|\d+)\b", line)
        if copied and file and here[0] == file[1] and here[1] in lines["ld"]:
            found["ld"].add(int(copied[1], 0))
    return sorted(found["ld"]), sorted(found["st"])


def tool(name: str, cubin: bytes, *options: str) -> str:
    """What a tool that comes with Triton says of a kernel."""
    import triton

    place = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([place, *options, file.name], capture_output=True, text=True, check=True).stdout


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers, spilled bytes and shared memory."""
    told = tool("cuobjdump", cubin, "--dump-resource-usage")
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", told)
    if usage is None:
        raise InputError(f"cuobjdump names no resources: {' '.join(told.split())[:200]}")
    registers, stack, shared, local = (int(n) for n in usage.groups())
    return registers, stack + local, shared


def occupancy(card: Card, registers: int, threads: int, shared: int = 0) -> float:
    """The part of a multiprocessor's threads that its registers and shared memory allow, in whole blocks."""
    per_block = -(-registers // 8) * 8 * threads
    by_shared = card.shared // shared if shared else card.blocks
    return min(card.registers // per_block, card.threads // threads, card.blocks, by_shared) * threads / card.threads


def settled(job: Job) -> tuple[Job, Any]:
    """What runs, compiled or taken from Triton's cache: where the kernel spills, the launch compiles it anew."""
    for again in range(3):
        tried = dataclasses.replace(job, again=again)
        found = compile_kernel(tried)
        if not resources(found.asm["cubin"])[1]:
            break
    return tried, found


def compiled(job: Job) -> Compiled:
    """The row of a kernel."""
    job, found = settled(job)
    registers, spilled, shared = resources(found.asm["cubin"])
    shared += found.metadata.shared  # asked for at the launch, beside what the code names
    share = occupancy(job.card, registers, job.threads, shared)
    wide = widths(found.asm["ptx"])
    return Compiled(*job.key, registers, spilled, job.again > 0, shared, job.threads, share, *wide)


def each(function: Callable[[T], S], tasks: Sequence[T], workers: int, unit: str) -> list[S]:
    """The function of every task, in ``workers`` processes, with a bar."""
    with ExitStack() as stack:
        rows: Iterator[S] = map(function, tasks)
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")))
            rows = pool.map(function, tasks, chunksize=8)
        return list(tqdm(rows, desc=f"{unit}s", unit=unit, total=len(tasks)))


def compile_all(grid: Grid = GRID, cards: Sequence[Card] = CARDS, workers: int = 1) -> list[Compiled]:
    """Compile and read every kernel, in ``workers`` processes.

    Raises:
        InputError: Triton runs in its interpreter, which compiles nothing.
    """
    from polarpix.psa.steps import interpreted

    if interpreted():
        raise InputError("TRITON_INTERPRET is set, nothing would be compiled: unset it")
    return each(compiled, list(jobs(grid, cards)), workers, "kernel")
