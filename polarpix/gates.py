"""Look inside: the gates that each polarized self-attention of a network computes for one input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

__all__ = ["Gates", "attention_blocks", "record_gates"]

Gates = dict[str, tuple[Tensor | None, Tensor | None]]
"""Module name -> channel gate [B, C, 1, 1] and spatial gate [B, 1, H, W]; None for a branch the block does not have."""


def attention_blocks(model: nn.Module) -> dict[str, PolarizedSelfAttention]:
    """The polarized self-attentions of a network by module name, in the network's order."""
    return {name: block for name, block in model.named_modules() if isinstance(block, PolarizedSelfAttention)}


@torch.no_grad()
def record_gates(model: nn.Module, image: Tensor) -> Gates:
    """Run a network on ``image`` and give the gates of each of its polarized self-attentions, in the network's order.

    Args:
        model: any network with such blocks, inserted or its own.
        image: what the network takes, [B, 3, H, W].

    Raises:
        InputError: the network has no such block.
    """
    blocks = attention_blocks(model)
    if not blocks:
        raise InputError(f"{type(model).__name__} has no polarized self-attention: train it with attention psa_p")
    gates: Gates = {}

    def recorder(name: str) -> Callable[[nn.Module, Any], None]:
        def record(block: nn.Module, inputs: Any) -> None:
            assert isinstance(block, PolarizedSelfAttention)
            gates[name] = block.gates(inputs[0])

        return record

    handles = [block.register_forward_pre_hook(recorder(name)) for name, block in blocks.items()]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return gates
