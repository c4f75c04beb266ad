"""Object-contextual representations: each pixel reads from one vector per class, gathered by a first guess.

Yuan et al., "Segmentation Transformer: Object-Contextual Representations for Semantic Segmentation", ECCV 2020. The
names of the parts are those of the published checkpoints (NVIDIA/semantic-segmentation), whose keys therefore fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["OCRHead", "gather_objects", "join_maps"]


def join_maps(maps: Sequence[Tensor]) -> Tensor:
    """All maps [B, C_i, h_i, w_i] at the size of the first, in their order: [B, sum of C_i, h_0, w_0] (HRNetV2)."""
    size = maps[0].shape[2:]
    others = [F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in maps[1:]]
    return torch.cat([maps[0], *others], dim=1)


def gather_objects(features: Tensor, scores: Tensor) -> Tensor:
    """One vector per class, the mean of the pixels' features weighted by how much each belongs to it.

    Args:
        features: [B, D, h, w].
        scores: class scores [B, C, h, w]; their softmax over the pixels gives the weights.

    Returns:
        [B, D, C, 1].
    """
    weights = scores.flatten(2).softmax(dim=2)  # [B, C, P]
    objects = weights @ features.flatten(2).transpose(1, 2).to(weights.dtype)  # [B, C, D]
    return objects.transpose(1, 2).unsqueeze(3)


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def _transform(c_in: int, *widths: int) -> nn.Sequential:
    """1x1 convolutions, each normalised and rectified."""
    layers: list[nn.Module] = []
    for c_out in widths:
        layers += [nn.Conv2d(c_in, c_out, 1, bias=False), _norm_relu(c_out)]
        c_in = c_out
    return nn.Sequential(*layers)


class ObjectAttention(nn.Module):
    """What each pixel reads from the objects: features [B, D, h, w] and objects [B, D, C, 1] -> [B, D, h, w].

    Args:
        channels: D.
        key: width of queries, keys and values.
    """

    def __init__(self, channels: int, key: int) -> None:
        super().__init__()
        self.key = key
        self.f_pixel = _transform(channels, key, key)
        self.f_object = _transform(channels, key, key)
        self.f_down = _transform(channels, key)
        self.f_up = _transform(key, channels)

    def forward(self, features: Tensor, objects: Tensor) -> Tensor:
        query = self.f_pixel(features).flatten(2).transpose(1, 2)  # [B, P, k]
        keys = self.f_object(objects).flatten(2)  # [B, k, C]
        values = self.f_down(objects).flatten(2).transpose(1, 2)  # [B, C, k]
        shares = (query @ keys * self.key**-0.5).softmax(dim=2)  # [B, P, C]
        read = (shares.to(values.dtype) @ values).transpose(1, 2)  # [B, k, P]
        out: Tensor = self.f_up(read.unflatten(2, features.shape[2:]))  # [B, D, h, w]
        return out


class ObjectContext(nn.Module):
    """The context of each pixel joined with its own features: [B, D, h, w] and [B, D, C, 1] -> [B, D, h, w].

    Args:
        channels: D.
        key: width of queries, keys and values.
        dropout: share of channels of the result that are dropped.
    """

    def __init__(self, channels: int, key: int, dropout: float) -> None:
        super().__init__()
        self.object_context_block = ObjectAttention(channels, key)
        self.conv_bn_dropout = nn.Sequential(*_transform(2 * channels, channels), nn.Dropout2d(dropout))

    def forward(self, features: Tensor, objects: Tensor) -> Tensor:
        context = self.object_context_block(features, objects)  # [B, D, h, w]
        out: Tensor = self.conv_bn_dropout(torch.cat([context, features], dim=1))
        return out


class OCRHead(nn.Module):
    """A map -> class scores, the first guess they were gathered by, and the features behind them.

    Args:
        c_in: channels of the map.
        num_classes: C.
        mid: width D of the pixel and object representations.
        key: width of queries, keys and values.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(self, c_in: int, num_classes: int, mid: int = 512, key: int = 256, dropout: float = 0.05) -> None:
        super().__init__()
        self.conv3x3_ocr = nn.Sequential(nn.Conv2d(c_in, mid, 3, padding=1), _norm_relu(mid))
        self.ocr_distri_head = ObjectContext(mid, key, dropout)
        self.cls_head = nn.Conv2d(mid, num_classes, 1)
        self.aux_head = nn.Sequential(nn.Conv2d(c_in, c_in, 1), _norm_relu(c_in), nn.Conv2d(c_in, num_classes, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map [B, c_in, h, w] -> scores [B, C, h, w], first guess [B, C, h, w], features [B, D, h, w]."""
        features = self.conv3x3_ocr(x)  # [B, D, h, w]
        guess = self.aux_head(x)  # [B, C, h, w]
        features = self.ocr_distri_head(features, gather_objects(features, guess).to(features.dtype))
        return self.cls_head(features), guess, features
