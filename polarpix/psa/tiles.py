"""What every kernel of the fused forms begins with: tiles and vectors in and out, and where things lie in memory.

A program works on tiles of all channels (C rounded up to a power of two, BC) by BP = K*T*V pixels. They have four axes,
[BC, K, T, V]: V pixels lie in one aligned piece that a thread reads at once, T are spread over threads, and K times
over the same thread has one more. Sums over V and K (``fold``) so stay within a thread: running sums over pixels are
kept as [BC, 1, T, 1], and threads exchange them once, behind the loop. Vectors of C numbers are [BC, 1, 1, 1], numbers
that belong to pixels [1, K, T, V]. The order of the axes decides nothing but speed.

Within a sample a pixel lies at ``c*P + p`` (contiguous) or ``p*C + c`` (LAST, channels_last). ``PV * VEC`` is P: the
compiler then knows that P is a multiple of VEC and reads 16 bytes at a time. Sums are taken in the dtype ACC.

Vectors between kernels lie in rows of ACC numbers. Offsets within a row:

    state (7C+8, one row per sample)    partial of pool (2C+4, one row per sample and split)
    0   c     pooled values   [C]       0   maximum, sum of the pooling softmax; 2 spare
    C   m     mean of x       [C]       4   pooled values, not yet divided  [C]
    2C  zhat  normalised z    [C]       C+4 sum of x                        [C]
    3C  g     channel gate    [C]
    4C  u     W_v'^T t        [C]       partial of grad_pool (3C+4, one row per sample and split)
    5C  v     W_v c + b_v     [h]       0   dbeta (paper) or sum of sigma*dsigma (released); 3 spare
    5C+h q'   W_q' m + b_q'   [h]       4   dg [C], C+4 sum of de*x [C], 2C+4 released: sum of sigma*x [C]
    6C  scalars: the names below
    6C+8 z    before the norm [C]       grads (9C+8, one row per sample)
                                        0 dc, C dm as it enters dx, 2C dn, 3C dz, 4C du, 5C mean of y  [C]
                                        6C dv, 6C+h dh, 7C t                                           [h]
                                        7C+h what partial 0 adds up to; 1 spare; then dt [h]
                                        8C+4 programs that have met, 8C+8 dg [C]
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = [
    "A_MAX",
    "A_SUM",
    "BETA",
    "COUNTS",
    "LOWEST",
    "MET",
    "RSTD",
    "T_MAX",
    "T_SUM",
    "arrive",
    "before_last",
    "before_next",
    "fold",
    "load_channels",
    "load_pixels",
    "load_tile",
    "load_vector",
    "offsets",
    "pixels",
    "share",
    "sigmoid",
    "store_channels",
    "store_pixels",
    "store_tile",
    "store_vector",
    "total_of",
    "wait",
]

# Scalars of a state row, behind 6C: maximum and sum of the pooling softmax, 1/std of the LayerNorm, beta = b_v' t,
# maximum and sum of the query softmax (paper) or of the pixel softmax (released), and programs that have met.
A_MAX: tl.constexpr = tl.constexpr(0)
A_SUM: tl.constexpr = tl.constexpr(1)
RSTD: tl.constexpr = tl.constexpr(2)
BETA: tl.constexpr = tl.constexpr(3)
T_MAX: tl.constexpr = tl.constexpr(4)
T_SUM: tl.constexpr = tl.constexpr(5)
MET: tl.constexpr = tl.constexpr(6)

LOWEST: tl.constexpr = tl.constexpr(-1e30)  # a maximum over nothing: a difference of two is a number


# Arguments for whose values no kernel is compiled anew: Triton would, for 1 and for multiples of 16, and other code
# would run than the static report has read.
COUNTS = ("PV", "P", "splits", "tiles", "parts", "B")


@triton.jit
def pixels(K: tl.constexpr, T: tl.constexpr, V: tl.constexpr):
    """The pixels of a tile, counted from its first, [1, K, T, V]."""
    k = tl.arange(0, K)[None, :, None, None]
    t = tl.arange(0, T)[None, None, :, None]
    return k * (T * V) + t * V + tl.arange(0, V)[None, None, None, :]


@triton.jit
def load_tile(
    x, p0, last, P,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """The tile from pixel p0 on in its own dtype, [BC, K, T, V], zero from channel C and pixel ``last`` on.

    It is read with two axes, of which one runs along memory: so threads lie along memory, too. With STREAM the cache
    need not keep it.
    """
    c = tl.arange(0, BC)
    p = p0 + tl.arange(0, K * T * V)
    mask = (c < C)[:, None] & (p < last)[None, :]
    policy: tl.constexpr = "evict_first" if STREAM else ""
    tile = tl.load(x + offsets(c, p, P, C, LAST, WIDE), mask=mask, other=0.0, eviction_policy=policy)
    return tl.reshape(tile, (BC, K, T, V))


@triton.jit
def store_tile(
    x, tile, p0, last, P,
    C: tl.constexpr, BC: tl.constexpr, K: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Writes the tile from pixel p0 on in the dtype of x, but for channels from C and pixels from ``last`` on."""
    c = tl.arange(0, BC)
    p = p0 + tl.arange(0, K * T * V)
    mask = (c < C)[:, None] & (p < last)[None, :]
    tile = tl.reshape(tile.to(x.dtype.element_ty), (BC, K * T * V))
    policy: tl.constexpr = "evict_first" if STREAM else ""
    tl.store(x + offsets(c, p, P, C, LAST, WIDE), tile, mask=mask, eviction_policy=policy)


