"""The Triton kernels that pass over map and gradient in the fused backward; :mod:`polarpix.psa.kernels` is the forward.

    grad_pool -> grad_gate -> grad_input -> grad_weight

``grad_gate``, in :mod:`polarpix.psa.kernels_grad_gate`, works on small vectors between the passes, and of small samples
does what ``grad_input`` does too; ``grad_weight`` lies in :mod:`polarpix.psa.kernels_weight`. Two passes read x and
d = dL/dout; logits are computed again from the state row, so the forward keeps no map. A leading d in a name is the
gradient of what follows. The formulas are derived in docs/derivation.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.kernels_dot import input_tiles
from polarpix.psa.tiles import (
    A_MAX,
    A_SUM,
    BETA,
    COUNTS,
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

__all__ = ["grad_input", "grad_pool", "input_share"]


@triton.jit
def two_sums(one, two):
    """The sums over channels of two tiles, taken together so that threads exchange them once."""
    return tl.split(tl.sum(tl.join(one, two), 0, keep_dims=True))


@triton.jit
def spatial_gate(e, inside, top, total, PAPER: tl.constexpr):
    """The spatial gate s from its logits, and its weight in the softmax over pixels (released), [1, K, T, V]."""
    if not PAPER:
        e = tl.where(inside, tl.exp(e - top) / total, 0.0)
    return sigmoid(e), e


@triton.jit(do_not_specialize=COUNTS)
def grad_pool(
    x, d, state, grads, partial, factor, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, VEC: tl.constexpr,
    LAST: tl.constexpr, D_LAST: tl.constexpr, WIDE: tl.constexpr, AHEAD: tl.constexpr, PAPER: tl.constexpr,
    SEQ: tl.constexpr, CHAIN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pass 1 over x and d: each program adds up ``tiles`` tiles into its partial row: dbeta, dg [C], the sum of de*x
    [C]; in the released form with sigma*dsigma for de, and the sum of sigma*x [C].
    """
    before_next(CHAIN)
    P = PV * VEC
    BP: tl.constexpr = K * T * V
    b, split, first, last = share(tl.program_id(0), splits, tiles, P, BP)
    x += b * C * P
    d += b * C * P
    inner = pixels(K, T, V)
    if AHEAD:
        next_x = load_tile(x, first, last, P, C, BC, K, T, V, LAST, WIDE, False)
        next_d = load_tile(d, first, last, P, C, BC, K, T, V, D_LAST, WIDE, False)
    row = state + b * (7 * C + 8)
    g = load_channels(row + 3 * C, C, BC, ACC)
    u = load_channels(row + 4 * C, C, BC, ACC)
    beta = tl.load(row + 6 * C + BETA)
    top = tl.load(row + 6 * C + T_MAX)
    total = tl.load(row + 6 * C + T_SUM)
    if SEQ:
        u *= g
    dbeta = tl.zeros((1, 1, T, 1), ACC)
    dg = tl.zeros((BC, 1, T, 1), ACC)
    dex = tl.zeros((BC, 1, T, 1), ACC)
    sigma_x = tl.zeros((BC, 1, T, 1), ACC)
    for p0 in range(first, last, BP):
        p = p0 + inner
        if AHEAD:
            tile = next_x.to(ACC)  # [BC, K, T, V]
            product = next_d.to(ACC) * tile
            next_x = load_tile(x, p0 + BP, last, P, C, BC, K, T, V, LAST, WIDE, False)
            next_d = load_tile(d, p0 + BP, last, P, C, BC, K, T, V, D_LAST, WIDE, False)
        else:
            tile = load_tile(x, p0, last, P, C, BC, K, T, V, LAST, WIDE, False).to(ACC)
            product = load_tile(d, p0, last, P, C, BC, K, T, V, D_LAST, WIDE, False).to(ACC) * tile
        if SEQ:
            e, ds = two_sums(tile * u, product * g)
        else:
            e, ds = two_sums(tile * u, product)
        s, sigma = spatial_gate(e + beta, p < last, top, total, PAPER)
        de = ds * s * (1.0 - s)
        if SEQ:
            product *= s
        if not PAPER:
            sigma_x += fold(tile * sigma)
            de *= sigma
        dg += fold(product)
        dex += fold(tile * de)
        dbeta += fold(de)
    out = partial + (b * splits + split) * (3 * C + 4)
    store_channels(out, factor * total_of(dbeta), 1, 1)
    store_channels(out + 4, factor * total_of(dg), C, BC)
    store_channels(out + 4 + C, factor * total_of(dex), C, BC)
    if not PAPER:
        store_channels(out + 4 + 2 * C, total_of(sigma_x), C, BC)
    if split == 0:
        tl.store(grads + b * (9 * C + 8) + 8 * C + 4, 0.0)


