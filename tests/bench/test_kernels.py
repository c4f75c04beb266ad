"""The static report: real compilation in a process of its own, as this one may run the interpreter."""

import json
import os
import subprocess
import sys

import pytest

from polarpix.bench import kernels
from polarpix.errors import InputError

PROGRAM = """
import dataclasses, json, sys
from polarpix.bench import kernels
found = kernels.compile_all([(32, 64, 64, 48)], [kernels.CARDS[1]])
json.dump([dataclasses.asdict(one) for one in found], sys.stdout)
"""


@pytest.fixture(scope="module")
def compiled():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_kernel_in_both_formats(compiled):
    names = {one.name for one in kernels.LAUNCHES if not one.small}
    for memory in ("contiguous", "channels_last"):
        assert names - {one["kernel"] for one in compiled if one["memory"] == memory} <= {"grad_weight"}


def test_nothing_spills_and_maps_move_in_pieces_of_16_bytes(compiled):
    for one in compiled:
        assert one["spilled"] == 0, one
        assert 0 < one["registers"] <= 255
        moves = next(launch for launch in kernels.LAUNCHES if launch.name == one["kernel"])
        assert one["load_bytes"] == ([16] if moves.reads else []), one
        assert one["store_bytes"] == ([16] if moves.writes else []), one


def test_counted_passes_meet_the_limit():
    """3 passes forward and 5 backward; tests/psa/test_kernels.py counts the same in the running kernels."""
    for one in kernels.wholes():
        assert one.passes == one.limit == (5 if one.direction == "backward" else 3)
        assert one.launches <= (4 if one.direction == "backward" else 3)


def test_time_of_the_bytes():
    (forward, _) = kernels.wholes([(1, 1000, 1000, 335)])
    assert forward.microseconds["H100 SXM"] == pytest.approx(600.0)  # 3 x 0.67 GB at 3.35 TB/s


def test_occupancy_counts_whole_blocks():
    assert kernels.occupancy(kernels.CARDS[1], 64, 256) == 0.5
    assert kernels.occupancy(kernels.CARDS[1], 65, 256) == 0.375
    assert kernels.occupancy(kernels.CARDS[1], 16, 1024) == 1.0


def test_widths_are_read_from_the_lines_of_the_tiles():
    import inspect

    from polarpix.psa import tiles

    line = inspect.getsourcelines(tiles.load_tile.fn)[1] + 1
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


def test_without_static_there_is_nothing_to_do():
    with pytest.raises(InputError, match="add --static"):
        kernels.kernels()
