"""Block sizes for any map."""

from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.psa.plans import REGISTERS, plan


@settings(max_examples=200, deadline=None)
@given(
    B=st.integers(1, 256),
    half=st.integers(1, 1024),
    P=st.integers(1, 200_000),
    itemsize=st.sampled_from([2, 4, 8]),
    last=st.booleans(),
    d_last=st.sampled_from([None, False, True]),
)
def test_plans_cover_every_pixel_once(B, half, P, itemsize, last, d_last):
    one = plan(B, 2 * half, P, itemsize, last, d_last)
    per_split = one.tiles * one.BP
    assert (one.splits - 1) * per_split < P <= one.splits * per_split
    assert P <= one.S * one.share_tiles * one.BP < P + one.S * one.BP
    assert one.BC >= one.C
    assert P % one.VEC == 0
    for size in (one.BC, one.K, one.T, one.V, one.S, one.BR, one.BZ, one.BU, one.BS, one.warps, one.gate_warps):
        assert size & (size - 1) == 0
        assert size > 0
    held = one.BC * one.BP
    assert held <= 32 * one.warps * 64  # by threads
    rows, columns = one.BC, one.BC // one.S
    weights = max(one.BR * rows, one.BZ * rows // 2, one.BU * columns, one.BS * columns)
    assert weights <= 32 * one.gate_warps * 128
    assert max(one.warps, one.gate_warps) <= 16


@settings(max_examples=200, deadline=None)
@given(
    B=st.integers(1, 256),
    half=st.integers(1, 1024),
    P=st.integers(1, 200_000),
    paper=st.booleans(),
    multiprocessors=st.integers(1, 200),
)
def test_programs_that_wait_for_each_other_find_room(B, half, P, paper, multiprocessors):
    """Of one sample no more than there are multiprocessors; of all together too, if there are not more samples."""
    one = plan(B, 2 * half, P, 2, False, None, paper, multiprocessors)
    together = one.S
    assert together <= multiprocessors
    assert B * together <= max(B, multiprocessors)
    assert one.BC % one.S == 0
    assert one.BR * one.S <= one.BC // 2  # each has whole blocks of rows, of both kinds of matrices
    assert one.BZ * one.S <= one.BC
    if one.small:
        assert one.tiles == one.share_tiles


@settings(max_examples=200, deadline=None)
@given(half=st.integers(1, 1024), P=st.integers(1, 200_000), itemsize=st.sampled_from([2, 4]), last=st.booleans())
def test_registers_at_will_are_what_a_multiprocessor_has(half, P, itemsize, last):
    one = plan(8, 2 * half, P, itemsize, last, last)
    for name in ("pool", "gate", "scale", "grad_pool", "grad_gate", "grad_input", "grad_weight"):
        usual, more = one.options(name), one.options(name, at_will=True)
        assert more["num_warps"] == usual["num_warps"]
        assert more["maxnreg"] == min(255, REGISTERS // (32 * more["num_warps"]))
        assert usual.get("maxnreg", more["maxnreg"]) == more["maxnreg"]


def test_a_row_that_begins_anywhere_is_taken_in_whole_sectors():
    """Of an odd contiguous map a program takes at least 32 bytes of each row; small samples have no such rows."""
    for C in (2, 48, 512, 2048):
        for itemsize in (2, 4):
            for d_last in (None, False):
                one = plan(64, C, 65 * 65, itemsize, False, d_last)
                assert one.tiles * one.BP * itemsize >= 32
