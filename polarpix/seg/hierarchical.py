"""Hierarchical multi-scale attention: maps of several scales fused from the largest down by learned gates.

Tao, Sapra, Catanzaro, "Hierarchical Multi-Scale Attention for Semantic Segmentation", arXiv:2005.10821. The gate of a
scale says where its map is taken; elsewhere the fusion of the larger scales stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.errors import InputError

__all__ = ["ScaleGate", "check_scales", "fuse_scales", "resize"]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size], bilinear without aligned corners; the same tensor if it has that size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def check_scales(scales: Sequence[float], key: str) -> None:
    """Refuse scales that the fusion has no anchor in.

    Raises:
        InputError: 1 is not among them, or one is there twice.
    """
    if 1 not in scales:
        raise InputError(f"{key} is {list(scales)}: the scale attention fuses towards 1, so list 1 as well")
    if len(set(scales)) != len(scales):
        raise InputError(f"{key} is {list(scales)}: list each scale once")


def fuse_scales(maps: Mapping[float, Tensor], gates: Mapping[float, Tensor]) -> Tensor:
    """One map at scale 1 of the maps of several scales.

    From the largest scale down, with the gate a_s in 0..1 of each scale s but the largest::

        s >= 1:  fused = a_s * map_s + (1 - a_s) * down(fused)
        s < 1:   fused = up(a_s * map_s) + (1 - up(a_s)) * fused

    Args:
        maps: scale -> [B, C, H_s, W_s], of the size of the image at that scale; 1 is one of the scales.
        gates: scale -> [B, 1, H_s, W_s]; that of the largest scale is not read.

    Returns:
        [B, C, H_1, W_1].
    """
    largest, *smaller = sorted(maps, reverse=True)
    fused = maps[largest]
    for scale in smaller:
        one, gate = maps[scale], gates[scale]
        if scale >= 1:
            fused = gate * one + (1 - gate) * resize(fused, one.shape[2:])
        else:
            size = fused.shape[2:]
            fused = resize(gate * one, size) + (1 - resize(gate, size)) * fused
    return fused


class ScaleGate(nn.Sequential):
    """The gate of one scale: features [B, D, h, w] -> [B, 1, h, w] in 0..1.

    Args:
        c_in: D.
        width: of the two 3x3 convolutions.
    """

    def __init__(self, c_in: int, width: int = 256) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(c_in, width, 3, padding=1, bias=False),
            bn0=nn.BatchNorm2d(width),
            re0=nn.ReLU(inplace=True),
            conv1=nn.Conv2d(width, width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            re1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(width, 1, 1, bias=False),
            sig=nn.Sigmoid(),
        )
        super().__init__(parts)
