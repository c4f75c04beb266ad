"""The last Triton kernel of the fused backward: gradients of the parameters, from vectors that the others left."""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, operator, index, no-any-return, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from polarpix.psa.tiles import COUNTS

__all__ = ["grad_weight"]


@triton.jit(do_not_specialize=COUNTS)
def grad_weight(
    state, grads, dw, dW_q, db_q, dW_v, db_v, dW_z, db_z, dln_w, dln_b, dW_q2, db_q2, dW_v2, db_v2, B, parts,
    C: tl.constexpr, BB: tl.constexpr, BL: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, PAPER: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Over the batch, the sum of left [h] times right [C]. On axis 2, program 0 makes dW_v, 1 dW_q', 2 dW_v', 3 dW_z;
    their first tiles also add up biases, LayerNorm and dW_q.
    """
    H: tl.constexpr = C // 2
    LS: tl.constexpr = 7 * C + 8
    LG: tl.constexpr = 9 * C + 8
    r = tl.program_id(0) * TR + tl.arange(0, TR)
    c = tl.program_id(1) * TC + tl.arange(0, TC)
    which = tl.program_id(2)
    left, left_row, right, right_row = grads + 6 * C, LG, state, LS
    if which == 1:
        left, right, right_row = grads + 6 * C + H, grads + 5 * C, LG
    elif which == 2:
        left, right, right_row = grads + 7 * C, grads + 4 * C, LG
    elif which == 3:
        left, left_row, right, right_row = state + 5 * C, LS, grads + 3 * C, LG
    product = tl.zeros((TR, TC), ACC)
    bias = tl.zeros((TR,), ACC)
    for b0 in range(0, B, BB):
        b = b0 + tl.arange(0, BB).to(tl.int64)
        mask = (b < B)[:, None] & (r < H)[None, :]
        one = tl.load(left + b[:, None] * left_row + r[None, :], mask=mask, other=0.0)  # [BB, TR]
        mask = (b < B)[:, None] & (c < C)[None, :]
        product += tl.dot(
            tl.trans(one),
            tl.load(right + b[:, None] * right_row + c[None, :], mask=mask, other=0.0),  # [BB, TC]
            input_precision="ieee",
            out_dtype=ACC,
        )
        if which == 2:
            one *= tl.load(grads + b * LG + 7 * C + H, mask=b < B, other=0.0)[:, None]  # dbeta
        bias += tl.sum(one, 0)
    mask = (r < H)[:, None] & (c < C)[None, :]
    at = r[:, None] * C + c[None, :]
    r_in = r < (H if tl.program_id(1) == 0 else 0)
    c_in = c < (C if tl.program_id(0) == 0 else 0)
    if which == 0:
        tl.store(dW_v + at, product.to(dW_v.dtype.element_ty), mask=mask)
        total = column_sums(dw, C, 0, c, parts, c_in, BL, TC, ACC)
        tl.store(dW_q + c, total.to(dW_q.dtype.element_ty), mask=c_in)
        if PAPER:
            tl.store(db_v + r, bias.to(db_v.dtype.element_ty), mask=r_in)
            tl.store(db_q + r, tl.zeros((TR,), db_q.dtype.element_ty), mask=(r < 1) & r_in)
    elif which == 1:
        tl.store(dW_q2 + at, product.to(dW_q2.dtype.element_ty), mask=mask)
        if PAPER:
            tl.store(db_q2 + r, bias.to(db_q2.dtype.element_ty), mask=r_in)
    elif which == 2:
        tl.store(dW_v2 + at, product.to(dW_v2.dtype.element_ty), mask=mask)
        if PAPER:
            tl.store(db_v2 + r, bias.to(db_v2.dtype.element_ty), mask=r_in)
    else:
        tl.store(dW_z + c[None, :] * H + r[:, None], product.to(dW_z.dtype.element_ty), mask=mask)
        if PAPER:
            total = column_sums(grads, LG, 3 * C, c, B, c_in, BL, TC, ACC)
            tl.store(db_z + c, total.to(db_z.dtype.element_ty), mask=c_in)
            total = column_sums(grads, LG, 2 * C, c, B, c_in, BL, TC, ACC)
            tl.store(dln_b + c, total.to(dln_b.dtype.element_ty), mask=c_in)
            total = norm_sums(grads + 2 * C, LG, state + 2 * C, LS, c, B, c_in, BL, TC, ACC)
            tl.store(dln_w + c, total.to(dln_w.dtype.element_ty), mask=c_in)


@triton.jit
def column_sums(
    rows, length: tl.constexpr, first: tl.constexpr, c, n, c_in, BB: tl.constexpr, TC: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The sum over n rows of their columns first + c, [TC]."""
    total = tl.zeros((TC,), ACC)
    for i0 in range(0, n, BB):
        i = i0 + tl.arange(0, BB).to(tl.int64)
        mask = (i < n)[:, None] & c_in[None, :]
        total += tl.sum(tl.load(rows + first + i[:, None] * length + c[None, :], mask=mask, other=0.0), 0)
    return total


@triton.jit
def norm_sums(
    dn, dn_row: tl.constexpr, zhat, zhat_row: tl.constexpr, c, n, c_in,
    BB: tl.constexpr, TC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The sum over n rows of dn*zhat, [TC]: the gradient of the LayerNorm's weight."""
    total = tl.zeros((TC,), ACC)
    for i0 in range(0, n, BB):
        i = i0 + tl.arange(0, BB).to(tl.int64)
        mask = (i < n)[:, None] & c_in[None, :]
        left = tl.load(dn + i[:, None] * dn_row + c[None, :], mask=mask, other=0.0)
        total += tl.sum(left * tl.load(zhat + i[:, None] * zhat_row + c[None, :], mask=mask, other=0.0), 0)
    return total
