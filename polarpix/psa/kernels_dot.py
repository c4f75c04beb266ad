"""The passes over the map on the matrix units, where they were measured to be faster: bfloat16, 17 to 512 channels.

A tile is [BP, BC]. It comes through shared memory, from where the matrix units read it: for the sums over channels of
each pixel as it is, for the sums over pixels of each channel transposed. Vectors that meet a tile have columns of
bfloat16: a number of float32 is the sum of a large and a small part, whose products are exact and whose sums are
float32's. So nothing is rounded that the other passes, in :mod:`polarpix.psa.kernels`, do not round, but for what lies
below the 16th bit of a factor.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.tiles import LOWEST, load_pixels, sigmoid, store_pixels

__all__ = ["input_tiles", "logit_tiles", "pool_tiles", "scale_tiles"]

WIDER: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))  # numpy multiplies no bfloat16


@triton.jit
def halves(value):
    """The large and the small part of numbers of float32, in bfloat16."""
    large = value.to(tl.bfloat16)
    return large, (value - large.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def columns_of(n: tl.constexpr, value: tl.constexpr):
    """16 columns of a number in bfloat16, of which the interpreter makes no constant."""
    return tl.full((n, 16), value, tl.float32).to(tl.bfloat16)


@triton.jit
def times(left, right):
    """The product of two matrices of bfloat16, in float32."""
    if WIDER:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right)


@triton.jit
def put(columns, value, i: tl.constexpr):
    """``columns`` [n, 16] with the halves of ``value`` [n] in the columns i and i + 1."""
    large, small = halves(value)
    j = tl.arange(0, 16)[None, :]
    return tl.where(j == i, large[:, None], tl.where(j == i + 1, small[:, None], columns))


@triton.jit
def take(product, i: tl.constexpr):
    """The sum of the columns i and i + 1 of [n, 16], [n]."""
    j = tl.arange(0, 16)[None, :]
    return tl.sum(tl.where((j == i) | (j == i + 1), product, 0.0), 1)


@triton.jit
def pool_tiles(
    x, w, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Over the pixels first .. last: maximum and sum of the softmax of w x, then of x the sums by its weights and
    the plain ones, [BC].
    """
    W = put(columns_of(BC, 0.0), w, 0)
    ones = tl.where(tl.arange(0, 16)[None, :] == 2, columns_of(BP, 1.0), columns_of(BP, 0.0))
    top = tl.full((), LOWEST, tl.float32)
    total = tl.zeros((), tl.float32)
    sums = tl.zeros((BC, 16), tl.float32)
    for p0 in tl.range(first, last, BP, num_stages=STAGES):
        tile = load_pixels(x, p0, last, P, C, BC, BP, LAST, WIDE)
        q = tl.sum(times(tile, W), 1)  # [BP]
        q = tl.where(p0 + tl.arange(0, BP) < last, q, float("-inf"))
        higher = tl.maximum(top, tl.max(q, 0))
        keep = tl.exp(top - higher)
        a = tl.exp(q - higher)
        total = total * keep + tl.sum(a, 0)
        sums *= tl.where(tl.arange(0, 16) == 2, 1.0, keep)[None, :]
        sums += times(tl.trans(tile), put(ones, a, 0))
        top = higher
    return top, total, take(sums, 0), tl.sum(tl.where(tl.arange(0, 16)[None, :] == 2, sums, 0.0), 1)


