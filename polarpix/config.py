"""The dataclasses of a run: one whole, flat page per run, no inheritance between pages.

A page is a YAML file whose ``task`` key says which of :class:`PoseRun` and :class:`SegRun` it fills. Unknown keys are
refused; the resolved page is saved beside the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polarpix.page_parts import BackboneConfig, EngineConfig, OptimConfig

__all__ = [
    "PoseDataConfig",
    "PoseEvalConfig",
    "PoseModelConfig",
    "PoseRun",
    "SegDataConfig",
    "SegEvalConfig",
    "SegModelConfig",
    "SegRun",
]


@dataclass
class PoseModelConfig:
    """The pose network.

    Args:
        backbone: the feature extractor.
        weights: fills the whole network: a checkpoint that ``polarpix models --check`` knows, or an own run; or null.
        strict: refuse such a file unless it fills everything but inserted attention; false reports what it leaves.
        head: deconv (SimpleBaseline: 4x4 deconvolutions), or linear (HRNet: one 1x1 convolution on the finest map).
        head_channels: width of each deconvolution.
        input_size: height and width of the crop in pixels.
        codec: gaussian (quarter-pixel shift), dark, udp, or udp_offset (a disk and offsets, three maps a keypoint).
        sigma: standard deviation of the target in heatmap pixels; for udp_offset the radius of its disk.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    weights: str | None = None
    strict: bool = True
    head: Literal["deconv", "linear"] = "deconv"
    head_channels: list[int] = field(default_factory=lambda: [256, 256, 256])
    input_size: tuple[int, int] = (256, 192)
    codec: Literal["gaussian", "dark", "udp", "udp_offset"] = "udp"
    sigma: float = 2.0


@dataclass
class PoseDataConfig:
    """COCO keypoint files and the augmentation of the training crops.

    Args:
        root: folder that the annotations and images are relative to.
        train_annotations: COCO keypoint JSON of the training split.
        train_images: its image folder.
        val_annotations: the same for the split that picks the best checkpoint.
        val_images: its image folder.
        test_annotations: the same for the split reported; null if there is none.
        test_images: its image folder.
        schema: keypoint schema YAML, relative to the working folder; null to take what the JSON says.
        box_padding: factor on the box before it is fitted to the aspect ratio.
        whole_image: use the whole image as the box, for sets with one instance on every picture.
        scale: largest relative change of the crop's size.
        rotation: degrees; drawn normally, clipped at twice this.
        rotation_prob: share of crops that are rotated.
        flip: share of crops that are mirrored.
        half_body: share of crops cut to the upper or lower half of the keypoints.
        half_body_min: labelled keypoints above which half_body applies.
        color: strength of brightness, contrast and saturation jitter.
    """

    root: str = "."
    train_annotations: str = "annotations/person_keypoints_train2017.json"
    train_images: str = "train2017"
    val_annotations: str = "annotations/person_keypoints_val2017.json"
    val_images: str = "val2017"
    test_annotations: str | None = None
    test_images: str | None = None
    schema: str | None = None
    box_padding: float = 1.25
    whole_image: bool = False
    scale: float = 0.3
    rotation: float = 40.0
    rotation_prob: float = 0.6
    flip: float = 0.5
    half_body: float = 0.0
    half_body_min: int = 8
    color: float = 0.0


@dataclass
class PoseEvalConfig:
    """The evaluation protocol, printed and stored with every figure.

    Args:
        boxes: "gt" for annotated boxes, or a COCO detection JSON.
        detector_ap: person AP (0 to 100) of the detector that found those boxes, where it is known, for the record.
        box_threshold: detections below this score are left out.
        flip_test: average with the mirrored prediction.
        shift_flipped: move the mirrored heatmap by one pixel (classic crops without unbiased coordinates need it).
        oks_nms: OKS above which the lower-scored of two instances is dropped; 0 for none.
        visibility: keypoints scored below this do not count towards the instance score.
        pck: thresholds of PCK as shares of the reference length; empty for none.
        pck_reference: two keypoint names whose distance is the reference; null for the larger box side.
    """

    boxes: str = "gt"
    detector_ap: float | None = None
    box_threshold: float = 0.0
    flip_test: bool = True
    shift_flipped: bool = False
    oks_nms: float = 0.9
    visibility: float = 0.2
    pck: list[float] = field(default_factory=list)
    pck_reference: list[str] | None = None


