"""Any timm network as a pyramid of NCHW maps, with attention in it, weights loaded and stages frozen as configured."""

from __future__ import annotations

import difflib
import re
from typing import Any

import timm
import torch
from timm.models.hrnet import HighResolutionNetFeatures
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polarpix.backbones.files import find_timm_weights
from polarpix.backbones.insert import attention_blocks, insert_attention
from polarpix.backbones.variants import apply_variant
from polarpix.backbones.weights import load_weights
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig

__all__ = ["Backbone", "build_backbone", "is_hrnet"]

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
        nhwc: whether its maps come as [B, H, W, C].
        frozen_stages: how many stages from the stem on are frozen; 1 is the stem alone.
        freeze_norm: keep every batch statistic outside the inserted attention.
        dropped: names of the weights of a published checkpoint that the network was built without.

    Raises:
        InputError: more frozen stages than there are, or a network whose stages cannot be told apart.
    """

    def __init__(
        self,
        net: nn.Module,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        nhwc: bool = False,
        frozen_stages: int = 0,
        freeze_norm: bool = False,
        dropped: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.net = net
        self.channels = channels
        self.strides = strides
        self.nhwc = nhwc
        self.freeze_norm = freeze_norm
        self.dropped = dropped
        self.places = list(attention_blocks(net))
        self.frozen = _stage_parts(net, frozen_stages)
        attention = {id(p) for block in attention_blocks(net).values() for p in block.parameters()}
        for part in self.frozen:
            for parameter in net.get_submodule(part).parameters():
                parameter.requires_grad_(id(parameter) in attention)
        self.train(self.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.nhwc else list(maps)

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


def build_backbone(config: BackboneConfig, upto: int | None = None) -> Backbone:
    """The feature extractor of a config page.

    Args:
        config: the page's section.
        upto: the largest stride of the maps that are read, at least 4; null for all. An HRNet then ends there, without
            the fusions that only its coarser maps need, as the published pose networks do; others stay whole.

    Raises:
        InputError: a name timm does not know, an output stride or number of frozen stages the network does not have,
            weights that cannot be had or do not fit, or what :func:`insert_attention` refuses.
    """
    _check_name(config.name)
    net = _create(config.name, config.output_stride, pretrained=config.weights == "timm")
    apply_variant(net, config.variant)
    info: Any = net.feature_info
    cfg: Any = net.pretrained_cfg
    # Some networks only take images of their own size.
    example = None if config.places is None else torch.zeros(1, *cfg["input_size"])
    insert_attention(net, config.attention, config.places, example=example, **config.attention_options)
    if config.weights not in (None, "timm"):
        load_weights(net, str(config.weights), strict=True)
    channels, strides = tuple(info.channels()), tuple(info.reduction())
    dropped: tuple[str, ...] = ()
    if upto is not None and isinstance(net, HighResolutionNetFeatures):
        read = sum(stride <= upto for stride in strides)
        dropped = _drop_last_fusions(net, read - 1)  # the first map is the stem's, not a branch's
        channels, strides = channels[:read], strides[:read]
    return Backbone(
        net,
        channels=channels,
        strides=strides,
        nhwc=getattr(net, "output_fmt", "NCHW") == "NHWC",
        frozen_stages=config.frozen_stages,
        freeze_norm=config.freeze_norm,
        dropped=dropped,
    )


def is_hrnet(name: str) -> bool:
    """Whether timm's network of that name is an HRNet, which keeps branches of all strides to its end."""
    return timm.is_model(name) and timm.model_entrypoint(name).__module__ == "timm.models.hrnet"


def _check_name(name: str) -> None:
    # "resnet50.tv_in1k": an architecture and the tag of one of its sets of weights.
    known = timm.list_models(pretrained=True) if "." in name else timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        mend = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise InputError(f"backbone {name!r} is not a timm model: {mend}")


def _create(name: str, output_stride: int, pretrained: bool) -> nn.Module:
    net = _features(name, output_stride, pretrained)
    if _deepest(net) == output_stride:
        return net
    with torch.device("meta"):
        possible = sorted({_deepest(_features(name, stride, pretrained=False)) for stride in OUTPUT_STRIDES})
    strides = " or ".join(map(str, possible))
    raise InputError(
        f"output_stride {output_stride}: the deepest map of {name} can only have {strides}: set it to that"
    )


def _deepest(net: nn.Module) -> int:
    info: Any = net.feature_info
    return int(info.reduction()[-1])


def _features(name: str, output_stride: int, pretrained: bool) -> nn.Module:
    """The timm feature extractor; of its own stride where the network cannot have the one asked for."""
    options: dict[str, Any] = {"features_only": True, "pretrained": pretrained}
    if is_hrnet(name):
        # The true branches; by default timm widens them by a part of its classification head.
        options["feature_location"] = ""
    if pretrained:
        file = find_timm_weights(name)
        options["pretrained_cfg_overlay"] = {} if file is None else {"file": str(file)}
    # 32 is what almost every network has anyway, and many do not know the argument.
    stride: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        net: nn.Module = timm.create_model(name, **options, **stride)
    except (TypeError, AssertionError, AttributeError, RuntimeError) as error:
        if stride:
            return _features(name, 32, pretrained)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"timm gives no feature maps of {name} ({reason}): choose another backbone") from error
    return net


def _drop_last_fusions(net: nn.Module, kept: int) -> tuple[str, ...]:
    """Let the last module of an HRNet fuse its branches into the ``kept`` finest ones only; gives the names dropped."""
    before: Any = net.state_dict()
    last: Any = list(net.get_submodule("stage4").children())[-1]
    last.fuse_layers = last.fuse_layers[:kept]
    return tuple(before.keys() - net.state_dict().keys())


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
