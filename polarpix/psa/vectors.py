"""The paper form's small vectors between the two passes over a map, with their backward by hand.

Networks such as HRNet hold a hundred blocks on small maps; there the graph that autograd builds over these twenty small
operations takes longer than the passes. Letters as in :mod:`polarpix.psa.collapsed`; for one sample,

    v = W_v c + b_v,  z = W_z v + b_z,  n = LayerNorm(z),  g = sigmoid(n)
    y = m (in sequence m*g),  t = softmax(W_q y + b_q),  u = W_v2^T t (in sequence times g),  beta = b_v2 t
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polarpix.psa import collapsed

__all__ = ["paper_vectors", "takes"]

Weights = Mapping[str, Tensor]
Grads = tuple[Tensor | None, ...]
CHANNEL = ("W_v", "b_v", "W_z", "b_z", "ln_weight", "ln_bias")
SPATIAL = ("W_q", "b_q", "W_v", "b_v")
EPS = 1e-5  # of the LayerNorm


def takes(x: Tensor, form: str, channel: Weights | None, spatial: Weights | None) -> bool:
    """Whether both branches are there, in the paper form, and nothing changes its dtype on the way."""
    if form != "paper" or channel is None or spatial is None or x.dtype not in (torch.float32, torch.float64):
        return False
    return all(W.dtype == x.dtype for weights in (channel, spatial) for W in weights.values())


def paper_vectors(
    c: Tensor, m: Tensor, layout: str, channel: Weights, spatial: Weights
) -> tuple[Tensor, Tensor, Tensor]:
    """g [B, C], u [B, C] and beta [B] from c and m [B, C], as :func:`polarpix.psa.collapsed.vectors` gives them."""
    weights = [channel[name] for name in CHANNEL] + [spatial[name] for name in SPATIAL]
    g, u, beta = _Vectors.apply(layout, c, m, *weights)
    return g, u, beta


class _Vectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: str, c: Tensor, m: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        W_v, b_v, W_z, b_z, ln_weight, ln_bias, W_q, b_q, W_v2, b_v2 = (_matrix(W) for W in weights)
        v = torch.addmm(b_v, c, W_v.mT)  # [B, h]
        z = torch.addmm(b_z, v, W_z.mT)  # [B, C]
        n, mean, rstd = torch.native_layer_norm(z, ln_weight.shape, ln_weight, ln_bias, EPS)
        g = torch.sigmoid(n)
        y = m * g if layout == "sequential" else m
        t = torch.softmax(torch.addmm(b_q, y, W_q.mT), 1)  # [B, h]
        u0 = torch.mm(t, W_v2)  # [B, C]
        u = u0 * g if layout == "sequential" else u0.view_as(u0)
        ctx.layout = layout
        ctx.save_for_backward(c, m, *weights, v, z, mean, rstd, g, t, u0)
        return g, u, torch.mv(t, b_v2)

    @staticmethod
    def backward(ctx: Any, dg: Tensor, du: Tensor, dbeta: Tensor) -> Grads:
        c, m, *saved = ctx.saved_tensors
        weights, (v, z, mean, rstd, g, t, u0) = saved[:10], saved[10:]
        if torch.is_grad_enabled():
            return None, *_differentiable(ctx.layout, c, m, weights, (dg, du, dbeta))
        in_sequence = ctx.layout == "sequential"
        W_v, _, W_z, _, ln_weight, ln_bias, W_q, _, W_v2, b_v2 = (_matrix(W) for W in weights)
        if in_sequence:
            dg, du = torch.addcmul(dg, du, u0), du * g
        dt = torch.addmm(torch.outer(dbeta, b_v2), du, W_v2.mT)  # [B, h]
        dq = t * (dt - torch.linalg.vecdot(t, dt)[:, None])  # [B, h]
        dm = torch.mm(dq, W_q)  # [B, C], of y so far
        if in_sequence:
            dg, dm = torch.addcmul(dg, dm, m), dm * g
        dn = torch.ops.aten.sigmoid_backward(dg, g)
        dz, dln_weight, dln_bias = torch.ops.aten.native_layer_norm_backward(
            dn, z, ln_weight.shape, mean, rstd, ln_weight, ln_bias, [True, True, True]
        )
        dv = torch.mm(dz, W_z)  # [B, h]
        y = m * g if in_sequence else m
        found = [
            torch.mm(dv.mT, c), dv.sum(0), torch.mm(dz.mT, v), dz.sum(0), dln_weight, dln_bias,
            torch.mm(dq.mT, y), dq.sum(0), torch.mm(t.mT, du), torch.mv(t.mT, dbeta),
        ]  # fmt: skip
        return None, torch.mm(dv, W_v), dm, *(dW.view_as(W) for dW, W in zip(found, weights, strict=True))


def _matrix(W: Tensor) -> Tensor:
    """The weight of a 1x1 convolution as a matrix; vectors as they are."""
    return W if W.dim() == 1 else W.flatten(1)


def _differentiable(layout: str, c: Tensor, m: Tensor, weights: list[Tensor], d: tuple[Tensor, ...]) -> Grads:
    """Gradients that have a graph themselves."""
    inputs = [one.view_as(one) for one in (c, m, *weights)]
    channel, spatial = dict(zip(CHANNEL, inputs[2:8], strict=True)), dict(zip(SPATIAL, inputs[8:], strict=True))
    outputs = collapsed.vectors(inputs[0], inputs[1], c.dtype, "paper", layout, channel, spatial)
    wanted = [one for one in inputs if one.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, d, create_graph=True, allow_unused=True))  # type: ignore[arg-type] # none of the three is missing in the paper form
    return tuple(next(found) if one.requires_grad else None for one in inputs)
