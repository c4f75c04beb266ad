"""The Triton kernels of the fused backward; see :mod:`polarpix.psa.kernels` for the forward.

    grad_pool -> grad_gate -> grad_input -> grad_weight

or, where one program holds a whole sample, ``backward_small`` in place of the first three; ``grad_weight`` lies in
:mod:`polarpix.psa.kernels_weight`. Two passes read x and
d = dL/dout; gates and logits are computed again from the state row, so the forward keeps no map. A leading d in a name
is the gradient of what follows. The formulas are derived in docs/derivation.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.tiles import (
    A_MAX,
    A_SUM,
    BETA,
    COUNTS,
    RSTD,
    T_MAX,
    T_SUM,
    load_columns,
    load_rows,
    load_tile,
    load_vector,
    share,
    sigmoid,
    store_tile,
    store_vector,
)

__all__ = ["backward_small", "grad_gate", "grad_input", "grad_pool"]


@triton.jit
def spatial_terms(
    tile, d, p, P, g, u, beta, top, total,
    PAPER: tl.constexpr, SEQ: tl.constexpr,
):  # fmt: skip
    """The spatial gate s [BP], its weight sigma (released) and the gradient of its sigmoid's input [BP]."""
    e = tl.sum(tile * u[:, None], 0) + beta
    if not PAPER:
        e = tl.where(p < P, tl.exp(e - top) / total, 0.0)
    s = sigmoid(e)
    if SEQ:
        d *= g[:, None]
    ds = tl.sum(d * tile, 0)
    return s, e, ds * s * (1.0 - s)


