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
    "bare",
    "chain",
    "constants",
    "fingerprint",
    "jobs",
    "kernel_of",
    "reads",
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
    (4, 16, 128, 128),
    (8, 16, 17, 13),
    (32, 32, 64, 48),
    (32, 96, 32, 24),
    (32, 128, 16, 12),
    (32, 192, 16, 12),
    (32, 384, 8, 6),
    (4, 1024, 24, 24),
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
    """A kernel of the chain: how often it reads and writes a map, whether one program takes a whole sample, its form.

    None: it is in both chains, or in that of each form.
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


LAUNCHES = (
    Launch("pool", False, False, 1, 0),
    Launch("gate", False, False, 0, 0, "paper"),
    Launch("logits", False, False, 1, 0, "released"),
    Launch("scale", False, False, 1, 1),
    Launch("forward_small", False, True, 2, 1),
    Launch("grad_pool", True, False, 2, 0),
    Launch("grad_gate", True, False, 0, 0),
    Launch("grad_input", True, False, 2, 1),
    Launch("backward_small", True, True, 4, 1),
    Launch("grad_weight", True, None, 0, 0),
)


def chain(plan: Any, form: str, backward: bool) -> list[Launch]:
    """The launches of a plan."""
    kinds = (plan.small, None)
    return [one for one in LAUNCHES if one.backward == backward and one.small in kinds and one.form in (form, None)]


def reads(one: Launch, form: str) -> int:
    """How often a launch reads a map; in a small sample the released form's logits take one more look."""
    return one.reads + (one.name == "forward_small" and form == "released")


@dataclass(frozen=True)
class Job:
    """A kernel to compile at a plan; in the backward the gradient may lie otherwise than the map."""

    step: Launch
    plan: Any
    form: str
    layout: str
    dtype: str
    card: Card
    at_will: bool = False

    @property
    def options(self) -> dict[str, int]:
        """Of the compiler, as the launch gives them; with registers ``at_will`` where it spilled without."""
        found: dict[str, int] = self.plan.options(self.step.name, self.at_will)
        return found

    @property
    def threads(self) -> int:
        """Of one program."""
        return 32 * self.options["num_warps"]

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
        """What makes its code: jobs that are equal here are one kernel."""
        fixed = tuple((name, str(value)) for name, value in sorted(constants(self).items()))
        dtype = self.dtype if self.step.sees_maps else ""
        return self.step.name, self.card.capability, dtype, tuple(sorted(self.options.items())), fixed


def plans_of(shape: Sequence[int], itemsize: int) -> Iterator[tuple[Any, bool]]:
    """Every plan of a map, and whether it is of the backward: in both memory formats, the gradient in either."""
    from polarpix.psa import plans

    B, C, H, W = shape
    for last in (False, True):
        yield plans.plan(B, C, H * W, itemsize, last), False
        for d_last in (last, not last) if C <= plans.MIXED else (last,):
            yield plans.plan(B, C, H * W, itemsize, last, d_last), True


def jobs(grid: Grid = GRID, cards: Sequence[Card] = CARDS) -> Iterator[Job]:
    """Every kernel that the maps need, in both memory formats: each once."""
    seen = set()
    for card, (dtype, shape) in product(cards, [(dtype, shape) for dtype, maps in grid.items() for shape in maps]):
        for plan, backward in plans_of(shape, ITEMSIZE[dtype]):
            for form, layout in KINDS:
                for step in chain(plan, form, backward):
                    job = Job(step, plan, form, layout, dtype, card)
                    if job.compiled_for not in seen:
                        seen.add(job.compiled_for)
                        yield job


@cache
def kernel_of(step: Launch) -> Any:
    """The Triton function."""
    from polarpix.psa import kernels as forward
    from polarpix.psa import kernels_grad as grad
    from polarpix.psa import kernels_weight as weight

    return next(getattr(room, step.name) for room in (forward, grad, weight) if hasattr(room, step.name))


def constants(job: Job) -> dict[str, Any]:
    """The compile-time arguments of a kernel."""
    import triton.language as tl

    from polarpix.psa import plans

    names = ("C", "BC", "BP", "BR", "BS", "VEC", "LAST", "D_LAST", "WIDE")
    fixed = {name: getattr(job.plan, name) for name in names} | {"BB": 16, "TR": 32, "TC": 32, "ACC": tl.float32}
    fixed |= {"PAPER": job.form == "paper", "SEQ": job.layout == "sequential"}
    if job.step.name == "scale":
        fixed["BS"] = plans.SUMS
    return {name: value for name, value in fixed.items() if name in kernel_of(job.step).arg_names}


def fingerprint(grid: Grid = GRID) -> str:
    """SHA-256 over the kernels' code, without comments and docstrings, and over what each is compiled for.

    It changes with anything that could make a report of these maps another one, but for the compiler itself.
    """
    from polarpix.psa import kernels, kernels_grad, kernels_weight, tiles

    told = hashlib.sha256()
    for room in (tiles, kernels, kernels_grad, kernels_weight):
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
