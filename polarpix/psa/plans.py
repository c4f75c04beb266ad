"""How the kernels share a map among programs: block sizes, warps and registers, for any map on any device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import triton

__all__ = ["MIXED", "SMALL", "SUMS", "Plan", "plan"]

SMALL = 1 << 16  # elements of a sample that one program takes alone
MIXED = 512  # most channels of a gradient that lies in the other memory layout than x and is not copied
PROGRAMS = 528  # wanted for a pass over the map: four for each of 132 multiprocessors
REGISTERS = 1 << 16  # of a multiprocessor
SUMS = 256  # softmax sums of the released form that ``scale`` joins at a time


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
    aligned: bool
    LAST: bool
    D_LAST: bool
    WIDE: bool
    settled: dict[tuple[Any, ...], dict[str, int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def mixed(self) -> bool:
        """Whether the gradient lies otherwise than the map: one of two tiles is reordered, in registers."""
        return self.D_LAST != self.LAST

    @property
    def parts(self) -> int:
        """Programs a sample in ``logits``."""
        return int(triton.cdiv(triton.cdiv(self.P, self.BP), self.part_tiles))

    @property
    def part_tiles(self) -> int:
        """Tiles of each: as it reads C^2 weights first, it takes at least C pixels."""
        return max(self.tiles, int(triton.cdiv(self.C, self.BP)))

    def options(self, kernel: str, at_will: bool = False) -> dict[str, int]:
        """Warps of a kernel's programs and, where it is said, the most registers that its threads may have.

        Left alone the assembler stops at a number of registers at which one more program runs beside, and puts an
        address aside for it. Told a number it takes what it needs.

        Args:
            at_will: it has put something aside: let it take more registers, whichever kernel it is.
        """
        warps = self.pass_warps
        if kernel == "grad_weight":  # its tiles are the same for every map
            warps = 4
        elif kernel in ("gate", "grad_gate"):  # a program or two for each sample: none waits for room
            warps, at_will = self.gate_warps, True
        elif kernel == "logits":
            warps, at_will = self.part_warps, at_will or self.BC >= 2048
        elif self.mixed:
            warps, at_will = min(16, 2 * self.warps) if self.aligned else self.warps, at_will or kernel == "grad_pool"
        elif kernel not in ("pool", "scale", "grad_pool"):
            warps = self.warps
        most = {"maxnreg": min(255, REGISTERS // (32 * warps))} if at_will and not torch.version.hip else {}
        return {"num_warps": warps, **most}


@lru_cache(maxsize=4096)
def plan(B: int, C: int, P: int, itemsize: int, last: bool, d_last: bool | None = None) -> Plan:
    """Block sizes for a map of B samples, C channels and P pixels; the same on every device.

    Args:
        d_last: in the backward, whether the gradient is channels_last, as ``last`` says of the map.
    """
    backward = d_last is not None
    D_LAST = last if d_last is None else d_last
    inner = 16 // itemsize
    together = next(n for n in (inner, 4, 2, 1) if n <= inner and P % n == 0)
    VEC = 1 if last and D_LAST else together  # where no map is contiguous nothing depends on it: one kernel less
    aligned = last or inner == together
    BC = max(16, triton.next_power_of_2(C))
    # Registers: a thread holds 32 numbers of a tile; 16 of each of two in the backward, and 16 in a small sample. Half
    # as many without aligned pieces, since every number has an address of its own; half as many of float32 too in the
    # passes that make no third tile. ``logits`` holds 16, and 32 without aligned pieces: with 16 it spilled there.
    small = C * P <= SMALL
    few = backward or small
    # Pixels in 16 bytes. Where none lie together, or two tiles lie the other way, many channels take few pixels.
    run = 1 if not aligned or (last and backward) else inner
    elements = max(BC * run, (4096 if few else 8192) // (1 if aligned else 2))
    BP = max(4 if aligned else 1, min(elements // BC, triton.next_power_of_2(P), 256))
    warps = BC * BP // (512 if few else 1024) * (1 if aligned else 2)
    part_warps = BC * BP // 512
    warps, part_warps = (max(1, min(16, n)) for n in (warps, part_warps))
    pass_warps = min(16, 2 * warps) if itemsize == 4 and aligned else warps
    pieces = triton.cdiv(P, BP)
    least = 1 if aligned else triton.cdiv(2 * inner, BP)  # tiles that fill a sector, as a row begins anywhere in one
    tiles = pieces if small else max(1, min(pieces, max(least, pieces * B // PROGRAMS)))
    splits = triton.cdiv(pieces, tiles)
    block = 4096 if itemsize == 2 else 2048  # numbers of a weight; a map of float32 leaves half the registers for it
    BR = max(1, min(triton.next_power_of_2(max(1, C // 2)), block // BC))
    BS = min(128, max(8192, BC) // BC)
    gate_warps = 16 if BC >= 2048 else 8 if BC >= 256 else 4
    wide = C * P >= 2**31
    return Plan(
        C, P, BC, BP, BR, BS, VEC, tiles, splits, warps, pass_warps, part_warps, gate_warps, small, aligned, last,
        D_LAST, wide,
    )  # fmt: skip
