"""The Triton kernels of the fused forward: they see pointers, and know nothing of tensors or modules.

Two passes read the map x, everything between them works on small vectors of one sample:

    pool -> gate (released form: logits, which makes the gates on its way) -> scale

or, where one program holds a whole sample, ``forward_small`` alone, put together from the same functions. How they
share work and memory stands in :mod:`polarpix.psa.tiles`, the letters in :mod:`polarpix.psa.reference`.
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

__all__ = ["forward_small", "gate", "logits", "pool", "scale"]


@triton.jit
def pool_pixels(
    x, W_q, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Running softmax of w_q x over the pixels first .. last: its maximum, sum, sum of a*x [BC], and sum of x [BC]."""
    w = load_vector(W_q, C, BC, ACC)
    top = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)
    pooled = tl.zeros((BC,), ACC)
    summed = tl.zeros((BC,), ACC)
    for p0 in range(first, last, BP):
        p = p0 + tl.arange(0, BP)
        tile = load_tile(x, p, P, C, BC, LAST, WIDE, ACC)  # [BC, BP]
        q = tl.where(p < P, tl.sum(tile * w[:, None], 0), float("-inf"))  # [BP]
        higher = tl.maximum(top, tl.max(q, 0))
        keep = tl.exp(top - higher)
        a = tl.exp(q - higher)
        total = total * keep + tl.sum(a, 0)
        pooled = pooled * keep + tl.sum(tile * a[None, :], 1)
        summed += tl.sum(tile, 1)
        top = higher
    return top, total, pooled, summed


