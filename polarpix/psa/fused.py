"""The fused forms as torch sees them: an operator for compiled and exported programs, and a shorter way for eager ones.

The operator ``polarpix::psa`` gives the map and a row of small vectors a sample, which is all that the backward needs
beside x. Called eagerly, operators defined in Python cost more host time than the kernels take on small maps; so eager
code goes through a plain autograd function, which tracing could not follow. Both launch the same kernels.

Launches are no operations of torch: whoever reads, watches or replaces operations would see memory that nothing fills,
so everything but a plain call gets the operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from polarpix.errors import InputError
from polarpix.psa import launch, steps

__all__ = ["attend"]

PLAIN = (Tensor, Parameter)  # not what stands for a tensor


def attend(
    x: Tensor, form: str, layout: str, channel: Mapping[str, Tensor], spatial: Mapping[str, Tensor], scale: float
) -> Tensor:
    """scale * (x*g + x*s) or scale * x*g*s, for x [B, C, H, W] and the weights of the reference's gate functions.

    Raises:
        InputError: a map that is not on a CUDA device, or torch.func or forward-mode derivatives at work.
    """
    found = {**channel, **{f"{name}2": value for name, value in spatial.items()}}
    weights = [found[name] for name in launch.PARAMETERS[form]]
    out: Tensor
    if _is_read(x):
        out, _ = torch.ops.polarpix.psa(x, weights, form, layout, scale)
        return out
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise InputError("impl 'fused' has neither transforms of torch.func nor forward derivatives: use impl='auto'")
    if not x.is_cuda and not steps.interpreted():
        raise InputError(f"impl 'fused' needs a CUDA device, the input is on {x.device}: use impl='auto'")
    if torch.is_grad_enabled():
        out = Attend.apply(x, form, layout, scale, *weights)
        return out
    return launch.forward(x, weights, form, layout, scale)[0]


def _is_read(x: Tensor) -> bool:
    """Whether torch compiles, traces or watches the call, or x has no numbers to launch on."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or x.is_meta
        or type(x) not in PLAIN
    )


class Attend(torch.autograd.Function):
    """The eager way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: str, layout: str, scale: float, *weights: Tensor) -> Tensor:
        """The attended map."""
        out, state = launch.forward(x, weights, form, layout, scale)
        ctx.save_for_backward(x, state, *weights)
        ctx.kind = form, layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the weights."""
        x, state, *weights = ctx.saved_tensors
        # With create_graph the operator stands in the graph, and says what is wrong if it is asked for a derivative.
        run = torch.ops.polarpix.psa_backward if torch.is_grad_enabled() else launch.backward
        dx, *dW = run(d, x, state, weights, *ctx.kind)
        return dx, None, None, None, *dW


@torch.library.custom_op("polarpix::psa", mutates_args=())
def psa(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    """The attended map, and a row of 7C + 8 numbers a sample for the backward."""
    return launch.forward(x, weights, form, layout, scale)


@psa.register_fake
def _(x: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float) -> tuple[Tensor, Tensor]:
    x, _ = launch.dense(x)
    return torch.empty_like(x), x.new_empty((x.shape[0], 7 * x.shape[1] + 8), dtype=launch.wide(x))


@torch.library.custom_op("polarpix::psa_backward", mutates_args=())
def psa_backward(
    d: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float
) -> list[Tensor]:
    """Gradients of x and of the weights, in their order."""
    return launch.backward(d, x, state, weights, form, layout, scale)


@psa_backward.register_fake
def _(
    d: Tensor, x: Tensor, state: Tensor, weights: Sequence[Tensor], form: str, layout: str, scale: float
) -> list[Tensor]:
    x, _ = launch.dense(x)
    return [torch.empty_like(x), *(torch.empty_like(W, memory_format=torch.contiguous_format) for W in weights)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weights, ctx.form, ctx.layout, ctx.scale = inputs
    ctx.save_for_backward(x, output[1], *weights)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    x, state, *weights = ctx.saved_tensors
    if d is None:
        return None, [None] * len(weights), None, None, None
    dx, *dW = torch.ops.polarpix.psa_backward(d, x, state, weights, ctx.form, ctx.layout, ctx.scale)
    return dx, dW, None, None, None


def _no_second(ctx: Any, *_: Any) -> tuple[Any, ...]:
    raise RuntimeError("the fused form has no second derivative: use impl='collapsed' for it")


psa.register_autograd(_backward, setup_context=_setup)
psa_backward.register_autograd(_no_second)
