"""The two Triton kernels that pass over the map in the fused forward: they see pointers, and know nothing of tensors.

    pool -> gate -> scale

``gate``, in :mod:`polarpix.psa.kernels_gate`, works on small vectors between them; of small samples it does what
``scale`` does too. How they share work and memory stands in :mod:`polarpix.psa.tiles`, the letters in
:mod:`polarpix.psa.reference`. Each loop asks for its next tile before it works on the one that it has.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.kernels_dot import pool_tiles, scale_tiles
from polarpix.psa.tiles import (
    BETA,
    COUNTS,
    LOWEST,
    MET,
    RSTD,
    T_MAX,
    T_SUM,
    before_last,
    before_next,
    fold,
    load_channels,
    load_tile,
    pixels,
    share,
    sigmoid,
    store_channels,
    store_tile,
    store_vector,
    total_of,
)

__all__ = ["channel_gate", "logit_sums", "pool", "scale", "scale_share"]


@triton.jit
def pool_share(
    x, w, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, AHEAD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Over the pixels first .. last: maximum and sum of the softmax of w x, then of x the sums by its weights and
    the plain ones, [BC, 1, 1, 1].

    Every thread has a maximum of its own, so that none waits for another but for the sum over channels.
    """
    BP: tl.constexpr = K * T * V
    top = tl.full((1, 1, T, 1), LOWEST, ACC)
    total = tl.zeros((1, 1, T, 1), ACC)
    pooled = tl.zeros((BC, 1, T, 1), ACC)
    summed = tl.zeros((BC, 1, T, 1), ACC)
    inner = pixels(K, T, V)
    if AHEAD:
        following = load_tile(x, first, last, P, C, BC, K, T, V, LAST, WIDE, False)
    for p0 in range(first, last, BP):
        if AHEAD:
            tile = following.to(ACC)  # [BC, K, T, V]
            following = load_tile(x, p0 + BP, last, P, C, BC, K, T, V, LAST, WIDE, False)
        else:
            tile = load_tile(x, p0, last, P, C, BC, K, T, V, LAST, WIDE, False).to(ACC)
        q = tl.where(p0 + inner < last, tl.sum(tile * w, 0, keep_dims=True), float("-inf"))
        higher = tl.maximum(top, tl.max(tl.max(q, 3, keep_dims=True), 1, keep_dims=True))
        keep = tl.exp(top - higher)
        a = tl.exp(q - higher)
        total = total * keep + fold(a)
        pooled = pooled * keep + fold(tile * a)
        summed += fold(tile)
        top = higher
    highest = tl.max(top, 2, keep_dims=True)
    keep = tl.exp(top - highest)
    return highest, total_of(total * keep), total_of(pooled * keep), total_of(summed)


