"""How a kernel is prepared for a plan and launched. The kernels and their block sizes are next door."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from polarpix.psa import kernels, kernels_gate, kernels_grad, kernels_grad_gate, kernels_weight
from polarpix.psa.plans import MULTIPROCESSORS, REGISTERS, Plan

__all__ = [
    "Step",
    "backward_steps",
    "forward_steps",
    "interpreted",
    "matrix_units",
    "multiprocessors",
    "residents",
    "settle",
]

MAP = ("C", "BC", "VEC", "LAST", "WIDE")
BETWEEN = (*MAP, "S", "BR", "BU", "BS")
ACCUMULATE = {torch.float64: tl.float64}  # anything else in float32
FOLLOW = ("gate", "scale", "grad_gate", "grad_input")  # may begin before the launch before has ended
SHARED = 200 << 10  # bytes of a multiprocessor; less on consumer cards, whose programs then wait for their turn


def interpreted() -> bool:
    """Whether Triton runs in its interpreter."""
    return bool(triton.knobs.runtime.interpret)


def blocks(one: Plan, kernel: Any, *names: str) -> dict[str, Any]:
    """Constants of a launch by name, with the tiles of the kernel."""
    tiles = one.tiles_of(kernel.__name__)
    cut = ("K", "T", "V", "AHEAD", *(("STAGES",) if "STAGES" in kernel.arg_names else ()))
    return {name: getattr(one, name) for name in names} | {name: getattr(tiles, name) for name in cut}


@dataclass(frozen=True)
class Step:
    """A kernel as it is launched for one plan: its constants and how a pass over the map is shared.

    ``compiled`` takes arguments without looking at them anew, which on small maps takes longer than they do; null
    in the interpreter. With ``stages`` its programs meet: where they run one after the other, each stage is a launch.
    """

    kernel: Any
    constants: Mapping[str, Any]
    options: Mapping[str, int]
    tiles: int
    splits: int
    stages: int = 0
    compiled: Any = None
    fixed: tuple[Any, ...] = ()

    def __call__(self, grid: tuple[int, int, int], stream: int | None, *args: Any) -> None:
        """Launch it.

        Args:
            stream: of CUDA; null for arguments that the compiled kernel does not take.
        """
        if stream is not None and self.compiled is not None:
            self.compiled[grid](*args, *self.fixed, stream=stream)
        elif self.stages and interpreted():
            for stage in range(self.stages):
                self.kernel[grid](*args, **{**self.constants, "BEGIN": stage, "END": stage + 1})
        else:
            self.kernel[grid](*args, **self.constants, **self.options)


def settle(one: Plan, B: int, kernel: Any, args: Sequence[Any], constants: Mapping[str, Any], stages: int = 0) -> Step:
    """A kernel of a plan, compiled for the device at hand: where it would spill, with more registers or threads.

    So many programs share a pass as the device has room for at a time: none of them waits for its turn.

    Args:
        args: of the kinds that it will be launched with.
    """
    name = kernel.__name__
    if "CHAIN" in kernel.arg_names:
        constants = {**constants, "CHAIN": not interpreted() and overlaps(torch.cuda.current_device())}
    if stages:
        constants = {**constants, "BEGIN": 0, "END": stages, "SMALL": one.small}
    if interpreted():
        return Step(kernel, constants, {}, *one.split(name, B), stages)
    later = {"launch_pdl": True} if constants.get("CHAIN") and name in FOLLOW else {}
    for again in range(3):
        options = one.options(name, again) | later
        made = compiled(kernel, args, constants, options)
        if not made.n_spills:
            break
    room = residents(made.n_regs, 32 * options["num_warps"], made.metadata.shared)
    tiles, splits = one.split(name, B, room * multiprocessors(torch.cuda.current_device()))
    fixed = tuple(constants[name] for name in kernel.arg_names[len(args) :])
    return Step(kernel, constants, options, tiles, splits, stages, made, fixed)


def compiled(kernel: Any, args: Sequence[Any], constants: Mapping[str, Any], options: Mapping[str, int]) -> Any:
    """The kernel, loaded: after that the driver's word on registers and spills is there."""
    made = kernel.warmup(*args, grid=(1,), **constants, **options)
    made._init_handles()  # Triton's tutorials do so
    return made


