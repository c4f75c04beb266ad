"""Look inside: the gates that each polarized self-attention of a network computes for one input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

__all__ = ["GateSpread", "Gates", "attention_blocks", "gate_spread", "record_gates"]

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


@dataclass(frozen=True)
class GateSpread:
    """How far the values of one gate for one input lie apart, and how many say yes, no or nothing."""

    low: float
    high: float
    std: float
    saturated: float  # share within 0.01 of 0 or 1
    undecided: float  # share within 0.02 of 0.5

    @property
    def spread(self) -> float:
        """Largest value less smallest; NaN where some value is not finite."""
        return self.high - self.low

    def is_constant(self, threshold: float) -> bool:
        """Whether the gate treats all its channels, or all its pixels, alike; one that is not finite does not."""
        return math.isfinite(self.spread) and self.spread < threshold


def gate_spread(gate: npt.NDArray[np.floating]) -> GateSpread:
    """The spread of a gate of any shape, values in 0..1."""
    values = np.asarray(gate, np.float64).ravel()
    return GateSpread(
        low=float(values.min()),
        high=float(values.max()),
        std=float(values.std()),
        saturated=float(((values <= 0.01) | (values >= 0.99)).mean()),
        undecided=float((np.abs(values - 0.5) <= 0.02).mean()),
    )
