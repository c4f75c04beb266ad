"""Each block of the shelf against its paper's formula, written out anew in fp64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polarpix.attention import ATTENTION, build_attention
from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

SHELF = [
    "none",
    "psa_p",
    "psa_s",
    "psa_p_released",
    "psa_s_released",
    "psa_channel",
    "psa_spatial",
    "psa_p_flat",
    "psa_s_flat",
    "se",
    "eca",
    "gc",
    "cbam",
    "nl",
    "da",
    "ea",
]


def make(name: str, channels: int, **options: object) -> tuple[nn.Module, torch.Tensor]:
    """A block whose every parameter is random, so that nothing hides behind an initial 0, and an input [2, C, 3, 5]."""
    generator = torch.Generator().manual_seed(7)
    block = build_attention(name, channels, **options).double().eval()
    for parameter in block.parameters():
        parameter.data.normal_(std=0.5, generator=generator)
    for buffer in block.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=generator)
    return block, torch.randn(2, channels, 3, 5, dtype=torch.float64, generator=generator)


def flat(conv: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [out, in] and bias [out] of a 1x1 convolution."""
    assert isinstance(conv, nn.Conv2d)
    bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels, dtype=conv.weight.dtype)
    return conv.weight[:, :, 0, 0], bias


def test_shelf_holds_what_it_promises() -> None:
    assert list(ATTENTION) == SHELF


@pytest.mark.parametrize("name", SHELF)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (5, 8)])
def test_shape_stays(name: str, size: tuple[int, int]) -> None:
    block, _ = make(name, 16)
    x = torch.randn(3, 16, *size, dtype=torch.float64)
    assert block(x).shape == x.shape
    assert torch.isfinite(block(x)).all()


@pytest.mark.parametrize("name", SHELF)
def test_memory_layout_changes_nothing(name: str) -> None:
    block, x = make(name, 16)
    torch.testing.assert_close(block(x.to(memory_format=torch.channels_last)), block(x))


@pytest.mark.parametrize("name", SHELF[1:])
def test_every_parameter_learns(name: str) -> None:
    block, x = make(name, 16)
    block(x).square().sum().backward()
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_none_is_the_identity_without_parameters() -> None:
    block, x = make("none", 16)
    assert block(x) is x
    assert not list(block.parameters())


@pytest.mark.parametrize(
    ("name", "layout", "form", "branches"),
    [
        ("psa_p", "parallel", "paper", "both"),
        ("psa_s", "sequential", "paper", "both"),
        ("psa_p_released", "parallel", "released", "both"),
        ("psa_s_released", "sequential", "released", "both"),
        ("psa_channel", "parallel", "paper", "channel"),
        ("psa_spatial", "parallel", "paper", "spatial"),
    ],
)
def test_psa_names_say_layout_form_and_branches(name: str, layout: str, form: str, branches: str) -> None:
    block, x = make(name, 16)
    assert isinstance(block, PolarizedSelfAttention)
    assert (block.layout, block.form, block.branches) == (layout, form, branches)
    g, s = block.gates(x)
    parallel = (0 if g is None else x * g) + (0 if s is None else x * s)
    torch.testing.assert_close(block(x), parallel if layout == "parallel" else x * g * s)


@pytest.mark.parametrize("impl", ["reference", "collapsed"])
@pytest.mark.parametrize(("flat", "whole"), [("psa_p_flat", "psa_p"), ("psa_s_flat", "psa_s")])
def test_a_flat_spatial_gate_is_a_half_everywhere(flat: str, whole: str, impl: str) -> None:
    """As the whole block whose last spatial weights are 0, and without the parameters of that branch."""
    block, x = make(flat, 16, impl=impl, scale=3.0)
    both, _ = make(whole, 16, impl=impl, scale=3.0)
    assert isinstance(block, PolarizedSelfAttention)
    assert {key for key in both.state_dict() if not key.startswith("spatial.")} == set(block.state_dict())
    assert block.gates(x)[1] is None
    both.load_state_dict(block.state_dict(), strict=False)
    for name in ("spatial.v.weight", "spatial.v.bias"):
        nn.init.zeros_(both.get_parameter(name))
    torch.testing.assert_close(block(x), both(x))