@triton.jit
def make_channel(
    top, total, pooled, row, W_v, b_v, W_z, b_z, ln_w, ln_b,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The channel gate g [BC] from what pooling gave; fills c, zhat, g, v, A_MAX, A_SUM and RSTD of the state row."""
    H: tl.constexpr = C // 2
    c = pooled / total
    tl.store(row + 6 * C + A_MAX, top)
    tl.store(row + 6 * C + A_SUM, total)
    tl.store(row + 6 * C + 6 + tl.arange(0, 2), tl.zeros((2,), ACC))  # spare: an output has no random part
    store_vector(row, c, C, BC)
    z = tl.zeros((BC,), ACC)
    for r0 in range(0, H, BR):
        r = r0 + tl.arange(0, BR)
        v = tl.sum(load_rows(W_v, r, C, BC, ACC) * c[None, :], 1)  # [BR]
        if PAPER:
            v += tl.load(b_v + r, mask=r < H, other=0.0).to(ACC)
        tl.store(row + 5 * C + r, v, mask=r < H)
        z += tl.sum(load_columns(W_z, r, C, BC, ACC) * v[None, :], 1)
    rstd = tl.full((), 1.0, ACC)
    if PAPER:
        inside = tl.arange(0, BC) < C
        z += load_vector(b_z, C, BC, ACC)
        z = tl.where(inside, z - tl.sum(z, 0) / C, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(z * z, 0) / C + 1e-5)
        z *= rstd
    store_vector(row + 2 * C, z, C, BC)
    tl.store(row + 6 * C + RSTD, rstd)
    if PAPER:
        z = z * load_vector(ln_w, C, BC, ACC) + load_vector(ln_b, C, BC, ACC)
    g = sigmoid(z)
    store_vector(row + 3 * C, g, C, BC)
    return g


@triton.jit
def make_query(
    m, g, row, W_q2, b_q2, W_v2, b_v2, fill,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """u = W_v'^T t [BC] and beta = b_v' t, with t the softmax (paper) of W_q' m + b_q', or that itself (released), and
    m the mean of x, times g where SEQ. With ``fill`` also m, u, q', BETA, T_MAX and T_SUM of the state row.
    """
    H: tl.constexpr = C // 2
    if fill:
        store_vector(row + C, m, C, BC)
    if SEQ:
        m *= g
    top = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)
    u = tl.zeros((BC,), ACC)
    beta = tl.zeros((), ACC)
    for r0 in range(0, H, BR):
        r = r0 + tl.arange(0, BR)
        t = tl.sum(load_rows(W_q2, r, C, BC, ACC) * m[None, :], 1)  # [BR]
        if PAPER:
            t += tl.load(b_q2 + r, mask=r < H, other=0.0).to(ACC)
        if fill:
            tl.store(row + 5 * C + H + r, t, mask=r < H)
        if PAPER:
            t = tl.where(r < H, t, float("-inf"))
            higher = tl.maximum(top, tl.max(t, 0))
            keep = tl.exp(top - higher)
            t = tl.exp(t - higher)
            total = total * keep + tl.sum(t, 0)
            beta = beta * keep + tl.sum(t * tl.load(b_v2 + r, mask=r < H, other=0.0).to(ACC), 0)
            u *= keep
            top = higher
        u += tl.sum(load_rows(W_v2, r, C, BC, ACC) * t[:, None], 0)
    if PAPER:
        u /= total
        beta /= total
    if fill:
        store_vector(row + 4 * C, u, C, BC)
        tl.store(row + 6 * C + BETA, beta)
        if PAPER:
            tl.store(row + 6 * C + T_MAX, top)
            tl.store(row + 6 * C + T_SUM, total)
    return u, beta


@triton.jit
def logit_sums(
    x, u, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Maximum and sum of the softmax of u x over the pixels first .. last (released form)."""
    top = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)
    for p0 in range(first, last, BP):
        p = p0 + tl.arange(0, BP)
        tile = load_tile(x, p, P, C, BC, LAST, WIDE, ACC)
        e = tl.where(p < P, tl.sum(tile * u[:, None], 0), float("-inf"))
        higher = tl.maximum(top, tl.max(e, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(e - higher), 0)
        top = higher
    return top, total


@triton.jit
def scale_pixels(
    x, out, g, u, beta, top, total, factor, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = factor * x*(g + s) or factor * x*g*s on the pixels first .. last; u already carries g where SEQ."""
    for p0 in range(first, last, BP):
        p = p0 + tl.arange(0, BP)
        tile = load_tile(x, p, P, C, BC, LAST, WIDE, ACC)
        e = tl.sum(tile * u[:, None], 0) + beta
        if not PAPER:
            e = tl.exp(e - top) / total
        s = sigmoid(e) * factor  # [BP]
        if SEQ:
            tile *= g[:, None] * s[None, :]
        else:
            tile *= (g * factor)[:, None] + s[None, :]
        store_tile(out, tile, p, P, C, BC, LAST, WIDE)


@triton.jit(do_not_specialize=COUNTS)
def pool(
    x, W_q, partial, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Pass 1 over x: each program pools ``tiles`` tiles into its partial row."""
    P = PV * VEC
    b, split, first, last = share(splits, tiles, P, BP)
    top, total, pooled, summed = pool_pixels(x + b * C * P, W_q, first, last, P, C, BC, BP, LAST, WIDE, ACC)
    row = partial + (b * splits + split) * (2 * C + 4)
    tl.store(row, top)
    tl.store(row + 1, total)
    store_vector(row + 4, pooled, C, BC)
    store_vector(row + 4 + C, summed, C, BC)


@triton.jit
def join_pooled(partial, splits, C: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr, ACC: tl.constexpr):
    """Maximum, sum and pooled values [BC] of all splits of a sample, taken in their order."""
    L: tl.constexpr = 2 * C + 4
    s = tl.arange(0, BS)
    c = tl.arange(0, BC)
    tops = tl.full((BS,), float("-inf"), ACC)
    for s0 in range(0, splits, BS):
        tops = tl.maximum(tops, tl.load(partial + (s0 + s) * L, mask=s0 + s < splits, other=float("-inf")))
    top = tl.max(tops, 0)
    total = tl.zeros((), ACC)
    pooled = tl.zeros((BC,), ACC)
    for s0 in range(0, splits, BS):
        inside = s0 + s < splits
        rows = partial + (s0 + s) * L
        weight = tl.exp(tl.load(rows, mask=inside, other=float("-inf")) - top)  # [BS]
        mask = inside[:, None] & (c < C)[None, :]
        total += tl.sum(weight * tl.load(rows + 1, mask=inside, other=0.0), 0)
        pooled += tl.sum(weight[:, None] * tl.load(rows[:, None] + 4 + c[None, :], mask=mask, other=0.0), 0)
    return top, total, pooled


@triton.jit
def join_mean(partial, splits, P, C: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr, ACC: tl.constexpr):
    """The mean of x [BC] of all splits of a sample, taken in their order."""
    c = tl.arange(0, BC)
    summed = tl.zeros((BC,), ACC)
    for s0 in range(0, splits, BS):
        s = s0 + tl.arange(0, BS)
        mask = (s < splits)[:, None] & (c < C)[None, :]
        summed += tl.sum(tl.load(partial + s[:, None] * (2 * C + 4) + 4 + C + c[None, :], mask=mask, other=0.0), 0)
    return summed / P


@triton.jit(do_not_specialize=COUNTS)
def gate(
    partial, state, W_v, b_v, W_z, b_z, ln_w, ln_b, W_q2, b_q2, W_v2, b_v2, P, splits,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Between the passes: one program a sample makes both gates, or where neither feels the other, two one each."""
    b = tl.program_id(0).to(tl.int64)
    partial += b * splits * (2 * C + 4)
    row = state + b * (6 * C + 8)
    g = tl.zeros((BC,), ACC)
    if tl.program_id(1) == 0:
        top, total, pooled = join_pooled(partial, splits, C, BC, BS, ACC)
        g = make_channel(top, total, pooled, row, W_v, b_v, W_z, b_z, ln_w, ln_b, C, BC, BR, PAPER, ACC)
    if tl.program_id(1) == tl.num_programs(1) - 1:
        m = join_mean(partial, splits, P, C, BC, BS, ACC)
        make_query(m, g, row, W_q2, b_q2, W_v2, b_v2, True, C, BC, BR, PAPER, SEQ, ACC)


@triton.jit(do_not_specialize=COUNTS)
def logits(
    x, partial, state, sums, W_v, W_z, W_q2, W_v2, PV, splits, parts, tiles,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr, VEC: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Released form, in place of gate: maximum and sum of exp(u x) over each of ``parts`` parts of a sample, sums
    [B, parts, 2]. Every program makes u for itself, so that none waits for another; one more a sample makes g.
    """
    P = PV * VEC
    b, part, first, last = share(parts + 1, tiles, P, BP)
    partial += b * splits * (2 * C + 4)
    row = state + b * (6 * C + 8)
    if part == parts:
        top, total, pooled = join_pooled(partial, splits, C, BC, BS, ACC)
        make_channel(top, total, pooled, row, W_v, W_v, W_z, W_z, W_z, W_z, C, BC, BR, False, ACC)
    else:
        m = join_mean(partial, splits, P, C, BC, BS, ACC)
        u, _ = make_query(m, m, row, W_q2, W_q2, W_v2, W_v2, part == 0, C, BC, BR, False, False, ACC)
        top, total = logit_sums(x + b * C * P, u, first, last, P, C, BC, BP, LAST, WIDE, ACC)
        tl.store(sums + (b * parts + part) * 2, top)
        tl.store(sums + (b * parts + part) * 2 + 1, total)


@triton.jit(do_not_specialize=COUNTS)
def scale(
    x, out, state, sums, factor, PV, splits, tiles, parts,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pass 2 over x: writes out. Released form: first joins the ``parts`` softmax sums of the logits."""
    P = PV * VEC
    b, split, first, last = share(splits, tiles, P, BP)
    row = state + b * (6 * C + 8)
    g = load_vector(row + 3 * C, C, BC, ACC)
    u = load_vector(row + 4 * C, C, BC, ACC)
    beta = tl.load(row + 6 * C + BETA)
    top = tl.zeros((), ACC)
    total = tl.full((), 1.0, ACC)
    if SEQ:
        u *= g
    if not PAPER:
        top = tl.full((), float("-inf"), ACC)
        total = tl.zeros((), ACC)
        for s0 in range(0, parts, BS):
            s = s0 + tl.arange(0, BS)
            tops = tl.load(sums + (b * parts + s) * 2, mask=s < parts, other=float("-inf"))
            totals = tl.load(sums + (b * parts + s) * 2 + 1, mask=s < parts, other=0.0)
            higher = tl.maximum(top, tl.max(tops, 0))
            total = total * tl.exp(top - higher) + tl.sum(totals * tl.exp(tops - higher), 0)
            top = higher
        if split == 0:
            tl.store(row + 6 * C + T_MAX, top)
            tl.store(row + 6 * C + T_SUM, total)
    x += b * C * P
    out += b * C * P
    scale_pixels(
        x, out, g, u, beta, top, total, factor, first, last, P, C, BC, BP, LAST, WIDE, PAPER, SEQ, ACC
    )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def forward_small(
    x, out, W_q, W_v, b_v, W_z, b_z, ln_w, ln_b, W_q2, b_q2, W_v2, b_v2, state, factor, PV,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr, VEC: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The whole forward in one launch, a program a sample; the second sweep over x finds it in cache."""
    P = PV * VEC
    b = tl.program_id(0).to(tl.int64)
    x += b * C * P
    row = state + b * (6 * C + 8)
    top, total, pooled, summed = pool_pixels(x, W_q, 0, P, P, C, BC, BP, LAST, WIDE, ACC)
    g = make_channel(top, total, pooled, row, W_v, b_v, W_z, b_z, ln_w, ln_b, C, BC, BR, PAPER, ACC)
    u, beta = make_query(summed / P, g, row, W_q2, b_q2, W_v2, b_v2, True, C, BC, BR, PAPER, SEQ, ACC)
    if SEQ:
        u *= g
    top = tl.zeros((), ACC)
    total = tl.full((), 1.0, ACC)
    if not PAPER:
        top, total = logit_sums(x, u, 0, P, P, C, BC, BP, LAST, WIDE, ACC)
        tl.store(row + 6 * C + T_MAX, top)
        tl.store(row + 6 * C + T_SUM, total)
    out += b * C * P
    scale_pixels(x, out, g, u, beta, top, total, factor, 0, P, P, C, BC, BP, LAST, WIDE, PAPER, SEQ, ACC)
