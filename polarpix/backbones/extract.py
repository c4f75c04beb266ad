"""Any timm network as a pyramid of NCHW maps, with attention in it, weights loaded and stages frozen as configured."""

from __future__ import annotations

import difflib
import re
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polarpix.backbones.insert import attention_blocks, insert_attention
from polarpix.backbones.weights import load_weights
from polarpix.config import BackboneConfig
from polarpix.errors import InputError

__all__ = ["Backbone", "build_backbone"]

OUTPUT_STRIDES = (8, 16, 32)
_STAGE = r"(?:layer|layers|stage|stages|blocks|s)[_.]?\d+"


class Backbone(nn.Module):
    """A timm feature extractor: image [B, 3, H, W] -> maps [B, C_i, H/s_i, W/s_i], fine to coarse.

    Stages: the stem is what runs before the first numbered stage (layer1, stages_0, blocks.0, s1, ...) of the network,
    stage i is that one and what runs between it and the stage before. Frozen parts are not trained and stay in
    evaluation mode whatever :meth:`train` says; attention inserted into them is new and does train.

    Args:
        net: the network; it returns one map per level.
        channels: C_i.
        strides: s_i.
        channels_last: whether its maps come as [B, H, W, C].
        frozen_stages: how many stages from the stem on are frozen; 1 is the stem alone.
        freeze_norm: keep every batch statistic outside the inserted attention.

    Raises:
        InputError: more frozen stages than there are, or a network whose stages cannot be told apart.
    """

    def __init__(
        self,
        net: nn.Module,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        channels_last: bool = False,
        frozen_stages: int = 0,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.channels = channels
        self.strides = strides
        self.channels_last = channels_last
        self.freeze_norm = freeze_norm
        self.places = list(attention_blocks(net))
        self.frozen = _stage_parts(net, frozen_stages)
        attention = {id(p) for block in attention_blocks(net).values() for p in block.parameters()}
        for part in self.frozen:
            for parameter in net.get_submodule(part).parameters():
                parameter.requires_grad_(id(parameter) in attention)
        self.train(self.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if mode:
            for part in self.frozen:
                self.net.get_submodule(part).eval()
            if self.freeze_norm:
                for module in self.net.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
            for block in attention_blocks(self.net).values():
                block.train()
        return self


def build_backbone(config: BackboneConfig) -> Backbone:
    """The feature extractor of a config page.

    Raises:
        InputError: a name timm does not know, an output stride or number of frozen stages the network does not have,
            weights that cannot be had or do not fit, or what :func:`insert_attention` refuses.
    """
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        mend = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise InputError(f"backbone {config.name!r} is not a timm model: {mend}")
    net = _create(config.name, config.output_stride, pretrained=config.weights == "timm")
    insert_attention(net, config.attention, config.places, **config.attention_options)
    if config.weights not in (None, "timm"):
        load_weights(net, str(config.weights), strict=True)
    info: Any = net.feature_info
    return Backbone(
        net,
        channels=tuple(info.channels()),
        strides=tuple(info.reduction()),
        channels_last=str(getattr(getattr(net, "output_fmt", None), "value", "NCHW")) == "NHWC",
        frozen_stages=config.frozen_stages,
        freeze_norm=config.freeze_norm,
    )


def _create(name: str, output_stride: int, pretrained: bool) -> nn.Module:
    net = _features(name, output_stride, pretrained)
    if net is not None and _deepest(net) == output_stride:
        return net
    with torch.device("meta"):
        trials = [_features(name, stride, pretrained=False) for stride in OUTPUT_STRIDES]
    possible = sorted({_deepest(trial) for trial in trials if trial is not None})
    raise InputError(
        f"output_stride {output_stride}: the deepest map of {name} can only have stride "
        f"{' or '.join(map(str, possible))}: set output_stride to that"
    )


def _deepest(net: nn.Module) -> int:
    info: Any = net.feature_info
    return int(info.reduction()[-1])


def _features(name: str, output_stride: int, pretrained: bool) -> nn.Module | None:
    """The timm feature extractor, or None where the network does not take that stride."""
    # 32 is what almost every network has anyway, and many do not know the argument.
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    if timm.model_entrypoint(name).__module__ == "timm.models.hrnet":
        # The true branches; by default timm widens them by a part of its classification head.
        options["feature_location"] = ""
    try:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except (TypeError, AssertionError) as error:
        if "output_stride" in options:
            return None
        raise InputError(f"timm gives no pyramid of {name} ({_line(error)}): choose another backbone") from error
    except Exception as error:  # the hub client, its HTTP client and timm raise types of their own, and change them
        if not pretrained:
            raise
        raise InputError(
            f"weights timm: those of {name} could not be loaded ({_line(error)}): "
            "connect to the network once, or give weights a file"
        ) from error
    return net


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _stage_parts(net: nn.Module, stages: int) -> tuple[str, ...]:
    """Names of the parts of the first stages, the stem being the first."""
    if stages < 0:
        raise InputError(f"frozen_stages {stages}: give 0 or more")
    if stages == 0:
        return ()
    parts: list[str] = []
    for name, child in net.named_children():
        if isinstance(child, nn.Sequential) and name in ("blocks", "stages", "layers"):
            parts += [f"{name}.{inner}" for inner, _ in child.named_children()]
        else:
            parts.append(name)
    starts = [i for i, part in enumerate(parts) if re.fullmatch(_STAGE, part)]
    if not starts:
        raise InputError(f"frozen_stages {stages}: {type(net).__name__} has no stages to tell apart: set it to 0")
    # The parts between two stages (HRNet's transitions) belong to the later one, what follows the last to the last.
    ends = [starts[0], *(i + 1 for i in starts[:-1]), len(parts)]
    if stages > len(ends):
        raise InputError(f"frozen_stages {stages}: the network has {len(ends)}, stem included: set at most that")
    return tuple(parts[: ends[stages - 1]])
