"""The static report: real compilation in a process of its own, as this one may run the interpreter."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from polarpix.bench.kernels_compile import occupancy, widest, widths
from polarpix.bench.kernels_jobs import CARDS, GRID, KINDS, LAUNCHES, MAPS, fingerprint, jobs
from polarpix.psa.plans import plan

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "kernels_static.json"
PROGRAM = """
import dataclasses, json, sys
from polarpix.bench import kernels_compile, kernels_jobs, kernels_time
grid, cards = {"bf16": [(32, 64, 64, 48)]}, kernels_jobs.CARDS[1:2]
rows = [dataclasses.asdict(one) for one in kernels_compile.compile_all(grid, cards)]
small = [job for job in kernels_jobs.jobs({"bf16": [(32, 16, 8, 8)]}, cards) if job.step.sees_maps]
found = [job for job in [*kernels_jobs.jobs(grid, cards), *small] if job.step.sees_maps]
wanted = {kernels_jobs.LAUNCHES.index(job.step): job for job in found}
code = {which: kernels_compile.compile_kernel(job).asm["ttir"] for which, job in wanted.items()}
read = {}
for which, job in wanted.items():
    loops, room = kernels_time.read(job)
    registers = kernels_compile.resources(kernels_compile.settled(job)[1].asm["cubin"])[0]
    read[which] = [loop.accesses for loop in loops], room, registers, job.threads
json.dump({"rows": rows, "code": code, "read": read}, sys.stdout)
"""


@pytest.fixture(scope="module")
def real():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(real):
    return real["rows"]


COLUMNS = ("kernel", "form", "layout", "dtype", "channels", "pixels", "memory", "gradient", "architecture")


def check(one):
    """No spill, and pieces as large as they can be: 16 bytes wherever C or P is a multiple of that."""
    assert one["spilled"] == 0, one
    assert 0 < one["registers"] <= 255
    assert 0 < one["occupancy"] <= 1
    small = plan(1, one["channels"], one["pixels"], 2, False).small
    (moves,) = (
        step
        for step in LAUNCHES
        if step.name == one["kernel"] and step.small in (small, None) and step.form in (one["form"], None)
    )
    piece, of_gradient = (
        widest(one["channels"], one["pixels"], one["dtype"], memory == "channels_last")
        for memory in (one["memory"], one["gradient"] or one["memory"])
    )
    assert one["load_bytes"] == (sorted({piece, of_gradient}) if moves.reads else []), one
    assert one["store_bytes"] == ([piece] if moves.writes else []), one


def test_every_kernel_in_both_formats(compiled):
    names = {one.name for one in LAUNCHES if not one.small}
    for memory in ("contiguous", "channels_last"):
        there = {one["kernel"] for one in compiled if one["memory"] == memory}
        assert names - there <= {"grad_weight"}  # which sees no map: compiled once for both
    assert names == {one["kernel"] for one in compiled}
    for name in ("scale", "grad_pool", "grad_input"):
        assert {(one["form"], one["layout"]) for one in compiled if one["kernel"] == name} == set(KINDS)


def test_nothing_spills_and_maps_move_in_pieces_of_16_bytes(compiled):
    for one in compiled:
        check(one)
        assert set(one["load_bytes"] + one["store_bytes"]) <= {16}


def test_the_committed_report_is_whole_and_good():
    """Every kernel of the grid has its row, compiled from the code and the plans that are here now."""
    record = json.loads(RECORD.read_text())
    assert record["protocol"]["fingerprint"] == fingerprint(), "kernels or plans have changed: make the report anew"
    rows = record["tables"]["kernels"]
    for one in rows:
        check(one)
    assert [tuple(one[column] for column in COLUMNS) for one in rows] == [job.key for job in jobs()]


def test_the_grid_meets_every_channel_count_that_matters():
    """Powers of two and others from 2 to 2,048, odd numbers of pixels, one program a sample and many."""
    assert {2, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 1536, 2048} <= {shape[1] for shape in MAPS}
    found = {(job.dtype, job.card.capability, job.plan.BC, job.memory) for job in jobs()}
    blocks = {16, 32, 64, 128, 256, 512, 1024, 2048}
    for dtype in GRID:
        for card in CARDS:
            for memory in ("contiguous", "channels_last"):
                there = {kind[2] for kind in found if kind[:2] + kind[3:] == (dtype, card.capability, memory)}
                assert there == ({64, 512} if dtype == "fp16" else blocks)


def defined(code):
    """The operations of Triton's intermediate code by the value they make."""
    return {line.split(" = ")[0].strip(): line.split(" = ")[1] for line in code.splitlines() if " = " in line}


