"""How the kernels share a map among programs: block sizes, warps and registers, for any map on any device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import triton

__all__ = ["MIXED", "MULTIPROCESSORS", "REGISTERS", "SMALL", "Plan", "plan"]

SMALL = 1 << 16  # elements of a sample of many channels whose second pass the programs that make its gates do
CACHED = 96 << 20  # bytes of a map of which the cache of an H200 keeps a good part from pass to pass
FEW_WARPS = 4  # of which twice as many may still have 255 registers a thread
MIXED = 512  # most channels of a gradient that lies in the other memory layout than x and is not copied
PROGRAMS = 528  # of a pass over the map, where there is no device to ask: four for each of 132 multiprocessors
MULTIPROCESSORS = 132  # where there is no device to ask
SECTOR = 16  # numbers of 16 bits in the least that memory gives
REGISTERS = 1 << 16  # of a multiprocessor
MANY = 256  # channels whose matrices are shared by the programs of a sample
MOST = 1024  # channels from which a program has 512 threads, of 128 registers
MOST_TOGETHER = {True: 32, False: 128}  # programs that share a sample between the passes, by paper form


@dataclass(frozen=True)
class Tiles:
    """A pass over the map: tiles of BC channels by BP = K*T*V pixels, as :mod:`polarpix.psa.tiles` lays them out.

    Each warp of ``warps`` holds a part of a tile; with AHEAD the next one is on its way meanwhile. ``waves`` times as
    many programs share the pass as a device has room for at a time. With STAGES the pass is made on the matrix units,
    :mod:`polarpix.psa.kernels_dot`, and so many tiles are on their way.
    """

    K: int
    T: int
    V: int
    warps: int
    AHEAD: bool
    waves: int
    STAGES: int = 0

    @property
    def BP(self) -> int:  # noqa: N802 - the kernels' letters
        """Pixels of a tile."""
        return self.K * self.T * self.V


@dataclass(frozen=True)
class Plan:
    """Block sizes of a chain of launches, forward or backward.

    Both passes over the map have tiles of their own, and so has what passes over it between them. There S programs
    share a sample; tiles of the weights have BR rows of C, BZ rows of C/2 and BU rows of C/S numbers; BS splits are
    joined at a time. VEC pixels are known to lie in one aligned piece. Of small samples the S programs also make the
    second pass. STREAM: by the second pass nothing of x and out need stay in cache.
    """

    C: int
    P: int
    BC: int
    S: int
    BR: int
    BZ: int
    BU: int
    BS: int
    VEC: int
    first: Tiles
    between: Tiles
    second: Tiles
    gate_warps: int
    small: bool
    aligned: bool
    LAST: bool
    D_LAST: bool
    WIDE: bool
    STREAM: bool
    settled: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def mixed(self) -> bool:
        """Whether the gradient lies otherwise than the map: one of two tiles is reordered, in registers."""
        return self.D_LAST != self.LAST

    @property
    def share_tiles(self) -> int:
        """Tiles of each of the S programs of a sample, where they pass over the map."""
        return int(triton.cdiv(triton.cdiv(self.P, self.between.BP), self.S))

    def tiles_of(self, kernel: str) -> Tiles:
        """The tiles of a kernel that passes over the map."""
        if kernel in ("gate", "grad_gate"):
            return self.between
        return self.first if kernel in ("pool", "grad_pool") else self.second

    def split(self, kernel: str, B: int, programs: int = PROGRAMS) -> tuple[int, int]:
        """Tiles of a program and programs of a sample, where a device has room for so many programs of B samples."""
        tiled = self.tiles_of(kernel)
        pieces = triton.cdiv(self.P, tiled.BP)
        if self.small:
            tiles = triton.cdiv(pieces, self.S)
        else:
            least = 1 if self.aligned else triton.cdiv(SECTOR, tiled.BP)  # as a row begins anywhere in a sector
            tiles = max(min(least, pieces), triton.cdiv(pieces, max(1, tiled.waves * programs // B)))
        return tiles, triton.cdiv(pieces, tiles)

    def options(self, kernel: str, again: int = 0) -> dict[str, int]:
        """Warps of a kernel's programs and, where it is said, the most registers that its threads may have.

        Left alone the assembler stops at a number of registers at which one more program runs beside, and puts an
        address aside for it. Told a number it takes what it needs.

        Args:
            again: so many times it has put something aside: after the first let it take more registers, whichever
                kernel it is; after the second let twice as many threads hold what it has, if they find room.
        """
        warps = self.tiles_of(kernel).warps
        at_will = again > 0
        if kernel == "grad_weight":  # its tiles are the same for every map
            warps = 4
        elif kernel in ("gate", "grad_gate"):  # few programs: none waits for room
            warps, at_will = self.gate_warps, True
        if again > 1 and warps <= FEW_WARPS:
            warps *= 2
        most = {"maxnreg": min(255, REGISTERS // (32 * warps))} if at_will and not torch.version.hip else {}
        return {"num_warps": warps, **most}


def power(number: float) -> int:
    """The largest power of two that is not above the number, at least 1."""
    return 1 << max(0, int(number).bit_length() - 1)


@lru_cache(maxsize=4096)
def plan(
    B: int,
    C: int,
    P: int,
    itemsize: int,
    last: bool,
    d_last: bool | None = None,
    paper: bool = True,
    multiprocessors: int = MULTIPROCESSORS,
    matrix: bool = False,
) -> Plan:
    """Block sizes for a map of B samples, C channels and P pixels.

    Args:
        d_last: in the backward, whether the gradient is channels_last, as ``last`` says of the map.
        paper: whether it is the paper form; in the released one the programs between the passes read the map, too.
        matrix: whether the device has matrix units on which passes have been measured, and the map is of bfloat16.
        multiprocessors: of the device. So many programs wait for each other that all of them find room.
    """
    backward = d_last is not None
    D_LAST = last if d_last is None else d_last
    inner = 16 // itemsize
    together = next(n for n in (inner, 4, 2, 1) if n <= inner and P % n == 0)
    VEC = 1 if last and D_LAST else together  # where no map is contiguous nothing depends on it: one kernel less
    aligned = inner == together or (last and D_LAST)
    BC = max(16, triton.next_power_of_2(C))
    # A sample of few channels is shared better by passes of their own, unless it is very small; of very many channels
    # a program has no registers for all that a small sample asks of it.
    small = BC < MOST and C * P <= SMALL and (BC >= MANY or C * P <= SMALL // 8)
    kinds = of_small(BC, aligned, backward) if small else of_map(BC, last, aligned, backward)
    if BC == MANY and itemsize == 2 and D_LAST and not last:  # one of two tiles is reordered: there are no registers
        kinds = ((8, 16, False, 3), kinds[1])
    if BC == 128 and itemsize == 4 and last and not D_LAST:  # Triton 3.8 dies of these two layouts side by side
        kinds = ((8, 32, True, 1), (8, 32, True, 1))
    first, second = (lay_out(*way, BC, P, itemsize, last, aligned) for way in kinds)
    between = second
    if matrix and aligned and not small and last == D_LAST:
        ways = on_matrix_units(BC, last, backward)
        made = [one if way is None else flat(*way) for one, way in zip((first, second, second), ways, strict=True)]
        first, second = made[0], made[2]
        between = between if paper else made[1]

    # Between the passes: of many channels one program for each 64, 32 or 16, of few ones one to four; in the released
    # form, where they read the map, as many as have room: twice if they have 128 threads, whatever registers they need.
    gate_warps = second.warps if small else 4 if paper else 8
    S = power((2 if gate_warps <= 4 else 1) * multiprocessors / B)
    if paper:
        few = min(4, BC // 16) if multiprocessors >= 16 * B else 1  # they join many splits
        S = min(S, few if BC < MANY else BC // 64 if small else BC // 32 if BC == MANY else BC // 16)
    S = max(1, min(S, MOST_TOGETHER[paper]))
    BH, BCS = BC // 2, max(BC // S, 16)
    block = 32 * gate_warps * (32 if itemsize > 2 else 64)  # a map of float32 has weights of float32
    BR, BZ, BU = (max(1, min(most, block // n)) for most, n in ((BCS // 2, BC), (BCS, BH), (BH, BCS)))
    BS = min(power(2 * S - 1), max(1, block // BC)) if small else max(1, min(256, block // BCS))
    return Plan(
        C, P, BC, S, BR, BZ, BU, BS, VEC, first, between, second, gate_warps, small, aligned, last,
        D_LAST, WIDE=C * P >= 2**31, STREAM=last and B * C * P * itemsize <= CACHED,
    )  # fmt: skip


# Warps of a program, numbers of 16 bits that a thread holds of a tile, whether the next tile is asked for ahead, and
# waves: of the first and of the second pass. As measured on an H200: docs/derivation.
Way = tuple[int, int, bool, int]


def of_map(BC: int, last: bool, aligned: bool, backward: bool) -> tuple[Way, Way]:
    """The passes over a map of which each has launches of its own."""
    if last and aligned:  # a warp reads whole pixels, and few of its threads hold the same channels
        few, many = (2 if BC <= 64 else max(4, BC // 256)), min(16, max(8, BC // 64))
        if backward:
            return (few, 32, True, 1), (few, 32, True, 1) if BC <= MANY else (many, 16, True, 1)
        return (few, 64, True, 1), (few, 32, True, 1) if BC < MANY else (few, 16, True, 3)
    if aligned:  # a row of a tile should fill 128 bytes
        warps = min(16, max(2, BC // 32)) if BC <= MANY else min(16, BC // 64)
        if backward:
            second = (4, 32, False, 3) if BC == MANY else (warps, 32 if BC < MOST else 16, BC == 512, 3)
            return (warps, 32 if BC < MOST else 16, False, 3), second
        return (warps, 64, False, 1), (warps, 64, False, 3)
    warps = max(4, min(16, BC // 64))  # every number has an address of its own
    if backward:
        first = (warps, 16 if BC < MOST else 8, False, 1)
        return first, (warps, 16 if BC < MOST and not last else 8, not last, 8)
    return (warps, 16, BC < MOST, 1), (warps, 32 if BC < MOST else 16, True, 8)


# The same on the matrix units, by channels: pixels of a tile, warps, stages, waves. What is not here is faster by hand.
Pixels = tuple[int, int, int, int]
# POOL_LAST is of channels_last maps, the next two are of contiguous ones, LOGITS of both.
POOL_LAST: dict[int, Pixels] = {128: (64, 4, 3, 1), 256: (64, 4, 2, 1)}
SCALE: dict[int, Pixels] = {
    32: (128, 4, 3, 1), 64: (128, 4, 3, 1), 128: (64, 4, 3, 1), 256: (128, 8, 3, 1), 512: (64, 8, 3, 1),
}  # fmt: skip
GRAD_INPUT: dict[int, Pixels] = {
    32: (64, 4, 3, 1), 64: (64, 4, 3, 1), 128: (64, 4, 2, 1), 256: (32, 4, 3, 3), 512: (32, 8, 3, 1),
}  # fmt: skip
LOGITS: dict[int, Pixels] = {
    32: (128, 4, 3, 1), 64: (128, 4, 3, 1), 128: (64, 4, 3, 1), 256: (64, 4, 3, 1), 512: (32, 4, 3, 1),
}  # fmt: skip


def on_matrix_units(BC: int, last: bool, backward: bool) -> tuple[Pixels | None, Pixels | None, Pixels | None]:
    """The first pass over a map of bfloat16, that for its logits (released form), and the second."""
    logits = None if backward else LOGITS.get(BC)
    if last:
        return None if backward else POOL_LAST.get(BC), logits, None
    return None, logits, (GRAD_INPUT if backward else SCALE).get(BC)


def of_small(BC: int, aligned: bool, backward: bool) -> tuple[Way, Way]:
    """The passes over a small sample, of which the second belongs to the programs between them."""
    way = (min(16, max(4, BC // 128)), 16 if not aligned else 32 if backward else 64, True, 1)
    return way, way


def lay_out(
    warps: int, each: int, ahead: bool, waves: int, BC: int, P: int, itemsize: int, last: bool, aligned: bool
) -> Tiles:
    """Tiles of which each thread holds so many numbers of 16 bits, or half as many of 32."""
    inner = 16 // itemsize
    each = max(4, 2 * each // itemsize)
    BP = max(1, min(32 * warps * each // BC, triton.next_power_of_2(P), 256))
    if last:
        V, T = 1, max(1, min(BP, 32 * warps * inner // BC))
    elif aligned:
        V = min(inner, triton.next_power_of_2(P))
        T = max(1, BP // V)
    else:
        V, T = 1, min(BP, 32)
    return Tiles(max(1, BP // (T * V)), T, V, warps, ahead, waves)


def flat(BP: int, warps: int, stages: int, waves: int) -> Tiles:
    """Tiles for the matrix units: [BP, BC], which are not laid out among threads."""
    return Tiles(1, BP, 1, warps, False, waves, stages)
