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
:mod:`polarpix.psa.collapsed`; which contraction is fast differs between memory layouts, dtypes and libraries, and those
taken here are slow in none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from polarpix.psa import collapsed
from polarpix.psa.collapsed import widen
from polarpix.psa.reference import wide

__all__ = ["attend"]

Weights = Mapping[str, Tensor]
Grads = tuple[Tensor | None, ...]


def attend(
    x: Tensor, form: str, layout: str, channel: Weights | None, spatial: Weights | None, scale: float = 1.0
) -> Tensor:
    """scale * (x*g + x*s) or scale * x*g*s, for x [B, C, H, W] and the weights of the reference's gate functions.

    A branch without weights takes no part. Whatever reads or transforms the code instead of running it (torch.compile,
    export, functorch, forward-mode derivatives) meets the plain operations of :mod:`polarpix.psa.collapsed`, and so do
    the spatial gate of the released sequential form and second derivatives.
    """
    collapses = spatial is None or (form, layout) in collapsed.SPATIAL_QUERIES
    if not collapses or _is_transformed():
        g, s = collapsed.gates(x, form, layout, channel, spatial)
        return collapsed.apply_gates(x, g, s, layout, scale)
    W_q = None if channel is None else channel["W_q"]
    with collapsed.no_autocast(x.device.type):
        if not torch.is_grad_enabled():
            _, c, m = _read(x, W_q, spatial is not None)
            vectors = collapsed.vectors(c, m, x.dtype, form, layout, channel, spatial)
            return _write(x, *vectors, form, layout, scale)[0]
        b_q = None if channel is None else channel.get("b_q")
        handed_on, c, m = _Read.apply(x, W_q, b_q, spatial is not None)
        vectors = collapsed.vectors(c, m, x.dtype, form, layout, channel, spatial)
        out: Tensor = _Write.apply(handed_on if x.requires_grad else x, *vectors, form, layout, scale)
        return out


def _is_transformed() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _on_cpu(X: Tensor, narrow: bool) -> bool:
    return X.is_cpu and (X.dtype in (torch.bfloat16, torch.float16)) is narrow


def _rows(w: Tensor, X: Tensor) -> Tensor:
    """w X, [B, 1, P], for w [B, C] or [1, C] and X [B, C, P], in the dtype of X."""
    w = w.to(X.dtype).expand(X.shape[0], -1)
    if _on_cpu(X, narrow=True) and len(X):  # bmm may fall back to a plain loop, mv does not
        return torch.stack([torch.mv(one.mT, row) for one, row in zip(X, w, strict=True)]).unsqueeze(1)
    return torch.bmm(w.unsqueeze(1), X)


def _columns(X: Tensor, a: Tensor) -> Tensor:
    """X a, [B, C], for X [B, C, P] and a row a [B, 1, P], in the dtype of X."""
    a = a.to(X.dtype)
    if _on_cpu(X, narrow=True) and len(X):
        return torch.stack([torch.mv(one, row) for one, row in zip(X, a.squeeze(1), strict=True)])
    return torch.bmm(a, X.mT).squeeze(1)  # with a as a column bmm is slow in channels_last


def _add_outer(X: Tensor, column: Tensor, row: Tensor) -> None:
    """X [B, C, P] += column [B, C] times row [B, 1, P]; a product of thin matrices is slow where P is even."""
    X.addcmul_(column.to(X.dtype).unsqueeze(2), row.to(X.dtype))


def _product(X: Tensor, g: Tensor | None, s: Tensor | None, layout: str, scale: float, out: Tensor) -> None:
    """X*G into ``out``, for X [B, C, P], g [B, C] and s [B, 1, P] in its dtype."""
    gates = [gate for gate in (None if g is None else g.unsqueeze(2), s) if gate is not None]
    if len(gates) == 1:
        torch.mul(X, gates[0] if scale == 1 else gates[0] * scale, out=out)
    elif layout == "sequential":
        torch.mul(gates[0] if scale == 1 else gates[0] * scale, gates[1], out=out).mul_(X)
    elif _on_cpu(X, narrow=False):
        # 2 (g*scale/2 - -s*scale/2) X: the only operation that multiplies by a sum without making a map of the sum
        multiply = torch.ops.aten.mse_loss_backward.grad_input
        multiply(X, gates[0] * (scale / 2), gates[1] * (-scale / 2), 0, grad_input=out)
    else:
        first, second = gates if scale == 1 else (gate * scale for gate in gates)
        torch.add(first, second, out=out).mul_(X)


def _softmax_gradient(a: Tensor, da: Tensor) -> Tensor:
    """The gradient of the logits of a = softmax_P, all [B, 1, P]."""
    da = a * da
    return da.addcmul_(a, da.sum(2, keepdim=True), value=-1)


def _empty_like(x: Tensor) -> Tensor:
    """A map in the memory layout of x, contiguous where x is in neither of the two: its pixels flatten to a view."""
    last = x.stride(1) == 1 and not x.is_contiguous()
    return torch.empty_like(x, memory_format=torch.channels_last if last else torch.contiguous_format)


