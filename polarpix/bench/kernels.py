"""The kernels judged without a GPU: compiled for architectures that need not be here, and read.

Registers and spills come from the assembler, the width of each access to a map from the PTX that carries the line it
was written on, the passes over the map from the list of launches. A time follows from the bytes alone, at the published
peak rate of the card's memory: a bound from below, not a measurement.
"""

from __future__ import annotations

import inspect
import math
import multiprocessing
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from polarpix.bench.kernels_page import Compiled, Whole, report_sections
from polarpix.bench.record import Record, command_line, finished, machine, markdown, record_path, write_record
from polarpix.errors import InputError

__all__ = ["CARDS", "KINDS", "LAUNCHES", "MAPS", "Card", "Job", "compile_all", "jobs", "kernels", "wholes", "widest"]

# (B, C, H, W) of the paper's networks and beyond: one for each kind of tile. P is a multiple of 8 but for the odd ones.
MAPS = (
    (32, 64, 64, 48),
    (128, 48, 64, 48),
    (32, 256, 16, 12),
    (32, 512, 8, 6),
    (16, 256, 128, 128),
    (8, 512, 65, 65),
    (2, 512, 128, 256),
    (8, 2048, 32, 24),
)
KINDS = (("paper", "parallel"), ("paper", "sequential"), ("released", "parallel"))
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Card:
    """An architecture: the memory rate of its best-known card and what one multiprocessor holds (data sheets)."""

    capability: int
    name: str
    peak_tb: float
    shared: int  # bytes
    threads: int = 2048
    blocks: int = 32
    registers: int = 65536


CARDS = (
    Card(80, "A100 80GB", 2.04, 164 << 10),
    Card(90, "H100 SXM", 3.35, 228 << 10),
    Card(100, "B200", 8.0, 228 << 10),
    Card(120, "RTX 5090", 1.79, 100 << 10, threads=1536, blocks=24),
)


@dataclass(frozen=True)
class Launch:
    """A kernel of the chain: how often it reads and writes a map, whether one program takes a whole sample, its form.

    None: it is in both chains, or in that of each form. ``by`` names what it is compiled anew for.
    """

    name: str
    backward: bool
    small: bool | None
    reads: int
    writes: int
    form: str | None = None
    by: str = "map form layout"


LAUNCHES = (
    Launch("pool", False, False, 1, 0, by="map"),
    Launch("gate", False, False, 0, 0, "paper", by="layout"),
    Launch("logits", False, False, 1, 0, "released", by="map"),
    Launch("scale", False, False, 1, 1),
    Launch("forward_small", False, True, 2, 1),
    Launch("grad_pool", True, False, 2, 0),
    Launch("grad_gate", True, False, 0, 0, by="form layout"),
    Launch("grad_input", True, False, 2, 1),
    Launch("backward_small", True, True, 4, 1),
    Launch("grad_weight", True, None, 0, 0, by="form"),
)


def chain(shape: Sequence[int], backward: bool, last: bool, form: str, itemsize: int = 2) -> list[Launch]:
    """The launches for a map."""
    from polarpix.psa import launch

    B, C, H, W = shape
    small = launch.plan(B, C, H * W, itemsize, last, backward).small
    return [
        one for one in LAUNCHES if one.backward == backward and one.small in (small, None) and one.form in (form, None)
    ]


def reads(one: Launch, form: str) -> int:
    """How often a launch reads a map; in a small sample the released form's logits take one more look."""
    return one.reads + (one.name == "forward_small" and form == "released")


def wholes(maps: Sequence[Sequence[int]] = MAPS) -> list[Whole]:
    """Launches, passes and the time of the bytes for bf16 maps; the limit is 3 passes forward and 5 backward."""
    rows = []
    for shape in maps:
        size = 2 * shape[0] * shape[1] * shape[2] * shape[3]
        for form in ("paper", "released"):
            for backward in (False, True):
                found = chain(shape, backward, True, form)
                passes = sum(reads(one, form) + one.writes for one in found)
                times = {card.name: passes * size / card.peak_tb / 1e6 for card in CARDS}
                direction = "backward" if backward else "forward"
                limit = 5 if backward else 3
                rows.append(Whole(list(shape), form, direction, len(found), passes, limit, size / 1e6, times))
    return rows


