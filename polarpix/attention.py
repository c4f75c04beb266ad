"""The shelf of attention blocks: name -> f(channels, **options) -> module, output shaped as its input [B, C, H, W].

The inner widths are those of table 1 in arXiv 2107.00782, so that the blocks stand beside polarized self-attention as
they do there; ``ratio`` changes them. C channels, P = H*W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.global_context import GlobalContext
from timm.layers.non_local_attn import NonLocalAttn
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention
from polarpix.psa.collapsed import no_autocast

__all__ = ["ATTENTION", "DualAttention", "EfficientAttention", "FlatSpatialGate", "build_attention"]


class DualAttention(nn.Module):
    """Position and channel attention side by side (Fu et al., CVPR 2019, equations 1 to 4).

    ``x + alpha * position(x) + beta * channel(x)``: the paper adds the two outputs, each with its own skip connection;
    here they share one, so that with alpha = beta = 0, where they start, the block is the identity.

    Args:
        channels: C.
        ratio: width of queries and keys of the position attention as a share of C.
    """

    def __init__(self, channels: int, ratio: float = 1 / 8) -> None:
        super().__init__()
        width = _width(channels, ratio)
        self.q = nn.Conv2d(channels, width, 1)
        self.k = nn.Conv2d(channels, width, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (conv(x).flatten(2) for conv in (self.q, self.k, self.v))  # [B, C/8, P], [B, C/8, P], [B, C, P]
        position = v @ (q.transpose(1, 2) @ k).softmax(1)  # [B, C, P]; the softmax runs over the pixels attended to
        flat = x.flatten(2)  # [B, C, P]
        # The products of two channels are sums over all pixels: too large for fp16.
        with no_autocast(x.device.type):
            affinity = (flat.float() @ flat.float().transpose(1, 2)).softmax(2)  # [B, C, C]
        channel = affinity.to(flat.dtype) @ flat  # [B, C, P]
        attended: Tensor = x + self.alpha * position.reshape(x.shape) + self.beta * channel.reshape(x.shape)
        return attended


class EfficientAttention(nn.Module):
    """Attention through a context of [d_k, d_v] (Shen et al., WACV 2021, with softmax normalisation, one head).

    ``x + W_r E``, ``E = softmax_dk(Q) (softmax_P(K) V^T)``: queries normalised over their channels, keys over the
    pixels. W_r starts at 0, and the block as the identity.

    Args:
        channels: C.
        d_k: width of queries and keys; null for C/2.
        d_v: width of the values; null for C/2.
    """

    def __init__(self, channels: int, d_k: int | None = None, d_v: int | None = None) -> None:
        super().__init__()
        d_k = _width(channels, 1 / 2) if d_k is None else d_k
        d_v = _width(channels, 1 / 2) if d_v is None else d_v
        self.q = nn.Conv2d(channels, d_k, 1)
        self.k = nn.Conv2d(channels, d_k, 1)
        self.v = nn.Conv2d(channels, d_v, 1)
        self.r = nn.Conv2d(d_v, channels, 1)
        nn.init.zeros_(self.r.weight)
        if self.r.bias is not None:
            nn.init.zeros_(self.r.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q = self.q(x).flatten(2).softmax(1)  # [B, d_k, P]
        k = self.k(x).flatten(2).softmax(2)  # [B, d_k, P]
        v = self.v(x).flatten(2)  # [B, d_v, P]
        context = v @ k.transpose(1, 2)  # [B, d_v, d_k]
        attended: Tensor = self.r((context @ q).reshape(b, -1, h, w))  # [B, C, H, W]
        return x + attended


class FlatSpatialGate(PolarizedSelfAttention):
    """Polarized self-attention whose spatial gate is 0.5 at every pixel: what is left if it has nothing to say.

    ``scale * x*(g + 0.5)`` in parallel, ``scale * x*g*0.5`` in sequence. The parameters are those of the channel
    branch, named as beside a spatial one. ``gates`` gives None for the spatial gate.

    Args:
        channels: C.
        layout: "parallel" or "sequential".
        options: ``form``, ``impl``, ``init`` and ``scale`` of the block; "identity" needs the scale that both branches
            need.

    Raises:
        InputError: as the block itself.
    """

    def __init__(self, channels: int, layout: Literal["parallel", "sequential"] = "parallel", **options: Any) -> None:
        super().__init__(channels, layout=layout, branches="channel", **options)

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, shaped as x [B, C, H, W]."""
        attended = super().forward(x)  # [B, C, H, W], scale * x*g
        return attended * 0.5 if self.layout == "sequential" else attended + x * (0.5 * self.scale)

    def _identity_scale(self) -> float:
        return 4.0 if self.layout == "sequential" else 1.0


