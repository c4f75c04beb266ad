from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from polarpix.attention import build_attention
from polarpix.errors import InputError
from polarpix.gates import attention_blocks, gate_spread, record_gates


def network(*names: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *(build_attention(name, 8) for name in names)).double()


def test_gates_are_those_of_the_blocks_own_input() -> None:
    net = network("psa_p", "psa_s")
    image = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    gates = record_gates(net, image)
    assert list(gates) == ["1", "2"]
    x = net[0](image)
    for name in ("1", "2"):
        channel, spatial = net[int(name)].gates(x)
        assert gates[name][0] is not None
        assert gates[name][1] is not None
        torch.testing.assert_close(gates[name][0], channel)
        torch.testing.assert_close(gates[name][1], spatial)
        x = net[int(name)](x)


def test_blocks_are_named_in_order_without_a_pass() -> None:
    net = network("psa_p", "se", "psa_channel")
    assert attention_blocks(net) == {"1": net[1], "3": net[3]}


def test_a_single_branch_has_one_gate_and_the_network_is_left_as_it_was() -> None:
    net = network("psa_channel")
    channel, spatial = record_gates(net, torch.randn(1, 3, 4, 4, dtype=torch.float64))["1"]
    assert channel is not None
    assert spatial is None
    assert not net[1]._forward_pre_hooks


def test_other_attention_has_no_such_gates() -> None:
    with pytest.raises(InputError, match="no polarized self-attention"):
        record_gates(network("se"), torch.randn(1, 3, 4, 4, dtype=torch.float64))


def test_the_spread_of_a_gate() -> None:
    found = gate_spread(np.array([0.0, 0.005, 0.49, 0.51, 1.0, 0.7, 0.3, 0.2], np.float32).reshape(1, 8, 1, 1))
    assert (found.low, found.high, found.spread) == (0, 1, 1)
    assert found.saturated == 3 / 8
    assert found.undecided == 2 / 8
    assert found.std == pytest.approx(np.std([0.0, 0.005, 0.49, 0.51, 1.0, 0.7, 0.3, 0.2]), rel=1e-5)
    assert not found.is_constant(0.5)


def test_a_constant_gate_is_one_below_the_threshold() -> None:
    flat = gate_spread(np.array([0.4, 0.41]))
    assert flat.is_constant(0.011)
    assert not flat.is_constant(0.0099)
    assert not gate_spread(np.array([0.5, np.nan])).is_constant(0.02)