def residents(registers: int, threads: int, shared: int) -> int:
    """Programs that a multiprocessor of NVIDIA's has room for: 64 Ki registers, 2,048 threads, about 200 KiB shared."""
    by_registers = REGISTERS // (-(-max(1, registers) // 8) * 8 * threads)
    return max(1, min(by_registers, 2048 // threads, 32, SHARED // max(1, shared)))


@functools.cache
def overlaps(index: int | None) -> bool:
    """Whether a device starts the programs of a launch before the one before has ended: from compute capability 9."""
    return not torch.version.hip and torch.cuda.get_device_capability(index) >= (9, 0)


@functools.cache
def matrix_units(index: int | None) -> bool:
    """Whether a device has those on which passes were measured: NVIDIA's of compute capability 9; without one, yes."""
    if index is None or not torch.cuda.is_available():
        return True
    return not torch.version.hip and torch.cuda.get_device_capability(index)[0] == 9  # AMD counts so, too


@functools.cache
def multiprocessors(index: int | None) -> int:
    """Of a device; where there is none, as many as a large one has."""
    if index is None or not torch.cuda.is_available():
        return MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def forward_steps(one: Plan, B: int, args: Mapping[str, Any], form: str, layout: str) -> list[Step]:
    """``pool``, ``gate`` and, but for small samples, ``scale``, for tensors as they will come."""
    x, state, W_q = args["x"], args["state"], args["W_q"]
    ACC = ACCUMULATE.get(x.dtype, tl.float32)
    kind = {"PAPER": form == "paper", "SEQ": layout == "sequential", "ACC": ACC}
    pool, gate, scale = kernels.pool, kernels_gate.gate, kernels.scale
    between = (x, x, state, state, state, *args["gate"], 1.0, 1, 1, 1)
    steps = [
        settle(one, B, pool, (x, W_q, state, state, 1, 1, 1), blocks(one, pool, *MAP) | {"ACC": ACC}),
        settle(
            one, B, gate, between, blocks(one, gate, *BETWEEN, "BZ", "STREAM") | kind,
            kernels_gate.stages(form, layout, one.small),
        ),
    ]  # fmt: skip
    if not one.small:
        last = (x, x, state, state, *args["norm"], 1.0, 1, 1, 1, 1)
        steps.append(settle(one, B, scale, last, blocks(one, scale, *MAP, "STREAM") | kind | {"BS": one.S}))
    return steps


def backward_steps(one: Plan, B: int, args: Mapping[str, Any], form: str, layout: str) -> list[Step]:
    """``grad_pool``, ``grad_gate``, ``grad_weight`` and, but for small samples, ``grad_input``."""
    x, state, W_q = args["x"], args["state"], args["W_q"]
    ACC = ACCUMULATE.get(x.dtype, tl.float32)
    kind = {"PAPER": form == "paper", "SEQ": layout == "sequential", "ACC": ACC}
    pool, gate, last = kernels_grad.grad_pool, kernels_grad_gate.grad_gate, kernels_grad.grad_input
    maps = (x, x, x, W_q)
    between = (*maps, state, state, state, state, *args["gate"], 1.0, 1, 1, 1)
    weight = {"C": one.C, "BB": 16, "BL": 128, "TR": 32, "TC": 32, "PAPER": kind["PAPER"], "ACC": ACC}
    steps = [
        settle(one, B, pool, (x, x, state, state, state, 1.0, 1, 1, 1), blocks(one, pool, *MAP, "D_LAST") | kind),
        settle(
            one, B, gate, between, blocks(one, gate, *BETWEEN, "D_LAST") | kind,
            kernels_grad_gate.stages(layout, one.small),
        ),
        settle(one, B, kernels_weight.grad_weight, (state, state, state, *args["grads"], 1, 1), weight),
    ]  # fmt: skip
    if not one.small:
        rest = (*maps, state, state, state, 1.0, 1, 1, 1)
        steps.append(settle(one, B, last, rest, blocks(one, last, *MAP, "D_LAST") | kind))
    return steps
