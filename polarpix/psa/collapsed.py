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
    "apply_gates",
    "channel_gate_paper",
    "channel_gate_released_parallel",
    "channel_gate_released_sequential",
    "gates",
    "spatial_gate_paper",
    "spatial_gate_released_parallel",
    "spatial_gate_released_sequential",
]

Weights = Mapping[str, Tensor]
Gate = Callable[..., Tensor]


def _widen(v: Tensor) -> Tensor:
    return v.to(wide(v.dtype))


def _rows(W: Tensor, X: Tensor) -> Tensor:
    """W X for W [N, C] or [B, N, C] and X [B, C, P], in the dtype of X; matmul would copy X to fold B into P."""
    return torch.bmm(W.to(X.dtype).expand(X.shape[0], -1, -1), X)  # [B, N, P]


def _linear(v: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """W v + b for v [B, in] and the convolution weight W [out, in, 1, 1], in the dtype of v."""
    return F.linear(v, W.flatten(1).to(v.dtype), None if b is None else b.to(v.dtype))


def _pooled_values(x: Tensor, W_q: Tensor, b_q: Tensor | None, W_v: Tensor, b_v: Tensor | None) -> Tensor:
    """v = W_v c + b_v with c = x softmax_P(w_q x + b_q), wide [B, h]."""
    X = x.flatten(2)  # [B, C, P]
    q = _widen(_rows(W_q.flatten(1), X))  # [B, 1, P]
    q = q if b_q is None else q + b_q  # without effect, but a parameter that gets no gradient stops DDP
    a = F.softmax(q, dim=2)  # [B, 1, P]
    c = torch.bmm(a.to(x.dtype), X.mT).squeeze(1)  # [B, C]
    return _linear(_widen(c), W_v, b_v)


def _mean_query(x: Tensor, g: Tensor | None, W_q: Tensor, b_q: Tensor | None) -> Tensor:
    """mean_P(W_q y + b_q), wide [B, h], of y = x*g, or of x where g [B, C, 1, 1] is None."""
    m = x.mean((2, 3), dtype=wide(x.dtype))  # [B, C]
    return _linear(m if g is None else m * g.flatten(1), W_q, b_q)


def _spatial_logits(x: Tensor, g: Tensor | None, t: Tensor, W_v: Tensor, b_v: Tensor | None) -> Tensor:
    """t (W_v y + b_v), wide [B, 1, P], of y = x*g (of x where g is None) for the wide query t [B, h]."""
    u = torch.matmul(t, W_v.flatten(1).to(t.dtype))  # [B, C]
    u = u if g is None else u * g.flatten(1)
    e = _widen(_rows(u.unsqueeze(1), x.flatten(2)))  # [B, 1, P]
    return e if b_v is None else e + torch.matmul(t, b_v.to(t.dtype))[:, None, None]


def _layer_norm(z: Tensor, ln_weight: Tensor, ln_bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the channels of z [B, N]."""
    return F.layer_norm(z, ln_weight.shape, ln_weight.to(z.dtype), ln_bias.to(z.dtype), eps)


def _channel_sigmoid(z: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(z).to(x.dtype)[..., None, None]


def _spatial_sigmoid(e: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(e).to(x.dtype).reshape(x.shape[0], 1, *x.shape[2:])


def channel_gate_paper(
    x: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_v: Tensor,
    b_v: Tensor,
    W_z: Tensor,
    b_z: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
) -> Tensor:
    """The paper's channel gate [B, C, 1, 1] of x [B, C, H, W]."""
    v = _pooled_values(x, W_q, b_q, W_v, b_v)  # [B, h]
    return _channel_sigmoid(_layer_norm(_linear(v, W_z, b_z), ln_weight, ln_bias), x)


def channel_gate_released_parallel(x: Tensor, W_q: Tensor, W_v: Tensor, W_z: Tensor) -> Tensor:
    """The channel gate [B, C, 1, 1] of the released parallel form."""
    v = _pooled_values(x, W_q, None, W_v, None)  # [B, h]
    return _channel_sigmoid(_linear(v, W_z), x)


def channel_gate_released_sequential(
    x: Tensor,
    W_q: Tensor,
    W_v: Tensor,
    W_z1: Tensor,
    b_z1: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    W_z2: Tensor,
    b_z2: Tensor,
) -> Tensor:
    """The channel gate [B, C, 1, 1] of the released sequential form."""
    v = _pooled_values(x, W_q, None, W_v, None)  # [B, h]
    k = F.relu(_layer_norm(_linear(v, W_z1, b_z1), ln_weight, ln_bias))  # [B, r]
    return _channel_sigmoid(_linear(k, W_z2, b_z2), x)


def spatial_gate_paper(x: Tensor, g: Tensor | None, W_q: Tensor, b_q: Tensor, W_v: Tensor, b_v: Tensor) -> Tensor:
    """The paper's spatial gate [B, 1, H, W] of y = x*g, or of x where g [B, C, 1, 1] is None."""
    t = F.softmax(_mean_query(x, g, W_q, b_q), dim=1)  # [B, h]
    return _spatial_sigmoid(_spatial_logits(x, g, t, W_v, b_v), x)


def spatial_gate_released_parallel(x: Tensor, g: Tensor | None, W_q: Tensor, W_v: Tensor) -> Tensor:
    """The spatial gate [B, 1, H, W] of the released parallel form, of y = x*g, or of x where g is None."""
    e = _spatial_logits(x, g, _mean_query(x, g, W_q, None), W_v, None)  # [B, 1, P]
    return _spatial_sigmoid(F.softmax(e, dim=2), x)


def spatial_gate_released_sequential(x: Tensor, g: Tensor | None, W_q: Tensor, W_v: Tensor) -> Tensor:
    """The spatial gate [B, 1, H, W] of the released sequential form, of y = x*g, or of x where g is None.

    The gate goes into the weights of each sample, so that y is never formed; the softmax per channel keeps [h, P].
    """
    t = _mean_query(x, g, W_q, None)  # [B, h]
    W = W_v.flatten(1) if g is None else W_v.flatten(1) * g.flatten(2).mT  # [h, C] or [B, h, C]
    V = _rows(W, x.flatten(2))  # [B, h, P]
    A = F.softmax(V, dim=2, dtype=t.dtype).to(V.dtype)  # [B, h, P]
    return _spatial_sigmoid(_widen(_rows(t.unsqueeze(1), A)), x)


CHANNEL_GATES: dict[tuple[str, str], Gate] = {
    ("paper", "parallel"): channel_gate_paper,
    ("paper", "sequential"): channel_gate_paper,
    ("released", "parallel"): channel_gate_released_parallel,
    ("released", "sequential"): channel_gate_released_sequential,
}

SPATIAL_GATES: dict[tuple[str, str], Gate] = {
    ("paper", "parallel"): spatial_gate_paper,
    ("paper", "sequential"): spatial_gate_paper,
    ("released", "parallel"): spatial_gate_released_parallel,
    ("released", "sequential"): spatial_gate_released_sequential,
}


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
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
    with _no_autocast(x.device.type):
        g = None if channel is None else CHANNEL_GATES[form, layout](x, **channel)
        y_gate = g if layout == "sequential" else None
        s = None if spatial is None else SPATIAL_GATES[form, layout](x, y_gate, **spatial)
    return g, s


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