def products(name, operations):
    """The products that a value comes from."""
    operation = operations.get(name, "")
    if operation.startswith("arith.muli"):
        yield operation
    if operation.startswith(("arith.muli", "arith.addi", "arith.extsi")):
        for operand in re.findall(r"%[\w#]+", operation.partition(" : ")[0]):
            yield from products(operand, operations)


def test_samples_lie_64_bits_apart(real):
    """Where a sample begins is computed in 64 bits throughout: a batch may hold more than 2^31 numbers."""
    assert {int(which) for which in real["code"]} == {i for i, one in enumerate(LAUNCHES) if one.sees_maps}
    for which, code in real["code"].items():
        step = LAUNCHES[int(which)]
        name = step.name
        operations = defined(code)
        pointers = [
            re.match(r"tt\.addptr %(x|out|d|dx)(?:_\d+)?, (%[\w#]+) : !tt\.ptr<bf16>, (\w+)", operation)
            for operation in operations.values()
        ]
        found = [one for one in pointers if one]
        assert {one[1] for one in found} == {"x"} | ({"d"} if step.backward else set()) | (
            {"dx" if step.backward else "out"} if step.writes else set()
        ), name
        for one in found:
            assert one[3] == "i64", f"{name}: {one[0]}"
            on_the_way = [how for how in products(one[2], operations) if "%PV" not in how]  # P = PV * VEC
            assert on_the_way, f"{name}: {one[0]}"
            assert {how.partition(" : ")[2].split()[0] for how in on_the_way} == {"i64"}, f"{name}: {on_the_way}"


def test_every_loop_over_pixels_is_found_in_the_code(real):
    """As many as there are passes, each with its accesses: times are predicted from them, and from what has room."""
    for which, (loops, room, registers, threads) in real["read"].items():
        step = LAUNCHES[int(which)]
        assert len(loops) == step.reads // (2 if step.backward else 1), step
        for accesses in loops:
            assert set(accesses) == {16}, step
        assert 0 < room * threads <= 2048
        assert room == 1 or room * threads * registers <= 1 << 16


def test_widest_piece():
    assert widest(64, 48, "bf16", False) == widest(64, 65, "bf16", True) == 16
    assert widest(64, 65 * 65, "bf16", False) == 2
    assert widest(6, 10, "fp32", True) == 8


def test_occupancy_counts_whole_blocks():
    assert occupancy(CARDS[1], 64, 256) == 0.5
    assert occupancy(CARDS[1], 65, 256) == 0.375
    assert occupancy(CARDS[1], 16, 1024) == 1.0
    assert occupancy(CARDS[1], 16, 1024, shared=120 << 10) == 0.5


NUMBERED_ON = """
    // begin inline asm
    .loc 2 {line} 3
    mov.u32 %r1, %r85;
    .loc 2 {after} 3
    ld.global.v2.b32 {{ %r1, %r2 }}, [ %rd1 + 0 ];
    // end inline asm
"""


def test_widths_are_read_from_the_lines_of_the_tiles():
    import inspect

    from polarpix.psa import tiles

    text, first = inspect.getsourcelines(tiles.load_tile.fn)
    line = first + 1
    ptx = f"""
    .loc 2 {line} 3
    ld.global.v4.b32 {{ %r1, %r2, %r3, %r4 }}, [ %rd1 + 0 ];
    ld.global.L1::evict_last.b16 {{ %rs1 }}, [ %rd1 + 0 ];
    .loc 1 {line} 3
    ld.global.b64 {{ %rd5 }}, [ %rd1 + 0 ];
    .file 1 "elsewhere.py"
    .file 2 "polarpix/psa/tiles.py"
    """
    assert widths(ptx) == ([2, 16], [])
    counted_on = NUMBERED_ON.format(line=line, after=first + len(text) + 3)
    assert widths(ptx + counted_on) == ([2, 8, 16], [])
    assert widths(ptx + counted_on.replace("begin inline asm", "")) == ([2, 16], [])