@triton.jit
def grad_sums(
    x, d, row, factor, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, D_LAST: tl.constexpr, WIDE: tl.constexpr,
    PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Over the pixels first .. last: dg [BC], sum of de*x [BC], dbeta; released form with de = sigma*dsigma, and the
    sum of sigma*x [BC].
    """
    g = load_vector(row + 3 * C, C, BC, ACC)
    u = load_vector(row + 4 * C, C, BC, ACC)
    beta = tl.load(row + 6 * C + BETA)
    top = tl.load(row + 6 * C + T_MAX)
    total = tl.load(row + 6 * C + T_SUM)
    if SEQ:
        u *= g
    dg = tl.zeros((BC,), ACC)
    dex = tl.zeros((BC,), ACC)
    sigma_x = tl.zeros((BC,), ACC)
    dbeta = tl.zeros((), ACC)
    for p0 in range(first, last, BP):
        p = p0 + tl.arange(0, BP)
        tile = load_tile(x, p, P, C, BC, LAST, WIDE, ACC)  # [BC, BP]
        dout = load_tile(d, p, P, C, BC, D_LAST, WIDE, ACC) * factor
        s, sigma, de = spatial_terms(tile, dout, p, P, g, u, beta, top, total, PAPER, SEQ)
        if SEQ:
            dg += tl.sum(dout * tile * s[None, :], 1)
        else:
            dg += tl.sum(dout * tile, 1)
        if not PAPER:
            sigma_x += tl.sum(tile * sigma[None, :], 1)
            de *= sigma
        dex += tl.sum(tile * de[None, :], 1)
        dbeta += tl.sum(de, 0)
    return dg, dex, sigma_x, dbeta


@triton.jit
def gate_gradients(
    dg, dex, sigma_x, dbeta, row, out, W_v, W_z, ln_w, W_q2, W_v2, b_v2, P,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Backward of all between the passes, from the sums of pass 1 to the grads row ``out``."""
    g = load_vector(row + 3 * C, C, BC, ACC)
    du = dex
    if not PAPER:
        du -= dbeta * sigma_x
    if SEQ:
        du *= g
    store_vector(out + 4 * C, du, C, BC)
    tl.store(out + 7 * C + C // 2, dbeta)
    dm = query_gradients(du, dbeta, row, out, W_q2, W_v2, b_v2, C, BC, BR, PAPER, ACC)
    m = load_vector(row + C, C, BC, ACC)
    if SEQ:
        dg += load_vector(row + 4 * C, C, BC, ACC) * dex + dm * m
        dm *= g
        m *= g
    store_vector(out + 5 * C, m, C, BC)
    store_vector(out + C, dm / P, C, BC)
    dn = dg * g * (1.0 - g)
    dz = dn
    if PAPER:
        zhat = load_vector(row + 2 * C, C, BC, ACC)
        dz = dn * load_vector(ln_w, C, BC, ACC)
        dz -= tl.sum(dz, 0) / C + zhat * (tl.sum(dz * zhat, 0) / C)
        dz = tl.where(tl.arange(0, BC) < C, dz * tl.load(row + 6 * C + RSTD), 0.0)
    store_vector(out + 2 * C, dn, C, BC)
    store_vector(out + 3 * C, dz, C, BC)
    dc = tl.zeros((BC,), ACC)
    for r0 in range(0, C // 2, BR):
        r = r0 + tl.arange(0, BR)
        dv = tl.sum(load_columns(W_z, r, C, BC, ACC) * dz[:, None], 0)  # [BR]
        tl.store(out + 6 * C + r, dv, mask=r < C // 2)
        dc += tl.sum(load_rows(W_v, r, C, BC, ACC) * dv[:, None], 0)
    store_vector(out, dc, C, BC)
    tl.store(out + 7 * C + C // 2 + 1, tl.sum(dc * load_vector(row, C, BC, ACC), 0))


@triton.jit
def load_query(row, r, C: tl.constexpr, PAPER: tl.constexpr):
    """The query t of the rows r, from what the forward kept of it."""
    t = tl.load(row + 5 * C + C // 2 + r, mask=r < C // 2, other=0.0)
    if PAPER:
        t = tl.exp(t - tl.load(row + 6 * C + T_MAX)) / tl.load(row + 6 * C + T_SUM)
    return tl.where(r < C // 2, t, 0.0)


@triton.jit
def query_gradients(
    du, dbeta, row, out, W_q2, W_v2, b_v2,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dm [BC] through the query; dh, the gradient of the query before its softmax, goes to the grads row."""
    H: tl.constexpr = C // 2
    t_dt = tl.zeros((), ACC)
    kept = out + 7 * C + H + 2
    for r0 in range(0, H, BR):
        r = r0 + tl.arange(0, BR)
        t = load_query(row, r, C, PAPER)
        dt = tl.sum(load_rows(W_v2, r, C, BC, ACC) * du[None, :], 1)  # [BR]
        if PAPER:
            dt += dbeta * tl.load(b_v2 + r, mask=r < H, other=0.0).to(ACC)
            t_dt += tl.sum(t * dt, 0)
        tl.store(out + 7 * C + r, t, mask=r < H)
        tl.store(kept + r, dt, mask=r < H)
    tl.debug_barrier()  # the threads that read dt are not those that wrote it
    dm = tl.zeros((BC,), ACC)
    for r0 in range(0, H, BR):
        r = r0 + tl.arange(0, BR)
        dh = tl.load(kept + r, mask=r < H, other=0.0)
        if PAPER:
            dh = load_query(row, r, C, PAPER) * (dh - t_dt)
        dm += tl.sum(load_rows(W_q2, r, C, BC, ACC) * dh[:, None], 0)
        tl.store(out + 6 * C + H + r, dh, mask=r < H)
    return dm


@triton.jit
def input_pixels(
    x, d, dx, W_q, row, grads, factor, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, D_LAST: tl.constexpr, WIDE: tl.constexpr,
    PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Writes dx on the pixels first .. last and gives their part of dW_q [BC]."""
    w = load_vector(W_q, C, BC, ACC)
    g = load_vector(row + 3 * C, C, BC, ACC)
    u = load_vector(row + 4 * C, C, BC, ACC)
    beta = tl.load(row + 6 * C + BETA)
    top = tl.load(row + 6 * C + T_MAX)
    total = tl.load(row + 6 * C + T_SUM)
    a_top = tl.load(row + 6 * C + A_MAX)
    a_total = tl.load(row + 6 * C + A_SUM)
    dc = load_vector(grads, C, BC, ACC)
    dm = load_vector(grads + C, C, BC, ACC)
    shift = tl.load(grads + 7 * C + C // 2)
    dc_c = tl.load(grads + 7 * C + C // 2 + 1)
    if SEQ:
        u *= g
    dw = tl.zeros((BC,), ACC)
    for p0 in range(first, last, BP):
        p = p0 + tl.arange(0, BP)
        tile = load_tile(x, p, P, C, BC, LAST, WIDE, ACC)  # [BC, BP]
        dout = load_tile(d, p, P, C, BC, D_LAST, WIDE, ACC) * factor
        s, sigma, de = spatial_terms(tile, dout, p, P, g, u, beta, top, total, PAPER, SEQ)
        if not PAPER:
            de = sigma * (de - shift)
        a = tl.exp(tl.sum(tile * w[:, None], 0) - a_top) / a_total
        a = tl.where(p < P, a, 0.0)
        dr = a * (tl.sum(tile * dc[:, None], 0) - dc_c)
        if BC >= 2048:  # both tiles once more, from the nearest cache: there are no registers to keep them until here
            tl.debug_barrier()
            tile = load_tile(x, p, P, C, BC, LAST, WIDE, ACC)
            dout = load_tile(d, p, P, C, BC, D_LAST, WIDE, ACC) * factor
        dw += tl.sum(tile * dr[None, :], 1)
        if SEQ:
            dout *= g[:, None] * s[None, :]
        else:
            dout *= g[:, None] + s[None, :]
        dout += u[:, None] * de[None, :] + dc[:, None] * a[None, :] + w[:, None] * dr[None, :] + dm[:, None]
        store_tile(dx, dout, p, P, C, BC, LAST, WIDE)
    return dw


@triton.jit(do_not_specialize=COUNTS)
def grad_pool(
    x, d, state, partial, factor, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr, D_LAST: tl.constexpr,
    WIDE: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pass 1 over x and d: each program adds up ``tiles`` tiles into its partial row."""
    P = PV * VEC
    b, split, first, last = share(splits, tiles, P, BP)
    x += b * C * P
    d += b * C * P
    state += b * (6 * C + 8)
    dg, dex, sigma_x, dbeta = grad_sums(
        x, d, state, factor, first, last, P, C, BC, BP, LAST, D_LAST, WIDE, PAPER, SEQ, ACC
    )  # fmt: skip
    row = partial + (b * splits + split) * (3 * C + 4)
    tl.store(row, dbeta)
    store_vector(row + 4, dg, C, BC)
    store_vector(row + 4 + C, dex, C, BC)
    if not PAPER:
        store_vector(row + 4 + 2 * C, sigma_x, C, BC)


@triton.jit(do_not_specialize=COUNTS)
def grad_gate(
    partial, state, grads, W_v, W_z, ln_w, W_q2, W_v2, b_v2, P, splits,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Between the passes, one program a sample: joins the splits in their order."""
    b = tl.program_id(0).to(tl.int64)
    L: tl.constexpr = 3 * C + 4
    partial += b * splits * L
    s = tl.arange(0, BS)
    c = tl.arange(0, BC)
    dbeta = tl.zeros((), ACC)
    dg = tl.zeros((BC,), ACC)
    dex = tl.zeros((BC,), ACC)
    sigma_x = tl.zeros((BC,), ACC)
    for s0 in range(0, splits, BS):
        inside = s0 + s < splits
        rows = partial + (s0 + s) * L
        at = rows[:, None] + 4 + c[None, :]
        mask = inside[:, None] & (c < C)[None, :]
        dbeta += tl.sum(tl.load(rows, mask=inside, other=0.0), 0)
        dg += tl.sum(tl.load(at, mask=mask, other=0.0), 0)
        dex += tl.sum(tl.load(at + C, mask=mask, other=0.0), 0)
        if not PAPER:
            sigma_x += tl.sum(tl.load(at + 2 * C, mask=mask, other=0.0), 0)
    state += b * (6 * C + 8)
    grads += b * (8 * C + 8)
    gate_gradients(
        dg, dex, sigma_x, dbeta, state, grads, W_v, W_z, ln_w, W_q2, W_v2, b_v2, P, C, BC, BR, PAPER, SEQ, ACC
    )


@triton.jit(do_not_specialize=COUNTS)
def grad_input(
    x, d, dx, W_q, state, grads, dw, factor, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr, D_LAST: tl.constexpr,
    WIDE: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pass 2 over x and d: writes dx, and the part of dW_q of each split, dw [B, splits, C]."""
    P = PV * VEC
    b, split, first, last = share(splits, tiles, P, BP)
    x += b * C * P
    d += b * C * P
    dx += b * C * P
    state += b * (6 * C + 8)
    grads += b * (8 * C + 8)
    part = input_pixels(
        x, d, dx, W_q, state, grads, factor, first, last, P, C, BC, BP, LAST, D_LAST, WIDE, PAPER, SEQ, ACC
    )  # fmt: skip
    store_vector(dw + (b * splits + split) * C, part, C, BC)


@triton.jit(do_not_specialize=COUNTS)
def backward_small(
    x, d, dx, W_q, state, grads, dw, W_v, W_z, ln_w, W_q2, W_v2, b_v2, factor, PV,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr,
    D_LAST: tl.constexpr, WIDE: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Both passes and all between in one launch, a program a sample."""
    P = PV * VEC
    b = tl.program_id(0).to(tl.int64)
    x += b * C * P
    d += b * C * P
    dx += b * C * P
    state += b * (6 * C + 8)
    grads += b * (8 * C + 8)
    dg, dex, sigma_x, dbeta = grad_sums(x, d, state, factor, 0, P, P, C, BC, BP, LAST, D_LAST, WIDE, PAPER, SEQ, ACC)
    gate_gradients(
        dg, dex, sigma_x, dbeta, state, grads, W_v, W_z, ln_w, W_q2, W_v2, b_v2, P, C, BC, BR, PAPER, SEQ, ACC
    )
    tl.debug_barrier()  # the grads row is read back by other threads
    part = input_pixels(x, d, dx, W_q, state, grads, factor, 0, P, P, C, BC, BP, LAST, D_LAST, WIDE, PAPER, SEQ, ACC)
    store_vector(dw + b * C, part, C, BC)
