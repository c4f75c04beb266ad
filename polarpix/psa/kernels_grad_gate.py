"""The Triton kernel between the two passes of the fused backward: from the sums of ``grad_pool`` to the gradients of
all small vectors.

S programs share a sample, as in :mod:`polarpix.psa.kernels_gate`:

    0 dg and du (small samples: with 1)   1 dt (and dz, dv)   2 dm (and dc)   in sequence 3 dz, dv   4 dc
    small samples, last: the second pass over x and d
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.kernels_gate import load_block, load_rows
from polarpix.psa.kernels_grad import input_share
from polarpix.psa.tiles import (
    COUNTS,
    RSTD,
    T_MAX,
    T_SUM,
    arrive,
    before_last,
    before_next,
    load_vector,
    share,
    store_vector,
    wait,
)

__all__ = ["grad_gate", "stages"]


def stages(layout: str, small: bool) -> int:
    """How many stages a kernel between the passes has in the backward."""
    return (5 if layout == "sequential" else 3) + small


@triton.jit
def join_gradients(
    partial, row, out, c0, keeps, splits,
    C: tl.constexpr, BCS: tl.constexpr, BS: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dg and du [BCS] of the channels from c0 on, and dbeta, from all splits of the sample, taken in their order.

    With ``keeps`` they go to the grads row, and dbeta with those of the first channels.
    """
    L: tl.constexpr = 3 * C + 4
    c = c0 + tl.arange(0, BCS)
    i = tl.arange(0, BS)
    dbeta = tl.zeros((), ACC)
    dg = tl.zeros((BCS,), ACC)
    du = tl.zeros((BCS,), ACC)
    sigma_x = tl.zeros((BCS,), ACC)
    for s0 in range(0, splits, BS):
        inside = s0 + i < splits
        rows = partial + (s0 + i) * L
        at = rows[:, None] + 4 + c[None, :]
        mask = inside[:, None] & (c < C)[None, :]
        dbeta += tl.sum(tl.load(rows, mask=inside, other=0.0), 0)
        dg += tl.sum(tl.load(at, mask=mask, other=0.0), 0)
        du += tl.sum(tl.load(at + C, mask=mask, other=0.0), 0)
        if not PAPER:
            sigma_x += tl.sum(tl.load(at + 2 * C, mask=mask, other=0.0), 0)
    if not PAPER:
        du -= dbeta * sigma_x
    if SEQ:
        dg += load_vector(row + 4 * C, c, C, ACC) * du
        du *= load_vector(row + 3 * C, c, C, ACC)
    if keeps:
        store_vector(out + 8 * C + 8, dg, c, C)
        store_vector(out + 4 * C, du, c, C)
        if c0 == 0:
            tl.store(out + 7 * C + C // 2, dbeta)
    return dg, du, dbeta


@triton.jit
def load_query(row, r, C: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr):
    """The query t of the rows r, from what the forward kept of it."""
    t = load_vector(row + 5 * C + C // 2, r, C // 2, ACC)
    if PAPER:
        t = tl.exp(t - tl.load(row + 6 * C + T_MAX)) / tl.load(row + 6 * C + T_SUM)
    return tl.where(r < C // 2, t, 0.0)


@triton.jit
def make_dt(
    row, out, du, dbeta, tile, W_v2, b_v2, first, last,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dt = W_v' du + dbeta b_v', this program's rows; and t, for the weights' gradients."""
    H: tl.constexpr = C // 2
    for r0 in range(first, last, BR):
        r = r0 + tl.arange(0, BR)
        dt = tl.sum(tile.to(ACC) * du[None, :], 1)
        tile = load_rows(W_v2, r + BR, last, C, BC)
        if PAPER:
            dt += dbeta * load_vector(b_v2, r, H, ACC)
        store_vector(out + 7 * C, load_query(row, r, C, PAPER, ACC), r, last)
        store_vector(out + 7 * C + H + 2, dt, r, last)


@triton.jit
def make_dv(
    row, out, dg, s, tile, W_z, ln_w, first, last,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dn and dz through sigmoid and LayerNorm, and of dv = W_z^T dz this program's rows."""
    H: tl.constexpr = C // 2
    c = tl.arange(0, BC)
    g = load_vector(row + 3 * C, c, C, ACC)
    dn = dg * g * (1.0 - g)
    dz = dn
    if PAPER:
        zhat = load_vector(row + 2 * C, c, C, ACC)
        dz = dn * load_vector(ln_w, c, C, ACC)
        dz -= tl.sum(dz, 0) / C + zhat * (tl.sum(dz * zhat, 0) / C)
        dz = tl.where(c < C, dz * tl.load(row + 6 * C + RSTD), 0.0)
    if s == 0:
        store_vector(out + 2 * C, dn, c, C)
        store_vector(out + 3 * C, dz, c, C)
    for r0 in range(first, last, BR):
        r = r0 + tl.arange(0, BR)
        store_vector(out + 6 * C, tl.sum(tile.to(ACC) * dz[:, None], 0), r, last)
        tile = load_block(W_z, c, r + BR, C, H)


@triton.jit
def make_dm(
    row, out, s, tile, W_q2, P,
    C: tl.constexpr, BH: tl.constexpr, BCS: tl.constexpr, BU: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """dh, the gradient of the query before its softmax, and dm = W_q'^T dh of this program's channels."""
    H: tl.constexpr = C // 2
    i = tl.arange(0, BH)
    dt = load_vector(out + 7 * C + H + 2, i, H, ACC)
    t_dt = tl.zeros((), ACC)
    if PAPER:
        t = load_vector(out + 7 * C, i, H, ACC)
        t_dt = tl.sum(t * dt, 0)
        dt = t * (dt - t_dt)
    if s == 0:
        store_vector(out + 6 * C + H, dt, i, H)
    c = s * BCS + tl.arange(0, BCS)
    dm = tl.zeros((BCS,), ACC)
    for r0 in range(0, H, BU):
        r = r0 + tl.arange(0, BU)
        dh = load_vector(out + 7 * C + H + 2, r, H, ACC)
        if PAPER:
            dh = load_vector(out + 7 * C, r, H, ACC) * (dh - t_dt)
        dm += tl.sum(tile.to(ACC) * dh[:, None], 0)
        tile = load_block(W_q2, r + BU, c, H, C)
    m = load_vector(row + C, c, C, ACC)
    if SEQ:
        g = load_vector(row + 3 * C, c, C, ACC)
        store_vector(out + 8 * C + 8, load_vector(out + 8 * C + 8, c, C, ACC) + dm * m, c, C)
        dm *= g
        m *= g
    store_vector(out + 5 * C, m, c, C)
    store_vector(out + C, dm / P, c, C)


@triton.jit
def make_dc(out, s, tile, W_v, C: tl.constexpr, BCS: tl.constexpr, BU: tl.constexpr, ACC: tl.constexpr):
    """dc = W_v^T dv, this program's channels."""
    H: tl.constexpr = C // 2
    c = s * BCS + tl.arange(0, BCS)
    dc = tl.zeros((BCS,), ACC)
    for r0 in range(0, H, BU):
        r = r0 + tl.arange(0, BU)
        dc += tl.sum(tile.to(ACC) * load_vector(out + 6 * C, r, H, ACC)[:, None], 0)
        tile = load_block(W_v, r + BU, c, H, C)
    store_vector(out, dc, c, C)


@triton.jit(do_not_specialize=COUNTS)
def grad_gate(
    x, d, dx, W_q, partial, state, grads, dw, W_v, W_z, ln_w, W_q2, W_v2, b_v2, factor, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, S: tl.constexpr,
    BR: tl.constexpr, BU: tl.constexpr, BS: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr, D_LAST: tl.constexpr,
    WIDE: tl.constexpr, AHEAD: tl.constexpr, SMALL: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr,
    CHAIN: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Between the passes, S programs a sample; ``tiles`` tiles of pixels are each one's share in a pass over x."""
    P = PV * VEC
    BH: tl.constexpr = BC // 2
    BCS: tl.constexpr = max(BC // S, 16)
    BHS: tl.constexpr = BCS // 2
    b, s, first, last = share(tl.program_id(0), S, tiles, P, K * T * V)
    partial += b * splits * (3 * C + 4)
    row = state + b * (7 * C + 8)
    out = grads + b * (9 * C + 8)
    met = out + 8 * C + 4
    LESS: tl.constexpr = 1 if SMALL else 0  # one wait
    H: tl.constexpr = C // 2
    h0, h1 = s * BHS, tl.minimum((s + 1) * BHS, H)  # rows of this program, of weights of h rows
    c, r, u = tl.arange(0, BC), tl.arange(0, BR), tl.arange(0, BU)
    mine = s * BCS + tl.arange(0, BCS)
    before_next(CHAIN)
    before_last(CHAIN)
    # What does not depend on others is asked for while they are waited for.
    if not SMALL:
        if BEGIN <= 0:
            join_gradients(partial, row, out, s * BCS, True, splits, C, BCS, BS, PAPER, SEQ, ACC)
        if BEGIN <= 0 and END > 1:
            arrive(met, S)
    if BEGIN <= 1 and END > 1:
        value = load_rows(W_v2, h0 + r, h1, C, BC)
        if not SEQ:
            up = load_block(W_z, c, h0 + r, C, H)
    if BEGIN <= 1 and END > 1:
        if SMALL:  # of few splits: each program joins them for itself and waits for none
            dg, du, dbeta = join_gradients(partial, row, out, 0, s == 0, splits, C, BC, BS, PAPER, SEQ, ACC)
        else:
            if BEGIN <= 0:
                wait(met, S, S)
            dg, du = load_vector(out + 8 * C + 8, c, C, ACC), load_vector(out + 4 * C, c, C, ACC)
            dbeta = tl.load(out + 7 * C + H)
        make_dt(row, out, du, dbeta, value, W_v2, b_v2, h0, h1, C, BC, BR, PAPER, ACC)
        if not SEQ:
            make_dv(row, out, dg, s, up, W_z, ln_w, h0, h1, C, BC, BR, PAPER, ACC)
    if BEGIN <= 1 and END > 2:
        arrive(met, S)
    if BEGIN <= 2 and END > 2:
        query = load_block(W_q2, u, mine, H, C)
        if not SEQ:
            down = load_block(W_v, u, mine, H, C)
    if BEGIN <= 1 and END > 2:
        wait(met, (2 - LESS) * S, S)
    if BEGIN <= 2 and END > 2:
        make_dm(row, out, s, query, W_q2, P, C, BH, BCS, BU, PAPER, SEQ, ACC)
        if not SEQ:
            make_dc(out, s, down, W_v, C, BCS, BU, ACC)
    FINAL: tl.constexpr = 5 if SEQ else 3
    if SEQ:
        if BEGIN <= 2 and END > 3:
            arrive(met, S)
        if BEGIN <= 3 and END > 3:
            up = load_block(W_z, c, h0 + r, C, H)
        if BEGIN <= 2 and END > 3:
            wait(met, (3 - LESS) * S, S)
        if BEGIN <= 3 and END > 3:
            dg = load_vector(out + 8 * C + 8, c, C, ACC)
            make_dv(row, out, dg, s, up, W_z, ln_w, h0, h1, C, BC, BR, PAPER, ACC)
        if BEGIN <= 3 and END > 4:
            arrive(met, S)
        if BEGIN <= 4 and END > 4:
            down = load_block(W_v, u, mine, H, C)
        if BEGIN <= 3 and END > 4:
            wait(met, (4 - LESS) * S, S)
        if BEGIN <= 4 and END > 4:
            make_dc(out, s, down, W_v, C, BCS, BU, ACC)
    if SMALL:
        if BEGIN < FINAL and END > FINAL:
            arrive(met, S)
            wait(met, (FINAL - LESS) * S, S)
        if BEGIN <= FINAL and END > FINAL:
            at = b * C * P
            input_share(
                x + at, d + at, dx + at, W_q, row, out, dw + (b * S + s) * C, factor, first, last, P,
                C, BC, K, T, V, LAST, D_LAST, WIDE, AHEAD, PAPER, SEQ, 0, False, ACC,
            )  # fmt: skip
