"""Block sizes for any map."""

from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.psa.plans import REGISTERS, plan
from polarpix.psa.steps import residents


@settings(max_examples=200, deadline=None)
@given(
    B=st.integers(1, 256),
    half=st.integers(1, 1024),
    P=st.integers(1, 200_000),
    itemsize=st.sampled_from([2, 4, 8]),
    last=st.booleans(),
    d_last=st.sampled_from([None, False, True]),
    programs=st.integers(1, 2000),
)
def test_plans_cover_every_pixel_once(B, half, P, itemsize, last, d_last, programs):
    one = plan(B, 2 * half, P, itemsize, last, d_last)
    for kernel in ("pool", "scale") if d_last is None else ("grad_pool", "grad_input"):
        tiles = one.tiles_of(kernel)
        each, splits = one.split(kernel, B, programs)
        assert (splits - 1) * each * tiles.BP < P <= splits * each * tiles.BP
        held = one.BC * tiles.BP
        assert held <= 32 * tiles.warps * 64  # by threads
    assert P <= one.S * one.share_tiles * one.second.BP < P + one.S * one.second.BP
    assert one.BC >= one.C
    assert P % one.VEC == 0
    cuts = [n for tiles in (one.first, one.second) for n in (tiles.K, tiles.T, tiles.V, tiles.warps)]
    for size in (one.BC, one.S, one.BR, one.BZ, one.BU, one.BS, one.gate_warps, *cuts):
        assert size & (size - 1) == 0
        assert size > 0
    rows, columns = one.BC, max(16, one.BC // one.S)
    weights = max(one.BR * rows, one.BZ * rows // 2, one.BU * columns, one.BS * columns)
    assert weights <= 32 * one.gate_warps * 128
    assert max(one.first.warps, one.second.warps, one.gate_warps) <= 16


@settings(max_examples=200, deadline=None)
@given(
    B=st.integers(1, 256),
    half=st.integers(1, 1024),
    P=st.integers(1, 200_000),
    paper=st.booleans(),
    multiprocessors=st.integers(1, 200),
)
def test_programs_that_wait_for_each_other_find_room(B, half, P, paper, multiprocessors):
    """Those of one sample all at once, on any device, with as many registers as they may take: else they would wait for
    ever.
    """
    one = plan(B, 2 * half, P, 2, False, None, paper, multiprocessors)
    options, together = one.options("gate"), one.S
    assert together <= multiprocessors * residents(options.get("maxnreg", 255), 32 * options["num_warps"], 0)
    rows = max(2 * one.BR, one.BZ)
    assert rows <= max(16, one.BC // together)  # channels of each
    assert one.split("pool", B)[0] == one.share_tiles or not one.small


@settings(max_examples=200, deadline=None)
@given(B=st.integers(1, 64), P=st.integers(1 << 16, 200_000), programs=st.integers(1, 2000))
def test_a_pass_is_shared_by_as_many_as_have_room(B, P, programs):
    """No more than these, if there are so many samples; and as few tiles each as that allows."""
    one = plan(B, 64, P, 2, True)
    tiles, splits = one.split("pool", B, programs)
    assert splits <= max(1, programs // B)
    pieces = -(-P // one.first.BP)
    assert tiles == 1 or -(-pieces // (tiles - 1)) > max(1, programs // B)


@settings(max_examples=200, deadline=None)
@given(half=st.integers(1, 1024), P=st.integers(1, 200_000), itemsize=st.sampled_from([2, 4]), last=st.booleans())
def test_registers_at_will_are_what_a_multiprocessor_has(half, P, itemsize, last):
    """And then twice as many threads hold them, where each of these may have 255."""
    one = plan(8, 2 * half, P, itemsize, last, last)
    for name in ("pool", "gate", "scale", "grad_pool", "grad_gate", "grad_input", "grad_weight"):
        usual, more = one.options(name), one.options(name, 1)
        assert more["num_warps"] == usual["num_warps"]
        assert more["maxnreg"] == min(255, REGISTERS // (32 * more["num_warps"]))
        assert usual.get("maxnreg", more["maxnreg"]) == more["maxnreg"]
        most = one.options(name, 2)
        assert most["num_warps"] == (2 if usual["num_warps"] <= 4 else 1) * usual["num_warps"]
        assert most["maxnreg"] == min(255, REGISTERS // (32 * most["num_warps"]))


def test_a_row_that_begins_anywhere_is_taken_in_whole_sectors():
    """Of an odd contiguous map a program takes at least 32 bytes of each row; small samples have no such rows."""
    for C in (2, 48, 512, 2048):
        for itemsize in (2, 4):
            for d_last in (None, False):
                one = plan(64, C, 65 * 65, itemsize, False, d_last)
                for kernel in ("pool", "scale"):
                    assert one.split(kernel, 64, 1 << 20)[0] * one.tiles_of(kernel).BP * itemsize >= 32
