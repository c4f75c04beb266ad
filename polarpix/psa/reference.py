"""The four functions that carry the name polarized self-attention, conv by conv: what all other code is judged by.

Axis letters, the same everywhere: B batch, C channels, h = C/2, r = C/8, H x W the map, P = H*W pixels. ``W_*`` are 1x1
convolution weights [out, in, 1, 1], ``b_*`` their biases [out]. A gate has the dtype of the map it is taken from;
softmax, mean, LayerNorm and sigmoid are computed in at least float32.

Form "paper" is Fig. 2 of Liu et al., "Polarized Self-Attention" (arXiv 2107.00782), both layouts with the same two
gates. Form "released" is what the authors' published code computes: it differs in every gate and between layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

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
    "wide",
]

Weights = Mapping[str, Tensor]
Gate = Callable[..., Tensor]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax, mean, LayerNorm and sigmoid: float64 stays, anything narrower becomes float32."""
    return torch.promote_types(dtype, torch.float32)


def _pooled_values(x: Tensor, W_q: Tensor, b_q: Tensor | None, W_v: Tensor, b_v: Tensor | None) -> Tensor:
    """v = (W_v x + b_v) softmax_P(w_q x + b_q), [B, h, 1, 1]: attention pooling with one query."""
    q = F.conv2d(x, W_q, b_q).flatten(2)  # [B, 1, P]
    V = F.conv2d(x, W_v, b_v).flatten(2)  # [B, h, P]
    a = F.softmax(q, dim=2, dtype=wide(q.dtype)).to(V.dtype)  # [B, 1, P]
    return torch.matmul(V, a.mT).unsqueeze(3)  # [B, h, 1, 1]


def _mean_query(y: Tensor, W_q: Tensor, b_q: Tensor | None) -> Tensor:
    """mean_P(W_q y + b_q), [B, 1, h], in at least float32."""
    q = F.conv2d(y, W_q, b_q).flatten(2)  # [B, h, P]
    return q.mean(2, dtype=wide(q.dtype)).unsqueeze(1)


def _layer_norm(z: Tensor, ln_weight: Tensor, ln_bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the channels of z [B, N, 1, 1], in at least float32."""
    z = z.to(wide(z.dtype)).flatten(1)  # [B, N]
    return F.layer_norm(z, ln_weight.shape, ln_weight.to(z.dtype), ln_bias.to(z.dtype), eps)[..., None, None]


def _sigmoid(logit: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.sigmoid(logit.to(wide(logit.dtype))).to(dtype)


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
    """g = sigmoid(LayerNorm_C(W_z v + b_z)), [B, C, 1, 1], of x [B, C, H, W]. Fig. 2, channel-only branch."""
    v = _pooled_values(x, W_q, b_q, W_v, b_v)  # [B, h, 1, 1]
    z = F.conv2d(v, W_z, b_z)  # [B, C, 1, 1]
    return _sigmoid(_layer_norm(z, ln_weight, ln_bias), x.dtype)


def channel_gate_released_parallel(x: Tensor, W_q: Tensor, W_v: Tensor, W_z: Tensor) -> Tensor:
    """g = sigmoid(W_z v), [B, C, 1, 1], of x [B, C, H, W]: no biases and no LayerNorm."""
    v = _pooled_values(x, W_q, None, W_v, None)  # [B, h, 1, 1]
    return _sigmoid(F.conv2d(v, W_z), x.dtype)


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
    """g = sigmoid(W_z2 relu(LayerNorm_r(W_z1 v + b_z1)) + b_z2), [B, C, 1, 1], of x [B, C, H, W]."""
    v = _pooled_values(x, W_q, None, W_v, None)  # [B, h, 1, 1]
    k = F.relu(_layer_norm(F.conv2d(v, W_z1, b_z1), ln_weight, ln_bias))  # [B, r, 1, 1]
    return _sigmoid(F.conv2d(k.to(v.dtype), W_z2, b_z2), x.dtype)


def spatial_gate_paper(y: Tensor, W_q: Tensor, b_q: Tensor, W_v: Tensor, b_v: Tensor) -> Tensor:
    """s = sigmoid(t (W_v y + b_v)) with t = softmax_h(mean_P(W_q y + b_q)), [B, 1, H, W], of y [B, C, H, W]. Fig. 2."""
    t = F.softmax(_mean_query(y, W_q, b_q), dim=2)  # [B, 1, h]
    V = F.conv2d(y, W_v, b_v)  # [B, h, H, W]
    e = torch.matmul(t.to(V.dtype), V.flatten(2))  # [B, 1, P]
    return _sigmoid(e, y.dtype).reshape(y.shape[0], 1, *y.shape[2:])


def spatial_gate_released_parallel(y: Tensor, W_q: Tensor, W_v: Tensor) -> Tensor:
    """s = sigmoid(softmax_P(t W_v y)) with t = mean_P(W_q y), [B, 1, H, W], of y [B, C, H, W]: within 0.5 .. 0.73."""
    t = _mean_query(y, W_q, None)  # [B, 1, h]
    V = F.conv2d(y, W_v)  # [B, h, H, W]
    e = torch.matmul(t.to(V.dtype), V.flatten(2))  # [B, 1, P]
    return _sigmoid(F.softmax(e, dim=2, dtype=wide(e.dtype)), y.dtype).reshape(y.shape[0], 1, *y.shape[2:])


def spatial_gate_released_sequential(y: Tensor, W_q: Tensor, W_v: Tensor) -> Tensor:
    """s = sigmoid(t softmax_P(W_v y)) with t = mean_P(W_q y), [B, 1, H, W], of y [B, C, H, W]: softmax per channel."""
    t = _mean_query(y, W_q, None)  # [B, 1, h]
    V = F.conv2d(y, W_v).flatten(2)  # [B, h, P]
    A = F.softmax(V, dim=2, dtype=wide(V.dtype)).to(V.dtype)  # [B, h, P]
    e = torch.matmul(t.to(A.dtype), A)  # [B, 1, P]
    return _sigmoid(e, y.dtype).reshape(y.shape[0], 1, *y.shape[2:])


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


def gates(
    x: Tensor, form: str, layout: str, channel: Weights | None, spatial: Weights | None
) -> tuple[Tensor | None, Tensor | None]:
    """Both gates of x [B, C, H, W]: channel [B, C, 1, 1] and spatial [B, 1, H, W]; None where there are no weights.

    In the sequential layout the spatial gate sees y = x*g.
    """
    g = None if channel is None else CHANNEL_GATES[form, layout](x, **channel)
    y = x * g if layout == "sequential" and g is not None else x
    s = None if spatial is None else SPATIAL_GATES[form, layout](y, **spatial)
    return g, s


def apply_gates(x: Tensor, g: Tensor | None, s: Tensor | None, layout: str, scale: float = 1.0) -> Tensor:
    """x*g + x*s (parallel) or x*g*s (sequential), times ``scale``; a gate that is None takes no part."""
    if g is not None and s is not None and layout == "parallel":
        out = x * g + x * s
    else:
        y = x if g is None else x * g
        out = y if s is None else y * s
    return out if scale == 1 else out * scale