def _width(channels: int, ratio: float) -> int:
    return max(1, round(channels * ratio))


def _none(channels: int) -> nn.Module:
    return nn.Identity()


def _psa(**fixed: Any) -> Callable[..., nn.Module]:
    def build(channels: int, **options: Any) -> nn.Module:
        return PolarizedSelfAttention(channels, **fixed, **options)

    return build


def _flat_sequential(channels: int, **options: Any) -> nn.Module:
    return FlatSpatialGate(channels, layout="sequential", **options)


def _se(channels: int, ratio: float = 1 / 4) -> nn.Module:
    """Squeeze-and-excitation (Hu et al., CVPR 2018): x * sigmoid(W_2 relu(W_1 mean(x)))."""
    block: nn.Module = SEModule(channels, rd_channels=_width(channels, ratio))
    return block


def _eca(channels: int) -> nn.Module:
    """Efficient channel attention (Wang et al., CVPR 2020): a 1D convolution along the channels of mean(x)."""
    block: nn.Module = EcaModule(channels)
    return block


def _gc(channels: int, ratio: float = 1 / 4) -> nn.Module:
    """Global context (Cao et al., ICCVW 2019): x + W_2 relu(LN(W_1 sum_p softmax_P(W_k x)_p x_p)), W_2 from 0."""
    block: nn.Module = GlobalContext(channels, fuse_add=True, fuse_scale=False, rd_channels=_width(channels, ratio))
    return block


def _cbam(channels: int, ratio: float = 1 / 16) -> nn.Module:
    """CBAM (Woo et al., ECCV 2018): a channel gate from mean and maximum, then a spatial one from a 7x7 convolution."""
    block: nn.Module = CbamModule(channels, rd_channels=_width(channels, ratio))
    return block


def _nl(channels: int, ratio: float = 1 / 2) -> nn.Module:
    """Non-local, embedded Gaussian (Wang et al., CVPR 2018): x + BN(W_z softmax_P(theta^T phi) g), BN from 0.

    Table 1 counts its width as C; this is the paper's own bottleneck, half of it.
    """
    non_local: Callable[..., nn.Module] = NonLocalAttn
    return non_local(channels, use_scale=False, rd_channels=_width(channels, ratio))


ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "none": _none,
    "psa_p": _psa(layout="parallel", form="paper"),
    "psa_s": _psa(layout="sequential", form="paper"),
    "psa_p_released": _psa(layout="parallel", form="released"),
    "psa_s_released": _psa(layout="sequential", form="released"),
    "psa_channel": _psa(branches="channel"),
    "psa_spatial": _psa(branches="spatial"),
    "psa_p_flat": FlatSpatialGate,
    "psa_s_flat": _flat_sequential,
    "se": _se,
    "eca": _eca,
    "gc": _gc,
    "cbam": _cbam,
    "nl": _nl,
    "da": DualAttention,
    "ea": EfficientAttention,
}
"""The shelf: name -> f(channels) -> module [B, C, H, W] to the same."""


def build_attention(name: str, channels: int, **options: Any) -> nn.Module:
    """One block of the shelf for maps [B, channels, H, W].

    Raises:
        InputError: a name that is not on the shelf, fewer than 1 channel, or an option the block does not have.
    """
    if name not in ATTENTION:
        raise InputError(f"attention {name!r} is not on the shelf: choose one of {', '.join(ATTENTION)}")
    if channels < 1:
        raise InputError(f"attention {name} for {channels} channels: give at least 1")
    try:
        return ATTENTION[name](channels, **options)
    except TypeError as error:
        raise InputError(f"attention {name} with options {options}: {error}") from error
