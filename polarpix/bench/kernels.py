"""The kernels judged without a GPU: compiled for architectures that need not be here, and read.

Registers and spills come from the assembler, the width of each access to a map from the PTX that carries the line it
was written on, the passes over the map from the list of launches. A time follows from the bytes alone, at the published
peak rate of the card's memory: a bound from below, not a measurement.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from polarpix.bench.record import Record, command_line, machine, markdown, record_path, write_record
from polarpix.errors import InputError
from polarpix.report import Section, Table, Value

__all__ = ["CARDS", "LAUNCHES", "MAPS", "Compiled", "Whole", "compile_all", "kernels", "wholes"]

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


@dataclass(frozen=True)
class Card:
    """An architecture: the memory rate of its best-known card and what one multiprocessor holds (data sheets)."""

    capability: int
    name: str
    peak_tb: float
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32


CARDS = (Card(80, "A100 80GB", 2.04), Card(90, "H100 SXM", 3.35), Card(100, "B200", 8.0))


@dataclass(frozen=True)
class Launch:
    """A kernel of the chain, how often it reads and writes a map, and whether one program takes a whole sample."""

    name: str
    backward: bool
    small: bool | None
    reads: int
    writes: int


# None: in both chains
LAUNCHES = (
    Launch("pool", False, False, 1, 0),
    Launch("gate", False, False, 0, 0),
    Launch("scale", False, False, 1, 1),
    Launch("forward_small", False, True, 2, 1),
    Launch("grad_pool", True, False, 2, 0),
    Launch("grad_gate", True, False, 0, 0),
    Launch("grad_input", True, False, 2, 1),
    Launch("backward_small", True, True, 4, 1),
    Launch("grad_weight", True, None, 0, 0),
)


@dataclass(frozen=True)
class Compiled:
    """One kernel for one kind of map and one architecture; widths in bytes, of every access to a map."""

    kernel: str
    channels: int
    pixels: int
    memory: str
    architecture: str
    registers: int
    spilled: int
    shared: int
    threads: int
    occupancy: float
    load_bytes: list[int]
    store_bytes: list[int]


@dataclass(frozen=True)
class Whole:
    """Forward or backward of one map: launches, passes over the map beside the limit, and the time the bytes take."""

    shape: list[int]
    direction: str
    launches: int
    passes: int
    limit: int
    megabytes: float
    microseconds: dict[str, float]


def chain(shape: Sequence[int], backward: bool, last: bool) -> list[Launch]:
    """The launches for a bf16 map."""
    from polarpix.psa import launch

    B, C, H, W = shape
    small = launch.plan(B, C, H * W, 2, last, backward).small
    return [one for one in LAUNCHES if one.backward == backward and one.small in (small, None)]


def wholes(maps: Sequence[Sequence[int]] = MAPS) -> list[Whole]:
    """Launches, passes and the time of the bytes for bf16 maps; the limit is 3 passes forward and 5 backward."""
    rows = []
    for shape in maps:
        size = 2 * shape[0] * shape[1] * shape[2] * shape[3]
        for backward in (False, True):
            found = chain(shape, backward, True)
            passes = sum(one.reads + one.writes for one in found)
            times = {card.name: passes * size / card.peak_tb / 1e6 for card in CARDS}
            direction = "backward" if backward else "forward"
            limit = 5 if backward else 3
            rows.append(Whole(list(shape), direction, len(found), passes, limit, size / 1e6, times))
    return rows


def constants(one: Any) -> dict[str, Any]:
    """The compile-time arguments of the paper form, parallel, at a plan."""
    import triton.language as tl

    names = ("C", "BC", "BP", "BR", "BS", "VEC", "LAST", "WIDE")
    fixed = {"BB": 16, "TR": 32, "TC": 32, "PAPER": True, "SEQ": False, "ACC": tl.float32}
    return {name: getattr(one, name) for name in names} | fixed


def compile_kernel(name: str, one: Any, card: Card) -> Any:
    """A kernel as the launch would compile it for bf16 maps and float32 weights with 16-byte aligned pointers."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from polarpix.psa import kernels as forward
    from polarpix.psa import kernels_grad as grad
    from polarpix.psa import kernels_weight as weight

    kernel = next(getattr(room, name) for room in (forward, grad, weight) if hasattr(room, name))
    fixed = {key: value for key, value in constants(one).items() if key in kernel.arg_names}
    kinds: dict[str, str] = {"factor": "fp32"}
    kinds |= dict.fromkeys(("PV", "P", "tiles", "splits", "parts", "B"), "i32")
    kinds |= dict.fromkeys(("x", "out", "d", "dx"), "*bf16")
    signature = {key: "constexpr" if key in fixed else kinds.get(key, "*fp32") for key in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, key in enumerate(kernel.arg_names) if signature[key][0] == "*"}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in fixed.items()}, aligned)
    warps = one.warps if "BP" in fixed else one.gate_warps if "gate" in name else 4
    target = GPUTarget("cuda", card.capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}), 32 * warps


