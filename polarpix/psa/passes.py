"""The collapsed form with both passes over the map, and their backward, written by hand: for running eagerly.

Autograd on :mod:`polarpix.psa.collapsed` makes a map for every product with x and then adds the maps up. Here a map is
read in vector products and written once in each direction, and what is kept is x, small vectors and rows of P numbers;
the arithmetic between the passes, O(C^2) per sample, stays with autograd. With d the gradient of the output, p a pixel
and G = scale*(g + s) in parallel, scale*g*s in sequence:

    read:             a = softmax_P(w_q x),  c = sum_p a_p x_p,  m = mean_p x_p
    write:            s_p from u.x_p + beta,  out_p = x_p*G_p
    write, backward:  dg = scale * sum_p d_p x_p,  ds_p = scale * d_p.x_p    (in sequence with s_p and with g inside)
                      de_p from ds_p,  du = sum_p de_p x_p,  dbeta = sum_p de_p,  dx_p = d_p*G_p + u de_p
    read, backward:   dr_p = a_p (dc.x_p - sum_q a_q dc.x_q),  dw_q = sum_p dr_p x_p
                      dx_p += dc a_p + w_q dr_p + dm/P

The query's bias is left out: a softmax does not feel it, its gradient is zero. Letters as in
:mod:`polarpix.psa.collapsed`. The passes themselves are in :mod:`polarpix.psa.plain` and :mod:`polarpix.psa.loops`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from polarpix.psa import collapsed, plain, vectors
from polarpix.psa.collapsed import Weights
from polarpix.psa.reference import wide

__all__ = ["attend", "differentiable", "is_transformed"]

Grads = tuple[Tensor | None, ...]


def attend(
    x: Tensor,
    form: str,
    layout: str,
    channel: Weights | None,
    spatial: Weights | None,
    scale: float = 1.0,
    hand: ModuleType = plain,
) -> Tensor:
    """scale * (x*g + x*s) or scale * x*g*s, for x [B, C, H, W] and the weights of the reference's gate functions.

    ``hand`` has the four passes: :mod:`polarpix.psa.plain`, or :mod:`polarpix.psa.loops` for a map that it takes.

    A branch without weights takes no part. Whatever reads or transforms the code instead of running it (torch.compile,
    export, functorch, forward-mode derivatives) meets the plain operations of :mod:`polarpix.psa.collapsed`, and so do
    second derivatives.
    """
    if is_transformed():
        g, s = collapsed.gates(x, form, layout, channel, spatial)
        return collapsed.apply_gates(x, g, s, layout, scale)
    W_q, b_q = (None, None) if channel is None else (channel["W_q"], channel.get("b_q"))
    collapses = (form, layout) in collapsed.SPATIAL_QUERIES
    call = _Call(hand)
    with collapsed.no_autocast(x.device.type):
        if torch.is_grad_enabled():
            handed_on, c, m = _Read.apply(x, W_q, b_q, spatial is not None, call)
        else:
            handed_on, (c, m, _) = x, hand.read(x, W_q, spatial is not None)
        m_u = m if collapses else None
        by_hand = torch.is_grad_enabled() and vectors.takes(x, form, channel, spatial)
        u: Tensor | None
        beta: Tensor | None
        if by_hand and c is not None and m_u is not None and channel and spatial:
            g, u, beta = vectors.paper_vectors(c, m_u, layout, channel, spatial)
        else:
            g, u, beta = collapsed.vectors(c, m_u, x.dtype, form, layout, channel, spatial)
        e = None
        if spatial is not None and m is not None and not collapses:
            t, W = collapsed.released_sequential_query(m, g, **spatial)
            handed_on, e = _Softmaxes.apply(handed_on, W, t, call)
        if not torch.is_grad_enabled():
            silent: Tensor = hand.write(x, g, u, beta, e, form, layout, scale)[0]
            return silent
        out: Tensor = _Write.apply(handed_on if x.requires_grad else x, g, u, beta, e, call, form, layout, scale)
        return out


def is_transformed() -> bool:
    """Whether something reads or transforms the code instead of running it."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


