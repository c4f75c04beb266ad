"""The passes of the collapsed form over a map in plain torch; :mod:`polarpix.psa.passes` has the formulas.

Which contraction is fast differs between memory layouts, dtypes and libraries; those taken here are slow in none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polarpix.psa.collapsed import widen
from polarpix.psa.reference import wide

__all__ = [
    "State",
    "empty_like",
    "multiply_by_difference",
    "read",
    "read_backward",
    "softmax_gradient",
    "write",
    "write_backward",
]

State = tuple[Tensor | None, ...]  # what a pass keeps for its backward


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
        multiply_by_difference(X, gates[0] * scale, gates[1] * -scale, out)
    else:
        first, second = gates if scale == 1 else (gate * scale for gate in gates)
        torch.add(first, second, out=out).mul_(X)


def multiply_by_difference(X: Tensor, first: Tensor, second: Tensor, out: Tensor) -> None:
    """X (first - second) into ``out``, which may be X; the two broadcast to its shape, all at least float32."""
    if X.is_cpu:
        # 2 (first/2 - second/2) X: the only operation that does it without making a map of the difference
        torch.ops.aten.mse_loss_backward.grad_input(X, first / 2, second / 2, 0, grad_input=out)
    else:
        torch.mul(X, first - second, out=out)


def softmax_gradient(a: Tensor, da: Tensor) -> Tensor:
    """The gradient of the logits of a = softmax_P, all [B, 1, P]."""
    da = a * da
    return da.addcmul_(a, da.sum(2, keepdim=True), value=-1)


def empty_like(x: Tensor) -> Tensor:
    """A map in the memory layout of x, contiguous where x is in neither of the two: its pixels flatten to a view."""
    last = x.stride(1) == 1 and not x.is_contiguous()
    return torch.empty_like(x, memory_format=torch.channels_last if last else torch.contiguous_format)


def read(x: Tensor, W_q: Tensor | None, spatial: bool) -> tuple[Tensor | None, Tensor | None, State]:
    """c [B, C] where there is a channel query, m [B, C] where there is a spatial branch; a [B, 1, P]; all wide."""
    X = x.flatten(2)  # [B, C, P]
    a = c = m = None
    if W_q is not None:
        a = F.softmax(widen(_rows(W_q.flatten(1), X)), dim=2)
        c = widen(_columns(X, a))
    if spatial:
        m = X.sum(2, dtype=wide(X.dtype)) / X.shape[2]
    return c, m, (a,)


def read_backward(
    x: Tensor, W_q: Tensor | None, state: State, dc: Tensor | None, dm: Tensor | None, dx: Tensor | None, weighs: bool
) -> Tensor | None:
    """The gradient of the query's weight if it ``weighs``; dx, which came from the write, is added to in place."""
    X = x.flatten(2)  # [B, C, P]
    dW_q = dr = None
    (a,) = state
    if W_q is not None and dc is not None and a is not None:
        dr = softmax_gradient(a, widen(_rows(dc, X)))  # [B, 1, P]
        if weighs:
            dW_q = _columns(X, dr).sum(0, dtype=dr.dtype)
    if dx is not None:
        Dx = dx.flatten(2)  # [B, C, P]
        if dm is not None:
            Dx.add_((dm / X.shape[2]).to(x.dtype).unsqueeze(2))
        if W_q is not None and dc is not None and a is not None and dr is not None:
            _add_outer(Dx, dc, a)
            _add_outer(Dx, W_q.flatten(1), dr)
    return dW_q


def write(
    x: Tensor,
    g: Tensor | None,
    u: Tensor | None,
    beta: Tensor | None,
    e: Tensor | None,
    form: str,
    layout: str,
    scale: float,
) -> tuple[Tensor, State]:
    """The attended map; of a spatial branch also the gate and, in the released form, the softmax in it, both wide."""
    out = empty_like(x)
    X = x.flatten(2)  # [B, C, P]
    s = softmax = None
    if u is not None:
        e = widen(_rows(u, X))  # [B, 1, P]
        e = e if beta is None else e.add_(beta[:, None, None])
        softmax = F.softmax(e, dim=2) if form == "released" else None
    if e is not None:
        s = torch.sigmoid(e if softmax is None else softmax)
    _product(X, g, None if s is None else s.to(x.dtype), layout, scale, out.flatten(2))
    return out, (s, softmax)


def write_backward(
    x: Tensor,
    d: Tensor,
    g: Tensor | None,
    u: Tensor | None,
    state: State,
    layout: str,
    scale: float,
    maps: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """dx so far, unless ``maps`` is off, dg [B, C], du [B, C], dbeta [B] and de [B, 1, P]."""
    dx = empty_like(x)
    s, softmax = state
    X, D, Dx = x.flatten(2), d.flatten(2), dx.flatten(2)  # [B, C, P]
    in_sequence = layout == "sequential" and g is not None and s is not None
    dg = du = dbeta = de = None
    torch.mul(X, D, out=Dx)  # until both sums over it are taken
    if s is not None:
        ds = widen(_rows(g if in_sequence and g is not None else X.new_ones(1, X.shape[1]), Dx))  # [B, 1, P]
        de = ds * torch.addcmul(s * scale, s, s, value=-scale)
        de = de if softmax is None else softmax_gradient(softmax, de)
        du = None if u is None else widen(_columns(X, de))  # [B, C]
        dbeta = de.sum((1, 2))  # [B]
        s = s.to(x.dtype)
    if g is not None:
        dg = (_columns(Dx, s) if in_sequence and s is not None else Dx.sum(2)) * scale  # [B, C]
    if not maps:
        return None, dg, du, dbeta, de
    _product(D, g, s, layout, scale, Dx)
    if u is not None and de is not None:
        _add_outer(Dx, u, de)
    return dx, dg, du, dbeta, de