@pytest.mark.parametrize(("name", "scale"), [("psa_p_flat", 1.0), ("psa_s_flat", 4.0)])
def test_a_flat_block_starts_as_the_identity_with_the_scale_of_the_whole_one(name: str, scale: float) -> None:
    x = torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(build_attention(name, 16, init="identity", scale=scale)(x), x)
    with pytest.raises(InputError, match=f"give scale={scale:g}"):
        build_attention(name, 16, init="identity", scale=2.0)


def test_psa_options_reach_the_block() -> None:
    block, _ = make("psa_s", 16, impl="reference", scale=4.0)
    assert isinstance(block, PolarizedSelfAttention)
    assert (block.impl, block.scale) == ("reference", 4.0)


def test_se() -> None:
    block, x = make("se", 8)
    w1, b1 = flat(block.fc1)
    w2, b2 = flat(block.fc2)
    assert w1.shape == (2, 8)  # table 1: C/4
    gate = torch.sigmoid(F.relu(x.mean((2, 3)) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(block(x), torch.einsum("bchw,bc->bchw", x, gate))


@pytest.mark.parametrize("channels", [8, 64, 512])
def test_eca(channels: int) -> None:
    block, x = make("eca", channels)
    kernel = block.conv.weight[0, 0]
    t = int((math.log2(channels) + 1) / 2)  # k = |log2(C)/2 + 1/2|, taken to an odd number
    k = len(kernel)
    assert k == max(3, t if t % 2 else t + 1)
    mean = F.pad(x.mean((2, 3)), (k // 2, k // 2))
    gate = torch.sigmoid(sum(kernel[i] * mean[:, i : i + channels] for i in range(k)))
    torch.testing.assert_close(block(x), x * gate[:, :, None, None])


def test_gc() -> None:
    block, x = make("gc", 8)
    wk, bk = flat(block.conv_attn)
    w1, b1 = flat(block.mlp_add.fc1)
    w2, b2 = flat(block.mlp_add.fc2)
    norm = block.mlp_add.norm
    assert w1.shape == (2, 8)  # table 1: C/4
    out = torch.empty_like(x)
    for i, sample in enumerate(x.flatten(2)):  # [C, P]
        weights = torch.exp(wk @ sample + bk[:, None])[0]
        context = sample @ (weights / weights.sum())  # [C]
        hidden = w1 @ context + b1
        hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        out[i] = x[i] + (w2 @ hidden.clamp(min=0) + b2)[:, None, None]
    torch.testing.assert_close(block(x), out)


def test_cbam() -> None:
    block, x = make("cbam", 32)
    w1, _ = flat(block.channel.fc1)
    w2, _ = flat(block.channel.fc2)
    assert w1.shape == (2, 32)  # table 1: C/16

    def mlp(v: torch.Tensor) -> torch.Tensor:
        return F.relu(v @ w1.T) @ w2.T

    y = x * torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))[:, :, None, None]
    pooled = torch.stack([y.mean(1), y.amax(1)], 1)  # [B, 2, H, W]
    logits = F.conv2d(pooled, block.spatial.conv.conv.weight, padding=3)
    bn = block.spatial.conv.bn
    logits = (logits - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
    torch.testing.assert_close(block(x), y * torch.sigmoid(logits))


def test_nl() -> None:
    block, x = make("nl", 8)
    (wt, bt), (wp, bp), (wg, bg), (wz, bz) = map(flat, (block.t, block.p, block.g, block.z))
    assert wt.shape == (4, 8)  # the bottleneck of the non-local paper: C/2
    out = torch.empty_like(x)
    for i, sample in enumerate(x.flatten(2)):
        theta, phi, g = wt @ sample + bt[:, None], wp @ sample + bp[:, None], wg @ sample + bg[:, None]  # [C/2, P]
        y = torch.zeros_like(g)
        for p in range(sample.shape[1]):
            f = torch.exp(theta[:, p] @ phi)  # [P]
            y[:, p] = g @ (f / f.sum())
        z = wz @ y + bz[:, None]
        bn = block.norm
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        out[i] = x[i] + (scale[:, None] * (z - bn.running_mean[:, None]) + bn.bias[:, None]).reshape(x[i].shape)
    torch.testing.assert_close(block(x), out)


def test_da() -> None:
    block, x = make("da", 16)
    x = 0.3 * x  # keeps exp() of the channel products in range
    (wb, bb), (wc, bc), (wd, bd) = map(flat, (block.q, block.k, block.v))
    assert wb.shape == (2, 16)  # table 1: C/8
    out = torch.empty_like(x)
    for i, a in enumerate(x.flatten(2)):  # A of the paper, [C, P]
        b, c, d = wb @ a + bb[:, None], wc @ a + bc[:, None], wd @ a + bd[:, None]
        position, channel = torch.zeros_like(a), torch.zeros_like(a)
        for j in range(a.shape[1]):  # s_ji: how much position i matters to position j
            s = torch.exp(b.T @ c[:, j])
            position[:, j] = d @ (s / s.sum())
        for j in range(a.shape[0]):  # x_ji: how much channel i matters to channel j
            s = torch.exp(a @ a[j])
            channel[j] = (s / s.sum()) @ a
        out[i] = (a + block.alpha * position + block.beta * channel).reshape(x[i].shape)
    # The softmax over channels runs in fp32.
    torch.testing.assert_close(block(x), out, atol=1e-6, rtol=1e-5)


def test_ea() -> None:
    block, x = make("ea", 8, d_k=3, d_v=5)
    (wq, bq), (wk, bk), (wv, bv), (wr, br) = map(flat, (block.q, block.k, block.v, block.r))
    assert wq.shape == wk.shape == (3, 8)
    assert wv.shape == (5, 8)
    out = torch.empty_like(x)
    for i, sample in enumerate(x.flatten(2).transpose(1, 2)):  # X of the paper, [P, C]
        q, k, v = torch.exp(sample @ wq.T + bq), torch.exp(sample @ wk.T + bk), sample @ wv.T + bv
        q, k = q / q.sum(1, keepdim=True), k / k.sum(0, keepdim=True)
        e = (q @ (k.T @ v)) @ wr.T + br  # [P, C]
        out[i] = x[i] + e.T.reshape(x[i].shape)
    torch.testing.assert_close(block(x), out)


@pytest.mark.parametrize("name", ["nl", "da", "ea"])
def test_residual_blocks_start_as_the_identity(name: str) -> None:
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(build_attention(name, 16).eval()(x), x)


def test_da_survives_half_precision_sums() -> None:
    block = build_attention("da", 8)
    block.beta.data.fill_(1.0)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.isfinite(block(torch.full((1, 8, 24, 24), 20.0))).all()


@pytest.mark.parametrize("name", [name for name in ATTENTION if not name.startswith("psa")])
def test_costs_can_be_counted_without_values(name: str) -> None:
    with torch.device("meta"):
        assert build_attention(name, 16)(torch.empty(1, 16, 4, 4)).shape == (1, 16, 4, 4)


def test_unknown_name_lists_the_shelf() -> None:
    with pytest.raises(InputError, match=r"'psa' is not on the shelf: choose one of none, psa_p, .*, ea$"):
        build_attention("psa", 16)


@pytest.mark.parametrize(("name", "options"), [("se", {"width": 3}), ("nl", {"width": 3}), ("psa_p", {"layout": "s"})])
def test_unknown_option_is_named(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"attention {name} with options .*{next(iter(options))}"):
        build_attention(name, 16, **options)


def test_no_channels() -> None:
    with pytest.raises(InputError, match="se for 0 channels"):
        build_attention("se", 0)


def test_ratio_is_the_width() -> None:
    assert build_attention("se", 64, ratio=1 / 16).fc1.out_channels == 4
