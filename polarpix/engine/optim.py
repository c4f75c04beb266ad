"""Parameter groups, optimisers and learning-rate schedules, as functions of a config."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from polarpix.errors import InputError
from polarpix.page_parts import OptimConfig

__all__ = ["OPTIMIZERS", "SCHEDULES", "build_optimizer", "build_schedule", "parameter_groups"]


def adam(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    """Adam whose weight decay is added to the gradient (the recipe of SimpleBaseline and HRNet)."""
    return torch.optim.Adam(groups, lr=lr)


def adamw(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(groups, lr=lr)


def sgd(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    """Gradient descent with momentum 0.9 (the recipe of DeepLab and HRNet-OCR)."""
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}


def parameter_groups(
    model: nn.Module, backbone: nn.Module, attention: Iterable[nn.Module], config: OptimConfig
) -> list[dict[str, Any]]:
    """Groups by part (head, backbone, attention) and by whether weight decay applies, without frozen parameters."""
    in_attention = {id(p) for module in attention for p in module.parameters()}
    in_backbone = {id(p) for p in backbone.parameters()}
    factors = {"head": 1.0, "backbone": config.backbone_lr, "attention": config.attention_lr}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        part = "attention" if id(parameter) in in_attention else "backbone" if id(parameter) in in_backbone else "head"
        decays = config.decay_norm or parameter.ndim > 1
        groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * factors[part],
            "weight_decay": config.weight_decay if decays else 0.0,
            "name": part if decays else f"{part} without decay",
        }
        for (part, decays), parameters in groups.items()
    ]


def build_optimizer(
    model: nn.Module, backbone: nn.Module, attention: Iterable[nn.Module], config: OptimConfig
) -> Optimizer:
    """The optimiser of a config over the trainable parameters.

    Raises:
        InputError: no such optimiser.
    """
    if config.name not in OPTIMIZERS:
        raise InputError(f"optim.name is {config.name!r}: choose one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[config.name](parameter_groups(model, backbone, attention, config), config.lr)


def step(progress: float, epoch: float, config: OptimConfig) -> float:
    """x0.1 at each milestone (epochs)."""
    return float(0.1 ** sum(epoch >= milestone for milestone in config.milestones))


def poly(progress: float, epoch: float, config: OptimConfig) -> float:
    """(1 - progress) ** power (DeepLab)."""
    return float(max(0.0, 1.0 - progress) ** config.power)


def cosine(progress: float, epoch: float, config: OptimConfig) -> float:
    """Half a cosine from 1 to 0 (SGDR without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES: dict[str, Callable[[float, float, OptimConfig], float]] = {"step": step, "poly": poly, "cosine": cosine}
"""Name -> f(progress within 0 .. 1, epoch, settings): the factor on the learning rate after the warm-up."""


def lr_factor(done: int, total: int, epochs: int, config: OptimConfig) -> float:
    """Factor on the learning rate after ``done`` of ``total`` updates: linear warm-up times the schedule."""
    progress = done / max(total, 1)
    epoch = progress * epochs
    rise = min(1.0, (epoch + epochs / max(total, 1)) / config.warmup) if config.warmup > 0 else 1.0
    return rise * SCHEDULES[config.schedule](progress, epoch, config)


def build_schedule(optimizer: Optimizer, total: int, epochs: int, config: OptimConfig) -> LambdaLR:
    """The schedule of a config, stepped after every update; ``total`` is the number of updates of the run.

    Raises:
        InputError: no such schedule, or milestones that do not fit.
    """
    if config.schedule not in SCHEDULES:
        raise InputError(f"optim.schedule is {config.schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if config.schedule == "step" and not config.milestones:
        raise InputError("optim.schedule is 'step' without optim.milestones: list the epochs, for example [140, 170]")
    return LambdaLR(optimizer, lambda done: lr_factor(done, total, epochs, config))
