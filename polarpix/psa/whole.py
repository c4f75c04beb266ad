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
from polarpix.psa.passes import differentiable

__all__ = ["Places", "attend", "places"]

Grads = tuple[Tensor | None, ...]
# the weights of the two branches in the order of the C side
NAMES = {
    "paper": (("W_q", "b_q", "W_v", "b_v", "W_z", "b_z", "ln_weight", "ln_bias"), ("W_q", "b_q", "W_v", "b_v")),
    "released": (("W_q", "W_v", "W_z"), ("W_q", "W_v")),  # no biases, no LayerNorm
}
POINTERS = {form: ctypes.c_void_p * (len(channel) + len(spatial)) for form, (channel, spatial) in NAMES.items()}
EMPTY = torch.empty(0, dtype=torch.float32, device="cpu")
PLAIN = (Parameter, Tensor)  # not what stands for a tensor
COLLAPSING = (("paper", "parallel"), ("paper", "sequential"), ("released", "parallel"))


class _Plan(NamedTuple):
    """What is the same in every call for one form on maps of one shape, layout and dtype."""

    map: Any  # the C side's description
    vectors: int  # numbers of the state that a forward without a backward makes
    state: int  # with the rows that the backward needs
    work: int  # numbers of work space of the forward
    work_backward: int
    forward: Any  # the C side's functions
    backward: Any


@lru_cache(maxsize=1024)
def _plan(shape: torch.Size, last: bool, dtype: torch.dtype, threads: int, form: str) -> _Plan:
    library = loops.library(dtype)
    assert library is not None  # as loops.takes says
    described = loops.describe(shape, last, threads)[0]
    sizes = (ctypes.c_int64 * 4)()
    library.psa_sizes(described, form == "released", sizes)
    vectors, state, work, work_backward = sizes
    return _Plan(described, vectors, state, work, work_backward, library.psa_forward, library.psa_backward)


def _plan_of(x: Tensor, form: str) -> _Plan:
    return _plan(x.shape, not x.is_contiguous(), x.dtype, torch.get_num_threads(), form)


class Places(NamedTuple):
    """Where a block's weights lie, on the CPU and dense."""

    given: tuple[Tensor, ...]  # in the order of the block
    weights: tuple[Tensor, ...]  # in the order of the C side
    at: tuple[int, ...]
    pointers: Any  # for the C side

    def hold(self, given: list[Tensor], dtype: torch.dtype) -> bool:
        """Whether these are the same weights at the same places, so that they need not be looked at one by one.

        A module that is converted converts all of them, so one tells the dtype.
        """
        return (
            len(given) == len(self.given)
            and all(map(operator.is_, given, self.given))
            and tuple(map(Tensor.data_ptr, self.weights)) == self.at
            and given[0].dtype is dtype
        )


def places(x: Tensor, form: str, layout: str, channel: Weights, spatial: Weights) -> Places | None:
    """Where the weights lie, for :func:`attend`; None if one call cannot do it for a map that the loops take.

    It takes both branches, of a form whose spatial gate collapses, and weights beside the map, of its dtype and of the
    sizes that belong to its channels.
    """
    if (form, layout) not in COLLAPSING:
        return None
    found: list[Tensor] = []
    for weights, names, sizes in zip((channel, spatial), NAMES[form], _sizes(form, x.shape[1]), strict=True):
        if len(weights) != len(names):
            return None
        for name, size in zip(names, sizes, strict=True):
            W = weights.get(name)
            if W is None or W.dtype is not x.dtype or W.numel() != size or not W.is_contiguous():
                return None
            if not W.is_cpu or type(W) not in PLAIN:
                return None
            found.append(W)
    at = tuple(map(Tensor.data_ptr, found))
    return Places((*channel.values(), *spatial.values()), tuple(found), at, POINTERS[form](*at))


