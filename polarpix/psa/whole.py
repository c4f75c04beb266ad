"""The whole block as one compiled call each way on the CPU: :mod:`polarpix.psa.loops` and what lies between its passes.

On a small map the time of a block is that of its calls. Here the read, the small vectors and the write are one call of
``whole.c``, on threads that are woken once, and so is the backward; torch sees one operation of the autograd graph.
"""

from __future__ import annotations

import ctypes
import operator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from polarpix.psa import collapsed, loops
from polarpix.psa.collapsed import Weights
from polarpix.psa.passes import differentiable, is_transformed

__all__ = ["Places", "attend", "places"]

Grads = tuple[Tensor | None, ...]
CHANNEL = ("W_q", "b_q", "W_v", "b_v", "W_z", "b_z", "ln_weight", "ln_bias")
SPATIAL = ("W_q", "b_q", "W_v", "b_v")
PLAIN = (Parameter, Tensor)  # not what stands for a tensor
COLLAPSING = (("paper", "parallel"), ("paper", "sequential"), ("released", "parallel"))
Pointers = ctypes.c_void_p * (len(CHANNEL) + len(SPATIAL))


class _Plan(NamedTuple):
    """What is the same in every call on maps of one shape, layout and dtype."""

    map: Any  # the C side's description
    vectors: int  # numbers of the state that the forward makes
    state: int  # with the rows that the backward needs
    work: int  # numbers of work space of the forward
    work_backward: int
    library: Any


@lru_cache(maxsize=1024)
def _plan(shape: torch.Size, last: bool, dtype: torch.dtype, threads: int) -> _Plan:
    library = loops.library(dtype)
    assert library is not None  # as loops.takes says
    described = loops.describe(shape, last, threads)[0]
    sizes = (ctypes.c_int64 * 4)()
    library.psa_sizes(described, sizes)
    vectors, state, work, work_backward = sizes
    return _Plan(described, vectors, state, work, work_backward, library)


def _plan_of(x: Tensor) -> _Plan:
    return _plan(x.shape, not x.is_contiguous(), x.dtype, torch.get_num_threads())


class Places(NamedTuple):
    """Where a block's weights lie, on the CPU and dense."""

    weights: tuple[Tensor, ...]
    at: tuple[int, ...]
    pointers: Any  # for the C side

    def still(self, weights: tuple[Tensor, ...], dtype: torch.dtype) -> bool:
        """Whether these are the same weights at the same places, so that they need not be looked at one by one.

        A module that is converted converts all of them, so one tells the dtype.
        """
        return (
            len(weights) == len(self.weights)
            and all(map(operator.is_, weights, self.weights))
            and tuple(map(Tensor.data_ptr, weights)) == self.at
            and weights[0].dtype is dtype
        )


def places(
    x: Tensor, form: str, layout: str, channel: Weights, spatial: Weights, before: Places | None = None
) -> Places | None:
    """Where the weights lie, for :func:`attend`; None if one call cannot do it for a map that the loops take.

    It takes both branches, of a form whose spatial gate collapses, and weights beside the map, of its dtype and of the
    sizes that belong to its channels. With a gradient only the paper form. Not where the code is read instead of run.

    Args:
        before: what the last call for the same block gave; kept while it holds.
    """
    if (form, layout) not in COLLAPSING or (form == "released" and torch.is_grad_enabled()) or is_transformed():
        return None
    dtype, given = x.dtype, (*channel.values(), *spatial.values())
    if before is not None and before.still(given, dtype):
        return before
    found: list[int | None] = []
    for weights, sizes in zip((channel, spatial), _sizes(form, x.shape[1]), strict=True):
        if len(weights) > len(sizes):
            return None
        for name, size in sizes.items():
            W = weights.get(name)
            if W is None and not size:
                found.append(None)
                continue
            if W is None or W.dtype is not dtype or W.numel() != size or not W.is_contiguous():
                return None
            if not W.is_cpu or type(W) not in PLAIN:
                return None
            found.append(W.data_ptr())
    return Places(given, tuple(map(Tensor.data_ptr, given)), Pointers(*found))


