"""What lies between the passes of the forward: every vector of the state row, by one program and by many."""

import pytest
import torch

from polarpix.psa import launch
from polarpix.psa.kernels_gate import stages

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED = [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")]
SHAPE = (2, 48, 5, 11)  # of four programs the last has no channel


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rows_of(state, C):
    """The vectors of state rows by letter, and the scalars by their place behind 6C, as psa/tiles.py has them."""
    h = C // 2
    parts = {"c": C, "m": C, "zhat": C, "g": C, "u": C, "v": h, "q": h, "scalars": 8, "z": C}
    return dict(zip(parts, state.split(list(parts.values()), 1), strict=True))


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_every_vector_of_the_state_row(form, layout, together, small, steps, weights_of, shared):
    """By its formula, whoever makes which part; splits are joined two at a time."""
    shared(together, small)
    C = SHAPE[1]
    weights = weights_of(C, form, DEVICE)
    x = torch.randn(SHAPE, dtype=torch.float64, device=DEVICE)
    out, state = launch.forward(x, list(weights.values()), form, layout, 1.5)
    exact, wanted = steps(x.flatten(2), weights, form, layout, 1.5)
    torch.testing.assert_close(out.flatten(2), exact)
    found = rows_of(state, C)
    for name in ("c", "m", "g", "u", "v", "q", "z", *(["zhat"] if form == "paper" else [])):
        torch.testing.assert_close(found[name], wanted[name], msg=lambda told, name=name: f"{name}: {told}")
    a_top, a_sum, rstd, beta, t_top, t_sum = found["scalars"].T[:6]
    logits = torch.einsum("c,bcp->bp", weights["W_q"], x.flatten(2))
    torch.testing.assert_close(a_top + a_sum.log(), logits.logsumexp(1))
    torch.testing.assert_close(beta, wanted["beta"])
    over = wanted["q"] if form == "paper" else wanted["e"]
    torch.testing.assert_close(t_top + t_sum.log(), over.logsumexp(1))
    if form == "paper":
        torch.testing.assert_close(rstd, (wanted["z"].var(1, correction=0) + 1e-5).rsqrt())


@pytest.mark.interpreter
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_stages_in_one_launch_or_one_by_one(form, layout, small, weights_of, shared, stages_at):
    """To the last bit: what a stage needs of those before lies in memory."""
    shared(1, small)
    weights = list(weights_of(SHAPE[1], form, DEVICE).values())
    x = torch.randn(SHAPE, dtype=torch.float64)
    found = []
    for once in (True, False):
        with stages_at("gate", stages(form, layout, small), once) as (_, begun):
            found.append(launch.forward(x, weights, form, layout, 1.0))
        assert begun == ([0] if once else list(range(stages(form, layout, small))))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("form", "layout", "small", "count"),
    [
        ("paper", "parallel", False, 3),
        ("paper", "sequential", False, 5),
        ("paper", "sequential", True, 6),
        ("released", "parallel", False, 4),
        ("released", "parallel", True, 5),
    ],
)
def test_stages_are_counted(form, layout, small, count):
    """The released form looks at the pixels once more, a small sample's second pass is a stage."""
    assert stages(form, layout, small) == count