@dataclass(frozen=True)
class Job:
    """A kernel to compile at a plan; in the backward the gradient may lie otherwise than the map."""

    step: Launch
    plan: Any
    form: str
    layout: str
    dtype: str
    card: Card
    d_last: bool

    @property
    def options(self) -> dict[str, int]:
        """Of the compiler, as the launch gives them."""
        found: dict[str, int] = self.plan.options(self.step.name, self.gradient not in ("", self.memory))
        return found

    @property
    def threads(self) -> int:
        """Of one program."""
        return 32 * self.options["num_warps"]

    @property
    def memory(self) -> str:
        """The memory format of the map."""
        return "channels_last" if self.plan.LAST else "contiguous"

    @property
    def gradient(self) -> str:
        """The memory format of the gradient, where one is read."""
        if not self.step.backward or not self.step.reads:
            return ""
        return "channels_last" if self.d_last else "contiguous"

    @property
    def key(self) -> tuple[str, str, str, str, int, int, str, str, str]:
        """What a row of the report can be known by."""
        plan, architecture = self.plan, f"sm_{self.card.capability}"
        where = self.memory, self.gradient, architecture
        return self.step.name, self.form, self.layout, self.dtype, plan.C, plan.P, *where


def jobs(
    maps: Sequence[Sequence[int]] = MAPS, cards: Sequence[Card] = CARDS, dtypes: Sequence[str] = tuple(ITEMSIZE)
) -> Iterator[Job]:
    """Every kernel that the maps need, in both memory formats: once for each different set of constants."""
    from polarpix.psa import launch

    seen = set()
    places = [(last, d_last) for last in (False, True) for d_last in (last, not last)]
    for card, dtype, shape, (last, d_last), (form, layout) in product(cards, dtypes, maps, places, KINDS):
        if last != d_last and shape[1] > launch.MIXED:
            continue
        size = ITEMSIZE[dtype]
        steps = [one for backward in (False, True) for one in chain(shape, backward, last, form, size)]
        for step in steps:
            one = launch.plan(shape[0], shape[1], shape[2] * shape[3], size, last, step.backward)
            job = Job(step, one, form, layout, dtype, card, d_last)
            kept = tuple(sorted((k, str(v)) for k, v in constants(job).items()))
            found = (step.name, card, job.threads, kept, dtype if "map" in step.by else "")
            if found not in seen:
                seen.add(found)
                yield job


def kernel_of(step: Launch) -> Any:
    """The Triton function."""
    from polarpix.psa import kernels as forward
    from polarpix.psa import kernels_grad as grad
    from polarpix.psa import kernels_weight as weight

    return next(getattr(room, step.name) for room in (forward, grad, weight) if hasattr(room, step.name))


def constants(job: Job) -> dict[str, Any]:
    """The compile-time arguments of a kernel."""
    import triton
    import triton.language as tl

    names = ("C", "BC", "BP", "BR", "BS", "VEC", "LAST", "WIDE")
    fixed = {name: getattr(job.plan, name) for name in names} | {"BB": 16, "TR": 32, "TC": 32, "ACC": tl.float32}
    fixed |= {"PAPER": job.form == "paper", "SEQ": job.layout == "sequential", "D_LAST": job.d_last}
    if job.step.name == "scale":
        fixed["BS"] = 1 if job.form == "paper" else triton.next_power_of_2(job.plan.parts)
    return {name: value for name, value in fixed.items() if name in kernel_of(job.step).arg_names}


