"""Published checkpoints of whole networks compute here what they compute there, and their names go both ways.

The networks below are built from their published descriptions alone, in plain torch under the published names; they
have random weights and statistics, and the widths and depths of the smallest timm relative.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from polarpix.backbones.extract import build_backbone
from polarpix.backbones.publishers import PUBLISHERS, as_published, identify, to_ours, to_theirs
from polarpix.backbones.weights import load_network, load_weights
from polarpix.config import PoseModelConfig, PoseRun, SegModelConfig, SegRun
from polarpix.costs import build_page
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.pages import load_page
from polarpix.pose.model import build_pose_model
from polarpix.seg.model import build_seg_model

PAPER = sorted((Path(__file__).resolve().parents[2] / "configs" / "paper").rglob("*.yaml"))


def randomize(network: nn.Module, seed: int = 3) -> nn.Module:
    """Weights that keep the scale of the maps, and normalisations that are no identity; in evaluation mode."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 * dilation, dilation, bias=False)


class Basic(nn.Module):
    """conv1, bn1, relu, (deattn), conv2, bn2, + shortcut, relu."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int = 1, dilation: int = 1, deattn: str = "") -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, width, 3, stride, dilation), nn.BatchNorm2d(width)
        if deattn:
            self.deattn = Released(width, deattn)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        if stride > 1 or c_in != width:
            self.downsample = nn.Sequential(conv(c_in, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.deattn(y) if hasattr(self, "deattn") else y
        y = self.bn2(self.conv2(y))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        if stride > 1 or c_in != 4 * width:
            self.downsample = nn.Sequential(conv(c_in, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    """The trunk up to layer4: image -> (layer1, layer4). ``last_dilated``: stride 16 by dilation in layer4."""

    def __init__(self, block: type[Basic | Bottleneck], depths: Sequence[int], last_dilated: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        c_in = 64
        for i, depth in enumerate(depths):
            dilated = last_dilated and i == 3
            stages = []
            for j in range(depth):
                stride = 2 if i and not j and not dilated else 1
                stages.append(block(c_in, 64 << i, stride, 2 if dilated and j else 1))
                c_in = (64 << i) * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*stages))
        self.out = c_in

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        return low, self.layer4(self.layer3(self.layer2(low)))


def deconvolutions(c_in: int, width: int = 256) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (c_in, width, width):
        layers += [nn.ConvTranspose2d(c, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class SimpleBaseline(ResNet):
    """microsoft/human-pose-estimation.pytorch."""

    def __init__(self, block: type[Basic | Bottleneck], depths: Sequence[int], joints: int) -> None:
        super().__init__(block, depths)
        self.deconv_layers = deconvolutions(self.out)
        self.final_layer = nn.Conv2d(256, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.deconv_layers(super().forward(x)[1]))


class Released(nn.Module):
    """The authors' PSA_p ("parallel") or PSA_s ("sequential"), by the formulas of their code."""

    def __init__(self, channels: int, layout: str) -> None:
        super().__init__()
        half = channels // 2
        self.layout = layout
        self.conv_q_right, self.conv_v_right = conv(channels, 1, 1), conv(channels, half, 1)
        self.conv_q_left, self.conv_v_left = conv(channels, half, 1), conv(channels, half, 1)
        if layout == "parallel":
            self.conv_up: nn.Module = conv(half, channels, 1)
        else:
            self.conv_up = nn.Sequential(
                nn.Conv2d(half, half // 4, 1),
                nn.LayerNorm([half // 4, 1, 1]),
                nn.ReLU(),
                nn.Conv2d(half // 4, channels, 1),
            )
            nn.init.uniform_(self.conv_up[1].weight, 0.5, 1.5)
            nn.init.normal_(self.conv_up[1].bias, std=0.3)

    def channel(self, x: Tensor) -> Tensor:
        shares = self.conv_q_right(x).flatten(2).softmax(2)  # [B, 1, P]
        context = self.conv_v_right(x).flatten(2) @ shares.transpose(1, 2)  # [B, C/2, 1]
        return x * self.conv_up(context.unsqueeze(3)).sigmoid()

    def spatial(self, x: Tensor) -> Tensor:
        query = self.conv_q_left(x).mean((2, 3)).unsqueeze(1)  # [B, 1, C/2]
        values = self.conv_v_left(x).flatten(2)  # [B, C/2, P]
        gate = (query @ values).softmax(2) if self.layout == "parallel" else query @ values.softmax(2)
        return x * gate.reshape(x.shape[0], 1, *x.shape[2:]).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(x) + self.channel(x) if self.layout == "parallel" else self.spatial(self.channel(x))


class Fusion(nn.Module):
    """One module of an HRNet: branches of basic blocks, then every branch summed into every kept one."""

    def __init__(self, widths: Sequence[int], depth: int, kept: int, bilinear: bool, deattn: str) -> None:
        super().__init__()
        self.bilinear = bilinear
        self.branches = nn.ModuleList(
            nn.Sequential(*(Basic(width, width, deattn=deattn) for _ in range(depth))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self.path(widths, j, i) for j in range(len(widths))) for i in range(kept)
        )

    @staticmethod
    def path(widths: Sequence[int], source: int, target: int) -> nn.Module | None:
        if source == target:
            return None
        if source > target:
            return nn.Sequential(conv(widths[source], widths[target], 1), nn.BatchNorm2d(widths[target]))
        steps = []
        for k in range(source, target):
            last = k == target - 1
            c = widths[target] if last else widths[source]
            steps.append(
                nn.Sequential(conv(widths[source], c, 3, 2), nn.BatchNorm2d(c), *([] if last else [nn.ReLU()]))
            )
        return nn.Sequential(*steps)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            total: Tensor | float = 0.0
            for j, path in enumerate(row):
                part = maps[j] if path is None else path(maps[j])
                if j > i:
                    mode = {"mode": "bilinear", "align_corners": False} if self.bilinear else {"mode": "nearest"}
                    part = F.interpolate(part, size=maps[i].shape[2:], **mode)
                total = total + part
            fused.append(F.relu(total))
        return fused


class HRNet(nn.Module):
    """The trunk, with all branches of stage 4 or ``kept`` of them."""

    def __init__(
        self, width: int, stem: int, first: tuple[int, int], modules: Sequence[int], depth: int, kept: int,
        bilinear: bool = False, deattn: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1, self.bn1 = conv(3, stem, 3, 2), nn.BatchNorm2d(stem)
        self.conv2, self.bn2 = conv(stem, 64, 3, 2), nn.BatchNorm2d(64)
        planes, blocks = first
        self.layer1 = nn.Sequential(*(Bottleneck(4 * planes if i else 64, planes) for i in range(blocks)))
        before = [4 * planes]
        self.widths = [width << i for i in range(4)]
        for stage in (2, 3, 4):
            widths = self.widths[:stage]
            setattr(self, f"transition{stage - 1}", self.transition(before, widths))
            count = modules[stage - 2]
            setattr(
                self,
                f"stage{stage}",
                nn.Sequential(
                    *(
                        Fusion(widths, depth, kept if stage == 4 and i == count - 1 else stage, bilinear, deattn)
                        for i in range(count)
                    )
                ),
            )
            before = widths

    @staticmethod
    def transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
        found: list[nn.Module | None] = []
        for i, width in enumerate(after):
            if i < len(before):
                same = width == before[i]
                part = None if same else nn.Sequential(conv(before[i], width), nn.BatchNorm2d(width), nn.ReLU())
            else:
                part = nn.Sequential(nn.Sequential(conv(before[-1], width, 3, 2), nn.BatchNorm2d(width), nn.ReLU()))
            found.append(part)
        return nn.ModuleList(found)

    def maps(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        maps = [self.layer1(x)]
        for stage in (2, 3, 4):
            row = getattr(self, f"transition{stage - 1}")
            new = len(row) - len(maps)
            maps = [
                one if step is None else step(one) for step, one in zip(row, [*maps, *[maps[-1]] * new], strict=True)
            ]
            maps = getattr(self, f"stage{stage}")(maps)
        return maps


class PoseHRNet(HRNet):
    """leoxiaobin/deep-high-resolution-net.pytorch and HuangJunJie2017/UDP-Pose."""

    def __init__(self, outputs: int, *shape: object, deattn: str = "") -> None:
        super().__init__(*shape, kept=1, deattn=deattn)
        self.final_layer = nn.Conv2d(self.widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.maps(x)[0])


class ImageHRNet(HRNet):
    """HRNet/HRNet-Image-Classification: bottlenecks widen the branches, which are then added up downwards."""

    def __init__(self, *shape: object) -> None:
        super().__init__(*shape, kept=4)
        wide = [128, 256, 512, 1024]
        pairs = list(zip(self.widths, wide, strict=True))
        self.incre_modules = nn.ModuleList(nn.Sequential(Bottleneck(c, w // 4)) for c, w in pairs)
        self.downsamp_modules = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, 2 * a, 3, 2, 1), nn.BatchNorm2d(2 * a), nn.ReLU()) for a in wide[:3]
        )
        self.final_layer = nn.Sequential(nn.Conv2d(1024, 2048, 1), nn.BatchNorm2d(2048), nn.ReLU())
        self.classifier = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(x)
        total = self.incre_modules[0](maps[0])
        for down, wider, one in zip(self.downsamp_modules, self.incre_modules[1:], maps[1:], strict=True):
            total = wider(one) + down(total)
        return self.classifier(self.final_layer(total).mean((2, 3)))


class TopDown(nn.Module):
    """open-mmlab/mmpose: a trunk called backbone, a head called keypoint_head (0.x) or head (1.x)."""

    def __init__(self, backbone: nn.Module, head: str, c_in: int, outputs: int, deconv: bool) -> None:
        super().__init__()
        self.backbone = backbone
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if deconv:
            parts["deconv_layers"] = deconvolutions(c_in)
        parts["final_layer"] = nn.Conv2d(256 if deconv else c_in, outputs, 1)
        setattr(self, head, nn.Sequential(parts))
        self.head_name = head

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.backbone(x)[1] if isinstance(self.backbone, ResNet) else self.backbone.maps(x)[0]
        return getattr(self, self.head_name)(coarse)


def conv_bn(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, 1, dilation), nn.BatchNorm2d(c_out), nn.ReLU())


class Pooling(nn.Sequential):
    def __init__(self, c_in: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), conv(c_in, 256, 1), nn.BatchNorm2d(256), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(super().forward(x), size=x.shape[2:], mode="bilinear", align_corners=False)


class DeepLabHead(nn.Module):
    def __init__(self, c_high: int, c_low: int, classes: int) -> None:
        super().__init__()
        self.project = conv_bn(c_low, 48)
        self.aspp = nn.Module()
        dilated = [conv_bn(c_high, 256, 3, rate) for rate in (6, 12, 18)]
        self.aspp.convs = nn.ModuleList([conv_bn(c_high, 256), *dilated, Pooling(c_high)])
        self.aspp.project = nn.Sequential(*conv_bn(5 * 256, 256), nn.Dropout(0.1))
        self.classifier = nn.Sequential(*conv_bn(304, 256, 3), nn.Conv2d(256, classes, 1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        context = self.aspp.project(torch.cat([branch(high) for branch in self.aspp.convs], 1))
        context = F.interpolate(context, size=low.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(torch.cat([self.project(low), context], 1))


class DeepLab(nn.Module):
    """VainF/DeepLabV3Plus-Pytorch at output stride 16."""

    def __init__(self, backbone: nn.Module, c_high: int, c_low: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = DeepLabHead(c_high, c_low, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.classifier(*self.backbone(x))
        return F.interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=False)


def unpadded(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    step = nn.Conv2d(c_in, c_out, kernel, stride, 0, dilation, groups, bias=False)
    return nn.Sequential(step, nn.BatchNorm2d(c_out), nn.ReLU6())


class Inverted(nn.Module):
    """Its border of zeros goes around the whole block's input, before the expansion."""

    def __init__(self, c_in: int, c_out: int, stride: int, dilation: int, ratio: int) -> None:
        super().__init__()
        wide = c_in * ratio
        self.skip, self.border = stride == 1 and c_in == c_out, [dilation] * 4
        steps: list[nn.Module] = [unpadded(c_in, wide, 1)] if ratio > 1 else []
        steps += [unpadded(wide, wide, 3, stride, dilation, wide)]
        self.conv = nn.Sequential(*steps, conv(wide, c_out, 1), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, self.border))
        return x + y if self.skip else y


class PaddedMobileNetV2(nn.Module):
    """VainF's MobileNetV2 at output stride 16, cut after the fourth entry of its list."""

    TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [unpadded(3, 32, 3, 2)]
        c_in, reached, dilation = 32, 2, 1
        for ratio, c_out, count, stride in self.TABLE:
            before = dilation
            if reached == 16 and stride > 1:
                stride, dilation = 1, dilation * stride
            reached *= stride
            for i in range(count):
                features.append(Inverted(c_in, c_out, 1 if i else stride, dilation if i else before, ratio))
                c_in = c_out
        named = [(str(i), module) for i, module in enumerate(features)]
        self.low_level_features = nn.Sequential(OrderedDict(named[:4]))
        self.high_level_features = nn.Sequential(OrderedDict(named[4:]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.low_level_features(x)
        return low, self.high_level_features(low)


def norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def stack(c_in: int, *widths: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for width in widths:
        steps += [conv(c_in, width, 1), norm_relu(width)]
        c_in = width
    return nn.Sequential(*steps)


class ScaleOCR(nn.Module):
    """NVIDIA/semantic-segmentation, ocrnet.HRNet_Mscale, and DeLightCMU/PSA with ``deattn`` in its blocks."""

    def __init__(self, backbone: HRNet, classes: int, mid: int, key: int) -> None:
        super().__init__()
        self.backbone, self.key = backbone, key
        wide = sum(backbone.widths)
        ocr, attend = nn.Module(), nn.Module()
        ocr.conv3x3_ocr = nn.Sequential(nn.Conv2d(wide, mid, 3, 1, 1), norm_relu(mid))
        attend.f_pixel, attend.f_object = stack(mid, key, key), stack(mid, key, key)
        attend.f_down, attend.f_up = stack(mid, key), stack(key, mid)
        ocr.ocr_distri_head = nn.Module()
        ocr.ocr_distri_head.object_context_block = attend
        ocr.ocr_distri_head.conv_bn_dropout = nn.Sequential(*stack(2 * mid, mid), nn.Dropout2d(0.05))
        ocr.cls_head = nn.Conv2d(mid, classes, 1)
        ocr.aux_head = nn.Sequential(nn.Conv2d(wide, wide, 1), norm_relu(wide), nn.Conv2d(wide, classes, 1))
        self.ocr = ocr
        gate = [("conv0", conv(mid, 256)), ("bn0", nn.BatchNorm2d(256)), ("re0", nn.ReLU())]
        gate += [("conv1", conv(256, 256)), ("bn1", nn.BatchNorm2d(256)), ("re1", nn.ReLU())]
        self.scale_attn = nn.Sequential(OrderedDict([*gate, ("conv2", conv(256, 1, 1)), ("sig", nn.Sigmoid())]))

    @staticmethod
    def resized(x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

    def one_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone.maps(x)
        joined = torch.cat([self.resized(one, maps[0].shape[2:]) for one in maps], 1)
        feats, guess = self.ocr.conv3x3_ocr(joined), self.ocr.aux_head(joined)
        b, _, h, w = feats.shape
        objects = guess.flatten(2).softmax(2) @ feats.flatten(2).transpose(1, 2)  # [B, classes, mid]
        objects = objects.transpose(1, 2).unsqueeze(3)
        parts = self.ocr.ocr_distri_head.object_context_block
        query, keys, values = parts.f_pixel(feats), parts.f_object(objects), parts.f_down(objects)
        shares = (self.key**-0.5 * (query.flatten(2).transpose(1, 2) @ keys.flatten(2))).softmax(2)
        read = (shares @ values.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b, self.key, h, w)
        feats = self.ocr.ocr_distri_head.conv_bn_dropout(torch.cat([parts.f_up(read), feats], 1))
        return self.resized(self.ocr.cls_head(feats), x.shape[2:]), self.resized(self.scale_attn(feats), x.shape[2:])

    def forward(self, x: Tensor, scales: Sequence[float] = (0.5, 1.0, 2.0)) -> Tensor:
        fused = None
        for scale in sorted(scales, reverse=True):
            size = [int(side * scale) for side in x.shape[2:]]
            scores, gate = self.one_scale(self.resized(x, size))
            if fused is None:
                fused = scores
            elif scale >= 1:
                fused = gate * scores + (1 - gate) * self.resized(fused, scores.shape[2:])
            else:
                up = self.resized(gate, fused.shape[2:])
                fused = self.resized(gate * scores, fused.shape[2:]) + (1 - up) * fused
        return fused


SMALL = (16, 64, (32, 1), (1, 1, 1), 2)  # timm's hrnet_w18_small: width, stem, layer1, modules of stages 2 to 4, blocks
W48 = (48, 64, (64, 4), (1, 4, 3), 4)
W32 = (32, 64, (64, 4), (1, 4, 3), 4)


def save(folder: Path, network: nn.Module, wrapper: str = "", key: str = "") -> Path:
    state = {wrapper + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({key: state, "epoch": 3, "mean_iu": np.float64(0.5)} if key else state, folder / "theirs.pth")
    return folder / "theirs.pth"


def backbone(name: str, attention: str = "none", **options: object) -> BackboneConfig:
    return BackboneConfig(name, attention=attention, **options)


def pose(config: BackboneConfig, head: str, weights: Path, outputs: int = 5) -> nn.Module:
    return build_pose_model(PoseModelConfig(config, str(weights), head=head, codec="gaussian"), outputs).eval()


def seg(config: BackboneConfig, weights: Path, classes: int = 7, **options: object) -> nn.Module:
    return build_seg_model(SegModelConfig(config, str(weights), **options), classes).eval()


def assert_same(ours: nn.Module, theirs: nn.Module, image: Tensor, reference: Tensor | None = None) -> None:
    """To 1e-5 of the largest output."""
    with torch.inference_mode():
        expected = theirs(image if reference is None else reference)
        scale = expected.abs().max()
        torch.testing.assert_close(ours(image) / scale, expected / scale, atol=1e-5, rtol=0)
        assert expected.std() > 0.05 * scale, "outputs that hardly differ say nothing"


def image_of(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def normalized(image: Tensor) -> Tensor:
    return (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("wrapper", "variant"), [("", "bgr_caffe"), ("module.", "bgr")])
def test_simple_baseline_on_blue_green_red(tmp_path: Path, wrapper: str, variant: str) -> None:
    theirs = randomize(SimpleBaseline(Bottleneck, (3, 4, 6, 3), 5))
    for block in theirs.modules():
        if isinstance(block, Bottleneck) and variant == "bgr_caffe":
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    file = save(tmp_path, theirs, wrapper, "state_dict" if wrapper else "")
    ours = pose(backbone("resnet50", variant=variant), "deconv", file)
    image = image_of(64, 96)
    assert_same(ours, theirs, normalized(image), normalized(image.flip(1)))


def test_resnet_of_the_hrnet_repository_in_rgb(tmp_path: Path) -> None:
    theirs = randomize(SimpleBaseline(Basic, (2, 2, 2, 2), 5))
    assert_same(pose(backbone("resnet18"), "deconv", save(tmp_path, theirs)), theirs, normalized(image_of(64, 32)))


@pytest.mark.parametrize(("codec", "channels"), [("gaussian", 5), ("udp_offset", 15)])
def test_hrnet_and_udp_pose(tmp_path: Path, codec: str, channels: int) -> None:
    theirs = randomize(PoseHRNet(channels, *SMALL))
    config = PoseModelConfig(backbone("hrnet_w18_small"), str(save(tmp_path, theirs)), head="linear", codec=codec)
    assert_same(build_pose_model(config, 5).eval(), theirs, normalized(image_of(64, 96)))


@pytest.mark.parametrize("layout", ["parallel", "sequential"])
def test_pose_hrnet_with_the_authors_block(tmp_path: Path, layout: str) -> None:
    theirs = randomize(PoseHRNet(5, *SMALL, deattn=layout))
    config = backbone("hrnet_w18_small", f"psa_{layout[0]}_released")
    assert_same(pose(config, "linear", save(tmp_path, theirs)), theirs, normalized(image_of(64, 96)))


@pytest.mark.parametrize("head", ["keypoint_head", "head"])
@pytest.mark.parametrize("network", ["hrnet", "resnet"])
def test_mmpose(tmp_path: Path, head: str, network: str) -> None:
    if network == "hrnet":
        theirs = randomize(TopDown(HRNet(*SMALL, kept=1), head, 16, 5, deconv=False))
        ours = pose(backbone("hrnet_w18_small"), "linear", save(tmp_path, theirs, key="state_dict"))
    else:
        theirs = randomize(TopDown(ResNet(Basic, (2, 2, 2, 2)), head, 512, 5, deconv=True))
        ours = pose(backbone("resnet18"), "deconv", save(tmp_path, theirs, key="state_dict"))
    assert_same(ours, theirs, normalized(image_of(64, 96)))


def test_hrnet_of_image_classification(tmp_path: Path) -> None:
    theirs = randomize(ImageHRNet(*SMALL))
    file = save(tmp_path, theirs)
    ours = timm.create_model("hrnet_w18_small").eval()
    assert not load_weights(ours, file, strict=True).unexpected
    assert_same(ours, theirs, normalized(image_of(64, 96)))
    maps = build_backbone(backbone("hrnet_w18_small", weights=str(file))).eval()(normalized(image_of(64, 96)))[1:]
    for one, expected in zip(maps, theirs.maps(normalized(image_of(64, 96))), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)


def test_deeplab_resnet_at_a_size_that_is_no_multiple(tmp_path: Path) -> None:
    theirs = randomize(DeepLab(ResNet(Bottleneck, (3, 4, 6, 3), last_dilated=True), 2048, 256, 7))
    file = save(tmp_path, theirs, key="model_state")
    ours = seg(backbone("resnet50", output_stride=16), file, pad=False)
    assert_same(ours, theirs, normalized(image_of(65, 81)))


@pytest.mark.parametrize("size", [(96, 80), (97, 113)])
def test_deeplab_mobilenetv2_with_its_own_borders(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs = randomize(DeepLab(PaddedMobileNetV2(), 320, 24, 7))
    file = save(tmp_path, theirs, key="model_state")
    ours = seg(backbone("mobilenetv2_100", output_stride=16, variant="padded"), file, pad=False)
    assert_same(ours, theirs, normalized(image_of(*size)))


@pytest.mark.parametrize("deattn", ["", "parallel", "sequential"])
def test_hierarchical_ocr(tmp_path: Path, deattn: str) -> None:
    """NVIDIA's network and, with the block in it, the authors'."""
    theirs = randomize(ScaleOCR(HRNet(*SMALL, kept=4, bilinear=True, deattn=deattn), 7, 32, 16))
    file = save(tmp_path, theirs, "module.", "state_dict")
    attention = f"psa_{deattn[0]}_released" if deattn else "none"
    config = {"head": "hierarchical_ocr", "ocr_channels": (32, 16), "scales": [0.5, 1.0, 2.0]}
    ours = seg(backbone("hrnet_w18_small", attention), file, **config)
    assert_same(ours, theirs, normalized(image_of(64, 128)))


def test_ocr_without_scale_attention_starts_one_with(tmp_path: Path) -> None:
    """NVIDIA's network of Mapillary has one scale; those of Cityscapes started from it."""
    theirs = randomize(ScaleOCR(HRNet(*SMALL, kept=4, bilinear=True), 7, 32, 16))
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("scale_attn.")}
    torch.save({"state_dict": state}, tmp_path / "one_scale.pth")
    config = backbone("hrnet_w18_small")
    ours = seg(config, tmp_path / "one_scale.pth", head="ocr", ocr_channels=(32, 16))
    x = normalized(image_of(64, 96))
    torch.testing.assert_close(ours(x), theirs.one_scale(x)[0], atol=1e-4, rtol=1e-4)
    with pytest.warns(UserWarning, match=r"11 missing, .*; missing: scale_attn\.conv0\.weight"):
        more = seg(config, tmp_path / "one_scale.pth", head="hierarchical_ocr", ocr_channels=(32, 16), strict=False)
    assert torch.equal(more.ocr.cls_head.weight, theirs.ocr.cls_head.weight)


def test_torchvision_resnets_inside_a_whole_network(tmp_path: Path) -> None:
    theirs = randomize(torchvision.models.resnet50())
    ours = build_backbone(backbone("resnet50", weights=str(save(tmp_path, theirs)))).eval()
    x = normalized(image_of(64, 96))
    expected = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
    expected = theirs.layer4(theirs.layer3(theirs.layer2(expected)))
    torch.testing.assert_close(ours(x)[-1] / expected.max(), expected / expected.max(), atol=1e-5, rtol=0)


def test_a_published_pose_network_starts_the_backbone_of_another(tmp_path: Path) -> None:
    theirs = TopDown(HRNet(*SMALL, kept=1), "keypoint_head", 16, 5, deconv=False)
    ours = build_backbone(backbone("hrnet_w18_small"), upto=4)
    report = load_weights(ours, save(tmp_path, theirs), strict=True)
    assert report.unexpected == ("head.final_layer.weight", "head.final_layer.bias")
    assert torch.equal(ours.net.conv1.weight, theirs.backbone.conv1.weight)


FULL_SIZE = [
    ("hrnet_pose", lambda: PoseHRNet(17, *W32), "hrnet_w32", {"head": "linear"}),
    ("hrnet_pose", lambda: PoseHRNet(51, *W48), "hrnet_w48", {"head": "linear", "codec": "udp_offset"}),
    ("simplebaseline", lambda: SimpleBaseline(Bottleneck, (3, 8, 36, 3), 17), "resnet152", {"head": "deconv"}),
]


@pytest.mark.parametrize(("publisher", "build", "name", "options"), FULL_SIZE)
def test_names_and_shapes_of_the_paper_s_pose_networks(publisher, build, name: str, options: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        theirs = build().state_dict()
        ours = build_pose_model(PoseModelConfig(backbone(name), **options), 17).state_dict()
    assert identify(theirs) == publisher
    assert {to_ours(key, PUBLISHERS[publisher].rules): t.shape for key, t in theirs.items()} == {
        key: t.shape for key, t in ours.items()
    }


@pytest.mark.parametrize("layout", ["", "parallel", "sequential"])
def test_names_and_shapes_of_the_paper_s_segmentation_network(layout: str) -> None:
    attention = f"psa_{layout[0]}_released" if layout else "none"
    with torch.device("meta"):
        theirs = ScaleOCR(HRNet(*W48, kept=4, deattn=layout), 19, 512, 256).state_dict()
        config = SegModelConfig(backbone("hrnet_w48", attention), head="hierarchical_ocr")
        ours = build_seg_model(config, 19).state_dict()
    key = "delightcmu" if layout else "nvidia"
    assert identify(theirs) == key
    published = as_published(ours, key)
    assert {name: t.shape for name, t in published.items()} == {name: t.shape for name, t in theirs.items()}


ROUND_TRIPS = [
    ("simplebaseline", "resnet18", "none", "deconv"),
    ("simplebaseline", "resnet18", "psa_s_released", "deconv"),
    ("mmpose", "resnet18", "none", "deconv"),
    ("mmpose_0", "hrnet_w18_small", "none", "linear"),
    ("hrnet_pose", "hrnet_w18_small", "none", "linear"),
    ("hrnet_pose", "hrnet_w18_small", "psa_p_released", "linear"),
    ("hrnet_pose", "hrnet_w18_small", "psa_s_released", "linear"),
    ("vainf", "resnet18", "none", "deeplabv3plus"),
    ("vainf", "resnet18", "psa_p_released", "deeplabv3plus"),
    ("vainf_mobilenetv2", "mobilenetv2_100", "none", "deeplabv3plus"),
    ("nvidia", "hrnet_w18_small", "none", "hierarchical_ocr"),
    ("delightcmu", "hrnet_w18_small", "psa_p_released", "hierarchical_ocr"),
    ("delightcmu", "hrnet_w18_small", "psa_s_released", "hierarchical_ocr"),
]


@pytest.mark.parametrize(("publisher", "name", "attention", "head"), ROUND_TRIPS)
def test_published_names_and_back_is_the_identity(
    tmp_path: Path, publisher: str, name: str, attention: str, head: str
) -> None:
    """Also for attention that nobody has published in that network: it keeps its name."""

    def build(weights: str | None, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        config = backbone(name, attention)
        if head in ("deconv", "linear"):
            return build_pose_model(PoseModelConfig(config, weights, head=head), 4)
        return build_seg_model(SegModelConfig(config, weights, head=head, ocr_channels=(16, 8)), 4)

    first = build(None, 1)
    published = as_published(first.state_dict(), publisher)
    assert len(published) == len(first.state_dict())
    assert identify(published) == publisher
    torch.save(published, tmp_path / "published.pth")
    for key, tensor in build(str(tmp_path / "published.pth"), 2).state_dict().items():
        assert torch.equal(tensor, first.state_dict()[key]), key


def publisher_of(run: PoseRun | SegRun) -> str:
    """Who publishes the network of a page of the paper."""
    name = run.model.backbone.name
    if isinstance(run, PoseRun):
        return "hrnet_pose" if name.startswith("hrnet") else "simplebaseline"
    if run.model.head == "hierarchical_ocr":
        return "nvidia" if run.model.backbone.attention == "none" else "delightcmu"
    return "vainf" if name.startswith("resnet") else "vainf_mobilenetv2"


@pytest.mark.parametrize("path", PAPER, ids=[path.stem for path in PAPER])
def test_every_page_of_the_paper_under_published_names_and_back(path: Path) -> None:
    run = load_page(path)
    key, network = publisher_of(run), build_page(run)
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    published = as_published(network.state_dict(), key)
    assert identify(published) == key
    back = {to_ours(name, PUBLISHERS[key].rules): tensor.squeeze().shape for name, tensor in published.items()}
    assert back == {name: shape_of(shape) for name, shape in own.items()}
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) in ((1e-5, 0.1), (1e-5, getattr(run.model, "norm_momentum", 0.1)))


def shape_of(shape: torch.Size) -> torch.Size:
    return torch.Size(side for side in shape if side != 1)


def test_own_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    """Sequential and parallel blocks of the paper form have weights of the same names and shapes."""

    def build(layout: str, weights: str | None = None) -> nn.Module:
        return build_pose_model(PoseModelConfig(backbone("resnet18", f"psa_{layout}"), weights), 3)

    file = tmp_path / "own.safetensors"
    save_file(build("p").state_dict(), file, {"form": "paper", "layout": "parallel"})
    build("p", str(file))
    with pytest.raises(InputError, match=r"paper form, parallel; this network has the paper form, sequential: set"):
        build("s", str(file))


def test_the_pages_of_the_paper_are_found() -> None:
    assert {path.parent.name for path in PAPER} == {"coco", "voc", "cityscapes"}


def test_the_docs_name_every_publisher() -> None:
    table = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text()
    for publisher in PUBLISHERS.values():
        for repository in re.findall(r"\w[\w-]+/[\w.-]+\w", publisher.source):
            assert f"| {repository} |" in table, repository


def test_rules_are_read_both_ways() -> None:
    for publisher in PUBLISHERS.values():
        for theirs, ours in publisher.rules:
            name = theirs.format(x="some.weight", n=2)
            assert to_ours(name, publisher.rules) == ours.format(x="some.weight", n=2)
            assert to_theirs(to_ours(name, publisher.rules), publisher.rules) == name


def test_every_publisher_is_told_apart() -> None:
    assert identify(["something.weight"]) is None
    assert identify(["conv1.weight", "layer4.0.conv1.weight", "fc.weight"]) == "resnet_imagenet"
    assert identify(torchvision.models.mobilenet_v2().state_dict()) == "torchvision_mobilenetv2"
    assert identify(torchvision.models.vgg11(init_weights=False).features.state_dict()) is None
    with torch.device("meta"):
        for name, key in (
            ("hrnet_w18_small", "hrnet_imagenet"),
            ("resnet18", "resnet_imagenet"),
            ("mobilenetv2_100", "timm_mobilenet"),
            ("convnext_atto", "timm_convnext"),
        ):
            assert identify(timm.create_model(name).state_dict()) == key
        network = build_pose_model(PoseModelConfig(backbone("resnet18")), 3)
    assert identify(network.state_dict()) == "polarpix"


REFUSED = [
    ("psa_p", r"has no backbone\.net\.stage2\.0\.branches\.0\.0\.act1\.attention\.channel\.q\.bias and \d+ more"),
    ("psa_s_released", r"has no .*channel\.z1\.weight"),
    ("none", r"holds .*attention\.channel\.\w\.weight and \d+ more, which this network has not"),
]


@pytest.mark.parametrize(("attention", "message"), REFUSED)
def test_a_block_of_another_form_or_none_is_refused(tmp_path: Path, attention: str, message: str) -> None:
    file = save(tmp_path, PoseHRNet(5, *SMALL, deattn="parallel"))
    with pytest.raises(InputError, match=message) as error:
        pose(backbone("hrnet_w18_small", attention), "linear", file)
    assert "\n" not in str(error.value)


def test_attention_that_the_file_knows_nothing_of_starts_anew(tmp_path: Path) -> None:
    file = save(tmp_path, PoseHRNet(5, *SMALL))
    with pytest.warns(UserWarning, match=r"0 of another shape; missing: backbone\.net\.stage2\S+attention\."):
        pose(backbone("hrnet_w18_small", "psa_p"), "linear", file)
    load_weights(build_backbone(backbone("hrnet_w18_small", "psa_p"), upto=4), file, strict=True)


def test_other_keypoints_are_refused_or_reported(tmp_path: Path) -> None:
    file = save(tmp_path, PoseHRNet(17, *SMALL))
    with pytest.raises(InputError, match=r"head\.final_layer\.weight: file \[17, 16, 1, 1\], network \[5, 16, 1, 1\]"):
        pose(backbone("hrnet_w18_small"), "linear", file)
    config = PoseModelConfig(backbone("hrnet_w18_small"), str(file), strict=False, head="linear", codec="gaussian")
    with pytest.warns(UserWarning, match=r"0 missing, 0 unexpected, 2 of another shape; of another shape: head\.final"):
        ours = build_pose_model(config, 5)
    assert torch.equal(ours.backbone.net.conv1.weight, torch.load(file)["conv1.weight"])


def test_what_is_no_whole_network(tmp_path: Path) -> None:
    network = build_pose_model(PoseModelConfig(backbone("resnet18")), 3)
    before = network.head.final_layer.weight.clone()
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "image.pth")
    with pytest.raises(InputError, match=r"a ResNet classifier \(torchvision or timm\): name it as model.backbone.wei"):
        load_network(network, tmp_path / "image.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"nobody's network that is known here \(first name a\): known are polarpix, "):
        load_network(network, tmp_path / "other.pth")
    torch.save({**network.state_dict(), "more.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"holds more\.weight, which this network has not"):
        load_network(network, tmp_path / "more.pth")
    assert torch.equal(network.head.final_layer.weight, before)
