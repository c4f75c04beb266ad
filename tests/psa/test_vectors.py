"""The paper form's small vectors: values and every gradient as autograd gives them, also second ones."""

import pytest
import torch

from polarpix.psa import PolarizedSelfAttention, collapsed, vectors
from polarpix.psa.block import _weights

LAYOUTS = ["parallel", "sequential"]


def problem(layout, dtype=torch.float64):
    """c, m and the weights of both branches, none of them at a special value."""
    torch.manual_seed(0)
    block = PolarizedSelfAttention(12, layout, init="torch").to(dtype)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    c, m = torch.randn(2, 3, 12, dtype=dtype).unbind()
    channel, spatial = _weights(block.channel), _weights(block.spatial)
    assert channel is not None
    assert spatial is not None
    return c, m, channel, spatial


def leaves(c, m, channel, spatial):
    """What has a gradient: the query of the channel branch belongs to the pass before."""
    named = [*(channel[name] for name in vectors.CHANNEL), *(spatial[name] for name in vectors.SPATIAL)]
    return [c.requires_grad_(), m.requires_grad_(), *named]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_are_those_of_autograd(layout):
    c, m, channel, spatial = problem(layout)
    inputs = leaves(c, m, channel, spatial)
    expected = collapsed.vectors(c, m, c.dtype, "paper", layout, channel, spatial)
    found = vectors.paper_vectors(c, m, layout, channel, spatial)
    d = [torch.randn_like(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(torch.autograd.grad(found, inputs, d), torch.autograd.grad(expected, inputs, d), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_second_derivatives_are_those_of_autograd(layout):
    c, m, channel, spatial = problem(layout)
    inputs = leaves(c, m, channel, spatial)
    results = []
    for outputs in (
        collapsed.vectors(c, m, c.dtype, "paper", layout, channel, spatial),
        vectors.paper_vectors(c, m, layout, channel, spatial),
    ):
        first = torch.autograd.grad([one.square().sum() for one in outputs], inputs, create_graph=True)
        penalty = sum(one.square().sum() for one in first)
        results.append(torch.autograd.grad(penalty, inputs))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_output_without_a_gradient_counts_as_zero(layout):
    c, m, channel, spatial = problem(layout)
    inputs = leaves(c, m, channel, spatial)
    expected = collapsed.vectors(c, m, c.dtype, "paper", layout, channel, spatial)[0].sum()
    found = vectors.paper_vectors(c, m, layout, channel, spatial)[0].sum()
    wanted = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True)
    got = torch.autograd.grad(found, inputs)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_takes_the_paper_form_in_one_dtype():
    _, _, channel, spatial = problem("parallel", torch.float32)
    x = torch.randn(1, 12, 2, 2)
    assert vectors.takes(x, "paper", channel, spatial)
    assert not vectors.takes(x, "released", channel, spatial)
    assert not vectors.takes(x, "paper", channel, None)
    assert not vectors.takes(x.bfloat16(), "paper", channel, spatial)
    assert not vectors.takes(x.double(), "paper", channel, spatial)