@triton.jit
def input_share(
    x, d, dx, W_q, row, grads, dw, factor, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr,
    D_LAST: tl.constexpr, WIDE: tl.constexpr, AHEAD: tl.constexpr, PAPER: tl.constexpr,
    SEQ: tl.constexpr, STAGES: tl.constexpr, CHAIN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Writes dx on the pixels first .. last of a sample and their part of dW_q, dw [C]."""
    BP: tl.constexpr = K * T * V
    inner = pixels(K, T, V)
    if AHEAD:
        next_x = load_tile(x, first, last, P, C, BC, K, T, V, LAST, WIDE, False)
        next_d = load_tile(d, first, last, P, C, BC, K, T, V, D_LAST, WIDE, False)
    before_last(CHAIN)
    w = load_channels(W_q, C, BC, ACC)
    g = load_channels(row + 3 * C, C, BC, ACC) * factor
    u = load_channels(row + 4 * C, C, BC, ACC)
    beta = tl.load(row + 6 * C + BETA)
    top = tl.load(row + 6 * C + T_MAX)
    total = tl.load(row + 6 * C + T_SUM)
    a_top = tl.load(row + 6 * C + A_MAX)
    a_total = tl.load(row + 6 * C + A_SUM)
    dc = load_channels(grads, C, BC, ACC)
    dm = load_channels(grads + C, C, BC, ACC)
    shift = tl.load(grads + 7 * C + C // 2)
    dc_c = tl.sum(dc * load_channels(row, C, BC, ACC), 0, keep_dims=True)
    if SEQ:
        u *= load_channels(row + 3 * C, C, BC, ACC)
    if STAGES:
        part = input_tiles(
            x, d, dx, tl.reshape(w, (BC,)), tl.reshape(g, (BC,)), tl.reshape(u, (BC,)), tl.reshape(dc, (BC,)),
            tl.reshape(dm, (BC,)), beta, top, total, a_top, a_total, shift, tl.sum(dc_c), factor, first, last, P,
            C, BC, BP, LAST, WIDE, STAGES, PAPER, SEQ,
        )  # fmt: skip
        store_vector(dw, part, tl.arange(0, BC), C)
    else:
        part = tl.zeros((BC, 1, T, 1), ACC)
        for p0 in range(first, last, BP):
            p = p0 + inner
            if AHEAD:
                tile = next_x.to(ACC)  # [BC, K, T, V]
                dout = next_d.to(ACC)
                next_x = load_tile(x, p0 + BP, last, P, C, BC, K, T, V, LAST, WIDE, False)
                next_d = load_tile(d, p0 + BP, last, P, C, BC, K, T, V, D_LAST, WIDE, False)
            else:
                tile = load_tile(x, p0, last, P, C, BC, K, T, V, LAST, WIDE, False).to(ACC)
                dout = load_tile(d, p0, last, P, C, BC, K, T, V, D_LAST, WIDE, False).to(ACC)
            product = dout * tile
            if SEQ:
                product *= g
            e, ds = two_sums(tile * u, product)
            q, dq = two_sums(tile * w, tile * dc)
            s, sigma = spatial_gate(e + beta, p < last, top, total, PAPER)
            de = ds * s * (1.0 - s)
            if not SEQ:
                de *= factor
            if not PAPER:
                de = sigma * (de - shift)
            a = tl.where(p < last, tl.exp(q - a_top) / a_total, 0.0)
            dr = a * (dq - dc_c)
            if (
                BC >= 2048
            ):  # both tiles once more, from the nearest cache: there are no registers to keep them until here
                tl.debug_barrier()
                tile = load_tile(x, p0, last, P, C, BC, K, T, V, LAST, WIDE, False).to(ACC)
                dout = load_tile(d, p0, last, P, C, BC, K, T, V, D_LAST, WIDE, False).to(ACC)
            part += fold(tile * dr)
            if SEQ:
                dout *= g * s
            else:
                dout *= g + s * factor
            dout += u * de + dc * a + w * dr + dm
            store_tile(dx, dout, p0, last, P, C, BC, K, T, V, LAST, WIDE, False)
        store_channels(dw, total_of(part), C, BC)


@triton.jit(do_not_specialize=COUNTS)
def grad_input(
    x, d, dx, W_q, state, grads, dw, factor, PV, splits, tiles,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, VEC: tl.constexpr,
    LAST: tl.constexpr, D_LAST: tl.constexpr, WIDE: tl.constexpr, AHEAD: tl.constexpr, PAPER: tl.constexpr,
    SEQ: tl.constexpr, STAGES: tl.constexpr, CHAIN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pass 2 over x and d: writes dx, and the part of dW_q of each split, dw [B, splits, C]. Begins where ``grad_pool``
    ended, with what the cache still holds.
    """
    before_next(CHAIN)
    P = PV * VEC
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    b, split, first, last = share(program, splits, tiles, P, K * T * V)
    at = b * C * P
    input_share(
        x + at, d + at, dx + at, W_q, state + b * (7 * C + 8), grads + b * (9 * C + 8), dw + (b * splits + split) * C,
        factor, first, last, P, C, BC, K, T, V, LAST, D_LAST, WIDE, AHEAD, PAPER, SEQ, STAGES, CHAIN, ACC,
    )  # fmt: skip
