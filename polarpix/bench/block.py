"""`polarpix bench block`: every block of the shelf, on every shape, held against the time its bytes must take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from polarpix.bench.block_page import BlockRow, Ruler, Shape, compare, exponents, means, picture, sections
from polarpix.bench.block_settings import DTYPES, FORMATS, MODES, SWEPT, Block, BlockSettings, sweep_shapes
from polarpix.bench.counting import free_memory, launches, peak_memory
from polarpix.bench.record import (
    Record,
    command_line,
    finished,
    machine,
    markdown,
    one_line,
    record_path,
    write_record,
)
from polarpix.bench.timing import Candidate, Run, captured, interleaved, keep_freed_memory, on
from polarpix.errors import InputError
from polarpix.report import Section

__all__ = ["bench_block", "measure_blocks"]

QUADRATIC = ("nl", "da")  # form [B, P, P]
AFFINITIES = 8  # of them alive at once, at most, in a forward and backward
LARGEST_AFFINITY = {"cuda": 16 << 30, "cpu": 1 << 30}  # bytes of one, whatever the memory: larger ones take minutes
RULER_BYTES = 512 << 20
HELD = 14  # maps alive at once at most: x, dL/dout, the rulers', and up to 11 that a block in bf16 makes
ROUNDS = 30
UNITS = {
    "cuda": "3 passes over x forward, 8 forward and backward, at the rate of a 512 MiB copy",
    "cpu": "one scaling of x, x * 0.5 into a new map",
}


def make_run(module: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], x: Tensor, d: Tensor, mode: str) -> Run:
    """One call: the forward pass without gradients, or forward and all gradients for d = dL/dout [B, C, H, W]."""

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def both() -> None:
        torch.autograd.grad(module(x), [x, *parameters], d, allow_unused=True)

    return forward if mode == "fwd" else both


def rulers(x: Tensor) -> dict[str, Candidate]:
    """What gives the limit (first), and its like on this map."""
    into = torch.empty_like(x)
    if x.device.type == "cpu":
        return {
            "scaling": Candidate(lambda: x * 0.5),
            "scaling_into": Candidate(lambda: torch.mul(x, 0.5, out=into)),
        }
    source = torch.empty(RULER_BYTES, dtype=torch.uint8, device=x.device)
    target = torch.empty_like(source)
    return {"copy_512_mib": Candidate(lambda: target.copy_(source)), "copy": Candidate(lambda: into.copy_(x))}


def limit_seconds(ruler: float, map_bytes: int, mode: str, device: str) -> float:
    """The limit from the ruler's seconds: on the CPU the scaling itself, on CUDA the passes at the copy's rate.

    A copy of n bytes moves 2 n.
    """
    return ruler if device == "cpu" else MODES[mode] * map_bytes * ruler / (2 * RULER_BYTES)


def too_large(block: Block, x: Tensor) -> str:
    """Why a block cannot be tried on x; empty if it can. A machine out of memory ends the process, not the call."""
    if block.name not in QUADRATIC:
        return ""
    needed = x.shape[0] * (x.shape[2] * x.shape[3]) ** 2 * x.itemsize
    allowed = min(LARGEST_AFFINITY[x.device.type], free_memory(x.device) // AFFINITIES)
    if needed <= allowed:
        return ""
    tried = f"at most {allowed / 2**30:.2f} are tried here"
    return f"not available: one [B, P, P] tensor has {needed / 2**30:.2f} GiB, {tried}"


def check_memory(device: torch.device, dtype: str, shapes: Sequence[Shape]) -> None:
    """Refuse maps that the system would end the process for, which is no error that could be told.

    Raises:
        InputError: a shape whose maps do not fit into the memory that is free.
    """
    free = free_memory(device)
    for shape in shapes:
        held = HELD * math.prod(shape) * DTYPES[dtype].itemsize
        if held > free:
            raise InputError(
                f"shape {','.join(map(str, shape))}: {HELD} maps of it in {dtype} are {held:,} bytes, {free:,} are "
                f"free on {device}: give a smaller one to --shapes or --sweep"
            )


def prepare(
    block: Block, row: BlockRow, x: Tensor, d: Tensor, settings: BlockSettings, pool: Any
) -> dict[str, Candidate]:
    """Build a block, count what it costs, and give what there is to time: way -> candidate; the rest becomes a note."""
    ways: dict[str, Candidate] = {}
    reason = too_large(block, x)
    if reason:
        row.notes["eager"] = reason
        return ways
    try:
        module = block.build(x.shape[1]).to(x.device, x.dtype).train(row.mode != "fwd")
        parameters = list(module.parameters())
        run = make_run(module, parameters, x, d, row.mode)
        row.launches = launches(run, x.device)
        row.peak_bytes = peak_memory(run, x.device)
    except Exception as error:  # whatever an implementation says when it cannot run here
        row.launches = None
        row.notes["eager"] = one_line(error)
        return ways
    ways["eager"] = Candidate(run)
    options: dict[str, Callable[[], Candidate]] = {}
    if x.device.type == "cuda":
        options["graph"] = lambda: captured(run, pool)
    if block.label in settings.compiled:

        @cache
        def compiled() -> Run:
            fast = make_run(torch.compile(module, dynamic=False), parameters, x, d, row.mode)
            fast()
            return fast

        options["compiled"] = lambda: Candidate(compiled())
        if x.device.type == "cuda":
            options["compiled_graph"] = lambda: captured(compiled(), pool)
    for way, build in options.items():
        try:
            ways[way] = build()
        except Exception as error:  # no compiler, no capture, no memory
            row.notes[way] = one_line(error)
    return ways


def measure_group(
    shape: Shape,
    mode: str,
    memory_format: str,
    blocks: Sequence[Block],
    settings: BlockSettings,
    tick: Callable[[], Any],
) -> tuple[list[BlockRow], Ruler]:
    """All blocks on one shape, in turns with the ruler."""
    device = settings.device
    generator = torch.Generator(device).manual_seed(settings.seed)
    x, d = (
        torch.randn(shape, generator=generator, device=device)
        .to(DTYPES[settings.dtype])
        .contiguous(memory_format=FORMATS[memory_format])
        for _ in range(2)
    )  # [B, C, H, W]
    x.requires_grad_(mode == "fwdbwd")
    size = x.numel() * x.itemsize
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
    rows, candidates = [], rulers(x.detach())
    names = list(candidates)
    for block in blocks:
        row = BlockRow(shape, mode, memory_format, block.name, block.impl, size)
        ways = prepare(block, row, x, d, settings, pool)
        candidates |= {f"{block.label} {way}": candidate for way, candidate in ways.items()}
        rows.append(row)
        tick()
    found = interleaved(candidates, device, ROUNDS, settings.seconds, tick)
    times = {name: samples.timing() for name, samples in found.items()}
    limit = limit_seconds(times[names[0]].median, size, mode, device.type)
    for row in rows:
        row.limit_ms = limit
        prefix = f"{row.label} "
        row.times = {name.removeprefix(prefix): t for name, t in times.items() if name.startswith(prefix)}
    compare(rows)
    return rows, Ruler(shape, mode, memory_format, size, limit, {name: times[name] for name in names})


def measure_blocks(settings: BlockSettings, keep: Callable[[Record], None] = lambda record: None) -> Record:
    """Measure everything; ``keep`` gets the record after each group, so that an interruption loses little.

    Raises:
        InputError: a shape that there is no memory for.
    """
    started = time.perf_counter()
    swept = [block for block in settings.blocks if block.label in SWEPT] if settings.sweep else []
    sweep = sweep_shapes(settings.sweep) if settings.sweep and swept else []
    check_memory(settings.device, settings.dtype, [*settings.shapes, *sweep])
    told = machine(settings.device)
    protocol = {
        "device": str(settings.device),
        "dtype": settings.dtype,
        "limit": UNITS[settings.device.type],
        "allocator": keep_freed_memory(),
        "samples": f"at most {ROUNDS}, in turns, {settings.seconds:g} s for each candidate, at least 3",
        "times": "milliseconds per call: median, low and high quartile; caches warm",
        "fwd": "forward without gradients, evaluation mode",
        "fwdbwd": "forward, then the gradients of x and of every parameter",
        "peak": "bytes allocated at once by one call, results included",
        "launches": "kernels, copies, fills" if settings.device.type == "cuda" else "operators that compute",
    }
    tables: dict[str, list[Any]] = {"rows": [], "rulers": [], "means": [], "scaling": [], "scaling_rows": []}
    record = Record("bench block", command_line(), settings.seed, told, protocol, tables)
    work = [
        *(
            ("rows", s, m, f, settings.blocks)
            for s in settings.shapes
            for m in settings.modes
            for f in settings.formats
        ),
        *(("scaling_rows", s, m, settings.formats[0], swept) for m in settings.modes for s in sweep),
    ]
    limit: Any = torch._dynamo.config  # one function compiled for many shapes: more than dynamo allows by itself
    with (
        on(settings.device),
        limit.patch(recompile_limit=256),
        torch.random.fork_rng(),
        tqdm(total=sum(len(blocks) + ROUNDS for *_, blocks in work), desc="bench block", unit="") as bar,
    ):
        torch.manual_seed(settings.seed)  # of the weights
        for table, shape, mode, memory_format, blocks in work:
            bar.set_postfix_str(f"{'x'.join(map(str, shape))} {mode} {memory_format}")
            rows, ruler = measure_group(shape, mode, memory_format, blocks, settings, bar.update)
            tables[table] += rows
            tables["rulers"] += [ruler] if table == "rows" else []
            torch._dynamo.reset()
            tables["means"] = means(tables["rows"], settings.device.type)
            if settings.sweep:
                tables["scaling"] = exponents(tables["scaling_rows"], settings.sweep)
            finished(told, time.perf_counter() - started)
            keep(record)
    return record


def bench_block(settings: BlockSettings, json: str = "") -> str:
    """Measure, write FILE.json, FILE.md and FILE.png if a file is named, and give the Markdown page.

    Raises:
        InputError: a file name that cannot be a record's, or a shape that there is no memory for.
    """
    path = record_path(json)
    title, unit = "Attention blocks", UNITS[settings.device.type]

    def keep(record: Record) -> None:
        if path is not None:
            shown = picture(record.tables["rows"], record.conditions["device"], settings.dtype, unit)
            write_record(record, title, page(record), shown, path)

    def page(record: Record) -> list[Section]:
        tables = record.tables
        return sections(tables["rows"], tables["means"], tables["scaling"], unit)

    record = measure_blocks(settings, keep)
    return markdown(title, record, page(record))