@dataclass
class _Call:
    """What the steps of one call share."""

    hand: ModuleType
    graphed: bool = False  # whether a backward pass has been given a graph itself

    def own(self, x: Tensor, dx: Tensor | None, wanted: bool) -> Tensor | None:
        """dx to be added to in place: from the write it is a map of its own, as x lies.

        Not in the backward of a backward: there it comes from any operation, may be somebody else's too, and may be
        none although x has a gradient.
        """
        if not self.graphed:
            return dx
        if dx is None:
            return plain.empty_like(x).zero_() if wanted else None
        return plain.empty_like(x).copy_(dx)


class _Read(torch.autograd.Function):
    """c and m of x, and x for the second pass: so its gradient comes back here, to be added to in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_q: Tensor | None, b_q: Tensor | None, spatial: bool, call: _Call) -> Grads:
        c, m, state = call.hand.read(x, W_q, spatial)
        ctx.save_for_backward(x, W_q, b_q, *state)
        ctx.set_materialize_grads(False)
        ctx.call = call
        return x.detach(), c, m

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None, dc: Tensor | None, dm: Tensor | None) -> Grads:
        x, W_q, b_q, *state = ctx.saved_tensors
        if torch.is_grad_enabled():
            more, dW_q, db_q = differentiable(_plain_read, (x, W_q, b_q), (dc, dm))
            return more if dx is None else dx if more is None else dx + more, dW_q, db_q, None, None
        with collapsed.no_autocast(x.device.type):
            dx = ctx.call.own(x, dx, ctx.needs_input_grad[0])
            dW_q = ctx.call.hand.read_backward(x, W_q, tuple(state), dc, dm, dx, ctx.needs_input_grad[1])
        dW_q = None if dW_q is None else dW_q.view_as(W_q).to(W_q.dtype)
        return dx, dW_q, None if b_q is None else torch.zeros_like(b_q), None, None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        g: Tensor | None,
        u: Tensor | None,
        beta: Tensor | None,
        e: Tensor | None,
        call: _Call,
        *kind: Any,
    ) -> Tensor:
        out: Tensor
        out, state = call.hand.write(x, g, u, beta, e, *kind)
        ctx.save_for_backward(x, g, u, beta, e, *state)
        ctx.call, ctx.kind = call, kind
        return out

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Grads:
        x, g, u, beta, e, *state = ctx.saved_tensors
        _, layout, scale = ctx.kind
        if torch.is_grad_enabled():
            ctx.call.graphed = True
            plainly = partial(_plain_write, *ctx.kind)
            return *differentiable(plainly, (x, g, u, beta, e), (d,)), None, None, None, None
        with collapsed.no_autocast(x.device.type):
            dx, dg, du, dbeta, de = ctx.call.hand.write_backward(
                x, d, g, u, tuple(state), layout, scale, ctx.needs_input_grad[0]
            )
        return dx, dg, du, None if beta is None else dbeta, None if e is None else de, None, None, None, None


class _Softmaxes(torch.autograd.Function):
    """e = t softmax_P(W x), wide [B, 1, P], the spatial logits of the released sequential form, and x for the write.

    W x has h rows of P numbers: it is made, and made again in the backward instead of being kept; on the CPU sample by
    sample, a single one by halves, as product and softmax together are as large as its map; elsewhere for all samples
    in one call. With A the softmax and de the gradient of e:
    dt_h = sum_p A_hp de_p, dV_hp = A_hp t_h (de_p - dt_h), dW = dV x^T, dx += W^T dV.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, t: Tensor, call: _Call) -> Grads:
        X = x.flatten(2)  # [B, C, P]
        e = t.new_zeros(len(X), 1, X.shape[2])
        for s, rows in _shares(W):
            A = F.softmax(torch.bmm(W[s, rows].to(x.dtype), X[s]), dim=2, dtype=t.dtype)  # [b, n, P]
            e[s].baddbmm_(t[s, None, rows], A)
        ctx.save_for_backward(x, W, t)
        ctx.set_materialize_grads(False)
        ctx.call = call
        return x.detach(), e

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None, de: Tensor | None) -> Grads:
        x, W, t = ctx.saved_tensors
        if torch.is_grad_enabled():
            more, dW, dt = differentiable(_plain_softmaxes, (x, W, t), (de,))
            return more if dx is None else dx if more is None else dx + more, dW, dt, None
        if de is None:
            return dx, None, None, None
        dx = ctx.call.own(x, dx, ctx.needs_input_grad[0])
        X = x.flatten(2)  # [B, C, P]
        dW, dt = torch.empty_like(W), torch.empty_like(t)
        with collapsed.no_autocast(x.device.type):
            for s, rows in _shares(W):
                w = W[s, rows].to(x.dtype)  # [b, n, C]
                A = F.softmax(torch.bmm(w, X[s]), dim=2, dtype=t.dtype)  # [b, n, P]
                dt[s, rows] = torch.bmm(A, de[s].mT)[..., 0]
                plain.multiply_by_difference(A.mul_(t[s, rows, None]), de[s], dt[s, rows, None], out=A)
                dV = A.to(x.dtype)  # [b, n, P]
                dW[s, rows] = torch.bmm(dV, X[s].mT)
                if dx is not None:
                    dx.flatten(2)[s].baddbmm_(w.mT, dV)
        return dx, dW, dt, None


