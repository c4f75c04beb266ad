"""Which kernels there are to compile without a GPU: cards, maps, the chain of launches, and each once.

A kernel is compiled anew for the constants of its plan, the dtype, the warps and the card. Many maps share one; a job
carries the first of them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

__all__ = [
    "CARDS",
    "FORMATS",
    "GRID",
    "ITEMSIZE",
    "KINDS",
    "LAUNCHES",
    "MAPS",
    "ODD",
    "Card",
    "Grid",
    "Job",
    "Launch",
    "asked_for",
    "bare",
    "chain",
    "constants",
    "fingerprint",
    "jobs",
    "kernel_of",
    "plan_of",
]

Grid = Mapping[str, Sequence[Sequence[int]]]  # dtype -> maps (B, C, H, W)

# Maps of the paper's networks and beyond, so that every kind of tile is met: small samples and splits, P
# a multiple of eight and not, channels that are a power of two and not, from 2 to 2,048.
MAPS = (
    (32, 64, 64, 48),
    (128, 48, 64, 48),
    (32, 256, 16, 12),
    (32, 512, 8, 6),
    (16, 256, 128, 128),
    (8, 512, 65, 65),
    (2, 512, 128, 256),
    (8, 2048, 32, 24),
    (32, 2, 64, 48),
    (8, 16, 17, 13),
    (32, 32, 64, 48),
    (32, 96, 32, 24),
    (32, 128, 16, 12),
    (32, 192, 16, 12),
    (32, 384, 8, 6),
    (4, 1536, 24, 24),
    (8, 256, 17, 13),
    (32, 48, 63, 47),
    (32, 48, 64, 46),
    (32, 256, 31, 41),
    (32, 256, 32, 40),
    (8, 512, 64, 66),
    (8, 1024, 31, 41),
    (8, 1024, 32, 40),
    (8, 2048, 17, 13),
    (8, 2048, 16, 14),
)
# Maps of an odd number of pixels among them, each with a neighbour of an even one.
ODD = (
    ((32, 256, 31, 41), (32, 256, 32, 40)),
    ((32, 48, 63, 47), (32, 48, 64, 46)),
    ((8, 512, 65, 65), (8, 512, 64, 66)),
    ((8, 1024, 31, 41), (8, 1024, 32, 40)),
    ((8, 2048, 17, 13), (8, 2048, 16, 14)),
)
# Which of them in which dtype. float16 differs from bfloat16 in how a number is read and written: one map of each kind.
GRID: Grid = {"bf16": MAPS, "fp32": MAPS, "fp16": ((32, 64, 64, 48), (32, 512, 8, 6), (8, 512, 65, 65))}
KINDS = (("paper", "parallel"), ("paper", "sequential"), ("released", "parallel"))
FORMATS = ("contiguous", "channels_last")
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Card:
    """An architecture: rates of its best-known card and what one multiprocessor holds (data sheets)."""

    capability: int
    name: str
    peak_tb: float
    multiprocessors: int
    gigahertz: float
    shared: int  # bytes
    threads: int = 2048
    blocks: int = 32
    registers: int = 65536


CARDS = (
    Card(80, "A100 80GB", 2.04, 108, 1.41, 164 << 10),
    Card(90, "H100 SXM", 3.35, 132, 1.755, 228 << 10),
    Card(100, "B200", 8.0, 148, 1.965, 228 << 10),
    Card(120, "RTX 5090", 1.79, 170, 2.41, 100 << 10, threads=1536, blocks=24),
)


@dataclass(frozen=True)
class Launch:
    """A kernel of the chain: how often it reads and writes a map; of small samples or of others, of which form.

    None: it is the same in both.
    """

    name: str
    backward: bool
    small: bool | None
    reads: int
    writes: int
    form: str | None = None

    @property
    def sees_maps(self) -> bool:
        """Whether it touches a map, so that the dtype matters."""
        return self.reads + self.writes > 0

    @property
    def shared(self) -> bool:
        """Whether S programs share a sample and meet between the stages."""
        return self.name in ("gate", "grad_gate")


LAUNCHES = (
    Launch("pool", False, None, 1, 0),
    Launch("gate", False, False, 0, 0, "paper"),
    Launch("gate", False, False, 1, 0, "released"),
    Launch("gate", False, True, 1, 1, "paper"),
    Launch("gate", False, True, 2, 1, "released"),
    Launch("scale", False, False, 1, 1),
    Launch("grad_pool", True, None, 2, 0),
    Launch("grad_gate", True, False, 0, 0),
    Launch("grad_gate", True, True, 2, 1),
    Launch("grad_input", True, False, 2, 1),
    Launch("grad_weight", True, None, 0, 0),
)


def chain(plan: Any, form: str, backward: bool) -> list[Launch]:
    """The launches of a plan."""
    kinds = (plan.small, None)
    return [one for one in LAUNCHES if one.backward == backward and one.small in kinds and one.form in (form, None)]


@dataclass(frozen=True)
class Job:
    """A kernel to compile at a plan; in the backward the gradient may lie otherwise than the map."""

    step: Launch
    plan: Any
    form: str
    layout: str
    dtype: str
    card: Card
    again: int = 0

    @property
    def options(self) -> dict[str, int]:
        """Of the compiler, as the launch gives them; ``again`` where it spilled as the plan has it."""
        found: dict[str, int] = self.plan.options(self.step.name, self.again)
        return found

    @property
    def threads(self) -> int:
        """Of one program."""
        return 32 * self.options["num_warps"]

    @property
    def tiles(self) -> Any:
        """Of the pass over the map that the kernel makes."""
        return self.plan.tiles_of(self.step.name)

    @property
    def memory(self) -> str:
        """The memory format of the map."""
        return FORMATS[self.plan.LAST]

    @property
    def gradient(self) -> str:
        """The memory format of the gradient, where one is read."""
        return FORMATS[self.plan.D_LAST] if self.step.backward and self.step.reads else ""

    @property
    def key(self) -> tuple[str, str, str, str, int, int, str, str, str]:
        """What a row of the report can be known by."""
        plan, architecture = self.plan, f"sm_{self.card.capability}"
        where = self.memory, self.gradient, architecture
        return self.step.name, self.form, self.layout, self.dtype, plan.C, plan.P, *where

    @property
    def compiled_for(self) -> tuple[Any, ...]:
        """What makes its code: jobs that are equal here are one kernel. What it does not look at makes none."""
        idle: tuple[str, ...] = () if self.step.sees_maps else TILE
        if self.step.name == "scale" and self.form == "paper":
            idle = ("BS",)  # no sums of a softmax to join
        fixed = {name: value for name, value in constants(self).items() if name not in idle}
        told = tuple((name, str(value)) for name, value in sorted(fixed.items()))
        dtype = self.dtype if self.step.sees_maps else ""
        return self.step.name, self.card.capability, dtype, tuple(sorted(self.options.items())), told


TILE = ("K", "T", "V", "AHEAD", "STAGES", "LAST", "D_LAST", "WIDE")  # constants of how a map lies and is cut


def plan_of(shape: Sequence[int], dtype: str, last: bool, form: str, card: Card, d_last: bool | None = None) -> Any:
    """The plan of a map on a card, as :mod:`polarpix.psa.launch` asks for it; of the backward with ``d_last``."""
    from polarpix.psa import plans

    B, C, H, W = shape
    paper = form == "paper" or d_last is not None
    matrix = dtype == "bf16" and card.capability // 10 == 9  # as steps.matrix_units has it
    return plans.plan(B, C, H * W, ITEMSIZE[dtype], last, d_last, paper, card.multiprocessors, matrix)


def plans_of(shape: Sequence[int], dtype: str, form: str, card: Card) -> Iterator[tuple[Any, bool]]:
    """Every plan of a map, and whether it is of the backward: in both memory formats, the gradient in either."""
    from polarpix.psa import plans

    for last in (False, True):
        yield plan_of(shape, dtype, last, form, card), False
        for d_last in (last, not last) if shape[1] <= plans.MIXED else (last,):
            yield plan_of(shape, dtype, last, form, card, d_last), True


def jobs(grid: Grid = GRID, cards: Sequence[Card] = CARDS) -> Iterator[Job]:
    """Every kernel that the maps need, in both memory formats: each once."""
    seen = set()
    maps = [(dtype, shape) for dtype, shapes in grid.items() for shape in shapes]
    for card, (dtype, shape), (form, layout) in product(cards, maps, KINDS):
        for plan, backward in plans_of(shape, dtype, form, card):
            for step in chain(plan, form, backward):
                job = Job(step, plan, form, layout, dtype, card)
                if job.compiled_for not in seen:
                    seen.add(job.compiled_for)
                    yield job


def rooms() -> tuple[Any, ...]:
    """The modules that hold kernels."""
    from polarpix.psa import kernels, kernels_dot, kernels_gate, kernels_grad, kernels_grad_gate, kernels_weight

    return kernels, kernels_dot, kernels_gate, kernels_grad, kernels_grad_gate, kernels_weight


@cache
def kernel_of(name: str) -> Any:
    """The Triton function."""
    return next(getattr(room, name) for room in rooms() if name in room.__all__)


@cache
def asked_for(name: str) -> tuple[str, ...]:
    """The compile-time arguments of a kernel."""
    found = inspect.signature(kernel_of(name).fn).parameters.values()
    return tuple(one.name for one in found if "constexpr" in str(one.annotation))


def constants(job: Job) -> dict[str, Any]:
    """The compile-time arguments of a kernel with their values: of its tiles, of the plan or as the launch says."""
    import triton.language as tl

    from polarpix.psa import kernels_gate, kernels_grad_gate

    plan, step, tiles = job.plan, job.step, job.tiles
    given: dict[str, Any] = {name: getattr(tiles, name) for name in ("K", "T", "V", "AHEAD", "STAGES")}
    given |= {"PAPER": job.form == "paper", "SEQ": job.layout == "sequential", "ACC": tl.float32}
    given["CHAIN"] = job.card.capability >= 90  # as steps.overlaps has it
    if step.name == "gate":
        given |= {"BEGIN": 0, "END": kernels_gate.stages(job.form, job.layout, plan.small), "SMALL": plan.small}
    elif step.name == "grad_gate":
        given |= {"BEGIN": 0, "END": kernels_grad_gate.stages(job.layout, plan.small), "SMALL": plan.small}
    elif step.name == "scale":
        given["BS"] = plan.S
    elif step.name == "grad_weight":
        given |= {"BB": 16, "BL": 128, "TR": 32, "TC": 32}
    return {name: given[name] if name in given else getattr(plan, name) for name in asked_for(step.name)}


def fingerprint(grid: Grid = GRID) -> str:
    """SHA-256 over the kernels' code, without comments and docstrings, and over what each is compiled for.

    It changes with anything that could make a report of these maps another one, but for the compiler itself.
    """
    from polarpix.psa import tiles

    told = hashlib.sha256()
    for room in (tiles, *rooms()):
        told.update(bare(inspect.getsource(room)).encode())
    for job in jobs(grid):
        told.update(repr((job.key, job.compiled_for)).encode())
    return told.hexdigest()


def bare(source: str) -> str:
    """Code without comments and docstrings, in one way of writing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
