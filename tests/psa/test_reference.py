"""The reference against the formulas, written out once more with numpy and loops, and on cases known by hand."""

import math

import numpy as np
import pytest
import torch

from polarpix.psa import reference

B, C, H, W = 2, 16, 3, 5
h, P, r = C // 2, H * W, C // 8


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def x():
    return draw(B, C, H, W)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def layer_norm(z, weight, bias):
    return (z - z.mean()) / np.sqrt(z.var() + 1e-5) * weight + bias


def numbers(weights):
    """Convolution weights as matrices, for numpy."""
    return {k: v.flatten(1).numpy() if v.ndim == 4 else v.numpy() for k, v in weights.items()}


def columns(sample):
    return sample.flatten(1).numpy()  # [C, P]


def pooled(X, n):
    """v of one sample X [C, P], pixel by pixel."""
    a = softmax(np.array([n["W_q"][0] @ X[:, p] + n.get("b_q", np.zeros(1))[0] for p in range(P)]))
    return sum(a[p] * (n["W_v"] @ X[:, p] + n.get("b_v", 0)) for p in range(P))


def mean_query(X, n):
    return sum(n["W_q"] @ X[:, p] + n.get("b_q", 0) for p in range(P)) / P


def test_channel_gate_paper_is_the_formula(x):
    weights = {
        "W_q": draw(1, C, 1, 1, seed=1),
        "b_q": draw(1, seed=2),
        "W_v": draw(h, C, 1, 1, seed=3),
        "b_v": draw(h, seed=4),
        "W_z": draw(C, h, 1, 1, seed=5),
        "b_z": draw(C, seed=6),
        "ln_weight": draw(C, seed=7),
        "ln_bias": draw(C, seed=8),
    }
    n = numbers(weights)
    g = reference.channel_gate_paper(x, **weights)
    assert g.shape == (B, C, 1, 1)
    for b in range(B):
        z = n["W_z"] @ pooled(columns(x[b]), n) + n["b_z"]
        expected = sigmoid(layer_norm(z, n["ln_weight"], n["ln_bias"]))
        np.testing.assert_allclose(g[b].flatten().numpy(), expected, atol=1e-13)


def test_channel_gate_released_parallel_is_the_formula(x):
    weights = {"W_q": draw(1, C, 1, 1, seed=1), "W_v": draw(h, C, 1, 1, seed=2), "W_z": draw(C, h, 1, 1, seed=3)}
    n = numbers(weights)
    g = reference.channel_gate_released_parallel(x, **weights)
    for b in range(B):
        expected = sigmoid(n["W_z"] @ pooled(columns(x[b]), n))
        np.testing.assert_allclose(g[b].flatten().numpy(), expected, atol=1e-13)


def test_channel_gate_released_sequential_is_the_formula(x):
    weights = {
        "W_q": draw(1, C, 1, 1, seed=1),
        "W_v": draw(h, C, 1, 1, seed=2),
        "W_z1": draw(r, h, 1, 1, seed=3),
        "b_z1": draw(r, seed=4),
        "ln_weight": draw(r, seed=5),
        "ln_bias": draw(r, seed=6),
        "W_z2": draw(C, r, 1, 1, seed=7),
        "b_z2": draw(C, seed=8),
    }
    n = numbers(weights)
    g = reference.channel_gate_released_sequential(x, **weights)
    for b in range(B):
        k = layer_norm(n["W_z1"] @ pooled(columns(x[b]), n) + n["b_z1"], n["ln_weight"], n["ln_bias"])
        expected = sigmoid(n["W_z2"] @ np.maximum(k, 0) + n["b_z2"])
        np.testing.assert_allclose(g[b].flatten().numpy(), expected, atol=1e-13)


