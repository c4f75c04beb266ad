"""The block as a module: it remembers the weights and checks what comes in; the mathematics is in the neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polarpix.errors import InputError
from polarpix.psa import collapsed, loops, passes, plain, reference, whole

__all__ = ["RELEASED_NAMES", "PolarizedSelfAttention"]

LAYOUTS = ("parallel", "sequential")
FORMS = ("paper", "released")
IMPLS = ("auto", "reference", "collapsed", "loops", "fused")
INITS = ("published", "identity", "torch")
BRANCHES = ("both", "channel", "spatial")
MAX_FUSED_CHANNELS = 2048  # a tile of the kernels holds all channels of some pixels in registers
# a part's parameters -> their names in the formulas
LETTERS = {
    **{part: {"weight": f"W_{part}", "bias": f"b_{part}"} for part in ("q", "v", "z", "z1", "z2")},
    "norm": {"weight": "ln_weight", "bias": "ln_bias"},
}

# our name -> name in the authors' published code
RELEASED_NAMES = {
    "parallel": {
        "channel.q.weight": "conv_q_right.weight",
        "channel.v.weight": "conv_v_right.weight",
        "channel.z.weight": "conv_up.weight",
        "spatial.q.weight": "conv_q_left.weight",
        "spatial.v.weight": "conv_v_left.weight",
    },
    "sequential": {
        "channel.q.weight": "conv_q_right.weight",
        "channel.v.weight": "conv_v_right.weight",
        "channel.z1.weight": "conv_up.0.weight",
        "channel.z1.bias": "conv_up.0.bias",
        "channel.norm.weight": "conv_up.1.weight",
        "channel.norm.bias": "conv_up.1.bias",
        "channel.z2.weight": "conv_up.3.weight",
        "channel.z2.bias": "conv_up.3.bias",
        "spatial.q.weight": "conv_q_left.weight",
        "spatial.v.weight": "conv_v_left.weight",
    },
}


class PolarizedSelfAttention(nn.Module):
    """Polarized self-attention: [B, C, H, W] to the same shape, dtype and memory layout, for any H, W >= 1.

    Parallel: ``scale * (x*g + x*s)``; sequential: ``scale * x*g*s`` with the spatial gate taken from x*g. The form says
    which formulas give the channel gate g and the spatial gate s: "paper" is Fig. 2 of arXiv 2107.00782, "released" the
    authors' published code. Layout, form, branches and scale are part of the function but not of the state dict: a
    checkpoint must be loaded into a block built with the same ones.

    Args:
        channels: C, even and at least 2; at least 16 for the released sequential form, whose LayerNorm over C/8
            channels would else see a single one.
        layout: "parallel" or "sequential".
        form: "paper" or "released".
        impl: "reference" (conv by conv), "collapsed" (the same function without intermediate maps, plain torch),
            "loops" (compiled loops, for the CPU), "fused" (Triton kernels, for CUDA) or "auto": the fastest that there
            is for the map; collapsed where the network is being compiled for the CPU or exported.
        init: "published": every weight N(0, 0.001) and every bias 0, LayerNorm 1 and 0; a block starts close to x
            (parallel) or x/4 (sequential). "torch": the defaults of ``nn.Conv2d``. "identity": the last weights before
            each sigmoid are 0, so that both gates are 0.5 exactly and a block with the right scale is the identity
            until it has learned otherwise; every zeroed weight has a gradient from the first step on.
        branches: "both", or "channel" or "spatial" for ``scale * x*g`` or ``scale * x*s`` alone, without the parameters
            of the other.
        scale: fixed factor on the output, 1 in the paper. "identity" needs 4 for both branches in sequence, 2 for one
            branch alone and 1 for both in parallel.

    Raises:
        InputError: a name outside the choices, channels that the form does not allow, impl "fused" without Triton, with
            one branch alone or with the released sequential form, or "identity" where it cannot be had: with another
            scale, or with the spatial gate of the released parallel form, sigmoid(softmax), which is never 0.5.
    """

    def __init__(
        self,
        channels: int,
        layout: Literal["parallel", "sequential"] = "parallel",
        form: Literal["paper", "released"] = "paper",
        impl: Literal["auto", "reference", "collapsed", "loops", "fused"] = "auto",
        init: Literal["published", "identity", "torch"] = "published",
        branches: Literal["both", "channel", "spatial"] = "both",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        _check_choice("layout", layout, LAYOUTS)
        _check_choice("form", form, FORMS)
        _check_choice("init", init, INITS)
        _check_choice("branches", branches, BRANCHES)
        _check_choice("impl", impl, IMPLS)
        _check_channels(channels, layout, form, branches)
        self.no_kernels = _why_not_fused(channels, layout, form, branches)
        if impl == "fused" and self.no_kernels:
            raise InputError(f"impl 'fused': {self.no_kernels}: use impl='auto'")
        self.channels = channels
        self.layout = layout
        self.form = form
        self.impl = impl
        self.branches = branches
        self.scale = float(scale)
        self.channel = _channel_parts(channels, layout, form) if branches != "spatial" else None
        self.spatial = _spatial_parts(channels, form) if branches != "channel" else None
        self._places: whole.Places | None = None  # where the weights were in the last call
        self.reset_parameters(init)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_places": None}  # a copy's weights lie elsewhere

    def reset_parameters(self, init: Literal["published", "identity", "torch"] = "published") -> None:
        """Start anew, as the class describes.

        Raises:
            InputError: an unknown ``init``, or "identity" where it cannot be had.
        """
        _check_choice("init", init, INITS)
        if init == "identity":
            self._check_identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.LayerNorm):
                module.reset_parameters()
            if init == "published" and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if init == "identity":
            for name in self._last_weights():
                nn.init.zeros_(self.get_parameter(name))

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, same shape, dtype and memory layout as x [B, C, H, W].

        Raises:
            InputError: x is not a floating [B, C, H, W] with this block's C and at least one pixel, or impl "loops" or
                "fused" is given a map for which there is none.
        """
        if self.impl == "reference":
            return reference.apply_gates(x, *self.gates(x), self.layout, self.scale)
        self._check_input(x)
        parts: Mapping[str, Any] = self._modules  # attributes would take as long as the small vectors
        branches = parts.get("channel"), parts.get("spatial")
        kernels = None not in branches and self._takes_kernels(x)
        hand = plain if kernels else self._passes(x)
        places = self._places
        if hand is loops and places is not None and places.hold(_values(*branches), x.dtype):
            return whole.attend(x, self.form, self.layout, self.scale, places)
        channel, spatial = _weights(branches[0]), _weights(branches[1])
        if kernels and channel and spatial:
            from polarpix.psa import fused

            return fused.attend(x, self.form, self.layout, channel, spatial, self.scale)
        if hand is loops and channel and spatial:
            places = whole.places(x, self.form, self.layout, channel, spatial)
            if places is not None:
                self._places = places
                return whole.attend(x, self.form, self.layout, self.scale, places)
        return passes.attend(x, self.form, self.layout, channel, spatial, self.scale, hand)

    def gates(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The channel gate [B, C, 1, 1] and the spatial gate [B, 1, H, W] of x [B, C, H, W], both within 0 .. 1.

        None stands for the gate of a branch that the block does not have.

        Raises:
            InputError: as in :meth:`forward`.
        """
        self._check_input(x)
        # Neither kernels nor loops give gates away: those that one looks at come from the collapsed form.
        gates = reference.gates if self.impl == "reference" else collapsed.gates
        return gates(x, self.form, self.layout, _weights(self.channel), _weights(self.spatial))

    def load_released(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of one block of the authors' published code (``PSA_p`` or ``PSA_s``) by their names there.

        Args:
            state_dict: conv_q_right, conv_v_right, conv_up (conv_up.0, .1, .3 in sequence), conv_q_left, conv_v_left.

        Raises:
            InputError: the block is of form "paper", or names are missing, unknown or of another shape. Nothing is
                loaded then.
        """
        if self.form != "released":
            raise InputError(
                "released weights do not fit form 'paper', which is another function: build it with form='released'"
            )
        names = {k: v for k, v in RELEASED_NAMES[self.layout].items() if self._has(k)}
        missing = [name for name in names.values() if name not in state_dict]
        unexpected = [name for name in state_dict if name not in names.values()]
        if missing or unexpected:
            raise InputError(
                f"released weights do not fit layout {self.layout!r}, branches {self.branches!r}: "
                f"missing {missing}, unexpected {unexpected}"
            )
        own = dict(self.named_parameters())
        for ours, theirs in names.items():
            # their LayerNorm is [C/8, 1, 1], ours [C/8]
            if state_dict[theirs].squeeze().shape != own[ours].squeeze().shape:
                raise InputError(
                    f"released weight {theirs} is {tuple(state_dict[theirs].shape)}, this block with {self.channels} "
                    f"channels holds {tuple(own[ours].shape)}: build the block with the checkpoint's channels"
                )
        with torch.no_grad():
            for ours, theirs in names.items():
                own[ours].copy_(state_dict[theirs].reshape(own[ours].shape))

    def extra_repr(self) -> str:
        """The arguments that make the function."""
        return (
            f"{self.channels}, layout={self.layout!r}, form={self.form!r}, impl={self.impl!r}, "
            f"branches={self.branches!r}, scale={self.scale:g}"
        )

    def _check_input(self, x: Tensor) -> None:
        shape = x.shape
        if len(shape) != 4:
            raise InputError(f"input is {tuple(shape)}: give [B, {self.channels}, H, W]")
        if shape[1] != self.channels:
            raise InputError(f"input has {shape[1]} channels, this block {self.channels}: input is {tuple(shape)}")
        if not x.is_floating_point():
            raise InputError(f"input is {x.dtype}: convert it to a floating dtype")
        if shape[2] < 1 or shape[3] < 1:
            raise InputError(f"input is {tuple(shape)}: give a map of at least one pixel")

    def _takes_kernels(self, x: Tensor) -> bool:
        """Whether the fused kernels compute this map.

        Exported programs keep to plain operations, known everywhere, and so does what torch.func transforms.
        """
        if self.impl != "auto" or self.no_kernels or not x.is_cuda:
            return self.impl == "fused"
        if torch.compiler.is_compiling():
            return not torch.compiler.is_exporting()
        return not passes.is_transformed()

    def _passes(self, x: Tensor) -> ModuleType:
        """The compiled loops where they take this map and code is run, not read."""
        if self.impl == "collapsed" or passes.is_transformed():
            return plain
        if self.impl == "auto" and torch._C._len_torch_dispatch_stack():
            return plain  # somebody counts or changes operations, and sees none in the loops
        if loops.takes(x):
            return loops
        if self.impl == "loops" and x.numel():
            raise InputError(
                f"impl 'loops' takes dense float32 or bfloat16 maps on the CPU, not {x.dtype} on {x.device}"
                + (f" ({loops.why_not()})" if loops.why_not() else "")
                + ": use impl='auto'"
            )
        return plain

    def _has(self, parameter: str) -> bool:
        return self.branches in ("both", parameter.partition(".")[0])

    def _last_weights(self) -> list[str]:
        """The parameters whose zero makes every gate of this block 0.5."""
        if self.form == "paper":
            last = ["channel.norm.weight", "channel.norm.bias", "spatial.v.weight", "spatial.v.bias"]
        elif self.layout == "sequential":
            last = ["channel.z2.weight", "channel.z2.bias", "spatial.q.weight"]
        else:
            last = ["channel.z.weight"]
        return [name for name in last if self._has(name)]

    def _check_identity(self) -> None:
        if self.form == "released" and self.layout == "parallel" and self.spatial is not None:
            raise InputError(
                "init 'identity' cannot be had with the spatial gate of form 'released', layout 'parallel': "
                "sigmoid(softmax) is never 0.5; use init='published', or form='paper'"
            )
        needed = self._identity_scale()
        if self.scale != needed:
            raise InputError(
                f"init 'identity' with layout {self.layout!r}, branches {self.branches!r} starts with gates of 0.5 and "
                f"needs scale={needed:g}, not {self.scale:g}: give scale={needed:g}"
            )

    def _identity_scale(self) -> float:
        """The scale with which gates of 0.5 give x back."""
        return 2.0 if self.branches != "both" else 4.0 if self.layout == "sequential" else 1.0


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{key} is {value!r}: choose one of {', '.join(choices)}")


def _why_not_fused(channels: int, layout: str, form: str, branches: str) -> str:
    """What keeps the fused kernels from a block; empty if nothing does."""
    if (form, layout) == ("released", "sequential"):
        return "form 'released', layout 'sequential' has no kernels, as its spatial gate does not collapse"
    if branches != "both":
        return f"branches {branches!r} has no kernels"
    if channels > MAX_FUSED_CHANNELS:
        return f"the kernels take at most {MAX_FUSED_CHANNELS} channels, not {channels}"
    return "" if find_spec("triton") else "Triton is not installed (pip install triton, on Linux)"


def _check_channels(channels: int, layout: str, form: str, branches: str) -> None:
    if channels < 2 or channels % 2:
        raise InputError(f"channels is {channels}: must be even and at least 2, the block works with half of them")
    if form == "released" and layout == "sequential" and branches != "spatial" and channels < 16:
        raise InputError(
            f"channels is {channels}: form 'released', layout 'sequential' needs at least 16, its LayerNorm over C/8 "
            "channels is a constant with less; use form='paper'"
        )


def _channel_parts(channels: int, layout: str, form: str) -> nn.ModuleDict:
    """The parameters of the channel gate, named by the formulas' letters; convolutions, so that tools see them."""
    half, eighth, paper = channels // 2, channels // 8, form == "paper"
    parts: dict[str, nn.Module] = {
        "q": nn.Conv2d(channels, 1, 1, bias=paper),
        "v": nn.Conv2d(channels, half, 1, bias=paper),
    }
    if form == "released" and layout == "sequential":
        parts["z1"] = nn.Conv2d(half, eighth, 1)
        parts["norm"] = nn.LayerNorm(eighth)
        parts["z2"] = nn.Conv2d(eighth, channels, 1)
    else:
        parts["z"] = nn.Conv2d(half, channels, 1, bias=paper)
        if paper:
            parts["norm"] = nn.LayerNorm(channels)
    return nn.ModuleDict(parts)


def _spatial_parts(channels: int, form: str) -> nn.ModuleDict:
    """The parameters of the spatial gate; see :func:`_channel_parts`."""
    bias = form == "paper"
    return nn.ModuleDict({name: nn.Conv2d(channels, channels // 2, 1, bias=bias) for name in ("q", "v")})


def _weights(parts: nn.ModuleDict | None) -> dict[str, Tensor] | None:
    """The parameters as the keyword arguments of a gate function: W_q, b_q, ..., ln_weight, ln_bias."""
    if parts is None:
        return None
    weights: dict[str, Tensor] = {}
    for name, part in parts._modules.items():
        for kind, value in part._parameters.items():  # at each call: named_parameters would take longer than a launch
            if value is not None:
                weights[LETTERS[name][kind]] = value
    return weights


def _values(channel: nn.ModuleDict | None, spatial: nn.ModuleDict | None) -> list[Tensor]:
    """The parameters of both branches, in the order of :func:`_weights`."""
    if channel is None or spatial is None:
        return []
    parts: list[Any] = [*channel._modules.values(), *spatial._modules.values()]
    return [value for part in parts for value in part._parameters.values() if value is not None]