@triton.jit(do_not_specialize=COUNTS)
def pool(
    x, W_q, partial, state, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, VEC: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, AHEAD: tl.constexpr, STAGES: tl.constexpr, CHAIN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Pass 1 over x: each program pools ``tiles`` tiles into its partial row, by a running softmax of w_q x.

    With STAGES on the matrix units, so many tiles ahead; here and in ``scale``.
    """
    before_next(CHAIN)
    P = PV * VEC
    BP: tl.constexpr = K * T * V
    b, split, first, last = share(tl.program_id(0), splits, tiles, P, BP)
    x += b * C * P
    w = load_channels(W_q, C, BC, ACC)
    row = partial + (b * splits + split) * (2 * C + 4)
    if STAGES:
        c = tl.arange(0, BC)
        top, total, pooled, summed = pool_tiles(x, tl.reshape(w, (BC,)), first, last, P, C, BC, BP, LAST, WIDE, STAGES)
        tl.store(row, top)
        tl.store(row + 1, total)
        store_vector(row + 4, pooled, c, C)
        store_vector(row + 4 + C, summed, c, C)
    else:
        top, total, pooled, summed = pool_share(x, w, first, last, P, C, BC, K, T, V, LAST, WIDE, AHEAD, ACC)
        store_channels(row, top, 1, 1)
        store_channels(row + 1, total, 1, 1)
        store_channels(row + 4, pooled, C, BC)
        store_channels(row + 4 + C, summed, C, BC)
    if split == 0:
        state += b * (7 * C + 8)
        tl.store(state + 6 * C + MET, 0.0)
        tl.store(state + 6 * C + MET + 1, 0.0)  # spare: an output has no random part


@triton.jit
def channel_gate(row, ln_w, ln_b, C: tl.constexpr, BC: tl.constexpr, PAPER: tl.constexpr, ACC: tl.constexpr):
    """The gate g, normalised z, both [BC, 1, 1, 1], and 1/std of the norm, from the z of a state row."""
    z = load_channels(row + 6 * C + 8, C, BC, ACC)
    rstd = tl.full((1, 1, 1, 1), 1.0, ACC)
    n = z
    if PAPER:
        inside = tl.arange(0, BC)[:, None, None, None] < C
        z = tl.where(inside, z - tl.sum(z, 0, keep_dims=True) / C, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(z * z, 0, keep_dims=True) / C + 1e-5)
        z *= rstd
        n = z * load_channels(ln_w, C, BC, ACC) + load_channels(ln_b, C, BC, ACC)
    return sigmoid(n), z, rstd


@triton.jit
def logit_sums(
    x, u, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, AHEAD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Maximum and sum of the softmax of u x over the pixels first .. last (released form), [1, 1, 1, 1]."""
    BP: tl.constexpr = K * T * V
    top = tl.full((1, 1, T, 1), LOWEST, ACC)
    total = tl.zeros((1, 1, T, 1), ACC)
    inner = pixels(K, T, V)
    if AHEAD:
        following = load_tile(x, first, last, P, C, BC, K, T, V, LAST, WIDE, False)
    for p0 in range(first, last, BP):
        if AHEAD:
            tile = following.to(ACC)
            following = load_tile(x, p0 + BP, last, P, C, BC, K, T, V, LAST, WIDE, False)
        else:
            tile = load_tile(x, p0, last, P, C, BC, K, T, V, LAST, WIDE, False).to(ACC)
        e = tl.where(p0 + inner < last, tl.sum(tile * u, 0, keep_dims=True), float("-inf"))
        higher = tl.maximum(top, tl.max(tl.max(e, 3, keep_dims=True), 1, keep_dims=True))
        total = total * tl.exp(top - higher) + fold(tl.exp(e - higher))
        top = higher
    highest = tl.max(top, 2, keep_dims=True)
    return highest, total_of(total * tl.exp(top - highest))


@triton.jit
def join_logits(sums, parts, BS: tl.constexpr, ACC: tl.constexpr):
    """Maximum and sum over the ``parts`` softmax sums of a sample, taken in their order, [1, 1, 1, 1]."""
    top = tl.full((1, 1, 1, 1), LOWEST, ACC)
    total = tl.zeros((1, 1, 1, 1), ACC)
    for s0 in range(0, parts, BS):
        s = s0 + tl.arange(0, BS)[:, None, None, None]
        tops = tl.load(sums + s * 2, mask=s < parts, other=LOWEST)
        totals = tl.load(sums + s * 2 + 1, mask=s < parts, other=0.0)
        higher = tl.maximum(top, tl.max(tops, 0, keep_dims=True))
        total = total * tl.exp(top - higher) + tl.sum(totals * tl.exp(tops - higher), 0, keep_dims=True)
        top = higher
    return top, total


@triton.jit
def scale_share(
    x, out, row, sums, parts, ln_w, ln_b, factor, keeps, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, BS: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr, AHEAD: tl.constexpr, PAPER: tl.constexpr,
    SEQ: tl.constexpr, STAGES: tl.constexpr, CHAIN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = factor * x*(g + s) or factor * x*g*s on the pixels first .. last of a sample.

    With ``keeps`` also zhat, g, RSTD and, in the released form, T_MAX and T_SUM of the state row.
    """
    BP: tl.constexpr = K * T * V
    if AHEAD:
        following = load_tile(x, first, last, P, C, BC, K, T, V, LAST, WIDE, STREAM)
    before_last(CHAIN)
    g, zhat, rstd = channel_gate(row, ln_w, ln_b, C, BC, PAPER, ACC)
    u = load_channels(row + 4 * C, C, BC, ACC)
    beta = tl.load(row + 6 * C + BETA)
    top = tl.zeros((1, 1, 1, 1), ACC)
    total = tl.full((1, 1, 1, 1), 1.0, ACC)
    if not PAPER:
        top, total = join_logits(sums, parts, BS, ACC)
    if keeps:
        store_channels(row + 2 * C, zhat, C, BC)
        store_channels(row + 3 * C, g, C, BC)
        store_channels(row + 6 * C + RSTD, rstd, 1, 1)
        if not PAPER:
            store_channels(row + 6 * C + T_MAX, top, 1, 1)
            store_channels(row + 6 * C + T_SUM, total, 1, 1)
    if SEQ:
        u *= g
    g *= factor
    if STAGES:
        g, u, top, total = tl.reshape(g, (BC,)), tl.reshape(u, (BC,)), tl.sum(top), tl.sum(total)
        scale_tiles(
            x, out, g, u, beta, top, total, factor, first, last, P,
            C, BC, BP, LAST, WIDE, STREAM, STAGES, PAPER, SEQ,
        )  # fmt: skip
    else:
        for p0 in range(first, last, BP):
            if AHEAD:
                tile = following.to(ACC)
                following = load_tile(x, p0 + BP, last, P, C, BC, K, T, V, LAST, WIDE, STREAM)
            else:
                tile = load_tile(x, p0, last, P, C, BC, K, T, V, LAST, WIDE, STREAM).to(ACC)
            e = tl.sum(tile * u, 0, keep_dims=True) + beta
            if not PAPER:
                e = tl.exp(e - top) / total
            s = sigmoid(e)  # [1, K, T, V]
            if SEQ:
                tile *= g * s
            else:
                tile *= g + s * factor
            store_tile(out, tile, p0, last, P, C, BC, K, T, V, LAST, WIDE, STREAM)


@triton.jit(do_not_specialize=COUNTS)
def scale(
    x, out, state, sums, ln_w, ln_b, factor, PV, splits, tiles, parts,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, BS: tl.constexpr,
    VEC: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr, AHEAD: tl.constexpr,
    PAPER: tl.constexpr, SEQ: tl.constexpr, STAGES: tl.constexpr, CHAIN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pass 2 over x: writes out. Begins where ``pool`` ended, with what the cache still holds."""
    P = PV * VEC
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    b, split, first, last = share(program, splits, tiles, P, K * T * V)
    scale_share(
        x + b * C * P, out + b * C * P, state + b * (7 * C + 8), sums + b * parts * 2, parts, ln_w, ln_b, factor,
        split == 0, first, last, P, C, BC, K, T, V, BS, LAST, WIDE, STREAM, AHEAD, PAPER, SEQ, STAGES, CHAIN, ACC,
    )  # fmt: skip
