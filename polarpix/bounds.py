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


COUNT, POSITIVE, FROM_0 = Range(1), Range(0, open_low=True), Range(0)
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
        "model.head_channels": COUNT,
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
    },
    "seg": ANY_RUN
    | {
        "model.aspp_channels": COUNT,
        "model.low_channels": COUNT,
        "model.rates": COUNT,
        "model.dropout": BELOW_1,
        "data.crop_size": COUNT,
        "data.scale": POSITIVE,
        "data.flip": SHARE,
        "data.color": BELOW_1,
        "data.uniform": SHARE,
        "eval.window": COUNT,
        "eval.overlap": BELOW_1,
        "eval.scales": POSITIVE,
    },
}
"""Task -> dotted key -> its range, which holds for every number of a list."""

FILLED = ("eval.scales",)  # lists that need an entry


def check_values(values: dict[str, Any], task: str, source: str) -> None:
    """Refuse a page with a number out of its range, or with a name that is no folder.

    Args:
        values: dotted key -> value, of the whole page.
        task: a key of :data:`BOUNDS`.
        source: named in errors.

    Raises:
        InputError: names the key, its value and the range.
    """
    name = values["name"]
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"{source}: name is {name!r}: it becomes a folder, give a plain word")
    for key, span in BOUNDS[task].items():
        value = values[key]
        numbers = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if key in FILLED and not numbers:
            raise InputError(f"{source}: {key} is {value}: give at least one number")
        if any(number not in span for number in numbers):
            many = "every number " if isinstance(value, list | tuple) else ""
            raise InputError(f"{source}: {key} is {value}: {many}must be {span}")