@lru_cache(maxsize=1024)
def _sizes(form: str, C: int) -> tuple[dict[str, int], dict[str, int]]:
    """How many numbers each weight of the two branches has; 0 for those that a form does not have."""
    h = C // 2
    channel = dict(zip(CHANNEL, (C, 1, h * C, h, C * h, C, C, C), strict=True))
    spatial = dict(zip(SPATIAL, (h * C, h, h * C, h), strict=True))
    if form == "released":  # no biases, no LayerNorm
        channel, spatial = ({k: n * (k[0] == "W") for k, n in sizes.items()} for sizes in (channel, spatial))
    return channel, spatial


def attend(
    x: Tensor, form: str, layout: str, channel: Weights, spatial: Weights, scale: float, places: Places
) -> Tensor:
    """As :func:`polarpix.psa.passes.attend`, with what :func:`places` found."""
    if torch.is_grad_enabled():
        weights = [channel[name] for name in CHANNEL] + [spatial[name] for name in SPATIAL]
        attended: Tensor = _Block.apply(x, layout, scale, places.pointers, *weights)
        return attended
    plan = _plan_of(x)
    kept = plan.state if form == "released" else plan.vectors
    work = _floats(kept + plan.work)
    at = work.data_ptr()
    return _forward(plan, x, form, layout, scale, places.pointers, at, form == "released", at + 4 * kept)


def _forward(
    plan: _Plan, x: Tensor, form: str, layout: str, scale: float, weights: Any, kept: int, rows: bool, work: int
) -> Tensor:
    out = torch.empty_like(x)
    plan.library.psa_forward(
        plan.map, x.data_ptr(), weights, form == "released", layout == "sequential", scale,
        out.data_ptr(), kept, rows, work,
    )  # fmt: skip
    return out


def _floats(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.float32, device="cpu")


def _pointers(tensors: Any) -> Any:
    return Pointers(*[None if one is None else one.data_ptr() for one in tensors])


class _Block(torch.autograd.Function):
    """The paper form. Kept for the backward: x, two rows of P numbers and some vectors for each sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: str, scale: float, pointers: Any, *weights: Tensor) -> Tensor:
        plan = _plan_of(x)
        kept, work = _floats(plan.state), _floats(plan.work)
        ctx.layout, ctx.scale = layout, scale
        ctx.save_for_backward(x, kept, *weights)
        return _forward(plan, x, "paper", layout, scale, pointers, kept.data_ptr(), True, work.data_ptr())

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Grads:
        x, kept, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            dx, *d_weights = differentiable(partial(_plain, ctx.layout, ctx.scale), (x, *weights), (d,))
            return dx, None, None, None, *d_weights
        plan = _plan_of(x)
        d = loops.lay_as(x, d)
        dx, _, _, _, *d_weights = (
            torch.empty_like(one) if wanted else None
            for one, wanted in zip((x, None, None, None, *weights), ctx.needs_input_grad, strict=True)
        )
        work = _floats(plan.work_backward)
        plan.library.psa_backward(
            plan.map, x.data_ptr(), d.data_ptr(), _pointers(weights), ctx.layout == "sequential", ctx.scale,
            kept.data_ptr(), None if dx is None else dx.data_ptr(), _pointers(d_weights), work.data_ptr(),
        )  # fmt: skip
        return dx, None, None, None, *d_weights


def _plain(layout: str, scale: float, x: Tensor, *weights: Tensor) -> Grads:
    channel = dict(zip(CHANNEL, weights[: len(CHANNEL)], strict=True))
    spatial = dict(zip(SPATIAL, weights[len(CHANNEL) :], strict=True))
    g, s = collapsed.gates(x, "paper", layout, channel, spatial)
    return (collapsed.apply_gates(x, g, s, layout, scale),)
