"""What a chain of kernels should take on a card that is not here: predicted from published rates, never measured.

Each launch takes the longest of four things, as if they overlapped perfectly and all multiprocessors had as much to do,
but for a map of fewer programs than these:

- bytes: those of its passes over the map, at the peak rate of the card's memory;
- sectors: pieces of 32 bytes that a program's tiles touch, at 5,120 bytes a clock between the second-level cache and
  the multiprocessors (NVIDIA's white paper on the A100; of newer cards none is published, the same is taken). A row of
  a map that begins anywhere touches more of them than one that begins on a sector. From tile to tile a multiprocessor
  keeps the sectors it has, if those of two programs have room where shared memory would be;
- accesses: a multiprocessor takes one load or store of a warp a clock, which brings 128 bytes and finds at most four
  lines (an engineer of NVIDIA on their forum, "How does the LSU execute load/store instructions in Ampere", 273699). So
  the narrower an access, the more of them for the same bytes;
- instructions: four warps issue one each a clock (the programming guide: four schedulers since Volta). They are counted
  in the assembler's code, in the loops over pixels.

It is a bound from below, and far below for small maps and many channels: the latency of memory, sums that threads and
warps exchange, the matrices between the passes, of C^2 numbers a sample, programs that wait for each other and the
launches themselves are not in it. The first measurement, on an H200, found 69 us for ``gate`` at 512 channels, of which
this says 0.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from polarpix.bench.kernels_compile import each, resources, settled, tool
from polarpix.bench.kernels_jobs import CARDS, FORMATS, ITEMSIZE, Card, Job, chain, plan_of
from polarpix.bench.kernels_page import Whole

__all__ = ["Loop", "counts", "launch_times", "pixel_loops", "sectors", "wavefronts", "wholes"]

L2_BYTES = 5120  # a clock
SECTOR, LINE = 32, 128  # bytes
ISSUED, FOUND = 4, 4  # instructions a clock, lines an access a clock
NUMBERED_ON = 6
FORMS = (("paper", "parallel"), ("released", "parallel"))


@dataclass(frozen=True)
class Loop:
    """The body of a loop over pixels: instructions of a warp, and the bytes a thread moves in each access to a map."""

    instructions: int
    accesses: tuple[int, ...]


@cache
def tile_lines() -> frozenset[int]:
    """Lines of psa/tiles.py on which maps are read and written.

    Some versions of Triton number on within the assembly of an access: a few lines more, on which nothing else is read.
    """
    from polarpix.psa import tiles

    found: set[int] = set()
    for function in (tiles.load_tile, tiles.load_pixels, tiles.store_tile, tiles.store_pixels):
        text, first = inspect.getsourcelines(function.fn)
        found |= set(range(first, first + len(text) + NUMBERED_ON))
    return frozenset(found)


def pixel_loops(assembly: str) -> list[Loop]:
    """The loops that touch maps, from the disassembler's text with line numbers, in their order.

    A loop is what lies between a label and a jump back to it; of loops within loops the innermost that touches a map.
    """
    labels: dict[str, int] = {}
    at_tile, instructions, accesses, jumps = False, 0, dict[int, int](), list[tuple[int, int]]()
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = instructions
        elif place := re.match(r'\s*//## File "(.*?)", line (\d+)', line):
            at_tile = place[1].endswith("psa/tiles.py") and int(place[2]) in tile_lines()
        elif code := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line):
            if at_tile and code[1].split(".")[0] in ("LDG", "LDGSTS", "STG"):
                accesses[instructions] = width(code[1])
            target = re.search(r"\((\.L_x_\d+)\)", code[2]) if code[1].startswith("BRA") else None
            if target and labels.get(target[1], instructions) < instructions:
                jumps.append((labels[target[1]], instructions))
            instructions += code[1] != "NOP"
    touching = [(start, end) for start, end in sorted(jumps) if any(start <= at <= end for at in accesses)]
    inner = [one for one in touching if not any(o != one and one[0] <= o[0] <= o[1] <= one[1] for o in touching)]
    return [Loop(end - start + 1, tuple(n for at, n in accesses.items() if start <= at <= end)) for start, end in inner]


def width(name: str) -> int:
    """Bytes a thread moves in an instruction: LDG.E.128 -> 16, STG.E.U16 -> 2, LDG.E -> 4."""
    sizes = {"64": 8, "128": 16, "256": 32, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((size for word, size in sizes.items() if word in name.split(".")), 4)


def sectors(bytes_: int, start: int, piece: int = SECTOR) -> float:
    """Pieces that a run of so many bytes touches in the mean, when it begins at any multiple of ``start``."""
    return (bytes_ + piece - math.gcd(start, piece)) / piece


def run(job: Job, numbers: int) -> tuple[int, int]:
    """Of so many numbers of a tile, taken along memory: bytes that lie together, and what divides where they begin."""
    plan, itemsize = job.plan, ITEMSIZE[job.dtype]
    if plan.LAST:
        return (numbers if plan.C == plan.BC else min(numbers, plan.C)) * itemsize, plan.C * itemsize
    together = min(numbers, job.tiles.BP)
    return together * itemsize, math.gcd(plan.P, together) * itemsize


def wavefronts(job: Job, bytes_: int) -> float:
    """Clocks that one access of a warp takes, of so many bytes a thread."""
    itemsize = ITEMSIZE[job.dtype]
    numbers = 32 * bytes_ // itemsize
    together, start = run(job, numbers)
    lines = numbers * itemsize / together * sectors(together, start, LINE)
    return max(1.0, 32 * bytes_ / LINE, lines / FOUND)


READ: dict[tuple[Any, ...], tuple[list[Loop], int]] = {}


def read(job: Job) -> tuple[list[Loop], int]:
    """The loops of a kernel over pixels, none where the code is not as it was expected; and how many of its programs a
    multiprocessor has room for, as the launch reckons. Many maps ask for the same.
    """
    from polarpix.psa.steps import residents

    if job.compiled_for not in READ:
        chosen, made = settled(job)
        found = pixel_loops(tool("nvdisasm", made.asm["cubin"], "-g", "-c"))
        passes = job.step.reads // (2 if job.step.backward else 1)  # in the backward map and gradient in one loop
        room = residents(resources(made.asm["cubin"])[0], chosen.threads, made.metadata.shared)
        READ[job.compiled_for] = found if len(found) == passes else [], room
    return READ[job.compiled_for]


def fetched(job: Job, tiles: int, beside: int) -> float:
    """Bytes that reach a multiprocessor in whole sectors, over those of the map; ``beside`` programs share a cache."""
    plan, BP, itemsize = job.plan, job.tiles.BP, ITEMSIZE[job.dtype]
    if plan.LAST:  # pixel after pixel: what a program takes is one run
        together, start = tiles * plan.C * BP * itemsize, plan.C * itemsize
    else:
        kept = plan.C * max(SECTOR, BP * itemsize) * (1 + job.step.backward) * beside <= job.card.shared
        pixels = min(plan.P, tiles * BP if kept else BP)
        together, start = pixels * itemsize, math.gcd(plan.P, BP) * itemsize
    return float(sectors(together, start) * SECTOR / together)


def launch_times(job: Job, loops: Sequence[Loop], samples: int, room: int) -> dict[str, float]:
    """Microseconds that each of the four things takes in a launch, by name.

    Args:
        room: programs that a multiprocessor has room for.
    """
    plan, card, itemsize = job.plan, job.card, ITEMSIZE[job.dtype]
    tiles, splits = plan.split(job.step.name, samples, room * card.multiprocessors)
    if job.step.shared:
        tiles, splits = plan.share_tiles, plan.S
    programs = samples * splits
    evenly = samples * math.ceil(plan.P / job.tiles.BP) / card.multiprocessors
    busiest = max(tiles, evenly) * (job.threads // 32)  # times a warp goes through the loops, on each multiprocessor
    moved = (job.step.reads + job.step.writes) * samples * plan.C * plan.P * itemsize
    clocks = {
        "sectors": moved * fetched(job, tiles, min(2, math.ceil(programs / card.multiprocessors))) / L2_BYTES,
        "accesses": busiest * sum(wavefronts(job, n) for one in loops for n in one.accesses),
        "instructions": busiest * sum(one.instructions for one in loops) / ISSUED,
    }
    times = {name: count / card.gigahertz / 1e3 for name, count in clocks.items()}
    return {"bytes": moved / card.peak_tb / 1e6} | times


def predict(task: tuple[Sequence[int], str, bool, tuple[str, str], bool, Card]) -> tuple[float, str]:
    """Microseconds of a chain, and what the longest of its launches waits for; not a number if that cannot be read.

    Args:
        task: map (B, C, H, W), dtype, channels_last, (form, layout), backward, card.
    """
    shape, dtype, last, (form, layout), backward, card = task
    plan = plan_of(shape, dtype, last, form, card, last if backward else None)
    longest = []
    for step in chain(plan, form, backward):
        if step.sees_maps:
            job = Job(step, plan, form, layout, dtype, card)
            loops, room = read(job)
            if not loops:
                return math.nan, "code that was not understood"
            times = launch_times(job, loops, shape[0], room)
            longest.append(max((time, name) for name, time in times.items()))
    return sum(time for time, _ in longest), max(longest)[1]


def counts(plan: Any, form: str, backward: bool) -> tuple[int, int, int]:
    """Launches of a chain, its passes over the map, and the limit: 3 passes forward and 5 backward."""
    found = chain(plan, form, backward)
    return len(found), sum(one.reads + one.writes for one in found), 5 if backward else 3


def wholes(
    maps: Sequence[Sequence[int]], cards: Sequence[Card] = CARDS, dtypes: Sequence[str] = ("bf16",), workers: int = 1
) -> list[Whole]:
    """Launches, passes and predicted times of maps in both memory formats, the gradient in that of the map."""
    kinds = list(product(maps, dtypes, (False, True), FORMS, (False, True)))
    found = iter(each(predict, [(*kind, card) for kind in kinds for card in cards], workers, "time"))
    rows = []
    for shape, dtype, last, (form, _), backward in kinds:
        times = {card.name: next(found) for card in cards}
        size = math.prod(shape) * ITEMSIZE[dtype]
        plan = plan_of(shape, dtype, last, form, cards[0], last if backward else None)
        launches, passes, limit = counts(plan, form, backward)  # on every card the same
        rows.append(
            Whole(
                list(shape), dtype, FORMATS[last], form, "backward" if backward else "forward", launches, passes, limit,
                size / 1e6, {card.name: passes * size / card.peak_tb / 1e6 for card in cards},
                {name: time for name, (time, _) in times.items()}, {name: cause for name, (_, cause) in times.items()},
            )
        )  # fmt: skip
    return rows
