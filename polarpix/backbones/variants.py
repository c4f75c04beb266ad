"""What some publishers compute otherwise than timm with weights of the same names and shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.errors import InputError
from polarpix.images import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["VARIANTS", "apply_variant"]


def pad_blocks(net: nn.Module) -> None:
    """MobileNetV2 as in VainF/DeepLabV3Plus-Pytorch: the border of zeros surrounds the input of each block.

    There it passes the expansion and its normalisation, so that the depthwise convolution sees a border that is not 0.
    The stem has no border at all: an image of 513 gives maps of 256, 128, 64, 32.

    Raises:
        InputError: the network has no block of MobileNetV2, or blocks with more than that.
    """
    blocks = [module for module in net.modules() if isinstance(module, InvertedResidual)]
    stem = getattr(net, "conv_stem", None)
    if not blocks or not isinstance(stem, nn.Conv2d) or any(type(block.se) is not nn.Identity for block in blocks):
        raise InputError("model.backbone.variant 'padded' is for MobileNetV2 only: set it to own")
    stem.padding = (0, 0)
    for block in blocks:
        depthwise: Any = block.conv_dw
        rows, columns = depthwise.padding
        block.conv_pw.register_forward_pre_hook(partial(_pad_input, border=(columns, columns, rows, rows)))
        depthwise.padding = (0, 0)


def _pad_input(module: nn.Module, inputs: tuple[Tensor], *, border: tuple[int, int, int, int]) -> tuple[Tensor]:
    return (F.pad(inputs[0], border),)


def blue_first(net: nn.Module) -> None:
    """Turn the normalised RGB image into what OpenCV's BGR becomes under the constants of RGB, in their order."""
    net.register_forward_pre_hook(_to_bgr)


def _to_bgr(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    image, *rest = inputs
    mean = image.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = image.new_tensor(IMAGENET_STD).view(3, 1, 1)
    values = (image * std + mean).flip(1)  # [B, 3, H, W], blue first, within 0 .. 1
    return (values - mean) / std, *rest


def blue_first_caffe(net: nn.Module) -> None:
    """:func:`blue_first`, and every bottleneck takes its step in the first convolution, 1x1, instead of the 3x3 one.

    Raises:
        InputError: the network has no bottlenecks of a ResNet.
    """
    blocks = [module for module in net.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise InputError("model.backbone.variant 'bgr_caffe' is for ResNets with bottlenecks only: set it to bgr")
    for block in blocks:
        first: Any = block.conv1
        second: Any = block.conv2
        first.stride, second.stride = second.stride, first.stride
    blue_first(net)


VARIANTS: dict[str, Callable[[nn.Module], None] | None] = {
    "own": None,
    "padded": pad_blocks,
    "bgr": blue_first,
    "bgr_caffe": blue_first_caffe,
}


def apply_variant(net: nn.Module, name: str) -> None:
    """Change in place how a timm network computes; names and shapes of its weights stay.

    Raises:
        InputError: an unknown variant, or one that the network cannot have.
    """
    if name not in VARIANTS:
        raise InputError(f"model.backbone.variant is {name!r}: choose one of {', '.join(VARIANTS)}")
    change = VARIANTS[name]
    if change is not None:
        change(net)
