"""What lies between the passes of the backward: every vector of the row of gradients, by one program and by many."""

import pytest
import torch

from polarpix.psa import launch
from polarpix.psa.kernels_grad_gate import stages

FUSED = [("paper", "parallel"), ("paper", "sequential"), ("released", "parallel")]
SHAPE = (2, 48, 5, 11)  # of four programs the last has no channel


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rows_of(grads, C):
    """The vectors of rows of gradients by letter, as psa/tiles.py has them."""
    h = C // 2
    parts = {"dc": C, "dm": C, "dn": C, "dz": C, "du": C, "y": C, "dv": h, "dq": h, "t": h}
    parts |= {"sum": 2, "dt": h + 2, "rest": 4, "dg": C}
    found = dict(zip(parts, grads.split(list(parts.values()), 1), strict=True))
    return found | {"dt": found["dt"][:, :h]}


def problem(form, weights_of):
    """A map, a gradient and weights."""
    x, d = torch.randn(2, *SHAPE, dtype=torch.float64).unbind()
    return x, d, weights_of(SHAPE[1], form, "cpu")


@pytest.mark.interpreter
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_every_vector_of_the_row_of_gradients(form, layout, together, small, steps, weights_of, shared, stages_at):
    """As autograd has it of the formulas."""
    shared(together, small)
    x, d, weights = problem(form, weights_of)
    _, state = launch.forward(x, list(weights.values()), form, layout, 1.5)
    with stages_at("grad_gate", stages(layout, small), once=False) as (given, _):
        dx = launch.backward(d, x, state, list(weights.values()), form, layout, 1.5)[0]
    found = rows_of(given[0]["grads"], SHAPE[1])

    flat = x.flatten(2).requires_grad_()
    out, exact = steps(flat, weights, form, layout, 1.5)
    letters = [name for name in ("c", "m", "n", "z", "u", "v", "q", "t", "g") if exact[name].requires_grad]
    wanted = torch.autograd.grad(out, [flat, *(exact[name] for name in letters)], d.flatten(2))
    torch.testing.assert_close(dx.flatten(2), wanted[0])
    wanted = dict(zip((f"d{name}" for name in letters), wanted[1:], strict=True))
    assert set(wanted) == {"dc", "dm", "dn", "dz", "du", "dv", "dq", "dt", "dg"}
    wanted["dm"] = wanted["dm"] / flat.shape[2]  # as it enters dx
    wanted |= {"y": exact["y"], "t": exact["t"]}
    for name, truth in wanted.items():
        torch.testing.assert_close(found[name], truth, msg=lambda told, name=name: f"{name}: {told}")
    if form == "paper":
        (dbeta,) = torch.autograd.grad(*alone(exact, x, d, layout))
        torch.testing.assert_close(found["sum"][:, 0], dbeta)


def alone(exact, x, d, layout):
    """What beta does to the loss."""
    beta = exact["beta"].detach().requires_grad_()
    s = torch.sigmoid((exact["e"] - exact["beta"][:, None]).detach() + beta[:, None])
    out = 1.5 * x.flatten(2) * s[:, None]
    if layout == "sequential":
        out = out * exact["g"].detach()[:, :, None]
    return (out * d.flatten(2)).sum(), beta


@pytest.mark.interpreter
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(("form", "layout"), FUSED)
def test_stages_in_one_launch_or_one_by_one(form, layout, small, weights_of, shared, stages_at):
    """To the last bit: what a stage needs of those before lies in memory."""
    shared(1, small)
    x, d, weights = problem(form, weights_of)
    weights = list(weights.values())
    _, state = launch.forward(x, weights, form, layout, 1.0)
    found = []
    for once in (True, False):
        with stages_at("grad_gate", stages(layout, small), once) as (_, begun):
            found.append(launch.backward(d, x, state, weights, form, layout, 1.0))
        assert begun == ([0] if once else list(range(stages(layout, small))))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("layout", "small", "count"),
    [("parallel", False, 3), ("parallel", True, 4), ("sequential", False, 5), ("sequential", True, 6)],
)
def test_stages_are_counted(layout, small, count):
    """A small sample's second pass is a stage."""
    assert stages(layout, small) == count