def test_spatial_gate_paper_is_the_formula(x):
    weights = {
        "W_q": draw(h, C, 1, 1, seed=1),
        "b_q": draw(h, seed=2),
        "W_v": draw(h, C, 1, 1, seed=3),
        "b_v": draw(h, seed=4),
    }
    n = numbers(weights)
    s = reference.spatial_gate_paper(x, **weights)
    assert s.shape == (B, 1, H, W)
    for b in range(B):
        X = columns(x[b])
        t = softmax(mean_query(X, n))
        expected = [sigmoid(t @ (n["W_v"] @ X[:, p] + n["b_v"])) for p in range(P)]
        np.testing.assert_allclose(s[b].flatten().numpy(), expected, atol=1e-13)


def test_spatial_gate_released_parallel_is_the_formula(x):
    weights = {"W_q": draw(h, C, 1, 1, seed=1), "W_v": draw(h, C, 1, 1, seed=2)}
    n = numbers(weights)
    s = reference.spatial_gate_released_parallel(x, **weights)
    for b in range(B):
        X = columns(x[b])
        e = np.array([mean_query(X, n) @ n["W_v"] @ X[:, p] for p in range(P)])
        np.testing.assert_allclose(s[b].flatten().numpy(), sigmoid(softmax(e)), atol=1e-13)


def test_spatial_gate_released_sequential_is_the_formula(x):
    weights = {"W_q": draw(h, C, 1, 1, seed=1), "W_v": draw(h, C, 1, 1, seed=2)}
    n = numbers(weights)
    s = reference.spatial_gate_released_sequential(x, **weights)
    for b in range(B):
        X = columns(x[b])
        V = n["W_v"] @ X  # [h, P]
        A = np.stack([softmax(V[j]) for j in range(h)])
        np.testing.assert_allclose(s[b].flatten().numpy(), sigmoid(mean_query(X, n) @ A), atol=1e-13)


def test_with_zero_weights_the_released_parallel_spatial_gate_knows_only_the_number_of_pixels(x):
    zero = torch.zeros(h, C, 1, 1, dtype=torch.float64)
    s = reference.spatial_gate_released_parallel(x, zero, zero)
    torch.testing.assert_close(s, torch.full_like(s, 1 / (1 + math.exp(-1 / P))))


def test_the_sequential_layout_takes_the_spatial_gate_from_the_gated_map(x):
    channel = {"W_q": draw(1, C, 1, 1, seed=1), "W_v": draw(h, C, 1, 1, seed=2), "W_z": draw(C, h, 1, 1, seed=3)}
    spatial = {"W_q": draw(h, C, 1, 1, seed=4), "W_v": draw(h, C, 1, 1, seed=5)}
    bias = {"b_q": draw(1), "b_v": draw(h), "b_z": draw(C), "ln_weight": draw(C), "ln_bias": draw(C)}
    spatial_bias = {"b_q": draw(h), "b_v": draw(h)}
    g, s = reference.gates(x, "paper", "sequential", channel | bias, spatial | spatial_bias)
    torch.testing.assert_close(s, reference.spatial_gate_paper(x * g, **spatial, **spatial_bias))
    _, parallel = reference.gates(x, "paper", "parallel", channel | bias, spatial | spatial_bias)
    torch.testing.assert_close(parallel, reference.spatial_gate_paper(x, **spatial, **spatial_bias))


def test_apply_gates_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 1, 2)
    g = torch.tensor([0.5, 0.25]).reshape(1, 2, 1, 1)
    s = torch.tensor([0.5, 1.0]).reshape(1, 1, 1, 2)
    both = reference.apply_gates(x, g, s, "parallel")
    torch.testing.assert_close(both.flatten(), torch.tensor([1.0, 3.0, 2.25, 5.0]))
    one_after_the_other = reference.apply_gates(x, g, s, "sequential", scale=4)
    torch.testing.assert_close(one_after_the_other.flatten(), torch.tensor([1.0, 4.0, 1.5, 4.0]))
    torch.testing.assert_close(reference.apply_gates(x, g, None, "parallel").flatten(), torch.tensor([0.5, 1, 0.75, 1]))
    torch.testing.assert_close(reference.apply_gates(x, None, s, "parallel").flatten(), torch.tensor([0.5, 2, 1.5, 4]))
