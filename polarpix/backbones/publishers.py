"""How published checkpoints name their weights, as literal tables that are read in both directions.

A rule is a pair of templates, their name and ours: ``{x}`` stands for any part of a name, ``{n}`` for a number. The
first rule whose template fits a name renames it. Ours are the names of a whole network: ``backbone.net.`` and timm's
name, ``head.`` or ``ocr.`` and that of the head. Only names here; the files are read next door.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from polarpix.psa.block import RELEASED_NAMES

__all__ = [
    "PUBLISHERS",
    "TORCHVISION_MOBILENETV2",
    "Publisher",
    "as_published",
    "identify",
    "to_ours",
    "to_theirs",
]

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Publisher:
    """One family of checkpoints.

    Args:
        source: the repository, or repositories, whose checkpoints have these names.
        network: what they are.
        task: pose, seg or imagenet (the backbone of a classifier).
        marks: templates of names that such a checkpoint holds, all of them.
        rules: (their name, our name) templates.
        output: their name of the weight with one row per output.
        variant: the ``model.backbone.variant`` that computes as they do.
        note: what a user of such a checkpoint has to know.
    """

    source: str
    network: str
    task: str
    marks: tuple[str, ...]
    rules: Rules
    output: str
    variant: str = "own"
    note: str = ""


# Blocks in each of MobileNetV2's seven stages (Sandler et al. 2018, table 2, column n), whatever its width.
_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
_PLACES = [(stage, index) for stage, depth in enumerate(_DEPTHS) for index in range(depth)]

# features.0 is the stem, features.1 the one block without expansion, features.18 what follows the last block.
_MOBILENETV2_FEATURES: Rules = (
    ("features.0.0.{x}", "conv_stem.{x}"),
    ("features.0.1.{x}", "bn1.{x}"),
    *(
        (f"features.{place}.conv.{theirs}.{{x}}", f"blocks.{stage}.{index}.{ours}.{{x}}")
        for place, (stage, index) in enumerate(_PLACES, start=1)
        for theirs, ours in (_FIRST if place == 1 else _BLOCK).items()
    ),
)
TORCHVISION_MOBILENETV2: Rules = (
    *_MOBILENETV2_FEATURES,
    ("features.18.0.{x}", "conv_head.{x}"),
    ("features.18.1.{x}", "bn2.{x}"),
    ("classifier.1.{x}", "classifier.{x}"),
)


def _divided(name: str) -> str:
    """features.5.conv of the whole list -> high_level_features.5.conv of the two parts that it is cut into there."""
    place = int(name.split(".")[1])
    return f"backbone.{'low' if place < 4 else 'high'}_level_features{name.removeprefix('features')}"


def _inside(backbone: str) -> Rules:
    """The attention of the authors' HRNet, ``deattn`` after the first activation of each basic block."""
    released = {ours: theirs for table in RELEASED_NAMES.values() for ours, theirs in table.items()}
    return tuple(
        (f"{backbone}{{x}}.deattn.{theirs}", f"backbone.net.{{x}}.act1.attention.{ours}")
        for ours, theirs in released.items()
    )


_DEEPLAB_HEAD: Rules = (
    ("classifier.project.{x}", "head.low.{x}"),
    ("classifier.aspp.convs.4.1.{x}", "head.aspp.branches.4.project.0.{x}"),  # 0 is the pooling there
    ("classifier.aspp.convs.4.2.{x}", "head.aspp.branches.4.project.1.{x}"),
    ("classifier.aspp.convs.{n}.{x}", "head.aspp.branches.{n}.{x}"),
    ("classifier.aspp.project.{x}", "head.aspp.project.{x}"),
    ("classifier.classifier.3.{x}", "head.classify.{x}"),
    ("classifier.classifier.{x}", "head.refine.{x}"),
)
_POSE: Rules = (
    ("deconv_layers.{x}", "head.deconv_layers.{x}"),
    ("final_layer.{x}", "head.final_layer.{x}"),
    *_inside(""),
    ("{x}", "backbone.net.{x}"),
)
_OCR: Rules = (
    ("ocr.{x}", "ocr.{x}"),
    ("scale_attn.{x}", "scale_attn.{x}"),
    *_inside("backbone."),
    ("backbone.{x}", "backbone.net.{x}"),
)
_SAME: Rules = (("{x}", "backbone.net.{x}"),)

