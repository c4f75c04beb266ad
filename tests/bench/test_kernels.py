"""The static report: real compilation in a process of its own, as this one may run the interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polarpix.bench import kernels
from polarpix.errors import InputError

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "kernels_static.json"
PROGRAM = """
import dataclasses, json, sys
from polarpix.bench import kernels
found = kernels.compile_all([(32, 64, 64, 48)], kernels.CARDS[1:2], ["bf16"])
json.dump([dataclasses.asdict(one) for one in found], sys.stdout)
"""


@pytest.fixture(scope="module")
def compiled():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


COLUMNS = ("kernel", "form", "layout", "dtype", "channels", "pixels", "memory", "gradient", "architecture")


def check(one):
    """No spill, and pieces as large as they can be: 16 bytes wherever C or P is a multiple of that."""
    assert one["spilled"] == 0, one
    assert 0 < one["registers"] <= 255
    assert 0 < one["occupancy"] <= 1
    moves = next(step for step in kernels.LAUNCHES if step.name == one["kernel"])
    piece, of_gradient = (
        kernels.widest(one["channels"], one["pixels"], one["dtype"], memory == "channels_last")
        for memory in (one["memory"], one["gradient"] or one["memory"])
    )
    assert one["load_bytes"] == (sorted({piece, of_gradient}) if moves.reads else []), one
    assert one["store_bytes"] == ([piece] if moves.writes else []), one


def test_every_kernel_in_both_formats(compiled):
    names = {one.name for one in kernels.LAUNCHES if not one.small}
    for memory in ("contiguous", "channels_last"):
        there = {one["kernel"] for one in compiled if one["memory"] == memory}
        assert names - there <= {"gate", "grad_gate", "grad_weight"}  # which see no map: compiled once for both
    assert names == {one["kernel"] for one in compiled}
    for name in ("scale", "grad_pool", "grad_input"):
        assert {(one["form"], one["layout"]) for one in compiled if one["kernel"] == name} == set(kernels.KINDS)


def test_nothing_spills_and_maps_move_in_pieces_of_16_bytes(compiled):
    for one in compiled:
        check(one)
        assert set(one["load_bytes"] + one["store_bytes"]) <= {16}


def test_the_committed_report_is_whole_and_good():
    """Every configuration has its row, of the kernels as they are launched now."""
    rows = json.loads(RECORD.read_text())["tables"]["kernels"]
    for one in rows:
        check(one)
    found = {tuple(one[column] for column in COLUMNS): one["threads"] for one in rows}
    assert found == {job.key: job.threads for job in kernels.jobs()}


def test_widest_piece():
    assert kernels.widest(64, 48, "bf16", False) == kernels.widest(64, 65, "bf16", True) == 16
    assert kernels.widest(64, 65 * 65, "bf16", False) == 2
    assert kernels.widest(6, 10, "fp32", True) == 8


def test_counted_passes_meet_the_limit():
    """3 passes forward and 5 backward, one more in the released forward for its softmax over the pixels;
    tests/psa/test_kernels.py counts the same in the running kernels, tests/psa/test_launch.py the launches.
    """
    for one in kernels.wholes():
        assert one.limit == (5 if one.direction == "backward" else 3)
        assert one.passes == one.limit + (one.form == "released" and one.direction == "forward")
        assert one.launches <= (4 if one.direction == "backward" else 3)


def test_time_of_the_bytes():
    forward = kernels.wholes([(1, 1000, 1000, 335)])[0]
    assert (forward.form, forward.direction) == ("paper", "forward")
    assert forward.microseconds["H100 SXM"] == pytest.approx(600.0)  # 3 x 0.67 GB at 3.35 TB/s


def test_occupancy_counts_whole_blocks():
    assert kernels.occupancy(kernels.CARDS[1], 64, 256) == 0.5
    assert kernels.occupancy(kernels.CARDS[1], 65, 256) == 0.375
    assert kernels.occupancy(kernels.CARDS[1], 16, 1024) == 1.0
    assert kernels.occupancy(kernels.CARDS[1], 16, 1024, shared=120 << 10) == 0.5


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
    assert kernels.widths(ptx) == ([2, 16], [])
    counted_on = NUMBERED_ON.format(line=line, after=first + len(text) + 3)
    assert kernels.widths(ptx + counted_on) == ([2, 8, 16], [])
    assert kernels.widths(ptx + counted_on.replace("begin inline asm", "")) == ([2, 16], [])


def test_without_static_there_is_nothing_to_do():
    with pytest.raises(InputError, match="add --static"):
        kernels.kernels()
    with pytest.raises(InputError, match="--workers -1: give at least 1"):
        kernels.kernels(static=True, workers=-1)
