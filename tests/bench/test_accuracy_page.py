"""Means, deviations and intervals of an ablation, against numpy and Student's distribution itself."""

import math

import numpy as np
import pytest

from polarpix.bench.accuracy_page import Costs, Difference, RunRow, difference, sections, summarize, t_quantile


def run(attention: str, seed: int, metric: float) -> RunRow:
    flat = metric - 0.1 if attention == "psa_p" else None
    return RunRow(
        attention, seed, metric, flat, {"mIoU": metric, "accuracy": 0.5}, 3, 1.0, "abc", f"runs/{attention}_{seed}"
    )


RUNS = [
    *(run("none", seed, value) for seed, value in ((4, 0.50), (5, 0.52), (6, 0.48))),
    *(run("psa_p", seed, value) for seed, value in ((4, 0.53), (5, 0.54), (6, 0.49))),
    run("se", 5, 0.51),
]


@pytest.mark.parametrize("freedom", [*range(1, 31), 31, 40, 60, 120, 1000])
def test_quantiles_hold_95_percent(freedom: int) -> None:
    """By Simpson's rule over the density."""
    t = np.linspace(0.0, t_quantile(freedom), 20001)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(t**2 / freedom))
    weights = np.ones_like(t)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    assert 2 * (t[1] - t[0]) / 3 * float(density @ weights) == pytest.approx(0.95, abs=5e-6)


def test_no_quantile_without_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="0 degrees"):
        t_quantile(0)


def test_differences_are_paired_by_seed() -> None:
    pairs = np.array([0.03, 0.02, 0.01])
    half = 4.3027 * pairs.std(ddof=1) / math.sqrt(3)
    found = difference({4: 0.53, 5: 0.54, 6: 0.49, 9: 0.9}, {4: 0.50, 5: 0.52, 6: 0.48, 1: 0.1})
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    assert found.seeds == 3
    alone = difference({4: 0.5}, {4: 0.25})
    assert alone == Difference(0.25, None, None, 1)
    assert difference({4: 0.5}, {5: 0.5}) is None


def test_a_row_for_each_attention() -> None:
    costs = {"none": Costs(10, 20, 20), "psa_p": Costs(11, 24, 22)}
    none, psa, se = summarize(RUNS, ["none", "psa_p", "gc", "se"], costs)
    values = np.array([0.50, 0.52, 0.48])
    assert (none.mean, none.deviation) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert none.difference is None
    assert (psa.attention, psa.seeds, psa.costs) == ("psa_p", [4, 5, 6], costs["psa_p"])
    assert psa.difference is not None
    assert psa.difference.mean == pytest.approx(0.02)
    assert (se.deviation, se.costs) == (None, None)
    assert se.difference == Difference(pytest.approx(-0.01), None, None, 1)


def test_the_page_says_gains_costs_and_runs() -> None:
    rows = summarize(RUNS, ["none", "psa_p", "se"], {"none": Costs(1_000_000, 2 * 10**9, 2 * 10**9)})
    gains, flat, costs, runs = sections(rows, RUNS, "mIoU", lower=False)
    assert gains.title == "mIoU, higher is better"
    assert gains.table is not None
    assert gains.table.rows == [
        ["none", 3, "0.5000", "0.0200", "–", "–"],
        ["psa_p", 3, "0.5200", "0.0265", "+0.0200", "-0.00484 .. +0.0448"],
        ["se", 1, "0.5100", "–", "-0.0100", "–"],
    ]
    assert flat.table is not None
    assert [row[:3] for row in flat.table.rows] == [["psa_p", 3, "-0.100"]]
    assert costs.table is not None
    assert costs.table.rows == [["none", "1.000", "2.000", "2.000", "–", "–", "–", "–"]]
    assert runs.table is not None
    assert runs.table.rows[-1] == ["se", 5, "0.5100", "0.5000", "runs/se_5"]
    assert "lower is better" in sections(rows, [], "NME", lower=True)[0].title