def compile_kernel(job: Job) -> Any:
    """A kernel as the launch would compile it, with float32 weights and pointers aligned to 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, fixed = kernel_of(job.step), constants(job)
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
    """Bytes per thread of the loads and stores of maps: those written on the lines of load_tile and store_tile."""
    from polarpix.psa import tiles

    lines: dict[str, range] = {}
    for kind, function in (("ld", tiles.load_tile), ("st", tiles.store_tile)):
        text, first = inspect.getsourcelines(function.fn)
        lines[kind] = range(first, first + len(text))
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
    return sorted(found["ld"]), sorted(found["st"])


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers, spilled bytes and shared memory, from the disassembler that comes with Triton."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", done.stdout)
    if usage is None:
        raise InputError(f"{tool} names no resources: {' '.join(done.stdout.split())[:200]}")
    registers, stack, shared, local = (int(n) for n in usage.groups())
    return registers, stack + local, shared


def occupancy(card: Card, registers: int, threads: int, shared: int = 0) -> float:
    """The part of a multiprocessor's threads that its registers and shared memory allow, in whole blocks."""
    per_block = -(-registers // 8) * 8 * threads
    by_shared = card.shared // shared if shared else card.blocks
    return min(card.registers // per_block, card.threads // threads, card.blocks, by_shared) * threads / card.threads


def compiled(job: Job) -> Compiled:
    """The row of a kernel: compiled, or taken from Triton's cache, and read."""
    found = compile_kernel(job)
    registers, spilled, shared = resources(found.asm["cubin"])
    shared += found.metadata.shared  # asked for at the launch, beside what the code names
    share = occupancy(job.card, registers, job.threads, shared)
    return Compiled(*job.key, registers, spilled, shared, job.threads, share, *widths(found.asm["ptx"]))


def compile_all(
    maps: Sequence[Sequence[int]] = MAPS,
    cards: Sequence[Card] = CARDS,
    dtypes: Sequence[str] = tuple(ITEMSIZE),
    workers: int = 1,
) -> list[Compiled]:
    """Compile and read every kernel, in ``workers`` processes.

    Raises:
        InputError: Triton runs in its interpreter, which compiles nothing.
    """
    from polarpix.psa import launch

    if launch.interpreted():
        raise InputError("TRITON_INTERPRET is set, nothing would be compiled: unset it")
    found = list(jobs(maps, cards, dtypes))
    with ExitStack() as stack:
        rows: Iterator[Compiled] = map(compiled, found)
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")))
            rows = pool.map(compiled, found, chunksize=8)
        return list(tqdm(rows, desc="kernels", unit="kernel", total=len(found)))


def kernels(static: bool = False, json: str = "", workers: int = 1) -> int:
    """Compile the kernels for cards that need not be here, and report what the compiler made of them.

    Args:
        static: the only way there is: nothing is run.
        json: file for the record; its Markdown goes beside it.
        workers: processes that compile. What Triton's cache has is not compiled again.

    Raises:
        InputError: without ``static``, or with fewer than one worker.
    """
    if not static:
        raise InputError("bench kernels compiles and runs nothing: add --static; 'polarpix bench block' measures")
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    path = record_path(json)
    started = time.perf_counter()
    told = machine(torch.device("cpu"))
    found, whole = compile_all(workers=workers), wholes()
    finished(told, time.perf_counter() - started)
    protocol = {
        "dtype": "that of the maps; weights and vectors float32",
        "pieces": "bytes of the largest aligned piece that C (channels_last) or P (contiguous) divides into, up to 16",
        "registers": "of the assembler that comes with Triton; spilled: stack and local memory, bytes",
        "microseconds": "bytes of the maps over the published peak rate of the card: a bound from below, not measured",
    }
    record = Record("bench kernels", command_line(), 0, told, protocol, {"kernels": found, "maps": whole})
    title, sections = "Kernels, compiled and read", report_sections(found, whole, widest)
    print(markdown(title, record, sections))
    if path:
        write_record(record, title, sections, None, path)
    return 0
