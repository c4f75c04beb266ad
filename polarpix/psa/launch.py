"""From tensors to launches: work space and the chains of kernels. The kernels and their block sizes are next door.

Both layouts of the paper form and the released parallel form; the released sequential form does not collapse to vectors
and single branches have no need, both stay with :mod:`polarpix.psa.collapsed`.

On a machine without a GPU the kernels run in Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is
imported): slow, for tests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polarpix.psa import kernels, kernels_gate, kernels_grad, kernels_grad_gate, kernels_weight
from polarpix.psa.plans import MIXED, MULTIPROCESSORS, Plan, plan

__all__ = ["PARAMETERS", "backward", "beside", "dense", "forward", "interpreted", "settle", "start", "wide"]

# The weights of an operator call, in this order. The softmax does not feel b_q, whose gradient is zero; but it has one,
# as DDP waits for it.
PARAMETERS = {
    "paper": ("W_q", "W_v", "W_z", "W_q2", "W_v2", "b_v", "b_z", "ln_weight", "ln_bias", "b_q2", "b_v2", "b_q"),
    "released": ("W_q", "W_v", "W_z", "W_q2", "W_v2"),
}
ACCUMULATE = {torch.float64: tl.float64}  # anything else in float32


def interpreted() -> bool:
    """Whether Triton runs in its interpreter."""
    return bool(triton.knobs.runtime.interpret)


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


def named(weights: Sequence[Tensor], form: str, stand_in: Tensor) -> dict[str, Tensor]:
    """The weights by name, contiguous; a stand-in, never read, for what a form does not have."""
    found = dict.fromkeys(PARAMETERS["paper"], stand_in)
    return found | {name: W.contiguous() for name, W in zip(PARAMETERS[form], weights, strict=True)}


def blocks(one: Plan, *names: str, **more: Any) -> dict[str, Any]:
    """Constants of a launch by name."""
    return {name: getattr(one, name) for name in names} | more


TILES = ("C", "BC", "K", "T", "V", "VEC", "LAST", "WIDE")
BETWEEN = (*TILES, "S", "BR", "BU", "BS")
GATE = ("W_v", "b_v", "W_z", "b_z", "ln_weight", "ln_bias", "W_q2", "b_q2", "W_v2", "b_v2")
GRAD_GATE = ("W_v", "W_z", "ln_weight", "W_q2", "W_v2", "b_v2")


def pick(weights: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    """Weights in the order in which a kernel takes them."""
    return [weights[name] for name in names]


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


def start(one: Plan, kind: tuple[Any, ...], kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Launch a kernel with the options of its plan; where it would spill with them, with registers at will.

    Args:
        one: the plan; it remembers the options by the kernel's name and ``kind``.
        kind: what else makes another kernel of it: device, dtypes, form, layout.
    """
    options = one.settled.get((kernel.__name__, kind))
    if options is None:
        options = one.settled[kernel.__name__, kind] = settle(one, kernel, grid, args, constants)
    kernel[grid](*args, **constants, **options)


def settle(
    one: Plan, kernel: Any, grid: tuple[int, ...], args: Sequence[Any], constants: Mapping[str, Any]
) -> dict[str, int]:
    """The options of a kernel, compiled for the device at hand to see whether anything is put aside."""
    options = one.options(kernel.__name__)
    if interpreted():
        return options
    made = kernel.warmup(*args, grid=grid, **constants, **options)
    made._init_handles()  # loads it, after which the driver's word on spills is there; Triton's tutorials do so
    return one.options(kernel.__name__, at_will=True) if made.n_spills else options


def staged(run: Any, one: Plan, stages: int, kernel: Any, *args: Any, **constants: Any) -> None:
    """Launch a kernel whose programs meet between its stages; where they run one after the other, stage by stage."""
    B, *args = args
    begins = range(stages) if interpreted() and one.S > 1 else [0]
    for begin in begins:
        end = begin + 1 if len(begins) > 1 else stages
        run(kernel, (B * one.S,), *args, **constants, BEGIN=begin, END=end, SMALL=one.small)


