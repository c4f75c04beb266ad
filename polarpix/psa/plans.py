"""How the kernels share a map among programs: block sizes, warps and registers, for any map on any device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
import triton

__all__ = ["MIXED", "SMALL", "Plan", "plan"]

SMALL = 1 << 16  # elements of a sample whose second pass is done by the programs that make its gates
MIXED = 512  # most channels of a gradient that lies in the other memory layout than x and is not copied
PROGRAMS = 528  # of a pass over the map, where there is no device to ask: four for each of 132 multiprocessors
MULTIPROCESSORS = 132  # where there is no device to ask
SECTOR = 16  # numbers of 16 bits in the least that memory gives
REGISTERS = 1 << 16  # of a multiprocessor
MOST_TOGETHER = {True: 32, False: 64}  # programs that share a sample between the passes, by paper form


@dataclass(frozen=True)
class Plan:
    """Block sizes of a launch: tiles of BC channels by BP = K*T*V pixels, as :mod:`polarpix.psa.tiles` lays them out.

    ``tiles`` tiles make a split, ``splits`` splits a sample. Between the passes S programs share a sample; tiles of the
    weights have BR rows of C, BZ rows of C/2 and BU rows of C/S numbers; BS splits are joined at a time. VEC pixels are
    known to lie in one aligned piece. Of small samples the S programs also make the second pass.
    """

    C: int
    P: int
    BC: int
    K: int
    T: int
    V: int
    S: int
    BR: int
    BZ: int
    BU: int
    BS: int
    VEC: int
    tiles: int
    splits: int
    warps: int
    gate_warps: int
    small: bool
    aligned: bool
    LAST: bool
    D_LAST: bool
    WIDE: bool
    AHEAD: bool
    settled: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def BP(self) -> int:  # noqa: N802 - the kernels' letters
        """Pixels of a tile."""
        return self.K * self.T * self.V

    @property
    def mixed(self) -> bool:
        """Whether the gradient lies otherwise than the map: one of two tiles is reordered, in registers."""
        return self.D_LAST != self.LAST

    @property
    def share_tiles(self) -> int:
        """Tiles of each of the S programs of a sample, where they pass over the map."""
        return int(triton.cdiv(triton.cdiv(self.P, self.BP), self.S))

    def split(self, B: int, programs: int) -> tuple[int, int]:
        """Tiles of a program and programs of a sample, where about so many programs share a pass over B samples."""
        pieces = triton.cdiv(self.P, self.BP)
        if self.small:
            tiles = triton.cdiv(pieces, self.S)
        else:
            # tiles that fill a sector, as a row begins anywhere in one
            least = 1 if self.aligned else triton.cdiv(SECTOR, self.BP)
            tiles = max(min(least, pieces), triton.cdiv(pieces, max(1, programs // B)))
        return tiles, triton.cdiv(pieces, tiles)

    def options(self, kernel: str, at_will: bool = False) -> dict[str, int]:
        """Warps of a kernel's programs and, where it is said, the most registers that its threads may have.

        Left alone the assembler stops at a number of registers at which one more program runs beside, and puts an
        address aside for it. Told a number it takes what it needs.

        Args:
            at_will: it has put something aside: let it take more registers, whichever kernel it is.
        """
        warps = self.warps
        if kernel == "grad_weight":  # its tiles are the same for every map
            warps = 4
        elif kernel in ("gate", "grad_gate"):  # few programs: none waits for room
            warps, at_will = self.gate_warps, True
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
) -> Plan:
    """Block sizes for a map of B samples, C channels and P pixels.

    Args:
        d_last: in the backward, whether the gradient is channels_last, as ``last`` says of the map.
        paper: whether it is the paper form; in the released one the programs between the passes read the map, too.
        multiprocessors: of the device. No more programs than these wait for each other, so all of them find room.
    """
    backward = d_last is not None
    D_LAST = last if d_last is None else d_last
    inner = 16 // itemsize
    together = next(n for n in (inner, 4, 2, 1) if n <= inner and P % n == 0)
    VEC = 1 if last and D_LAST else together  # where no map is contiguous nothing depends on it: one kernel less
    aligned = last or inner == together
    BC = max(16, triton.next_power_of_2(C))
    small = C * P <= SMALL

    # A thread holds 64 numbers of a tile of bfloat16; 32 of each of two in the backward and of wider numbers; 16
    # without aligned pieces, since every number has an address of its own then.
    warps = max(4, min(16, BC // 64))
    each = 16 if not aligned else 32 if backward or itemsize > 2 else 64
    BP = max(1, min(32 * warps * each // BC, triton.next_power_of_2(P), 256))
    if last:
        V, T = 1, max(1, min(BP, 32 * warps * inner // BC))
    elif aligned:
        V = min(inner, triton.next_power_of_2(P))
        T = max(1, BP // V)
    else:
        V, T = 1, min(BP, 32)
    K = max(1, BP // (T * V))
    BP = K * T * V
    pieces = triton.cdiv(P, BP)

    # Between the passes: one program for each 32 channels of many, and as many as have room in the released form.
    S = power(multiprocessors / B)
    S = min(S, BC // 32 if BC >= 256 else 1) if paper else min(S, BC // 16)
    S = max(1, min(S, MOST_TOGETHER[paper]))
    BH, BCS, BHS = BC // 2, BC // S, BC // 2 // S
    gate_warps = 8 if BC >= 256 or not paper else 4
    if small:
        gate_warps = warps

    block = 32 * gate_warps * (32 if itemsize > 2 else 64)  # a map of float32 has weights of float32
    BR, BZ, BU = (max(1, min(most, block // n)) for most, n in ((BHS, BC), (BCS, BH), (BH, BCS)))
    BS = max(1, min(256, block // BCS))
    found = Plan(
        C, P, BC, K, T, V, S, BR, BZ, BU, BS, VEC, 1, pieces, warps, gate_warps, small, aligned, last, D_LAST,
        WIDE=C * P >= 2**31, AHEAD=True,
    )  # fmt: skip
    tiles, splits = found.split(B, PROGRAMS)
    return replace(found, tiles=tiles, splits=splits)
