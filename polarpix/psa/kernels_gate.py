"""The Triton kernel between the two passes of the fused forward: from the sums of ``pool`` to the gates' vectors.

S programs share a sample. A matrix of the block is read by parts, each once a sample; between the stages the programs
meet, as each needs what all of them made. Triton's interpreter runs one program after the other, so there each stage is
a launch of its own: ``BEGIN`` and ``END`` say which stages a launch does.

    0 c and m (small samples: with 1)   1 v (and the query q')   2 z (and u)   in sequence 3 q' of g*m   4 u
    released form, next: the softmax sums of the logits over a share of the pixels
    small samples, last: the second pass over x
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.kernels import channel_gate, logit_sums, scale_share
from polarpix.psa.kernels_dot import logit_tiles
from polarpix.psa.tiles import (
    A_MAX,
    A_SUM,
    BETA,
    COUNTS,
    LOWEST,
    MET,
    T_MAX,
    T_SUM,
    arrive,
    before_last,
    before_next,
    load_channels,
    load_vector,
    share,
    store_channels,
    store_vector,
    wait,
)

__all__ = ["gate", "load_block", "load_rows", "make_rows", "stages"]


def stages(form: str, layout: str, small: bool) -> int:
    """How many stages a kernel between the passes has in the forward."""
    return (5 if layout == "sequential" else 3) + (form == "released") + small


@triton.jit
def load_rows(W, r, stop, n: tl.constexpr, BN: tl.constexpr):
    """The rows r of a weight with rows of n numbers, as [r, BN], zero from row ``stop`` on."""
    i = tl.arange(0, BN)
    return tl.load(W + r[:, None] * n + i[None, :], mask=(r < stop)[:, None] & (i < n)[None, :], other=0.0)


@triton.jit
def load_block(W, r, i, rows, n: tl.constexpr):
    """W[r, i] of a weight [rows, n], zero outside."""
    return tl.load(W + r[:, None] * n + i[None, :], mask=(r < rows)[:, None] & (i < n)[None, :], other=0.0)


@triton.jit
def join(
    partial, row, c0, keeps, splits, P, C: tl.constexpr, BCS: tl.constexpr, BS: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """c and m [BCS] of the channels from c0 on from all splits of the sample, taken in their order.

    With ``keeps`` they go to the state row, and A_MAX and A_SUM with those of the first channels.
    """
    L: tl.constexpr = 2 * C + 4
    c = c0 + tl.arange(0, BCS)
    i = tl.arange(0, BS)
    tops = tl.full((BS,), LOWEST, ACC)
    for s0 in range(0, splits, BS):
        tops = tl.maximum(tops, tl.load(partial + (s0 + i) * L, mask=s0 + i < splits, other=LOWEST))
    top = tl.max(tops, 0)
    total = tl.zeros((), ACC)
    pooled = tl.zeros((BCS,), ACC)
    summed = tl.zeros((BCS,), ACC)
    for s0 in range(0, splits, BS):
        inside = s0 + i < splits
        rows = partial + (s0 + i) * L
        mask = inside[:, None] & (c < C)[None, :]
        weight = tl.exp(tl.load(rows, mask=inside, other=LOWEST) - top)  # [BS]
        total += tl.sum(weight * tl.load(rows + 1, mask=inside, other=0.0), 0)
        pooled += tl.sum(weight[:, None] * tl.load(rows[:, None] + 4 + c[None, :], mask=mask, other=0.0), 0)
        summed += tl.sum(tl.load(rows[:, None] + 4 + C + c[None, :], mask=mask, other=0.0), 0)
    pooled /= total
    summed /= P
    if keeps:
        store_vector(row, pooled, c, C)
        store_vector(row + C, summed, c, C)
        if c0 == 0:
            tl.store(row + 6 * C + A_MAX, top)
            tl.store(row + 6 * C + A_SUM, total)
    return pooled, summed


@triton.jit
def make_rows(
    out, tile, W, bias, vector, first, last,
    n: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out[r] = W[r] vector + bias[r] for the rows first .. last of a weight with rows of n numbers, and a vector [BN].

    ``tile`` holds the first BR of them.
    """
    for r0 in range(first, last, BR):
        r = r0 + tl.arange(0, BR)
        product = tl.sum(tile.to(ACC) * vector[None, :], 1)
        tile = load_rows(W, r + BR, last, n, BN)
        if PAPER:
            product += load_vector(bias, r, last, ACC)
        store_vector(out, product, r, last)


