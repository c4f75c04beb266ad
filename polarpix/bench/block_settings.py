"""What `polarpix bench block` measures: shapes, blocks, and the options of the command, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from polarpix.attention import ATTENTION, build_attention
from polarpix.bench.block_page import Shape
from polarpix.bench.record import choose
from polarpix.bench.timing import measured_device
from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

__all__ = [
    "DTYPES",
    "FORMATS",
    "MODES",
    "SHAPES",
    "SWEPT",
    "Block",
    "BlockSettings",
    "block_settings",
    "parse_blocks",
    "parse_shapes",
    "sweep_shapes",
]

SHAPES: dict[str, tuple[Shape, ...]] = {
    "cuda": (
        (32, 64, 64, 48),
        (32, 256, 16, 12),
        (32, 512, 8, 6),
        (128, 48, 64, 48),
        (2, 48, 256, 512),
        (2, 512, 128, 256),
        (16, 256, 128, 128),
        (8, 512, 65, 65),
    ),
    "cpu": ((4, 64, 64, 48), (4, 256, 64, 48), (2, 512, 33, 33), (1, 48, 128, 256)),
}
SWEEPS: dict[str, Shape] = {"cuda": (16, 128, 64, 64), "cpu": (2, 64, 32, 32)}
DOUBLINGS = 3
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
MODES = {"fwd": 3, "fwdbwd": 8}  # passes over x that polarized self-attention needs
IMPLS = ("reference", "collapsed", "loops", "fused")
COMPILED = ("psa_p:reference", "psa_p_released:reference", "psa_p:collapsed", "se")
SWEPT = ("psa_p:reference", "psa_p:collapsed", "psa_p:loops", "psa_p:fused", "se")


@dataclass(frozen=True)
class Block:
    """A row of the shelf, in one of its implementations."""

    name: str
    impl: str | None = None

    @property
    def label(self) -> str:
        """As the command line names it."""
        return f"{self.name}:{self.impl}" if self.impl else self.name

    def build(self, channels: int) -> nn.Module:
        """The module.

        Raises:
            InputError: channels or an implementation that cannot be had.
        """
        return build_attention(self.name, channels, **({"impl": self.impl} if self.impl else {}))


@dataclass(frozen=True)
class BlockSettings:
    """What is measured.

    Args:
        sweep: smallest shape of the scaling sweep; null for none.
        compiled: labels of the blocks that torch.compile gets, too.
        seconds: for one candidate on one shape.
    """

    device: torch.device
    dtype: str
    shapes: Sequence[Shape]
    modes: Sequence[str]
    formats: Sequence[str]
    blocks: Sequence[Block]
    compiled: Sequence[str]
    sweep: Shape | None
    seconds: float
    seed: int = 0


def shelf() -> dict[str, Block]:
    """Every block there is to measure by its label, polarized self-attention in each implementation."""
    blocks: list[Block] = []
    for name in ATTENTION:
        psa = isinstance(build_attention(name, 64), PolarizedSelfAttention)
        blocks += [Block(name, impl) for impl in IMPLS] if psa else [Block(name)]
    return {block.label: block for block in blocks}


def parse_shape(text: str, option: str) -> Shape:
    """ "4,64,64,48" -> (4, 64, 64, 48).

    Raises:
        InputError: not four whole numbers above 0.
    """
    words = text.split(",")
    if len(words) != 4 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--{option} holds {text!r}: a shape is B,C,H,W, four whole numbers above 0, as 4,64,64,48")
    b, c, h, w = (int(word) for word in words)
    return b, c, h, w


def parse_shapes(text: str, option: str) -> list[Shape]:
    """ "4,64,64,48 1,48,17,13" -> each once.

    Raises:
        InputError: one that is not four whole numbers above 0.
    """
    return list(dict.fromkeys(parse_shape(one, option) for one in text.split()))


def parse_blocks(text: str, option: str = "blocks") -> list[Block]:
    """Labels, or names of the shelf that stand for all their implementations; all of them for an empty text.

    Raises:
        InputError: another word.
    """
    labels = shelf()
    chosen = choose(option, text, [*labels, *ATTENTION]) if text else list(labels)
    return list(dict.fromkeys(b for word in chosen for label, b in labels.items() if word in (label, b.name)))


def block_settings(
    device: str = "auto",
    dtype: str = "auto",
    shapes: str = "",
    mode: str = "all",
    blocks: str = "",
    formats: str = "",
    compiled: str = "auto",
    sweep: str = "",
    seconds: float = 0.25,
) -> BlockSettings:
    """The options of the command, checked.

    Raises:
        InputError: an option that means nothing.
    """
    where = measured_device(device)
    kind = "bf16" if where.type == "cuda" else "fp32"
    modes = list(MODES) if mode == "all" else choose("mode", mode, [*MODES, "all"])
    chosen = parse_blocks(blocks)
    if compiled == "auto":
        labels = list(COMPILED) if where.type == "cuda" else []
    else:
        labels = [] if compiled == "none" else choose("compile", compiled, [block.label for block in chosen])
    if not 0 < seconds < math.inf:
        raise InputError(f"--seconds {seconds}: give a time above 0")
    return BlockSettings(
        device=where,
        dtype=choose("dtype", kind if dtype == "auto" else dtype, list(DTYPES))[0],
        shapes=parse_shapes(shapes, "shapes") if shapes.strip() else SHAPES[where.type],
        modes=modes,
        formats=choose("formats", formats, list(FORMATS)),
        blocks=chosen,
        compiled=labels,
        sweep=None if sweep == "none" else parse_shape(sweep, "sweep") if sweep else SWEEPS[where.type],
        seconds=seconds,
    )


def sweep_shapes(base: Shape) -> list[Shape]:
    """The base, then P doubled up to three times, then C doubled likewise."""
    b, c, h, w = base
    pixels = [(b, c, h << (i + 1) // 2, w << i // 2) for i in range(DOUBLINGS + 1)]
    return [*pixels, *((b, c << i, h, w) for i in range(1, DOUBLINGS + 1))]
