"""The same four functions without a [h, P] tensor, in plain torch: for the CPU, for export and wherever no kernel runs.

Nothing is approximated; the products are only taken in another order. With a the pixel weights of the channel branch
(they sum to one) and t the query of the spatial branch,

    channel:     (W_v x + b_v) a = W_v c + b_v          with c = x a            [C]
    spatial:     mean_P(W_q y + b_q) = W_q m + b_q      with m = mean_P y       [C]
                 t (W_v y + b_v) = u y + beta           with u = W_v^T t [C], beta = b_v t
    sequential:  mean_P(x*g) = g*mean_P x,  u (x*g) = (g*u) x

so a map is read twice, in vector products only, and the work between them is O(C^2) per sample. The spatial gate of
the released sequential form takes a softmax over the pixels of every channel of W_v y, so that one product stays.

Axis letters as in :mod:`polarpix.psa.reference`; ``X`` is x as [B, C, P]. It is a view in both memory layouts, and a
row vector times it (or times its transpose) is fast in both. The products with X are taken in the dtype of x, also
under autocast; what lies between them, small vectors, in at least float32 ("wide").

Run eagerly, :mod:`polarpix.psa.passes` takes its place: the same arithmetic between passes written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from polarpix.psa.reference import wide

__all__ = [
    "CHANNEL_GATES",
    "SPATIAL_GATES",
    "SPATIAL_QUERIES",
    "Weights",
    "apply_gates",
    "gates",
    "no_autocast",
    "pooled",
    "released_sequential_logits",
    "released_sequential_query",
    "spatial_gate",
    "vectors",
    "widen",
]

Weights = Mapping[str, Tensor]


def widen(v: Tensor) -> Tensor:
    """v in at least float32."""
    return _to(v, wide(v.dtype))


def _to(v: Tensor, dtype: torch.dtype) -> Tensor:
    return v if v.dtype == dtype else v.to(dtype)  # asking is cheaper than a call, and there are many


def _rows(W: Tensor, X: Tensor) -> Tensor:
    """W X for W [N, C] or [B, N, C] and X [B, C, P], in the dtype of X; matmul would copy X to fold B into P."""
    return torch.bmm(W.to(X.dtype).expand(X.shape[0], -1, -1), X)  # [B, N, P]


def _linear(v: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """W v + b for v [B, in] and the convolution weight W [out, in, 1, 1], in the dtype of v."""
    return F.linear(v, _to(W.flatten(1), v.dtype), None if b is None else _to(b, v.dtype))


def _layer_norm(z: Tensor, ln_weight: Tensor, ln_bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the channels of z [B, N]."""
    return F.layer_norm(z, ln_weight.shape, _to(ln_weight, z.dtype), _to(ln_bias, z.dtype), eps)


def channel_gate_paper(
    c: Tensor, W_v: Tensor, b_v: Tensor, W_z: Tensor, b_z: Tensor, ln_weight: Tensor, ln_bias: Tensor
) -> Tensor:
    """The paper's channel gate [B, C] of the pooled pixels c [B, C]."""
    v = _linear(c, W_v, b_v)  # [B, h]
    return torch.sigmoid(_layer_norm(_linear(v, W_z, b_z), ln_weight, ln_bias))


def channel_gate_released_parallel(c: Tensor, W_v: Tensor, W_z: Tensor) -> Tensor:
    """The channel gate [B, C] of the released parallel form."""
    return torch.sigmoid(_linear(_linear(c, W_v), W_z))


def channel_gate_released_sequential(
    c: Tensor,
    W_v: Tensor,
    W_z1: Tensor,
    b_z1: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    W_z2: Tensor,
    b_z2: Tensor,
) -> Tensor:
    """The channel gate [B, C] of the released sequential form."""
    v = _linear(c, W_v)  # [B, h]
    k = F.relu(_layer_norm(_linear(v, W_z1, b_z1), ln_weight, ln_bias))  # [B, r]
    return torch.sigmoid(_linear(k, W_z2, b_z2))


def spatial_query_paper(m: Tensor, W_q: Tensor, b_q: Tensor, W_v: Tensor, b_v: Tensor) -> tuple[Tensor, Tensor | None]:
    """u [B, C] and beta [B] of the paper's spatial logits u y + beta, from the mean m [B, C] of y."""
    t = F.softmax(_linear(m, W_q, b_q), dim=1)  # [B, h]
    return torch.mm(t, _to(W_v.flatten(1), t.dtype)), torch.mv(t, _to(b_v, t.dtype))


def spatial_query_released(m: Tensor, W_q: Tensor, W_v: Tensor) -> tuple[Tensor, Tensor | None]:
    """u [B, C] of the released parallel form; no beta."""
    return torch.mm(_linear(m, W_q), _to(W_v.flatten(1), m.dtype)), None


def spatial_gate_paper(e: Tensor) -> Tensor:
    """sigmoid of the logits e [B, 1, P]."""
    return torch.sigmoid(e)


def spatial_gate_released_parallel(e: Tensor) -> Tensor:
    """sigmoid(softmax_P) of the logits e [B, 1, P]."""
    return torch.sigmoid(F.softmax(e, dim=2))


def released_sequential_query(m: Tensor, g: Tensor | None, W_q: Tensor, W_v: Tensor) -> tuple[Tensor, Tensor]:
    """t [B, h] and W [B, h, C] of the released sequential form's logits t softmax_P(W x), for y = x*g, or x without g.

    The gate goes into the weights of each sample, so that y is never formed.
    """
    t = _linear(m if g is None else m * g, W_q)  # [B, h]
    return t, W_v.flatten(1).expand(m.shape[0], -1, -1) if g is None else W_v.flatten(1) * g[:, None]