@triton.jit
def logit_tiles(
    x, u, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Maximum and sum of the softmax of u x over the pixels first .. last (released form)."""
    U = put(columns_of(BC, 0.0), u, 0)
    top = tl.full((), LOWEST, tl.float32)
    total = tl.zeros((), tl.float32)
    for p0 in tl.range(first, last, BP, num_stages=STAGES):
        e = tl.sum(times(load_pixels(x, p0, last, P, C, BC, BP, LAST, WIDE), U), 1)  # [BP]
        e = tl.where(p0 + tl.arange(0, BP) < last, e, float("-inf"))
        higher = tl.maximum(top, tl.max(e, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(e - higher), 0)
        top = higher
    return top, total


@triton.jit
def scale_tiles(
    x, out, g, u, beta, top, total, factor, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr,
    STAGES: tl.constexpr, PAPER: tl.constexpr, SEQ: tl.constexpr,
):  # fmt: skip
    """out = x*(g + factor*s) or x*g*s on the pixels first .. last, with g and u [BC]."""
    U = put(columns_of(BC, 0.0), u, 0)
    for p0 in tl.range(first, last, BP, num_stages=STAGES):
        tile = load_pixels(x, p0, last, P, C, BC, BP, LAST, WIDE)
        e = tl.sum(times(tile, U), 1) + beta  # [BP]
        if not PAPER:
            e = tl.exp(e - top) / total
        s = sigmoid(e)
        if SEQ:
            value = tile.to(tl.float32) * (g[None, :] * s[:, None])
        else:
            value = tile.to(tl.float32) * (g[None, :] + (s * factor)[:, None])
        store_pixels(out, value, p0, last, P, C, BC, BP, LAST, WIDE, STREAM)


@triton.jit
def input_tiles(
    x, d, dx, w, g, u, dc, dm, beta, top, total, a_top, a_total, shift, dc_c, factor, first, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, STAGES: tl.constexpr,
    PAPER: tl.constexpr, SEQ: tl.constexpr,
):  # fmt: skip
    """Writes dx on the pixels first .. last; gives their part of dW_q, [BC].

    u*de + dc*a + w*dr + dm is a product of matrices, too: of each pair of factors large by large, large by small and
    small by large.
    """
    vectors = put(put(put(columns_of(BC, 0.0), u, 0), w, 2), dc, 4)
    j = tl.arange(0, 16)[None, :]
    beside = put(vectors, dm, 9)
    beside = tl.where(j == 6, halves(u)[0][:, None], beside)
    beside = tl.where(j == 7, halves(w)[0][:, None], beside)
    beside = tl.where(j == 8, halves(dc)[0][:, None], beside)
    beside = tl.trans(beside)  # [16, BC]
    part = tl.zeros((BC, 16), tl.float32)
    for p0 in tl.range(first, last, BP, num_stages=STAGES):
        inside = p0 + tl.arange(0, BP) < last
        tile = load_pixels(x, p0, last, P, C, BC, BP, LAST, WIDE)
        dout = load_pixels(d, p0, last, P, C, BC, BP, LAST, WIDE).to(tl.float32)
        logits = times(tile, vectors)  # [BP, 16]
        e, q, dq = take(logits, 0) + beta, take(logits, 2), take(logits, 4)
        if not PAPER:
            e = tl.where(inside, tl.exp(e - top) / total, 0.0)
        s = sigmoid(e)
        product = tile.to(tl.float32) * dout
        if SEQ:
            product *= g[None, :]
        de = tl.sum(product, 1) * s * (1.0 - s)
        if not SEQ:
            de *= factor
        if not PAPER:
            de = e * (de - shift)
        a = tl.where(inside, tl.exp(q - a_top) / a_total, 0.0)
        dr = a * (dq - dc_c)
        zero = columns_of(BP, 0.0)
        part += times(tl.trans(tile), put(zero, dr, 0))
        de_large, de_small = halves(de)
        dr_large, dr_small = halves(dr)
        a_large, a_small = halves(a)
        pixels = tl.where(j < 2, de_large[:, None], zero)
        pixels = tl.where((j >= 2) & (j < 4), dr_large[:, None], pixels)
        pixels = tl.where((j >= 4) & (j < 6), a_large[:, None], pixels)
        pixels = tl.where(j == 6, de_small[:, None], pixels)
        pixels = tl.where(j == 7, dr_small[:, None], pixels)
        pixels = tl.where(j == 8, a_small[:, None], pixels)
        pixels = tl.where((j == 9) | (j == 10), columns_of(BP, 1.0), pixels)
        if SEQ:
            dout *= g[None, :] * s[:, None]
        else:
            dout *= g[None, :] + (s * factor)[:, None]
        value = dout + times(pixels, beside)
        store_pixels(dx, value, p0, last, P, C, BC, BP, LAST, WIDE, False)
    return take(part, 0)
