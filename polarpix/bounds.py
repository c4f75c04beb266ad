"""Which numbers the keys of a page may hold. What lies outside is refused before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polarpix.errors import InputError

__all__ = ["BOUNDS", "Range", "check_values"]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; an open end is itself left out."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)  # nan is in no range

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return f"from {self.low:g} to {'below ' if self.open_high else ''}{self.high:.10g}"


COUNT, CHANNELS, POSITIVE, FROM_0 = Range(1), Range(1, 2**14), Range(0, open_low=True), Range(0)
SHARE, BELOW_1 = Range(0, 1), Range(0, 1, open_high=True)

ANY_RUN: dict[str, Range] = {
    "seed": Range(0, 2**32 - 1),
    "optim.lr": POSITIVE,
    "optim.backbone_lr": FROM_0,
    "optim.attention_lr": FROM_0,
    "optim.weight_decay": FROM_0,
    "optim.milestones": FROM_0,
    "optim.power": FROM_0,
    "optim.warmup": FROM_0,
    "engine.epochs": FROM_0,
    "engine.batch_size": COUNT,
    "engine.accumulate": COUNT,
    "engine.clip": FROM_0,
    "engine.ema": BELOW_1,
    "engine.nodes": COUNT,
    "engine.workers": FROM_0,
    "engine.eval_every": COUNT,
    "engine.pictures": FROM_0,
}
BOUNDS: dict[str, dict[str, Range]] = {
    "pose": ANY_RUN
    | {
        "model.head_channels": CHANNELS,
        "model.input_size": COUNT,
        "model.sigma": POSITIVE,
        "data.box_padding": POSITIVE,
        "data.scale": BELOW_1,
        "data.rotation": FROM_0,
        "data.rotation_prob": SHARE,
        "data.flip": SHARE,
        "data.half_body": SHARE,
        "data.half_body_min": FROM_0,
        "data.color": SHARE,
        "eval.pck": POSITIVE,
        "eval.detector_ap": Range(0, 100),
    },
    "seg": ANY_RUN
    | {
        "aux_weight": FROM_0,
        "scale_weight": FROM_0,
        "model.aspp_channels": CHANNELS,
        "model.low_channels": CHANNELS,
        "model.rates": COUNT,
        "model.dropout": BELOW_1,
        "model.ocr_channels": CHANNELS,
        "model.scales": POSITIVE,
        "model.norm_momentum": SHARE,
        "data.crop_size": COUNT,
        "data.scale": POSITIVE,
        "data.flip": SHARE,
        "data.color": BELOW_1,
        "data.uniform": SHARE,
        "eval.window": COUNT,
        "eval.overlap": BELOW_1,
        "eval.scales": POSITIVE,
        "eval.centre_crop": COUNT,
    },
}
"""Task -> dotted key -> its range, which holds for every number of a list."""

FILLED = ("eval.scales", "model.scales")  # lists that need an entry


def check_values(values: dict[str, Any], task: str, source: str) -> None:
    """Refuse a page with a number out of its range, a name that is no folder, or keys that contradict each other.

    Args:
        values: dotted key -> value, of the whole page.
        task: a key of :data:`BOUNDS`.
        source: named in errors.

    Raises:
        InputError: names the key, its value and the range.
    """
    name = values["name"]
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"{source}: name is {name!r:.100}: it becomes a folder, give a plain word")
    for key, span in BOUNDS[task].items():
        value = values[key]
        numbers = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if key in FILLED and not numbers:
            raise InputError(f"{source}: {key} is {value}: give at least one number")
        if any(number not in span for number in numbers):
            many = "every number " if isinstance(value, list | tuple) else ""
            raise InputError(f"{source}: {key} is {value!s:.100}: {many}must be {span}")
    for words, contradiction in CONTRADICTIONS[task](values).items():
        if contradiction:
            raise InputError(f"{source}: {words}")


def pose_contradictions(values: dict[str, Any]) -> dict[str, bool]:
    """Settings of a pose page that contradict each other, so that it would be open which of them the figures are for.

    Returns:
        What to say, naming both keys and the mend -> whether it is so.
    """
    codec, annotated = values["model.codec"], values["eval.boxes"] == "gt"
    return {
        f"loss is {values['loss']!r} with model.codec {codec!r}: 'offset' and 'udp_offset' belong together": (
            (values["loss"] == "offset") != (codec == "udp_offset")
        ),
        f"eval.shift_flipped with model.codec {codec!r}, whose crops mirror exactly: set it to false": (
            values["eval.shift_flipped"] and codec.startswith("udp")
        ),
        "eval.shift_flipped without eval.flip_test: turn both on, or both off": (
            values["eval.shift_flipped"] and not values["eval.flip_test"]
        ),
        "eval.detector_ap with eval.boxes gt, which no detector found: set it to null, or name the detections": (
            values["eval.detector_ap"] is not None and annotated
        ),
        f"data.whole_image with eval.boxes {values['eval.boxes']}: choose one, gt boxes are then the whole images": (
            values["data.whole_image"] and not annotated
        ),
    }


def seg_contradictions(values: dict[str, Any]) -> dict[str, bool]:
    """The same of a segmentation page; else the first validation would find them, or nobody."""
    fused = values["model.head"] == "hierarchical_ocr"
    coarse = values["data.coarse_classes"] is not None
    return {
        f"{key} is {values[key]} with model.head hierarchical_ocr, which fuses towards 1: list 1 as well": (
            fused and 1 not in values[key]
        )
        for key in ("model.scales", "eval.scales")
    } | {
        "data.coarse_classes without data.coarse: name the split of the coarse labels": (
            coarse and values["data.coarse"] is None
        ),
        "data.coarse_classes with data.uniform 0, which draws nothing by class: raise it, or leave the classes out": (
            coarse and not values["data.uniform"]
        ),
    }


CONTRADICTIONS = {"pose": pose_contradictions, "seg": seg_contradictions}