def released_sequential_logits(X: Tensor, W: Tensor, t: Tensor) -> Tensor:
    """t softmax_P(W X), wide [B, 1, P]: a softmax over the pixels of each of the h rows, so that product stays."""
    V = _rows(W, X)  # [B, h, P]
    A = F.softmax(V, dim=2, dtype=t.dtype).to(V.dtype)  # [B, h, P]
    return widen(_rows(t.unsqueeze(1), A))


CHANNEL_GATES: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("paper", "parallel"): channel_gate_paper,
    ("paper", "sequential"): channel_gate_paper,
    ("released", "parallel"): channel_gate_released_parallel,
    ("released", "sequential"): channel_gate_released_sequential,
}

SPATIAL_QUERIES: dict[tuple[str, str], Callable[..., tuple[Tensor, Tensor | None]]] = {
    ("paper", "parallel"): spatial_query_paper,
    ("paper", "sequential"): spatial_query_paper,
    ("released", "parallel"): spatial_query_released,
}

SPATIAL_GATES: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("paper", "parallel"): spatial_gate_paper,
    ("paper", "sequential"): spatial_gate_paper,
    ("released", "parallel"): spatial_gate_released_parallel,
}


def vectors(
    c: Tensor | None,
    m: Tensor | None,
    dtype: torch.dtype,
    form: str,
    layout: str,
    channel: Weights | None,
    spatial: Weights | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What lies between the two reads of a map, O(C^2) per sample: the channel gate g [B, C], and u [B, C], beta [B].

    c and m are the pooled and the mean pixel of x, wide [B, C], None where the branch is; the spatial logits are
    u x + beta, of x also in the sequential layout, where y = x*g. g has the map's dtype, as every gate.
    """
    g = u = beta = None
    if c is not None and channel is not None:
        rest = {name: W for name, W in channel.items() if name not in ("W_q", "b_q")}
        g = _to(CHANNEL_GATES[form, layout](c, **rest), dtype)
    if m is not None and spatial is not None:
        y_gate = g if layout == "sequential" else None
        u, beta = SPATIAL_QUERIES[form, layout](m if y_gate is None else m * y_gate, **spatial)
        u = u if y_gate is None else u * y_gate
    return g, u, beta


def pooled(X: Tensor, W_q: Tensor, b_q: Tensor | None) -> Tensor:
    """c = x softmax_P(w_q x + b_q), wide [B, C], of x as X [B, C, P]."""
    q = widen(_rows(W_q.flatten(1), X))  # [B, 1, P]
    q = q if b_q is None else q + b_q  # without effect, but a parameter that gets no gradient stops DDP
    a = F.softmax(q, dim=2)  # [B, 1, P]
    return widen(torch.bmm(a.to(X.dtype), X.mT).squeeze(1))


def spatial_gate(X: Tensor, u: Tensor, beta: Tensor | None, form: str, layout: str) -> Tensor:
    """The gate s, wide [B, 1, P], from the logits u x + beta of x as X [B, C, P]."""
    e = widen(_rows(u.unsqueeze(1), X))  # [B, 1, P]
    return SPATIAL_GATES[form, layout](e if beta is None else e + beta[:, None, None])


def no_autocast(device_type: str) -> AbstractContextManager[object]:
    """Autocast would round the small vectors between the passes; only where it is on, to leave exports plain."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def gates(
    x: Tensor, form: str, layout: str, channel: Weights | None, spatial: Weights | None
) -> tuple[Tensor | None, Tensor | None]:
    """Both gates of x [B, C, H, W]: channel [B, C, 1, 1] and spatial [B, 1, H, W]; None where there are no weights.

    In the sequential layout the spatial gate is that of y = x*g, which is not formed.
    """
    collapses = (form, layout) in SPATIAL_QUERIES
    with no_autocast(x.device.type):
        X = x.flatten(2)  # [B, C, P]
        c = None if channel is None else pooled(X, channel["W_q"], channel.get("b_q"))
        m = None if spatial is None else x.mean((2, 3), dtype=wide(x.dtype))  # [B, C]
        g, u, beta = vectors(c, m if collapses else None, x.dtype, form, layout, channel, spatial)
        s = None
        if u is not None:
            s = spatial_gate(X, u, beta, form, layout)
        elif m is not None and spatial is not None:
            t, W = released_sequential_query(m, g, **spatial)
            s = torch.sigmoid(released_sequential_logits(X, W, t))
    g = None if g is None else g[..., None, None]
    return g, None if s is None else s.to(x.dtype).reshape(x.shape[0], 1, *x.shape[2:])


def _product(x: Tensor, g: Tensor | None, s: Tensor | None, layout: str, scale: float) -> Tensor:
    if g is None or s is None:
        gate = s if g is None else g
        return x if gate is None else x * (gate if scale == 1 else gate * scale)
    gate = g + s if layout == "parallel" else g * s
    return x * (gate if scale == 1 else gate * scale)


def apply_gates(x: Tensor, g: Tensor | None, s: Tensor | None, layout: str, scale: float = 1.0) -> Tensor:
    """x*(g + s) (parallel) or x*(g*s) (sequential), times ``scale``; a gate that is None takes no part.

    One broadcast product over x: the gates meet first.
    """
    if x.stride(1) == 1:
        # channels_last: broadcasting the two gates as they lie would give a contiguous map and a strided product
        g, s = (None if gate is None else gate.permute(0, 2, 3, 1) for gate in (g, s))
        return _product(x.permute(0, 2, 3, 1), g, s, layout, scale).permute(0, 3, 1, 2)
    return _product(x, g, s, layout, scale)