def widths(ptx: str) -> tuple[list[int], list[int]]:
    """Bytes per thread of the loads and stores of maps: those written on the lines of load_tile and store_tile."""
    from polarpix.psa import tiles

    lines: dict[str, range] = {}
    for kind, function in (("ld", tiles.load_tile), ("st", tiles.store_tile)):
        text, first = inspect.getsourcelines(function.fn)
        lines[kind] = range(first, first + len(text))
    file = re.search(r'\.file\s+(\d+)\s+"[^"]*psa/tiles\.py"', ptx)
    here, found = ("", 0), {"ld": set[int](), "st": set[int]()}
    for line in ptx.splitlines():
        if place := re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", line):
            here = (place[1], int(place[2]))
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


def occupancy(card: Card, registers: int, threads: int) -> float:
    """The part of a multiprocessor's threads that its registers allow, in whole blocks."""
    per_block = -(-registers // 8) * 8 * threads
    return min(card.registers // per_block, card.threads // threads, card.blocks) * threads / card.threads


def jobs(maps: Sequence[Sequence[int]], cards: Sequence[Card]) -> Iterator[tuple[str, Any, str, Card]]:
    """Every kernel that the maps need, in both memory formats: once for each different set of constants."""
    from polarpix.psa import launch

    seen = set()
    for B, C, H, W in maps:
        for last in (False, True):
            for step in (*chain((B, C, H, W), False, last), *chain((B, C, H, W), True, last)):
                one = launch.plan(B, C, H * W, 2, last, step.backward)
                key = (step.name, C, one.VEC, one.BP, one.BS, step.name == "grad_weight" or last)
                if key not in seen:
                    seen.add(key)
                    for card in cards:
                        yield step.name, one, "channels_last" if last else "contiguous", card


def compile_all(maps: Sequence[Sequence[int]] = MAPS, cards: Sequence[Card] = CARDS) -> list[Compiled]:
    """Compile and read every kernel of the paper form, parallel, bf16.

    Raises:
        InputError: Triton runs in its interpreter, which compiles nothing.
    """
    from polarpix.psa import launch

    if launch.interpreted():
        raise InputError("TRITON_INTERPRET is set, nothing would be compiled: unset it")
    rows = []
    for name, one, memory, card in tqdm(list(jobs(maps, cards)), desc="kernels", unit="kernel"):
        found, threads = compile_kernel(name, one, card)
        registers, spilled, shared = resources(found.asm["cubin"])
        loads, stores = widths(found.asm["ptx"])
        share = occupancy(card, registers, threads)
        rows.append(
            Compiled(
                name, one.C, one.P, memory, f"sm_{card.capability}", registers, spilled, shared, threads,
                share, loads, stores,
            )
        )  # fmt: skip
    return rows


def report_sections(compiled: Sequence[Compiled], whole: Sequence[Whole]) -> list[Section]:
    """The report as pages show it."""
    heads = ["kernel", "C", "P", "memory", "for", "registers", "spilled", "shared", "threads", "occupancy", "loads, B",
             "stores, B"]  # fmt: skip
    rows: list[list[Value]] = [
        [
            one.kernel, one.channels, one.pixels, one.memory, one.architecture, one.registers, one.spilled, one.shared,
            one.threads, f"{one.occupancy:.2f}", ", ".join(map(str, one.load_bytes)) or "–",
            ", ".join(map(str, one.store_bytes)) or "–",
        ]
        for one in compiled
    ]  # fmt: skip
    times: list[list[Value]] = [
        [
            "x".join(map(str, one.shape)), one.direction, one.launches, one.passes, one.limit, f"{one.megabytes:.1f}",
            *(f"{value:.1f}" for value in one.microseconds.values()),
        ]
        for one in whole
    ]  # fmt: skip
    cards = [f"{card.name}, us" for card in CARDS]
    return [
        Section("Kernels", table=Table(heads, rows)),
        Section("Bytes", table=Table(["map", "direction", "launches", "passes", "limit", "MB a pass", *cards], times)),
    ]


def kernels(static: bool = False, json: str = "") -> int:
    """Compile the kernels for cards that need not be here, and report what the compiler made of them.

    Args:
        static: the only way there is: nothing is run.
        json: file for the record; its Markdown goes beside it.

    Raises:
        InputError: without ``static``.
    """
    if not static:
        raise InputError("bench kernels compiles and runs nothing: add --static; 'polarpix bench block' measures")
    path = record_path(json)
    told = machine(torch.device("cpu"))
    compiled, whole = compile_all(), wholes()
    protocol = {
        "form": "paper", "layout": "parallel", "dtype": "bf16 maps, float32 weights",
        "microseconds": "bytes over the published peak rate of the card: a bound from below, not measured",
    }  # fmt: skip
    record = Record("bench kernels", command_line(), 0, told, protocol, {"kernels": compiled, "maps": whole})
    title, sections = "Kernels, compiled and read", report_sections(compiled, whole)
    print(markdown(title, record, sections))
    if path:
        write_record(record, title, sections, None, path)
    return 0
