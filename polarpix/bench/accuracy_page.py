"""Rows of `polarpix bench accuracy`, what follows from them by arithmetic, and the page that shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from polarpix.bench.record import figure, spread_text
from polarpix.bench.timing import Spread
from polarpix.report import Section, Table

__all__ = ["BASE", "AccuracyRow", "Costs", "Difference", "RunRow", "difference", "sections", "summarize", "t_quantile"]

BASE = "none"  # the attention that the others are held against
Cell = str | int | float | bool | None

# t with P(|T| <= t) = 0.95 for 1, 2, ... 30 degrees of freedom
T_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """What a network costs; times and bytes are of one training step with the page's batch.

    Args:
        macs: multiply-adds of one image, conv by conv.
        macs_collapsed: the same with the collapsed form of the block, which is what runs.
        weights_bytes: tensors of the weights file.
        step_ms: forward, loss, backward, update.
        step_ratio: over that without attention in the same round.
        memory_bytes: weights, buffers, optimiser state, and the most one step allocates beside them.
    """

    params: int
    macs: int
    macs_collapsed: int
    weights_bytes: int | None = None
    step_ms: Spread | None = None
    step_ratio: Spread | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class RunRow:
    """One finished run."""

    attention: str
    seed: int
    metric: float  # the one the page is judged by
    flat: float | None  # the same metric with the trained spatial gates set to 0.5; null where that means nothing
    metrics: dict[str, float]  # all of the whole split, without those of single classes or keypoints
    epochs: int | None
    step_ms: float | None  # median over the epochs of the training itself
    commit: str
    folder: str


@dataclass(frozen=True)
class Difference:
    """Paired differences to the runs without attention of the same seeds; the interval is null for one seed."""

    mean: float
    low: float | None  # of the 95 percent t interval
    high: float | None
    seeds: int


@dataclass(frozen=True)
class AccuracyRow:
    """One attention over its seeds."""

    attention: str
    seeds: list[int]
    mean: float
    deviation: float | None  # of a sample, n - 1; null for one seed
    difference: Difference | None  # null without a common seed, and for the base itself
    costs: Costs | None


def t_quantile(freedom: int) -> float:
    """The t that 95 percent of Student's distribution lie within, on both sides together.

    A table up to 30 degrees of freedom, then the expansion in 1/freedom about the normal quantile, right to 1e-6.

    Raises:
        ValueError: less than 1 degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    z = 1.959964
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + terms[0] / freedom + terms[1] / freedom**2 + terms[2] / freedom**3


def difference(values: dict[int, float], base: dict[int, float]) -> Difference | None:
    """The mean of value minus base over the seeds of both, with its interval; null if they share none."""
    pairs = [values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())]
    if not pairs:
        return None
    mean = fmean(pairs)
    if len(pairs) == 1:
        return Difference(mean, None, None, 1)
    half = t_quantile(len(pairs) - 1) * stdev(pairs) / math.sqrt(len(pairs))
    return Difference(mean, mean - half, mean + half, len(pairs))


def summarize(runs: Sequence[RunRow], order: Sequence[str], costs: dict[str, Costs]) -> list[AccuracyRow]:
    """A row for each attention of ``order`` that has a run."""
    by_attention = {name: {run.seed: run.metric for run in runs if run.attention == name} for name in order}
    rows = []
    for name, values in by_attention.items():
        if values:
            spread = stdev(values.values()) if len(values) > 1 else None
            apart = None if name == BASE else difference(values, by_attention.get(BASE, {}))
            rows.append(
                AccuracyRow(name, sorted(values), fmean(values.values()), spread, apart, costs.get(name)),
            )
    return rows


def signed(value: float | None) -> str:
    """A figure with its sign, both for gains and for losses."""
    return "–" if value is None else f"{'-' if value < 0 else '+'}{figure(abs(value))}"


def difference_cells(apart: Difference | None) -> list[str]:
    """Mean and interval of a difference."""
    interval = "–" if apart is None or apart.low is None else f"{signed(apart.low)} .. {signed(apart.high)}"
    return [signed(None if apart is None else apart.mean), interval]


def gains_section(rows: Sequence[AccuracyRow], metric: str, lower: bool) -> Section:
    """What each attention gains."""
    table: list[list[Cell]] = [
        [
            row.attention,
            len(row.seeds),
            figure(row.mean, 4),
            figure(row.deviation),
            *difference_cells(row.difference),
        ]
        for row in rows
    ]
    return Section(
        f"{metric}, {'lower' if lower else 'higher'} is better",
        "Deviation: over seeds. Difference: to none with the same seed; its interval is the 95 percent t interval of "
        "each row by itself, so of twenty rows without any effect one is expected to exclude 0.",
        Table(["attention", "seeds", "mean", "deviation", "difference", "95 percent interval"], table),
    )


def flat_section(runs: Sequence[RunRow]) -> Section:
    """What trained networks lose when their spatial gates are set to 0.5."""
    table: list[list[Cell]] = []
    for name in dict.fromkeys(run.attention for run in runs if run.flat is not None):
        group = [run for run in runs if run.attention == name]
        without = {run.seed: run.flat for run in group if run.flat is not None}
        apart = difference(without, {run.seed: run.metric for run in group})
        table.append([name, len(without), *difference_cells(apart)])
    return Section(
        "Without the trained spatial gate",
        "Trained with the gate, evaluated with 0.5 at every pixel: difference to the same weights with the gate.",
        Table(["attention", "seeds", "difference", "95 percent interval"], table),
    )


def costs_section(costed: Sequence[tuple[str, Costs]]) -> Section:
    """What each network costs."""
    table: list[list[Cell]] = [
        [
            name,
            figure(cost.params / 1e6, 4),
            figure(cost.macs / 1e9, 4),
            figure(cost.macs_collapsed / 1e9, 4),
            figure(None if cost.weights_bytes is None else cost.weights_bytes / 2**20, 4),
            spread_text(cost.step_ms),
            spread_text(cost.step_ratio),
            figure(None if cost.memory_bytes is None else cost.memory_bytes / 2**20),
        ]
        for name, cost in costed
    ]
    head = ["attention", "params, M", "mult-adds, G", "collapsed, G", "weights, MiB", "step, ms", "step ratio",
            "memory, MiB"]  # fmt: skip
    return Section("Costs", "", Table(head, table))


def runs_section(runs: Sequence[RunRow], metric: str) -> Section:
    """Every run with the metrics that all have, the one judged by first."""
    names = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    names.sort(key=lambda name: name != metric)
    table: list[list[Cell]] = [
        [run.attention, run.seed, *(figure(run.metrics[name], 4) for name in names), run.folder] for run in runs
    ]
    return Section("Runs", "", Table(["attention", "seed", *names, "folder"], table))


def sections(rows: Sequence[AccuracyRow], runs: Sequence[RunRow], metric: str, lower: bool) -> list[Section]:
    """The page: what each attention gains, what it costs, and every run."""
    page = [gains_section(rows, metric, lower)]
    if any(run.flat is not None for run in runs):
        page.append(flat_section(runs))
    costed = [(row.attention, row.costs) for row in rows if row.costs is not None]
    if costed:
        page.append(costs_section(costed))
    if runs:
        page.append(runs_section(runs, metric))
    return page
