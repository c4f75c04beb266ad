"""What every kernel of the fused forms begins with: tiles and vectors in and out, and where things lie in memory.

A program works on tiles [BC, BP]: all channels (C rounded up to a power of two) of BP pixels. Within a sample a pixel
lies at ``c*P + p`` (contiguous) or ``p*C + c`` (LAST, channels_last). ``PV * VEC`` is P: the compiler then knows that P
is a multiple of VEC and reads 16 bytes at a time. Sums are taken in the dtype ACC.

Vectors between kernels lie in rows of ACC numbers. Offsets within a row:

    state (6C+8, one row per sample)    partial of pool (2C+4, one row per sample and split)
    0   c     pooled values   [C]       0   maximum, sum of the pooling softmax; 2 spare
    C   m     mean of x       [C]       4   pooled values, not yet divided  [C]
    2C  zhat  normalised z    [C]       C+4 sum of x                        [C]
    3C  g     channel gate    [C]
    4C  u     W_v'^T t        [C]       partial of grad_pool (3C+4, one row per sample and split)
    5C  v     W_v c + b_v     [h]       0   dbeta (paper) or sum of sigma*dsigma (released); 3 spare
    5C+h q'   W_q' m + b_q'   [h]       4   dg [C], C+4 sum of de*x [C], 2C+4 released: sum of sigma*x [C]
    6C  scalars: the names below
                                        grads (8C+8, one row per sample)
                                        0 dc, C dm as it enters dx, 2C dn, 3C dz, 4C du, 5C mean of y  [C]
                                        6C dv, 6C+h dh, 7C t                                           [h]
                                        7C+h what partial 0 adds up to, dc c; then dt [h]
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "A_MAX",
    "A_SUM",
    "BETA",
    "COUNTS",
    "RSTD",
    "T_MAX",
    "T_SUM",
    "load_columns",
    "load_rows",
    "load_tile",
    "load_vector",
    "offsets",
    "share",
    "sigmoid",
    "store_tile",
    "store_vector",
]

# Scalars of a state row, behind 6C: maximum and sum of the pooling softmax, 1/std of the LayerNorm, beta = b_v' t,
# maximum and sum of the query softmax (paper) or of the pixel softmax (released).
A_MAX: tl.constexpr = tl.constexpr(0)
A_SUM: tl.constexpr = tl.constexpr(1)
RSTD: tl.constexpr = tl.constexpr(2)
BETA: tl.constexpr = tl.constexpr(3)
T_MAX: tl.constexpr = tl.constexpr(4)
T_SUM: tl.constexpr = tl.constexpr(5)


# Arguments for whose values no kernel is compiled anew: Triton would, for 1 and for multiples of 16, and other code
# would run than the static report has read.
COUNTS = ("PV", "P", "splits", "tiles", "parts", "B")


@triton.jit
def load_tile(x, p, P, C: tl.constexpr, BC: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr):
    """x[:, p] of one sample, [BC, BP], zero outside."""
    c = tl.arange(0, BC)
    mask = (c < C)[:, None] & (p < P)[None, :]
    return tl.load(x + offsets(c, p, P, C, LAST, WIDE), mask=mask, other=0.0).to(ACC)


@triton.jit
def store_tile(
    x, tile, p, P, C: tl.constexpr, BC: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """x[:, p] = tile, in the dtype of x."""
    c = tl.arange(0, BC)
    mask = (c < C)[:, None] & (p < P)[None, :]
    tl.store(x + offsets(c, p, P, C, LAST, WIDE), tile.to(x.dtype.element_ty), mask=mask)


@triton.jit
def offsets(c, p, P, C: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr):
    """Where channel c of pixel p lies within its sample, [BC, BP]; 64 bit for samples of 2^31 elements and more."""
    if WIDE:
        c = c.to(tl.int64)
        p = p.to(tl.int64)
    if LAST:
        return c[:, None] + p[None, :] * C
    return c[:, None] * P + p[None, :]


@triton.jit
def share(splits, tiles, P, BP: tl.constexpr):
    """The sample of this program, its place among the ``splits`` of that sample, and its pixels first .. last."""
    b, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    first = split * tiles * BP
    return b.to(tl.int64), split, first, tl.minimum(first + tiles * BP, P)


@triton.jit
def load_vector(row, n: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr):
    """n numbers as [BN], zero outside."""
    i = tl.arange(0, BN)
    return tl.load(row + i, mask=i < n, other=0.0).to(ACC)


@triton.jit
def store_vector(row, value, n: tl.constexpr, BN: tl.constexpr):
    i = tl.arange(0, BN)
    tl.store(row + i, value, mask=i < n)


@triton.jit
def load_rows(W, r, C: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr):
    """Rows r of a weight [h, C], as [BR, BC], zero outside."""
    c = tl.arange(0, BC)
    return tl.load(W + r[:, None] * C + c[None, :], mask=(r < C // 2)[:, None] & (c < C)[None, :], other=0.0).to(ACC)


@triton.jit
def load_columns(W, r, C: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr):
    """Columns r of a weight [C, h], as [BC, BR], zero outside."""
    c = tl.arange(0, BC)
    mask = (c < C)[:, None] & (r < C // 2)[None, :]
    return tl.load(W + c[:, None] * (C // 2) + r[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) for any finite x, without overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)