@dataclass
class PoseRun:
    """One run of the pose task: a whole page.

    Args:
        name: folder of the run below runs/pose.
        task: pose.
        seed: of everything random.
        out: folder of the runs.
        loss: mse (weighted by visibility), ohkm (the hardest keypoints only), or offset (for the codec udp_offset).
        monitor: the metric that picks the best checkpoint.
    """

    name: str
    task: Literal["pose"] = "pose"
    seed: int = 0
    out: str = "runs"
    loss: Literal["mse", "ohkm", "offset"] = "mse"
    monitor: str = "AP"
    model: PoseModelConfig = field(default_factory=PoseModelConfig)
    data: PoseDataConfig = field(default_factory=PoseDataConfig)
    eval: PoseEvalConfig = field(default_factory=PoseEvalConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass
class SegModelConfig:
    """The segmentation network.

    Args:
        backbone: the feature extractor.
        weights: fills the whole network: a checkpoint that ``polarpix models --check`` knows, or an own run; or null.
        strict: refuse such a file unless it fills everything but inserted attention; false reports what it leaves.
        head: deeplabv3plus (published: plain 3x3 convolutions), deeplabv3plus_separable (depthwise separable ones), ocr
            (all maps from stride 4 on, object contexts), or hierarchical_ocr (that at several scales, fused by gates).
        aspp_channels: width of the ASPP branches.
        low_channels: width of the low-level projection.
        rates: dilation of the ASPP branches.
        dropout: before the classifier of the ASPP, or of the OCR head.
        ocr_channels: widths of the OCR head: of its representations, and of its queries, keys and values.
        scales: scales at which hierarchical_ocr is trained; 1 is one of them.
        pad: fill images up to whole cells of the deepest map; false for DeepLabV3+ as published, which rounds up.
        norm_momentum: momentum of the backbone's batch statistics; null for the backbone's own, mostly 0.1.
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(output_stride=16))
    weights: str | None = None
    strict: bool = True
    head: Literal["deeplabv3plus", "deeplabv3plus_separable", "ocr", "hierarchical_ocr"] = "deeplabv3plus"
    aspp_channels: int = 256
    low_channels: int = 48
    rates: tuple[int, int, int] = (6, 12, 18)
    dropout: float = 0.1
    ocr_channels: tuple[int, int] = (512, 256)
    scales: list[float] = field(default_factory=lambda: [0.5, 1.0])
    pad: bool = True
    norm_momentum: float | None = None


@dataclass
class SegDataConfig:
    """A segmentation set and the augmentation of its training crops.

    Args:
        format: camvid, voc, voc_aug, cityscapes or folder.
        root: its folder, in the set's official layout.
        train: split name for training.
        val: split name that picks the best checkpoint.
        test: split name that is reported; null if there is none.
        coarse: split with coarse labels (Cityscapes: train_extra) added to the training pictures; null for none. Class-
            uniform sampling draws them by class only, an epoch keeps its length; without it they make epochs longer.
        coarse_classes: classes for which class-uniform sampling may draw them; null for all.
        classes: class names of a plain folder set; null for the known sets.
        crop_size: height and width of the training crop.
        scale: smallest and largest factor of the random resize.
        flip: share of crops that are mirrored.
        color: strength of brightness, contrast and saturation jitter.
        uniform: share of crops centred on a class drawn uniformly (class-uniform sampling).
    """

    format: Literal["camvid", "voc", "voc_aug", "cityscapes", "folder"] = "folder"
    root: str = "."
    train: str = "train"
    val: str = "val"
    test: str | None = None
    coarse: str | None = None
    coarse_classes: list[str] | None = None
    classes: list[str] | None = None
    crop_size: tuple[int, int] = (360, 480)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    color: float = 0.0
    uniform: float = 0.0


@dataclass
class SegEvalConfig:
    """The evaluation protocol, printed and stored with every figure.

    Args:
        mode: whole image, or sliding windows.
        window: height and width of a sliding window; null for the training crop.
        overlap: share of a window that the next one covers again.
        scales: factors of the image whose probabilities are averaged, or that hierarchical_ocr fuses by its attention.
        flip: average with the mirrored prediction.
        centre_crop: resize the shorter side to this and cut out the centre (published VOC figures); null for neither.
    """

    mode: Literal["whole", "sliding"] = "whole"
    window: tuple[int, int] | None = None
    overlap: float = 0.5
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False
    centre_crop: int | None = None


@dataclass
class SegRun:
    """One run of the segmentation task: a whole page.

    Args:
        name: folder of the run below runs/seg.
        task: seg.
        seed: of everything random.
        out: folder of the runs.
        loss: ce (cross-entropy), ohem (the hardest pixels only) or rmi (region mutual information).
        aux_weight: of the loss on the auxiliary output, which the OCR heads have.
        scale_weight: of the loss on the output of each scale, which hierarchical_ocr has.
        monitor: the metric that picks the best checkpoint.
    """

    name: str
    task: Literal["seg"] = "seg"
    seed: int = 0
    out: str = "runs"
    loss: Literal["ce", "ohem", "rmi"] = "ce"
    aux_weight: float = 0.4
    scale_weight: float = 0.05
    monitor: str = "mIoU"
    model: SegModelConfig = field(default_factory=SegModelConfig)
    data: SegDataConfig = field(default_factory=SegDataConfig)
    eval: SegEvalConfig = field(default_factory=SegEvalConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