@lru_cache(maxsize=1024)
def _sizes(form: str, C: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many numbers each weight of the two branches has."""
    matrix = C // 2 * C
    if form == "released":
        return (C, matrix, matrix), (matrix, matrix)
    return (C, 1, matrix, C // 2, matrix, C, C, C), (matrix, C // 2, matrix, C // 2)


def attend(x: Tensor, form: str, layout: str, scale: float, places: Places) -> Tensor:
    """As :func:`polarpix.psa.passes.attend`, with what :func:`places` found."""
    if torch.is_grad_enabled():
        attended: Tensor = _Block.apply(x, form, layout, scale, places, *places.weights)
        return attended
    plan = _plan_of(x, form)
    work = _floats(plan.vectors + plan.work)
    at = work.data_ptr()
    return _forward(plan, x, form, layout, scale, places.pointers, at, form == "released", at + 4 * plan.vectors)


def _forward(
    plan: _Plan, x: Tensor, form: str, layout: str, scale: float, weights: Any, kept: int, rows: bool, work: int
) -> Tensor:
    out = torch.empty_like(x)
    plan.forward(
        plan.map, x.data_ptr(), weights, form == "released", layout == "sequential", scale,
        out.data_ptr(), kept, rows, work,
    )  # fmt: skip
    return out


def _floats(count: int) -> Tensor:
    return EMPTY.new_empty(count)  # quicker than torch.empty with dtype and device


class _Block(torch.autograd.Function):
    """Kept for the backward: x, two rows of P numbers and some vectors for each sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: str, layout: str, scale: float, places: Places, *weights: Tensor) -> Tensor:
        plan = _plan_of(x, form)
        kept, work = _floats(plan.state), _floats(plan.work)
        ctx.kind, ctx.places = (form, layout, scale), places
        ctx.save_for_backward(x, kept, *weights)
        return _forward(plan, x, form, layout, scale, places.pointers, kept.data_ptr(), True, work.data_ptr())

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Grads:
        x, kept, *weights = ctx.saved_tensors
        form, layout, scale = ctx.kind
        if torch.is_grad_enabled():
            dx, *graphed = differentiable(partial(_plain, form, layout, scale), (x, *weights), (d,))
            return dx, None, None, None, None, *graphed
        plan = _plan_of(x, form)
        d = loops.lay_as(x, d)
        pointers = ctx.places.pointers
        if tuple(map(Tensor.data_ptr, weights)) != ctx.places.at:
            pointers = _moved(x, form, layout, weights)
        wanted = ctx.needs_input_grad
        dx = torch.empty_like(x) if wanted[0] else None
        dx_at = None if dx is None else dx.data_ptr()
        d_weights, d_at = _gradients(form, weights, wanted[5:])
        work = _floats(plan.work_backward)
        plan.backward(
            plan.map, x.data_ptr(), d.data_ptr(), pointers, form == "released", layout == "sequential", scale,
            kept.data_ptr(), dx_at, d_at, work.data_ptr(),
        )  # fmt: skip
        return dx, None, None, None, None, *d_weights


def _gradients(form: str, weights: list[Tensor], wanted: tuple[bool, ...]) -> tuple[Grads, Any]:
    """Room for the gradients that are wanted, and its places."""
    if all(wanted):  # as in training, where two lists more would show
        every = tuple(map(torch.empty_like, weights))
        return every, POINTERS[form](*map(Tensor.data_ptr, every))
    some = tuple(torch.empty_like(W) if one else None for W, one in zip(weights, wanted, strict=True))
    return some, POINTERS[form](*(None if one is None else one.data_ptr() for one in some))


def _named(form: str, weights: tuple[Tensor, ...]) -> tuple[Weights, Weights]:
    channel, spatial = NAMES[form]
    split = len(channel)
    return dict(zip(channel, weights[:split], strict=True)), dict(zip(spatial, weights[split:], strict=True))


def _moved(x: Tensor, form: str, layout: str, weights: list[Tensor]) -> Any:
    """The places of weights that do not lie any more where they lay in the forward."""
    found = places(x, form, layout, *_named(form, tuple(weights)))
    if found is None:
        raise RuntimeError("the weights of a block were converted or moved to a device between forward and backward")
    return found.pointers


def _plain(form: str, layout: str, scale: float, x: Tensor, *weights: Tensor) -> Grads:
    g, s = collapsed.gates(x, form, layout, *_named(form, weights))
    return (collapsed.apply_gates(x, g, s, layout, scale),)