def _shares(W: Tensor) -> list[tuple[slice, slice]]:
    """The samples and the rows of W [B, h, C] that are worked on together."""
    B, h = W.shape[:2]
    if not W.is_cpu:
        return [(slice(None), slice(None))]
    count = -(-h // 2) if B == 1 else h
    return [(slice(b, b + 1), slice(row, row + count)) for b in range(B) for row in range(0, h, count)]


def _plain_read(x: Tensor, W_q: Tensor | None, b_q: Tensor | None) -> Grads:
    c = None if W_q is None else collapsed.pooled(x.flatten(2), W_q, b_q)
    return c, x.mean((2, 3), dtype=wide(x.dtype))


def _plain_softmaxes(x: Tensor, W: Tensor, t: Tensor) -> Grads:
    return (collapsed.released_sequential_logits(x.flatten(2), W, t),)


def _plain_write(
    form: str,
    layout: str,
    scale: float,
    x: Tensor,
    g: Tensor | None,
    u: Tensor | None,
    beta: Tensor | None,
    e: Tensor | None,
) -> Grads:
    s = None
    if e is not None:
        s = torch.sigmoid(e).to(x.dtype).view(len(x), 1, *x.shape[2:])
    elif u is not None:
        s = collapsed.spatial_gate(x.flatten(2), u, beta, form, layout).to(x.dtype).view(len(x), 1, *x.shape[2:])
    return (collapsed.apply_gates(x, None if g is None else g[..., None, None], s, layout, scale),)


def differentiable(function: Callable[..., Grads], inputs: Grads, d_outputs: Grads) -> Grads:
    """Gradients that have a graph themselves, of a pass in plain operations."""
    # views, as one input may have been made from another, and only what goes through the function belongs here
    inputs = tuple(None if one is None else one.view_as(one) for one in inputs)
    outputs = function(*inputs)
    given = [(y, dy) for y, dy in zip(outputs, d_outputs, strict=True) if y is not None and dy is not None]
    wanted = [one for one in inputs if one is not None and one.requires_grad]
    if not given or not wanted:
        return (None,) * len(inputs)
    ends, d_ends = zip(*given, strict=True)
    found = iter(torch.autograd.grad(ends, wanted, d_ends, create_graph=True, allow_unused=True))
    return tuple(next(found) if one is not None and one.requires_grad else None for one in inputs)
