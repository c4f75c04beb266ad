"""Predicted times: what is read of the assembler's code, what a launch waits for, and the committed report."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from polarpix.bench.kernels_jobs import CARDS, LAUNCHES, MAPS, ODD, Job
from polarpix.bench.kernels_page import Whole, ratios
from polarpix.bench.kernels_time import Loop, counts, launch_times, pixel_loops, sectors, wavefronts
from polarpix.psa import plans, tiles

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "kernels_static.json"
H100 = CARDS[1]


@pytest.fixture(scope="module")
def rows():
    found = [Whole(**one) for one in json.loads(RECORD.read_text())["tables"]["maps"]]
    return {(tuple(one.shape), one.kind): one for one in found}


def test_counted_passes_meet_the_limit():
    """3 passes forward and 5 backward, one more in the released forward for its softmax over the pixels;
    tests/psa/test_kernels.py counts the same in the running kernels, tests/psa/test_launch.py the launches.
    """
    for B, C, H, W in MAPS:
        for form in ("paper", "released"):
            for backward in (False, True):
                plan = plans.plan(B, C, H * W, 2, True, True if backward else None)
                launches, passes, limit = counts(plan, form, backward)
                assert limit == (5 if backward else 3)
                assert passes == limit + (form == "released" and not backward)
                assert launches == 3 + backward - plan.small


def test_every_map_has_its_times_in_the_report(rows):
    kinds = {kind for _, kind in rows}
    for shape in MAPS:
        for kind in kinds:
            if kind[0] == "bf16" or any(shape in pair for pair in ODD):
                one = rows[shape, kind]
                assert one.passes == one.limit + (one.form == "released" and one.direction == "forward")
                assert set(one.predicted) == {card.name for card in CARDS}
                assert all(one.predicted[card] >= 0.999 * one.bytes[card] for card in one.bytes)


def test_odd_maps_keep_up_with_their_neighbours(rows):
    """In channels_last at full speed, contiguous within twice the neighbour's time for each number.

    Predicted. Beyond 1,024 channels a contiguous tile has one or two pixels of each row, and the backward does not.
    """
    kinds = {kind for _, kind in rows}
    assert {kind[:2] for kind in kinds} == {(d, m) for d in ("bf16", "fp32") for m in ("contiguous", "channels_last")}
    for odd, even in ODD:
        for kind in kinds:
            for card, ratio in ratios(rows[odd, kind], rows[even, kind]).items():
                most = 1.1 if kind[1] == "channels_last" else 2.0 if odd[1] <= 1024 else 5.0
                assert ratio <= most, f"{odd} {kind} {card}: {ratio:.2f}"


def job(name, C=64, P=3072, last=False, backward=False, dtype="bf16", step=None):
    step = step or next(one for one in LAUNCHES if one.name == name)
    plan = plans.plan(32, C, P, 4 if dtype == "fp32" else 2, last, last if backward else None)
    return Job(step, plan, "paper", "parallel", dtype, H100)


def cut(one, K, T, V, warps=4, **how):
    """The job with other tiles."""
    tiles = dataclasses.replace(one.tiles, K=K, T=T, V=V, warps=warps)
    return dataclasses.replace(one, plan=dataclasses.replace(one.plan, first=tiles, between=tiles, second=tiles, **how))


def test_time_of_the_bytes():
    found = launch_times(job("scale"), [Loop(1, (16, 16))], 32, 4)
    assert found["bytes"] == pytest.approx(2 * 32 * 64 * 3072 * 2 / 3.35e12 * 1e6)
    assert max(found, key=found.get) == "bytes"


def test_narrow_accesses_and_more_instructions_take_longer():
    """A launch of 768 programs, one tile of four warps each, on 132 multiprocessors; or fewer programs than these."""
    scale = cut(job("scale"), K=1, T=16, V=8)
    found = launch_times(scale, [Loop(400, (16,) * 4)], 32, 8)
    assert found["instructions"] == pytest.approx(768 / 132 * 4 * 400 / 4 / 1755)
    assert found["accesses"] == pytest.approx(768 / 132 * 4 * 4 * 4 / 1755)  # 512 bytes of a warp: four clocks
    assert launch_times(scale, [Loop(400, (2,) * 32)], 32, 8)["accesses"] == pytest.approx(768 / 132 * 4 * 32 / 1755)
    assert launch_times(scale, [Loop(400, (16,) * 4)], 1, 8)["instructions"] == pytest.approx(4 * 400 / 4 / 1755)


def test_programs_that_share_a_sample_take_its_tiles_among_them():
    """24 tiles of a sample: by two programs 12 each, whatever the passes before were cut into; by 24 one."""
    step = next(one for one in LAUNCHES if (one.name, one.form, one.small) == ("gate", "released", False))
    for together in (2, 24):
        gate = cut(job("gate", step=step), K=1, T=16, V=8, S=together, gate_warps=8)
        found = launch_times(gate, [Loop(400, (16,) * 4)], 1, 8)
        assert found["instructions"] == pytest.approx(24 / together * 8 * 400 / 4 / 1755)
        assert found["bytes"] == pytest.approx(64 * 3072 * 2 / 3.35e12 * 1e6)


def test_sectors_of_rows_that_begin_anywhere():
    assert sectors(128, 32) == 4
    assert sectors(128, 2) == 4 + 30 / 32
    assert sectors(2, 2) == 1
    tiles = {3072: {"K": 1, "T": 16, "V": 8}, 3071: {"K": 1, "T": 32, "V": 1}}  # two of these in a program
    even, odd = (launch_times(cut(job("pool", P=P), **how), [], 32, 12)["sectors"] / P for P, how in tiles.items())
    assert 1.1 < odd / even < 1.5
    even, odd = (launch_times(job("pool", P=P, last=True), [], 32, 12)["sectors"] / P for P in (3072, 3071))
    assert odd == pytest.approx(even, rel=0.01)


def test_a_warp_over_many_rows_takes_many_clocks():
    """One access finds four lines a clock."""
    assert wavefronts(job("pool", 64, 65 * 65), 2) == 1
    assert wavefronts(cut(job("grad_pool", 2048, 17 * 13, backward=True), K=1, T=1, V=1), 2) == 32 / 4


def test_loops_are_read_from_the_disassembly():
    code, first = inspect.getsourcelines(tiles.load_tile.fn)
    place = f'//## File "/x/polarpix/psa/tiles.py", line {first + 3}'
    after = f'//## File "/x/polarpix/psa/tiles.py", line {first + len(code)}'  # numbered on within inline assembly
    text = f"""
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   FMUL R1, R1, R1 ;
    {place} inlined at "/x/polarpix/psa/kernels.py", line 50
        /*0040*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
    {after}
        /*0050*/                   LDG.E.U16 R5, desc[UR4][R2.64] ;
    //## File "/x/polarpix/psa/kernels.py", line 50
        /*0060*/                   LDG.E R6, desc[UR4][R2.64] ;
        /*0070*/                   BRA `(.L_x_2) ;
        /*0080*/               @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
    """
    assert pixel_loops(text) == [Loop(6, (16, 2))]
