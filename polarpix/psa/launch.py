"""From tensors to launches: work space and the chains of kernels. How each is prepared and launched is next door.

Both layouts of the paper form and the released parallel form; the released sequential form does not collapse to vectors
and single branches have no need, both stay with :mod:`polarpix.psa.collapsed`.

On a machine without a GPU the kernels run in Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is
imported): slow, for tests.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from polarpix.psa.plans import MIXED, plan
from polarpix.psa.steps import backward_steps, forward_steps, matrix_units, multiprocessors

__all__ = ["PARAMETERS", "backward", "beside", "dense", "forward", "wide"]

# The weights of an operator call, in this order. The softmax does not feel b_q, whose gradient is zero; but it has one,
# as DDP waits for it.
PARAMETERS = {
    "paper": ("W_q", "W_v", "W_z", "W_q2", "W_v2", "b_v", "b_z", "ln_weight", "ln_bias", "b_q2", "b_v2", "b_q"),
    "released": ("W_q", "W_v", "W_z", "W_q2", "W_v2"),
}


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of x."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """x as it lies if it is contiguous or channels_last, else a contiguous copy; and whether it is channels_last."""
    if x.is_contiguous():
        return x, False
    if x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    return x.contiguous(), False


def beside(d: Tensor, last: bool) -> tuple[Tensor, bool]:
    """d as it lies, in the memory layout of x or in the other one, else a copy in that of x; and whether channels_last.

    Of more than MIXED channels only in that of x: reordering one of the two tiles takes registers, too many there.
    """
    formats = {True: torch.channels_last, False: torch.contiguous_format}
    for layout in (last, not last) if d.shape[1] <= MIXED else (last,):
        if d.is_contiguous(memory_format=formats[layout]):
            return d, layout
    return d.contiguous(memory_format=formats[last]), last


def wide(x: Tensor) -> torch.dtype:
    """The dtype of the small vectors."""
    return torch.promote_types(x.dtype, torch.float32)


def in_order(weights: Sequence[Tensor], form: str, order: Sequence[str], stand_in: Tensor) -> list[Tensor]:
    """The weights of a form in the order of a kernel; a stand-in, never read, for what the form does not have."""
    return [stand_in if i is None else weights[i] for i in places(form, tuple(order))]


@functools.cache
def places(form: str, order: tuple[str, ...]) -> list[int | None]:
    """Where the weights of an order lie among the parameters of a form."""
    names = PARAMETERS[form]
    return [names.index(name) if name in names else None for name in order]


GATE = ("W_v", "b_v", "W_z", "b_z", "ln_weight", "ln_bias", "W_q2", "b_q2", "W_v2", "b_v2")
NORM = ("ln_weight", "ln_bias")
GRAD_GATE = ("W_v", "W_z", "ln_weight", "W_q2", "W_v2", "b_v2")


def forward(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    """The attended map, and a row of 7C + 8 numbers a sample for the backward."""
    with device_of(x):
        return _forward(x, weights, form, layout, scale)


def backward(
    d: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float
) -> list[Tensor]:
    """Gradients of x and of the weights, in their order."""
    with device_of(x):
        return _backward(d, x, state, weights, form, layout, scale)


def begin(x: Tensor, weights: Sequence[Tensor]) -> int | None:
    """The stream to launch on, if every tensor begins at a multiple of 16 bytes, as compiled kernels believe."""
    places = x.data_ptr()
    for one in weights:
        places |= one.data_ptr()
    if places & 15 or not x.is_cuda:
        return None
    return int(torch._C._cuda_getCurrentRawStream(x.device.index))


def hardware(x: Tensor) -> tuple[int, bool]:
    """What a plan asks of the device: its multiprocessors, and whether it has matrix units for the map."""
    index = x.device.index
    return multiprocessors(index), x.dtype == torch.bfloat16 and matrix_units(index)


def _forward(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    x, last = dense(x)
    B, C, H, W = x.shape
    P = H * W
    out = torch.empty_like(x)
    state = x.new_empty((B, 7 * C + 8), dtype=wide(x))
    if x.numel() == 0:
        return out, state
    if not all(map(Tensor.is_contiguous, weights)):
        weights = [one.contiguous() for one in weights]
    gate_weights, norm = in_order(weights, form, GATE, x), in_order(weights, form, NORM, x)
    one = plan(B, C, P, x.element_size(), last, None, form == "paper", *hardware(x))
    kind = (x.device.index, x.dtype, *[one.dtype for one in weights], form, layout, "forward")
    steps = one.settled.get(kind)
    if steps is None:
        args = {"x": x, "state": state, "W_q": weights[0], "gate": gate_weights, "norm": norm}
        steps = forward_steps(one, B, args, form, layout)
        one.settled[kind] = steps
    stream, PV = begin(x, weights), P // one.VEC
    pool, gate = steps[:2]
    partial = state.new_empty((B, pool.splits, 2 * C + 4))
    sums = partial if form == "paper" else state.new_empty((B, one.S, 2))
    pool((B * pool.splits, 1, 1), stream, x, weights[0], partial, state, PV, pool.splits, pool.tiles)
    gate(
        (B * one.S, 1, 1), stream,
        x, out, partial, state, sums, *gate_weights, scale, PV, pool.splits, one.share_tiles,
    )  # fmt: skip
    for second in steps[2:]:
        second(
            (B * second.splits, 1, 1), stream,
            x, out, state, sums, *norm, scale, PV, second.splits, second.tiles, one.S,
        )  # fmt: skip
    return out, state


def _backward(
    d: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float
) -> list[Tensor]:
    x, last = dense(x)
    d, d_last = beside(d, last)
    B, C, H, W = x.shape
    P = H * W
    dx = torch.empty_like(x)
    dW = [torch.empty_like(W, memory_format=torch.contiguous_format) for W in weights]
    if x.numel() == 0:
        return [dx, *(one.zero_() for one in dW)]
    if not all(map(Tensor.is_contiguous, weights)):
        weights = [one.contiguous() for one in weights]
    gate_weights = in_order(weights, form, GRAD_GATE, x)
    out = in_order(dW, form, ("W_q", "b_q", *GATE), x)
    one = plan(B, C, P, x.element_size(), last, d_last, True, *hardware(x))
    kind = (x.device.index, x.dtype, d.dtype, *[one.dtype for one in weights], form, layout, "backward")
    steps = one.settled.get(kind)
    if steps is None:
        args = {"x": x, "state": state, "W_q": weights[0], "gate": gate_weights, "grads": out}
        steps = backward_steps(one, B, args, form, layout)
        one.settled[kind] = steps
    stream, PV = begin(x, [d, *weights]), P // one.VEC
    pool, gate, weight = steps[:3]
    parts = one.S if one.small else steps[3].splits
    grads = state.new_empty((B, 9 * C + 8))
    dw = state.new_empty((B, parts, C))
    partial = state.new_empty((B, pool.splits, 3 * C + 4))
    pool((B * pool.splits, 1, 1), stream, x, d, state, grads, partial, scale, PV, pool.splits, pool.tiles)
    gate(
        (B * one.S, 1, 1), stream,
        x, d, dx, weights[0], partial, state, grads, dw, *gate_weights, scale, PV, pool.splits, one.share_tiles,
    )  # fmt: skip
    for second in steps[3:]:
        second(
            (B * parts, 1, 1), stream,
            x, d, dx, weights[0], state, grads, dw, scale, PV, parts, second.tiles,
        )  # fmt: skip
    grid = (triton.cdiv(C // 2, 32), triton.cdiv(C, 32), 4)
    weight(grid, stream, state, grads, dw, *out, B, B * parts)
    return [dx, *dW]
