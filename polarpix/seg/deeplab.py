"""DeepLabV3+: atrous spatial pyramid pooling on the deepest map, refined with the stride-4 map.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018. The plain
head has one 3x3 convolution in the decoder, like the models whose parameter counts the paper's table 3 reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.errors import InputError

__all__ = ["ASPP", "SEG_HEADS", "DeepLabV3Plus"]


def _conv_bn_relu(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def _separable(c_in: int, c_out: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(
        c_in, c_in, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=c_in, bias=False
    )
    return nn.Sequential(depthwise, nn.BatchNorm2d(c_in), nn.ReLU(inplace=True), *_conv_bn_relu(c_in, c_out))


SEG_HEADS: dict[str, Callable[[int, int, int, int], nn.Sequential]] = {
    "deeplabv3plus": _conv_bn_relu,
    "deeplabv3plus_separable": _separable,
}


class ImagePooling(nn.Module):
    """The mean over the whole map, projected and spread out again: [B, C, h, w] -> [B, c, h, w]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.project = _conv_bn_relu(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        # SyncBatchNorm is no BatchNorm2d: it sees the other devices' images, so one image per device is enough there.
        norm = self.project[1]
        if norm.training and isinstance(norm, nn.BatchNorm2d) and x.shape[0] == 1:
            raise InputError(
                "image pooling cannot normalise a training batch of 1 image: raise engine.batch_size, or set "
                "engine.sync_batchnorm on several devices"
            )
        pooled: Tensor = self.project(x.mean(dim=(2, 3), keepdim=True))  # [B, c, 1, 1]
        return pooled.expand(-1, -1, x.shape[2], x.shape[3])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and image pooling, joined by a 1x1: C -> `channels`.

    Args:
        c_in: channels of the map.
        channels: width of each branch and of the result.
        rates: dilation of the 3x3 branches; published are 6, 12, 18 at stride 16 and 12, 24, 36 at stride 8.
        dropout: on the result.
        conv3x3: builds a 3x3 branch from (c_in, c_out, kernel, dilation).
    """

    def __init__(
        self,
        c_in: int,
        channels: int,
        rates: Sequence[int],
        dropout: float,
        conv3x3: Callable[[int, int, int, int], nn.Sequential],
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv_bn_relu(c_in, channels),
                *(conv3x3(c_in, channels, 3, rate) for rate in rates),
                ImagePooling(c_in, channels),
            ]
        )
        self.project = nn.Sequential(*_conv_bn_relu(len(self.branches) * channels, channels), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in self.branches], dim=1)  # [B, 5 c, h, w]
        out: Tensor = self.project(joined)  # [B, c, h, w]
        return out


class DeepLabV3Plus(nn.Module):
    """The head: the stride-4 map and the deepest map -> class scores at stride 4.

    Args:
        low_in: channels of the stride-4 map.
        high_in: channels of the deepest map.
        num_classes: C.
        kind: a key of SEG_HEADS: plain or depthwise-separable 3x3 convolutions.
        channels: width of the ASPP and of the decoder.
        low_channels: width of the projected stride-4 map.
        rates: dilation of the ASPP branches.
        dropout: on the ASPP's result.
    """

    def __init__(
        self,
        low_in: int,
        high_in: int,
        num_classes: int,
        kind: str = "deeplabv3plus",
        channels: int = 256,
        low_channels: int = 48,
        rates: Sequence[int] = (6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if kind not in SEG_HEADS:
            raise InputError(f"model.head is {kind!r}: use one of {', '.join(SEG_HEADS)}")
        conv3x3 = SEG_HEADS[kind]
        self.aspp = ASPP(high_in, channels, rates, dropout, conv3x3)
        self.low = _conv_bn_relu(low_in, low_channels)
        self.refine = conv3x3(low_channels + channels, channels, 3, 1)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """`low` [B, C_l, H/4, W/4] and `high` [B, C_h, h, w] to scores [B, C, H/4, W/4]."""
        context = self.aspp(high)  # [B, c, h, w]
        context = F.interpolate(context, size=low.shape[2:], mode="bilinear", align_corners=False)
        joined = torch.cat([self.low(low), context], dim=1)  # [B, c_l + c, H/4, W/4]
        scores: Tensor = self.classify(self.refine(joined))  # [B, C, H/4, W/4]
        return scores
