"""From tensors to launches: block sizes, work space, and the chains of kernels. The kernels are in the neighbours.

Both layouts of the paper form and the released parallel form; the released sequential form does not collapse to vectors
and single branches have no need, both stay with :mod:`polarpix.psa.collapsed`.

On a machine without a GPU the kernels run in Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is
imported): slow, for tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polarpix.psa import kernels, kernels_grad, kernels_weight

__all__ = ["MIXED", "PARAMETERS", "Plan", "backward", "beside", "dense", "forward", "interpreted", "plan", "wide"]

# The weights of an operator call, in this order. The softmax does not feel b_q, whose gradient is zero; but it has one,
# as DDP waits for it.
PARAMETERS = {
    "paper": ("W_q", "W_v", "W_z", "W_q2", "W_v2", "b_v", "b_z", "ln_weight", "ln_bias", "b_q2", "b_v2", "b_q"),
    "released": ("W_q", "W_v", "W_z", "W_q2", "W_v2"),
}
ACCUMULATE = {torch.float64: tl.float64}  # anything else in float32
SMALL = 1 << 16  # elements of a sample that one program takes alone
MIXED = 512  # most channels of a gradient that lies in the other memory layout than x and is not copied
PROGRAMS = 528  # wanted for a pass over the map: four for each of 132 multiprocessors
REGISTERS = 1 << 16  # of a multiprocessor


@dataclass(frozen=True)
class Plan:
    """Block sizes of a launch: tiles of BC channels by BP pixels, BR rows of a weight, BS splits at a time.

    ``tiles`` tiles make a split, ``splits`` splits a sample; VEC pixels are known to lie in one aligned piece. Small
    samples take one program each and one launch.
    """

    C: int
    P: int
    BC: int
    BP: int
    BR: int
    BS: int
    VEC: int
    tiles: int
    splits: int
    warps: int
    pass_warps: int
    part_warps: int
    gate_warps: int
    small: bool
    LAST: bool
    WIDE: bool

    @property
    def parts(self) -> int:
        """Programs a sample in ``logits``."""
        return int(triton.cdiv(triton.cdiv(self.P, self.BP), self.part_tiles))

    @property
    def part_tiles(self) -> int:
        """Tiles of each: as it reads C^2 weights first, it takes at least C pixels."""
        return max(self.tiles, int(triton.cdiv(self.C, self.BP)))

    def options(self, kernel: str, mixed: bool = False) -> dict[str, int]:
        """Warps of a kernel's programs and, where it is said, the most registers that its threads may have.

        Left alone the assembler stops at a number of registers at which one more program runs beside, and puts an
        address aside for it. Told a number it takes what it needs.

        Args:
            kernel: its name.
            mixed: the gradient lies otherwise than the map: one of two tiles is reordered, in registers.
        """
        warps, at_will = self.pass_warps, False
        if kernel == "grad_weight":  # its tiles are the same for every map
            warps = 4
        elif kernel in ("gate", "grad_gate"):  # a program or two for each sample: none waits for room
            warps, at_will = self.gate_warps, True
        elif kernel == "logits":
            warps, at_will = self.part_warps, self.BC >= 2048
        elif mixed:
            warps, at_will = min(16, 2 * self.warps), kernel == "grad_pool"
        elif kernel not in ("pool", "scale", "grad_pool"):
            warps = self.warps
        most = {"maxnreg": min(255, REGISTERS // (32 * warps))} if at_will and not torch.version.hip else {}
        return {"num_warps": warps, **most}


@lru_cache(maxsize=4096)
def plan(B: int, C: int, P: int, itemsize: int, last: bool, backward: bool) -> Plan:
    """Block sizes for a map of B samples, C channels and P pixels; the same on every device."""
    inner = 16 // itemsize
    VEC = next(n for n in (inner, 8, 4, 2, 1) if P % n == 0)
    aligned = last or inner <= VEC
    BC = max(16, triton.next_power_of_2(C))
    # Registers: a thread holds 32 numbers of a tile; 16 of each of two in the backward, and 16 in a small sample. Half
    # as many without aligned pieces, since every number has an address of its own; half as many of float32 too in the
    # passes that make no third tile. ``logits`` holds 16, and 32 without aligned pieces: with 16 it spilled there.
    small = C * P <= SMALL
    few = backward or small
    # Pixels in 16 bytes. Where none lie together, or two tiles lie the other way, many channels take few pixels.
    run = 1 if not aligned or (last and backward) else inner
    elements = max(BC * run, 4096 if few else 8192)
    BP = max(4 if aligned else 2, min(elements // BC, triton.next_power_of_2(P), 256))
    warps = BC * BP // (512 if few else 1024) * (1 if aligned else 2)
    part_warps = BC * BP // (512 if aligned else 1024)
    warps, part_warps = (max(1, min(16, n)) for n in (warps, part_warps))
    pass_warps = min(16, 2 * warps) if itemsize == 4 and aligned else warps
    pieces = triton.cdiv(P, BP)
    tiles = pieces if small else max(1, pieces * B // PROGRAMS)
    splits = triton.cdiv(pieces, tiles)
    block = 4096 if itemsize == 2 else 2048  # numbers of a weight; a map of float32 leaves half the registers for it
    BR = max(1, min(triton.next_power_of_2(max(1, C // 2)), block // BC))
    BS = max(1, min(triton.next_power_of_2(splits), max(8192, BC) // BC))
    gate_warps = 16 if BC >= 2048 else 8 if BC >= 256 else 4
    wide = C * P >= 2**31
    return Plan(
        C, P, BC, BP, BR, BS, VEC, tiles, splits, warps, pass_warps, part_warps, gate_warps, small, last, wide
    )  # fmt: skip


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


PASS = ("C", "BC", "BP", "VEC", "LAST", "WIDE")
BETWEEN = ("C", "BC", "BR", "BS")
WHOLE = ("C", "BC", "BP", "BR", "VEC", "LAST", "WIDE")


GATE = ("W_v", "b_v", "W_z", "b_z", "ln_weight", "ln_bias", "W_q2", "b_q2", "W_v2", "b_v2")
GRAD_GATE = ("W_v", "W_z", "ln_weight", "W_q2", "W_v2", "b_v2")


def pick(weights: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    """Weights in the order in which a kernel takes them."""
    return [weights[name] for name in names]


def forward(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    """The attended map, and a row of 6C + 8 numbers a sample for the backward."""
    with device_of(x):
        return _forward(x, weights, form, layout, scale)


def backward(
    d: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float
) -> list[Tensor]:
    """Gradients of x and of the weights, in their order."""
    with device_of(x):
        return _backward(d, x, state, weights, form, layout, scale)


def _forward(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    x, last = dense(x)
    B, C, P = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    out = torch.empty_like(x)
    state = x.new_empty((B, 6 * C + 8), dtype=wide(x))
    if x.numel() == 0:
        return out, state
    W = named(weights, form, x)
    one = plan(B, C, P, x.element_size(), last, False)
    ACC = ACCUMULATE.get(x.dtype, tl.float32)
    kind = {"PAPER": form == "paper", "SEQ": layout == "sequential", "ACC": ACC}
    PV = P // one.VEC
    if one.small:
        kernels.forward_small[(B,)](
            x, out, W["W_q"], *pick(W, GATE), state, scale, PV,
            **blocks(one, *WHOLE, **kind), **one.options("forward_small"),
        )  # fmt: skip
        return out, state
    partial = state.new_empty((B, one.splits, 2 * C + 4))
    grid = (B * one.splits,)
    tiles = blocks(one, *PASS, ACC=ACC)
    kernels.pool[grid](x, W["W_q"], partial, PV, one.splits, one.tiles, **tiles, **one.options("pool"))
    sums, parts = partial, 1
    if form == "paper":
        programs = 1 if layout == "sequential" else 2
        kernels.gate[(B, programs)](
            partial, state, *pick(W, GATE), P, one.splits, **blocks(one, *BETWEEN, **kind), **one.options("gate")
        )  # fmt: skip
    else:
        parts = one.parts
        sums = state.new_empty((B, parts, 2))
        kernels.logits[(B * (parts + 1),)](
            x, partial, state, sums, *pick(W, ("W_v", "W_z", "W_q2", "W_v2")), PV, one.splits, parts, one.part_tiles,
            **blocks(one, *PASS, "BR", "BS", ACC=ACC), **one.options("logits"),
        )  # fmt: skip
    BS = triton.next_power_of_2(parts)
    kernels.scale[grid](
        x, out, state, sums, scale, PV, one.splits, one.tiles, parts, **(tiles | kind), BS=BS, **one.options("scale")
    )
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
    one = plan(B, C, P, x.element_size(), last, True)
    mixed = d_last != last
    ACC = ACCUMULATE.get(x.dtype, tl.float32)
    kind = {"PAPER": form == "paper", "SEQ": layout == "sequential", "ACC": ACC}
    PV = P // one.VEC
    parts = 1 if one.small else one.splits
    grads = state.new_empty((B, 8 * C + 8))
    dw = state.new_empty((B, parts, C))
    if one.small:
        kernels_grad.backward_small[(B,)](
            x, d, dx, W["W_q"], state, grads, dw, *pick(W, GRAD_GATE), scale, PV,
            **blocks(one, *WHOLE, **kind, D_LAST=d_last), **one.options("backward_small", mixed),
        )  # fmt: skip
    else:
        grid = (B * one.splits,)
        partial = state.new_empty((B, one.splits, 3 * C + 4))
        tiles = blocks(one, *PASS, **kind, D_LAST=d_last)
        kernels_grad.grad_pool[grid](
            x, d, state, partial, scale, PV, one.splits, one.tiles, **tiles, **one.options("grad_pool", mixed)
        )
        kernels_grad.grad_gate[(B,)](
            partial, state, grads, *pick(W, GRAD_GATE), P, one.splits,
            **blocks(one, *BETWEEN, **kind), **one.options("grad_gate"),
        )  # fmt: skip
        kernels_grad.grad_input[grid](
            x, d, dx, W["W_q"], state, grads, dw, scale, PV, one.splits, one.tiles,
            **tiles, **one.options("grad_input", mixed),
        )  # fmt: skip
    out = named(dW, form, x)
    kernels_weight.grad_weight[(triton.cdiv(C // 2, 32), triton.cdiv(C, 32), 4)](
        state, grads, dw, out["W_q"], out["b_q"], *pick(out, GATE), B, B * parts,
        C=C, BB=16, TR=32, TC=32, PAPER=kind["PAPER"], ACC=ACC, **one.options("grad_weight"),
    )  # fmt: skip
    return [dx, *dW]
