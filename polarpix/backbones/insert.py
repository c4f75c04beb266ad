"""Where in a network an attention goes, and how it gets there without renaming a single existing weight.

The attention becomes the child ``attention`` of the module it follows (in torchvision's ResNet: precedes) and runs in a
hook of that module, so the state dict only gains keys ``<place>.attention.*``: ImageNet weights load before or after
the insertion.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import norm_act
from timm.models._efficientnet_blocks import (
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    UniversalInvertedResidual,
)
from timm.models.convnext import ConvNeXtBlock
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet as torchvision_resnet

from polarpix.attention import build_attention
from polarpix.errors import InputError

__all__ = ["SITES", "Site", "attention_blocks", "convert_sync_batchnorm", "find_places", "insert_attention"]

CHILD = "attention"
PROBE = (64, 96)  # height and width differ, so that they can be told from the channels
Hook = Callable[..., Tensor]


@dataclass(frozen=True)
class Site:
    """Where the attention goes in one class of block: behind one of its modules, or in front of one.

    Args:
        after: name, inside the block, of the module whose output the attention takes.
        before: in its place, name of the module whose input the attention takes.
        width: name, inside the block, of the convolution whose ``out_channels`` is the width there.
        unless_in: not in networks that hold a module of this class.
        first_stage: the first ``N`` of timm's ``blocks.N`` that gets attention.
    """

    width: str
    after: str = ""
    before: str = ""
    unless_in: type[nn.Module] | None = None
    first_stage: int = 0


# ResNet and HRNet: the paper's placement, after the activation of the block's (first) 3x3 convolution; HRNet's stage-1
# and head Bottlenecks get none. The parameter counts of its tables 2 to 4 follow from these two rows.
# torchvision's ResNet, which segmentation_models.pytorch and torchvision's detectors build on: the same point of the
# same block. Its one activation runs several times, so the point is named by the convolution that comes next.
# MobileNet, EfficientNet: the paper does not say where. After the linear projection, from the fourth stage on (stride
# 16 and deeper); ``bn.act`` is the empty activation behind that projection's normalisation.
# ConvNeXt: not in the paper; after the 7x7 convolution, its only spatial one.
SITES: dict[type[nn.Module], Site] = {
    BasicBlock: Site(after="act1", width="conv1"),
    Bottleneck: Site(after="act2", width="conv2", unless_in=HighResolutionModule),
    torchvision_resnet.BasicBlock: Site(before="conv2", width="conv1"),
    torchvision_resnet.Bottleneck: Site(before="conv3", width="conv2"),
    InvertedResidual: Site(after="bn3.act", width="conv_pwl", first_stage=3),
    DepthwiseSeparableConv: Site(after="bn2.act", width="conv_pw", first_stage=3),
    EdgeResidual: Site(after="bn2.act", width="conv_pwl", first_stage=3),
    UniversalInvertedResidual: Site(after="pw_proj.bn.act", width="pw_proj.conv", first_stage=3),
    ConvNeXtBlock: Site(after="conv_dw", width="conv_dw"),
}


def insert_attention(
    model: nn.Module,
    name: str,
    places: Iterable[str] | None = None,
    *,
    example: Tensor | None = None,
    **options: Any,
) -> list[str]:
    """Put one attention block at each place, in place.

    Args:
        model: any network that :data:`SITES` knows a block of; any module at all if ``places`` are given.
        name: a key of :data:`polarpix.attention.ATTENTION`; "none" inserts nothing.
        places: names of the modules whose output the attention takes, [B, C, H, W] or (as in Swin) [B, H, W, C]; null
            for the places of the table. The name of an ``nn.Sequential`` means its last module.
        example: input of one forward pass that finds the channels at given places; null for zeros [1, 3, 64, 96].
        options: keyword arguments of every block.

    Returns:
        The names of the modules that now hold an attention, in the network's order.

    Raises:
        InputError: unknown attention or place, a place whose output is no map, shared or run more than once, or taken
            already, or a network without a block of the table.
    """
    if name == "none":
        build_attention(name, 1, **options)
        return []
    found = _table_places(model) if places is None else _probe(model, _resolve(model, places), example)
    _refuse_taken(model, found)
    blocks = {place: build_attention(name, width, **options) for place, (width, _) in found.items()}
    for place, block in blocks.items():
        module = model.get_submodule(place)
        tensor = next(iter(model.parameters()), None)
        if tensor is not None:
            block.to(device=tensor.device, dtype=tensor.dtype)
        block.train(module.training)
        module.add_module(CHILD, block)
        hook = found[place][1]
        module.register_forward_pre_hook(hook) if hook is _attend_input else module.register_forward_hook(hook)
    return list(blocks)


def find_places(model: nn.Module) -> dict[str, int]:
    """The places of the table in a network: name of the module that is to hold the attention -> channels there.

    Raises:
        InputError: the network holds no block of :data:`SITES`.
    """
    return {place: width for place, (width, _) in _table_places(model).items()}


def _table_places(model: nn.Module) -> dict[str, tuple[int, Hook]]:
    """Place -> channels and the hook that attends there."""
    classes = {type(module) for module in model.modules()}
    places: dict[str, tuple[int, Hook]] = {}
    for block_name, block in model.named_modules():
        site = next((SITES[cls] for cls in type(block).__mro__ if cls in SITES), None)
        if site is None or (site.unless_in is not None and site.unless_in in classes):
            continue
        stage = re.search(r"(?:^|\.)blocks[._](\d+)\.", block_name)
        if stage is not None and int(stage[1]) < site.first_stage:
            continue
        prefix = f"{block_name}." if block_name else ""
        width = block.get_submodule(site.width).out_channels
        assert isinstance(width, int)
        places[prefix + (site.before or site.after)] = width, _attend_input if site.before else _attend
    if not places:
        known = ", ".join(dict.fromkeys(cls.__name__ for cls in SITES))
        raise InputError(f"{type(model).__name__} has no block that attention is known for ({known}): name places=")
    return places


def attention_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The inserted attention blocks: place -> block, in the network's order."""
    return {name: getattr(module, CHILD) for name, module in model.named_modules() if _has_attention(module)}


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Make every batch normalisation share its statistics between processes, timm's fused ones too, keeping attention.

    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` drops the activation of timm's ``BatchNormAct2d`` and the forward
    hooks of the modules it replaces.
    """
    convert: Callable[[nn.Module], nn.Module] = norm_act.convert_sync_batchnorm
    taken = set(attention_blocks(model))
    converted = convert(model)
    for place in taken - set(attention_blocks(converted)):
        converted.get_submodule(place).register_forward_hook(_attend)
    return converted


def _attend(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    attended: Tensor = module.get_submodule(CHILD)(output)  # [B, C, H, W]
    return attended


def _attend_last(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    attended: Tensor = module.get_submodule(CHILD)(output.permute(0, 3, 1, 2))  # [B, C, H, W]
    return attended.permute(0, 2, 3, 1)


def _attend_input(module: nn.Module, args: tuple[Any, ...]) -> Tensor:
    attended: Tensor = module.get_submodule(CHILD)(args[0])  # [B, C, H, W]
    return attended


def _has_attention(module: nn.Module) -> bool:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(hook in (_attend, _attend_last, _attend_input) for hook in hooks)


def _resolve(model: nn.Module, places: Iterable[str]) -> list[str]:
    names = dict(model.named_modules())
    resolved: list[str] = []
    for place in places:
        if not place or place not in names:
            near = difflib.get_close_matches(place, names, n=3)
            mend = f"did you mean {' or '.join(near)}?" if near else "list them with model.named_modules()"
            raise InputError(f"{type(model).__name__} has no module {place!r}: {mend}")
        # A child added to a Sequential would run as its next step: its last module gives the same output.
        while type(names[place]).forward is nn.Sequential.forward and len(names[place]._modules):
            place = f"{place}.{list(names[place]._modules)[-1]}"
        if isinstance(names[place], nn.Sequential | nn.ModuleList | nn.ModuleDict):
            raise InputError(f"{place} is a container ({type(names[place]).__name__}): name a module inside it")
        resolved.append(place)
    twice = [place for place, count in Counter(resolved).items() if count > 1]
    if twice:
        raise InputError(f"place {twice[0]} is named twice: name it once")
    if not resolved:
        raise InputError("places is empty: name at least one module, or leave it out for the table's places")
    order = {name: i for i, name in enumerate(names)}
    return sorted(resolved, key=order.__getitem__)


def _refuse_taken(model: nn.Module, places: Iterable[str]) -> None:
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for place in places:
        module = model.get_submodule(place)
        if _has_attention(module):
            raise InputError(f"place {place} has attention already: insert once, or name other places")
        if hasattr(module, CHILD):
            raise InputError(f"place {place} has a part named {CHILD!r} of its own: name another place")
        if uses[id(module)] > 1:
            raise InputError(f"place {place} is shared by several parts of the network: name one that is not")


def _probe(model: nn.Module, places: list[str], example: Tensor | None) -> dict[str, tuple[int, Hook]]:
    """One forward pass in eval mode: the channels of the output of each place, and the hook that takes them."""
    seen: dict[str, list[Any]] = {place: [] for place in places}
    handles = [
        model.get_submodule(place).register_forward_hook(lambda _m, _a, output, place=place: seen[place].append(output))
        for place in places
    ]
    modes = {module: module.training for module in model.modules()}
    tensor = next(iter(model.parameters()), torch.zeros(()))
    x = torch.zeros(1, 3, *PROBE, dtype=tensor.dtype, device=tensor.device) if example is None else example
    try:
        model.eval()
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        shape = list(x.shape)
        raise InputError(f"{type(model).__name__} does not run on a {shape} input ({reason}): give example=") from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    found: dict[str, tuple[int, Hook]] = {}
    for place, outputs in seen.items():
        if len(outputs) != 1:
            raise InputError(f"place {place} runs {len(outputs)} times in one forward pass: name one that runs once")
        if not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
            given = list(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
            raise InputError(
                f"place {place} gives {given}: name a module whose output is a map, [B, C, H, W] or [B, H, W, C]"
            )
        shape = list(outputs[0].shape)
        last = _channels_last(model.get_submodule(place), shape, x.shape, place)
        found[place] = (shape[3], _attend_last) if last else (shape[1], _attend)
    return found


def _channels_last(module: nn.Module, shape: Sequence[int], example: Sequence[int], place: str) -> bool:
    """Whether a module's output is [B, H, W, C]: height and width are those that keep the proportions of the input."""
    if isinstance(module, nn.Conv2d | _BatchNorm) or len(example) != 4:
        return False

    def skew(height: int, width: int) -> float:
        return abs(math.log(height * example[3] / (width * example[2])))

    first, last = skew(shape[2], shape[3]), skew(shape[1], shape[2])
    if abs(first - last) < 0.05:
        raise InputError(
            f"place {place} gives {list(shape)}, which may be [B, C, H, W] or [B, H, W, C]: give an example= of "
            "another height and width"
        )
    return last < first