@triton.jit
def load_pixels(
    x, p0, last, P, C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """The same as [BP, BC], for the matrix units: in a loop with ``num_stages`` it goes to shared memory ahead."""
    c = tl.arange(0, BC)
    p = p0 + tl.arange(0, BP)
    mask = (p < last)[:, None] & (c < C)[None, :]
    return tl.load(x + tl.trans(offsets(c, p, P, C, LAST, WIDE)), mask=mask, other=0.0)


@triton.jit
def store_pixels(
    x, tile, p0, last, P,
    C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Writes a tile [BP, BC] in the dtype of x, but for channels from C and pixels from ``last`` on."""
    c = tl.arange(0, BC)
    p = p0 + tl.arange(0, BP)
    mask = (p < last)[:, None] & (c < C)[None, :]
    policy: tl.constexpr = "evict_first" if STREAM else ""
    at = x + tl.trans(offsets(c, p, P, C, LAST, WIDE))
    tl.store(at, tile.to(x.dtype.element_ty), mask=mask, eviction_policy=policy)


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
def share(program, splits, tiles, P, BP: tl.constexpr):
    """The sample of a program, its place among the ``splits`` of that sample, and its pixels first .. last."""
    b, split = program // splits, program % splits
    first = split * tiles * BP
    return b.to(tl.int64), split, first, tl.minimum(first + tiles * BP, P)


@triton.jit
def fold(tile):
    """The sum over a thread's own pixels, [BC, 1, T, 1]."""
    return tl.sum(tl.sum(tile, 3, keep_dims=True), 1, keep_dims=True)


@triton.jit
def total_of(folded):
    """The sum over the pixels of all threads, [BC, 1, 1, 1]."""
    return tl.sum(folded, 2, keep_dims=True)


@triton.jit
def load_channels(row, C: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr):
    """C numbers as [BC, 1, 1, 1], zero outside."""
    c = tl.arange(0, BC)[:, None, None, None]
    return tl.load(row + c, mask=c < C, other=0.0).to(ACC)


@triton.jit
def store_channels(row, value, C: tl.constexpr, BC: tl.constexpr):
    """C numbers of [BC, 1, 1, 1]."""
    c = tl.arange(0, BC)[:, None, None, None]
    tl.store(row + c, value, mask=c < C)


@triton.jit
def load_vector(row, i, n, ACC: tl.constexpr):
    """The numbers i of n, zero outside."""
    return tl.load(row + i, mask=i < n, other=0.0).to(ACC)


@triton.jit
def store_vector(row, value, i, n):
    """The numbers i of n."""
    tl.store(row + i, value, mask=i < n)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) for any finite x, without overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def before_next(CHAIN: tl.constexpr):
    """With CHAIN lets the programs of the next launch begin as soon as all of this one have: ``before_last`` says how
    far they come.
    """
    if CHAIN:
        gdc_launch_dependents()


@triton.jit
def before_last(CHAIN: tl.constexpr):
    """With CHAIN until the launch before this one has ended: what it stored is then seen, and what it read is free."""
    if CHAIN:
        gdc_wait()


@triton.jit
def arrive(counter, S: tl.constexpr):
    """Says that this program has stored what the S programs of its sample wait for. The kernel before has set the
    counter to 0.

    They must run at the same time. A GPU starts programs in their order, so it is enough that it has room for S.
    """
    tl.debug_barrier()
    if S > 1:
        tl.atomic_add(counter, 1.0, sem="release", scope="gpu")


@triton.jit
def wait(counter, arrivals, S: tl.constexpr):
    """Until there have been so many arrivals: what was stored before them is then seen.

    What is loaded between arrival and wait comes meanwhile; before the arrival it would hold it up.
    """
    if S > 1:
        while tl.atomic_add(counter, 0.0, sem="acquire", scope="gpu") < arrivals:
            pass
        tl.debug_barrier()
