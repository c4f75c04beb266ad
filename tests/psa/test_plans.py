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
    per_part = one.part_tiles * one.BP
    assert (one.parts - 1) * per_part < P <= one.parts * per_part
    assert min(P, one.C) <= per_part
    assert one.BC >= one.C
    assert P % one.VEC == 0
    for size in (one.BC, one.BP, one.BR, one.BS, one.warps):
        assert size & (size - 1) == 0
        assert size > 0
    assert one.BC * one.BP <= 16384
    assert one.warps <= 16


@settings(max_examples=200, deadline=None)
@given(half=st.integers(1, 1024), P=st.integers(1, 200_000), itemsize=st.sampled_from([2, 4]), last=st.booleans())
def test_registers_at_will_are_what_a_multiprocessor_has(half, P, itemsize, last):
    one = plan(8, 2 * half, P, itemsize, last, last)
    for name in ("pool", "scale", "logits", "gate", "grad_pool", "grad_gate", "grad_input", "forward_small",
                 "backward_small", "grad_weight"):  # fmt: skip
        usual, more = one.options(name), one.options(name, at_will=True)
        assert more["num_warps"] == usual["num_warps"]
        assert more["maxnreg"] == min(255, REGISTERS // (32 * more["num_warps"]))
        assert usual.get("maxnreg", more["maxnreg"]) == more["maxnreg"]


def test_a_row_that_begins_anywhere_is_taken_in_whole_sectors():
    """Of an odd contiguous map a program takes at least 32 bytes of each row, where there are so many."""
    for C in (2, 48, 512, 2048):
        for itemsize in (2, 4):
            for d_last in (None, False):
                one = plan(64, C, 65 * 65, itemsize, False, d_last)
                assert one.tiles * one.BP * itemsize >= 32
    assert plan(1, 2048, 5, 2, False).tiles * plan(1, 2048, 5, 2, False).BP >= 5