@triton.jit
def make_u(
    row, s, tile, W_v2, b_v2,
    C: tl.constexpr, BH: tl.constexpr, BCS: tl.constexpr, BU: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """u = W_v'^T t, this program's channels, with t the softmax of q' (paper) or q' itself (released).

    ``tile`` holds the first BU rows of W_v'.
    """
    H: tl.constexpr = C // 2
    i = tl.arange(0, BH)
    q = tl.load(row + 5 * C + H + i, mask=i < H, other=float("-inf"))
    top = tl.zeros((), ACC)
    total = tl.full((), 1.0, ACC)
    beta = tl.zeros((), ACC)
    if PAPER:
        top = tl.max(q, 0)
        t = tl.exp(q - top)
        total = tl.sum(t, 0)
        beta = tl.sum(t * load_vector(b_v2, i, H, ACC), 0) / total
    c = s * BCS + tl.arange(0, BCS)
    u = tl.zeros((BCS,), ACC)
    for r0 in range(0, H, BU):
        r = r0 + tl.arange(0, BU)
        weight = tl.load(row + 5 * C + H + r, mask=r < H, other=float("-inf") if PAPER else 0.0)
        if PAPER:
            weight = tl.exp(weight - top)
        u += tl.sum(tile.to(ACC) * weight[:, None], 0)
        tile = load_block(W_v2, r + BU, c, H, C)
    store_vector(row + 4 * C, u / total, c, C)
    if s == 0:
        tl.store(row + 6 * C + BETA, beta)
        if PAPER:
            tl.store(row + 6 * C + T_MAX, top)
            tl.store(row + 6 * C + T_SUM, total)


@triton.jit(do_not_specialize=COUNTS)
def gate(
    x, out, partial, state, sums, W_v, b_v, W_z, b_z, ln_w, ln_b, W_q2, b_q2, W_v2, b_v2, factor, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, S: tl.constexpr,
    BR: tl.constexpr, BZ: tl.constexpr, BU: tl.constexpr, BS: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, STREAM: tl.constexpr, AHEAD: tl.constexpr, STAGES: tl.constexpr, SMALL: tl.constexpr,
    PAPER: tl.constexpr, SEQ: tl.constexpr, CHAIN: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Both gates of a sample by S programs; ``tiles`` tiles of pixels are each one's share in passes over x."""
    P = PV * VEC
    BH: tl.constexpr = BC // 2
    BCS: tl.constexpr = max(BC // S, 16)
    BHS: tl.constexpr = BCS // 2
    b, s, first, last = share(tl.program_id(0), S, tiles, P, K * T * V)
    partial += b * splits * (2 * C + 4)
    row = state + b * (7 * C + 8)
    met = row + 6 * C + MET
    LESS: tl.constexpr = 1 if SMALL else 0  # one wait
    H: tl.constexpr = C // 2
    h0, h1 = s * BHS, tl.minimum((s + 1) * BHS, H)  # rows of this program, of weights of h rows
    c0, c1 = s * BCS, tl.minimum((s + 1) * BCS, C)
    c, h = tl.arange(0, BC), tl.arange(0, BH)
    r, z, u = tl.arange(0, BR), tl.arange(0, BZ), tl.arange(0, BU)
    mine = c0 + tl.arange(0, BCS)
    before_next(CHAIN)
    before_last(CHAIN)
    # What does not depend on others is asked for while they are waited for.
    if not SMALL:
        if BEGIN <= 0:
            join(partial, row, c0, True, splits, P, C, BCS, BS, ACC)
        if BEGIN <= 0 and END > 1:
            arrive(met, S)
    if BEGIN <= 1 and END > 1:
        value = load_rows(W_v, h0 + r, h1, C, BC)
        if not SEQ:
            query = load_rows(W_q2, h0 + r, h1, C, BC)
    if BEGIN <= 1 and END > 1:
        if SMALL:  # of few splits: each program joins them for itself and waits for none
            pooled, m = join(partial, row, 0, s == 0, splits, P, C, BC, BS, ACC)
        else:
            if BEGIN <= 0:
                wait(met, S, S)
            pooled, m = load_vector(row, c, C, ACC), load_vector(row + C, c, C, ACC)
        make_rows(row + 5 * C, value, W_v, b_v, pooled, h0, h1, C, BC, BR, PAPER, ACC)
        if not SEQ:
            make_rows(row + 5 * C + H, query, W_q2, b_q2, m, h0, h1, C, BC, BR, PAPER, ACC)
    if BEGIN <= 1 and END > 2:
        arrive(met, S)
    if BEGIN <= 2 and END > 2:
        up = load_rows(W_z, c0 + z, c1, H, BH)
        if not SEQ:
            back = load_block(W_v2, u, mine, H, C)
    if BEGIN <= 1 and END > 2:
        wait(met, (2 - LESS) * S, S)
    if BEGIN <= 2 and END > 2:
        v = load_vector(row + 5 * C, h, H, ACC)
        make_rows(row + 6 * C + 8, up, W_z, b_z, v, c0, c1, H, BH, BZ, PAPER, ACC)
        if not SEQ:
            make_u(row, s, back, W_v2, b_v2, C, BH, BCS, BU, PAPER, ACC)
    NEXT: tl.constexpr = 5 if SEQ else 3
    if SEQ:
        if BEGIN <= 2 and END > 3:
            arrive(met, S)
        if BEGIN <= 3 and END > 3:
            query = load_rows(W_q2, h0 + r, h1, C, BC)
        if BEGIN <= 2 and END > 3:
            wait(met, (3 - LESS) * S, S)
        if BEGIN <= 3 and END > 3:
            g, _, _ = channel_gate(row, ln_w, ln_b, C, BC, PAPER, ACC)
            y = tl.reshape(g * load_channels(row + C, C, BC, ACC), (BC,))
            make_rows(row + 5 * C + H, query, W_q2, b_q2, y, h0, h1, C, BC, BR, PAPER, ACC)
        if BEGIN <= 3 and END > 4:
            arrive(met, S)
        if BEGIN <= 4 and END > 4:
            back = load_block(W_v2, u, mine, H, C)
        if BEGIN <= 3 and END > 4:
            wait(met, (4 - LESS) * S, S)
        if BEGIN <= 4 and END > 4:
            make_u(row, s, back, W_v2, b_v2, C, BH, BCS, BU, PAPER, ACC)
    if not PAPER:
        if BEGIN < NEXT and END > NEXT:
            arrive(met, S)
            wait(met, (NEXT - LESS) * S, S)
        if BEGIN <= NEXT and END > NEXT:
            part = sums + (b * S + s) * 2
            if STAGES:
                weight = load_vector(row + 4 * C, c, C, ACC)
                top, total = logit_tiles(x + b * C * P, weight, first, last, P, C, BC, K * T * V, LAST, WIDE, STAGES)
                tl.store(part, top)
                tl.store(part + 1, total)
            else:
                weight = load_channels(row + 4 * C, C, BC, ACC)
                top, total = logit_sums(x + b * C * P, weight, first, last, P, C, BC, K, T, V, LAST, WIDE, AHEAD, ACC)
                store_channels(part, top, 1, 1)
                store_channels(part + 1, total, 1, 1)
    if SMALL:
        FINAL: tl.constexpr = NEXT if PAPER else NEXT + 1
        if BEGIN < FINAL and END > FINAL:
            arrive(met, S)
            wait(met, (FINAL - LESS) * S, S)
        if BEGIN <= FINAL and END > FINAL:
            scale_share(
                x + b * C * P, out + b * C * P, row, sums + b * S * 2, S, ln_w, ln_b, factor, s == 0, first, last, P,
                C, BC, K, T, V, S, LAST, WIDE, STREAM, AHEAD, PAPER, SEQ, 0, False, ACC,
            )  # fmt: skip