def _read(x: Tensor, W_q: Tensor | None, spatial: bool) -> Grads:
    """a [B, 1, P] and c [B, C] where there is a channel query, m [B, C] where there is a spatial branch; all wide."""
    X = x.flatten(2)  # [B, C, P]
    a = c = m = None
    if W_q is not None:
        a = F.softmax(widen(_rows(W_q.flatten(1), X)), dim=2)
        c = widen(_columns(X, a))
    if spatial:
        m = X.sum(2, dtype=wide(X.dtype)) / X.shape[2]
    return a, c, m


def _write(
    x: Tensor, g: Tensor | None, u: Tensor | None, beta: Tensor | None, form: str, layout: str, scale: float
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The attended map; of a spatial branch also the gate and, in the released form, the softmax in it, both wide."""
    out = _empty_like(x)
    X = x.flatten(2)  # [B, C, P]
    s = softmax = None
    if u is not None:
        e = widen(_rows(u, X))  # [B, 1, P]
        e = e if beta is None else e.add_(beta[:, None, None])
        softmax = F.softmax(e, dim=2) if form == "released" else None
        s = torch.sigmoid(e if softmax is None else softmax)
    _product(X, g, None if s is None else s.to(x.dtype), layout, scale, out.flatten(2))
    return out, s, softmax


class _Read(torch.autograd.Function):
    """c and m of x, and x for the second pass: so its gradient comes back here, to be added to in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_q: Tensor | None, b_q: Tensor | None, spatial: bool) -> Grads:
        a, c, m = _read(x, W_q, spatial)
        ctx.save_for_backward(x, W_q, b_q, a)
        ctx.set_materialize_grads(False)
        return x.detach(), c, m

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None, dc: Tensor | None, dm: Tensor | None) -> Grads:
        x, W_q, b_q, a = ctx.saved_tensors
        if torch.is_grad_enabled():
            more, dW_q, db_q = _differentiable(_plain_read, (x, W_q, b_q), (dc, dm))
            return more if dx is None else dx if more is None else dx + more, dW_q, db_q, None
        X = x.flatten(2)  # [B, C, P]
        dW_q = dr = None
        with collapsed.no_autocast(x.device.type):
            if dc is not None:
                dr = _softmax_gradient(a, widen(_rows(dc, X)))  # [B, 1, P]
                if ctx.needs_input_grad[1]:
                    dW_q = _columns(X, dr).sum(0, dtype=dr.dtype).view_as(W_q).to(W_q.dtype)
            if dx is not None:
                Dx = dx.flatten(2)  # [B, C, P]
                if dm is not None:
                    Dx.add_((dm / X.shape[2]).to(x.dtype).unsqueeze(2))
                if dc is not None and dr is not None:
                    _add_outer(Dx, dc, a)
                    _add_outer(Dx, W_q.flatten(1), dr)
        return dx, dW_q, None if b_q is None else torch.zeros_like(b_q), None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor | None, u: Tensor | None, beta: Tensor | None, *kind: Any) -> Tensor:
        out, s, softmax = _write(x, g, u, beta, *kind)
        ctx.save_for_backward(x, g, u, beta, s, softmax)
        ctx.kind = kind
        return out

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Grads:
        x, g, u, beta, s, softmax = ctx.saved_tensors
        _, layout, scale = ctx.kind
        if torch.is_grad_enabled():
            plain = partial(_plain_write, *ctx.kind)
            return *_differentiable(plain, (x, g, u, beta), (d,)), None, None, None
        dx = _empty_like(x)
        X, D, Dx = x.flatten(2), d.flatten(2), dx.flatten(2)  # [B, C, P]
        in_sequence = layout == "sequential" and g is not None and s is not None
        dg = du = dbeta = de = None
        with collapsed.no_autocast(x.device.type):
            torch.mul(X, D, out=Dx)  # until both sums over it are taken
            if s is not None:
                ds = widen(_rows(g if in_sequence else X.new_ones(1, X.shape[1]), Dx))  # [B, 1, P]
                de = ds * torch.addcmul(s * scale, s, s, value=-scale)
                de = de if softmax is None else _softmax_gradient(softmax, de)
                du = widen(_columns(X, de))  # [B, C]
                dbeta = None if beta is None else de.sum((1, 2))  # [B]
                s = s.to(x.dtype)
            if g is not None:
                dg = (_columns(Dx, s) if in_sequence else Dx.sum(2)) * scale  # [B, C]
            if not ctx.needs_input_grad[0]:
                return None, dg, du, dbeta, None, None, None
            _product(D, g, s, layout, scale, Dx)
            if de is not None:
                _add_outer(Dx, u, de)
        return dx, dg, du, dbeta, None, None, None


def _plain_read(x: Tensor, W_q: Tensor | None, b_q: Tensor | None) -> Grads:
    c = None if W_q is None else collapsed.pooled(x.flatten(2), W_q, b_q)
    return c, x.mean((2, 3), dtype=wide(x.dtype))


def _plain_write(
    form: str, layout: str, scale: float, x: Tensor, g: Tensor | None, u: Tensor | None, beta: Tensor | None
) -> Grads:
    s = None
    if u is not None:
        s = collapsed.spatial_gate(x.flatten(2), u, beta, form, layout).to(x.dtype).view(len(x), 1, *x.shape[2:])
    return (collapsed.apply_gates(x, None if g is None else g[..., None, None], s, layout, scale),)


def _differentiable(function: Callable[..., Grads], inputs: Grads, d_outputs: Grads) -> Grads:
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