@functools.cache
def multiprocessors(index: int | None) -> int:
    """Of a device; where there is none, as many as a large one has."""
    if index is None or not torch.cuda.is_available():
        return MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def _forward(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    x, last = dense(x)
    B, C, P = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    out = torch.empty_like(x)
    state = x.new_empty((B, 7 * C + 8), dtype=wide(x))
    if x.numel() == 0:
        return out, state
    W = named(weights, form, x)
    paper = form == "paper"
    one = plan(B, C, P, x.element_size(), last, None, paper, multiprocessors(x.device.index))
    run = functools.partial(start, one, (x.device.index, x.dtype, weights[0].dtype, form, layout))
    ACC = ACCUMULATE.get(x.dtype, tl.float32)
    kind = {"PAPER": paper, "SEQ": layout == "sequential", "ACC": ACC}
    PV = P // one.VEC
    partial = state.new_empty((B, one.splits, 2 * C + 4))
    sums = partial if paper else state.new_empty((B, one.S, 2))
    grid = (B * one.splits,)
    run(
        kernels.pool, grid,
        x, W["W_q"], partial, state, PV, one.splits, one.tiles, **blocks(one, *TILES, ACC=ACC),
    )  # fmt: skip
    staged(
        run, one, kernels_gate.stages(form, layout, one.small), kernels_gate.gate,
        B, x, out, partial, state, sums, *pick(W, GATE), scale, PV, one.splits, one.share_tiles,
        **blocks(one, *BETWEEN, "BZ", **kind),
    )  # fmt: skip
    if not one.small:
        run(
            kernels.scale, grid,
            x, out, state, sums, W["ln_weight"], W["ln_bias"], scale, PV, one.splits, one.tiles, one.S,
            **blocks(one, *TILES, **kind), BS=one.S,
        )  # fmt: skip
    return out, state


def _backward(
    d: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float
) -> list[Tensor]:
    x, last = dense(x)
    d, d_last = beside(d, last)
    B, C, P = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    dx = torch.empty_like(x)
    dW = [torch.empty_like(W, memory_format=torch.contiguous_format) for W in weights]
    if x.numel() == 0:
        return [dx, *(one.zero_() for one in dW)]
    W = named(weights, form, x)
    paper = form == "paper"
    one = plan(B, C, P, x.element_size(), last, d_last, True, multiprocessors(x.device.index))
    run = functools.partial(start, one, (x.device.index, x.dtype, weights[0].dtype, form, layout))
    ACC = ACCUMULATE.get(x.dtype, tl.float32)
    kind = {"PAPER": paper, "SEQ": layout == "sequential", "ACC": ACC}
    PV = P // one.VEC
    parts = one.S if one.small else one.splits
    grads = state.new_empty((B, 9 * C + 8))
    dw = state.new_empty((B, parts, C))
    partial = state.new_empty((B, one.splits, 3 * C + 4))
    grid = (B * one.splits,)
    tiles = blocks(one, *TILES, "D_LAST", **kind)
    run(kernels_grad.grad_pool, grid, x, d, state, grads, partial, scale, PV, one.splits, one.tiles, **tiles)
    staged(
        run, one, kernels_grad_gate.stages(layout, one.small), kernels_grad_gate.grad_gate,
        B, x, d, dx, W["W_q"], partial, state, grads, dw, *pick(W, GRAD_GATE), scale, PV, one.splits, one.share_tiles,
        **blocks(one, *BETWEEN, "D_LAST", **kind),
    )  # fmt: skip
    if not one.small:
        run(
            kernels_grad.grad_input, grid,
            x, d, dx, W["W_q"], state, grads, dw, scale, PV, one.splits, one.tiles, **tiles,
        )  # fmt: skip
    out = named(dW, form, x)
    run(
        kernels_weight.grad_weight, (triton.cdiv(C // 2, 32), triton.cdiv(C, 32), 4),
        state, grads, dw, out["W_q"], out["b_q"], *pick(out, GATE), B, B * parts,
        C=C, BB=16, BL=128, TR=32, TC=32, PAPER=paper, ACC=ACC,
    )  # fmt: skip
    return [dx, *dW]