# The first one whose marks are all there.
PUBLISHERS: dict[str, Publisher] = {
    "polarpix": Publisher(
        "polarpix", "an own network", "", ("backbone.net.{x}",), (("{x}", "{x}"),), "head.final_layer.weight"
    ),
    "delightcmu": Publisher(
        "DeLightCMU/PSA",
        "HRNetV2 with OCR, scale attention and PSA",
        "seg",
        ("backbone.{x}.deattn.conv_q_right.weight", "ocr.cls_head.weight"),
        _OCR,
        "ocr.cls_head.weight",
    ),
    "nvidia": Publisher(
        "NVIDIA/semantic-segmentation",
        "HRNetV2 with OCR and scale attention",
        "seg",
        ("backbone.stage4.{x}", "ocr.cls_head.weight"),
        _OCR,
        "ocr.cls_head.weight",
    ),
    "vainf_mobilenetv2": Publisher(
        "VainF/DeepLabV3Plus-Pytorch",
        "DeepLabV3+",
        "seg",
        ("backbone.low_level_features.{x}", "classifier.aspp.convs.{x}"),
        (*_DEEPLAB_HEAD, *((_divided(theirs), f"backbone.net.{ours}") for theirs, ours in _MOBILENETV2_FEATURES)),
        "classifier.classifier.3.weight",
        variant="padded",
        note="computes images as they are: set model.pad to false",
    ),
    "vainf": Publisher(
        "VainF/DeepLabV3Plus-Pytorch",
        "DeepLabV3+",
        "seg",
        ("backbone.layer4.{x}", "classifier.aspp.convs.{x}"),
        (*_DEEPLAB_HEAD, ("backbone.{x}", "backbone.net.{x}")),
        "classifier.classifier.3.weight",
        note="computes images as they are: set model.pad to false",
    ),
    "mmpose_0": Publisher(
        "open-mmlab/mmpose 0.x",
        "top-down pose network",
        "pose",
        ("backbone.{x}", "keypoint_head.final_layer.weight"),
        (("keypoint_head.{x}", "head.{x}"), ("backbone.{x}", "backbone.net.{x}")),
        "keypoint_head.final_layer.weight",
    ),
    "mmpose": Publisher(
        "open-mmlab/mmpose 1.x",
        "top-down pose network",
        "pose",
        ("backbone.{x}", "head.final_layer.weight"),
        (("head.{x}", "head.{x}"), ("backbone.{x}", "backbone.net.{x}")),
        "head.final_layer.weight",
    ),
    "simplebaseline": Publisher(
        "microsoft/human-pose-estimation.pytorch, or the ResNets of leoxiaobin/deep-high-resolution-net.pytorch",
        "SimpleBaseline pose network",
        "pose",
        ("layer4.{x}", "deconv_layers.{x}", "final_layer.weight"),
        _POSE,
        "final_layer.weight",
        variant="bgr",
        note="the published ones were trained on OpenCV's blue-green-red; those of caffe style need bgr_caffe",
    ),
    "hrnet_pose": Publisher(
        "leoxiaobin/deep-high-resolution-net.pytorch or HuangJunJie2017/UDP-Pose",
        "HRNet pose network",
        "pose",
        ("stage4.{x}", "final_layer.weight"),
        _POSE,
        "final_layer.weight",
        note="HRNet and UDP-Pose name their weights alike: choose model.codec by where the file comes from",
    ),
    "hrnet_imagenet": Publisher(
        "HRNet/HRNet-Image-Classification, or timm",
        "HRNet classifier",
        "imagenet",
        ("stage4.{x}", "incre_modules.{x}", "classifier.weight"),
        _SAME,
        "classifier.weight",
    ),
    "torchvision_mobilenetv2": Publisher(
        "torchvision",
        "MobileNetV2 classifier",
        "imagenet",
        ("features.1.conv.0.0.weight", "features.18.0.weight"),
        tuple((theirs, f"backbone.net.{ours}") for theirs, ours in TORCHVISION_MOBILENETV2),
        "classifier.1.weight",
    ),
    "resnet_imagenet": Publisher(
        "torchvision or timm", "ResNet classifier", "imagenet", ("layer4.{x}", "fc.weight"), _SAME, "fc.weight"
    ),
    "timm_mobilenet": Publisher(
        "timm",
        "MobileNet or EfficientNet classifier",
        "imagenet",
        ("conv_stem.weight", "blocks.{x}"),
        _SAME,
        "classifier.weight",
    ),
    "timm_convnext": Publisher(
        "timm", "ConvNeXt classifier", "imagenet", ("stem.{x}", "stages.{x}"), _SAME, "head.fc.weight"
    ),
}


def identify(names: Iterable[str]) -> str | None:
    """The key in :data:`PUBLISHERS` of a checkpoint with these names, without wrappers such as ``module.``; or None."""
    held = list(names)
    for key, publisher in PUBLISHERS.items():
        if all(any(_pattern(mark).fullmatch(name) for name in held) for mark in publisher.marks):
            return key
    return None


def to_ours(name: str, rules: Rules) -> str:
    """Our name of a published weight; unchanged where no rule fits."""
    return _renamed(name, rules)


def to_theirs(name: str, rules: Rules) -> str:
    """The published name of one of our weights, which :func:`to_ours` takes back."""
    return _renamed(name, _reversed(rules))


def as_published(state: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """A whole network's weights under the names, and in the shapes, of a publisher.

    Args:
        state: the state dict of a pose or segmentation network.
        key: a key of :data:`PUBLISHERS`.
    """
    renamed = {to_theirs(name, PUBLISHERS[key].rules): tensor for name, tensor in state.items()}
    # The authors' LayerNorm is over [C/8, 1, 1].
    norms = (".deattn.conv_up.1.weight", ".deattn.conv_up.1.bias")
    return {name: tensor.reshape(-1, 1, 1) if name.endswith(norms) else tensor for name, tensor in renamed.items()}


def _renamed(name: str, rules: Rules) -> str:
    for before, after in rules:
        match = _pattern(before).fullmatch(name)
        if match is not None:
            return after.format(**match.groupdict())
    return name


@cache
def _reversed(rules: Rules) -> Rules:
    return tuple((ours, theirs) for theirs, ours in rules)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{x\}", "(?P<x>.+)").replace(r"\{n\}", r"(?P<n>\d+)")
    return re.compile(text)
