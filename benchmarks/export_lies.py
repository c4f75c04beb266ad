"""What exported files of any kind may say wrongly of themselves, for the attacks of benchmarks/export_attacks.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["Files", "lies"]

Files = dict[str, bytes]
"""Suffix -> content: the file, and for OpenVINO the .bin beside it."""


def lies(texts: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """What a file may say wrongly of itself."""
    run, labels = json.loads(texts["run"]), json.loads(texts["labels"])

    def page(**values: Any) -> dict[str, str]:
        return texts | {"run": json.dumps(run | values)}

    def sized(*size: Any) -> dict[str, str]:
        return (
            page(model=run["model"] | {"input_size": size})
            if run["task"] == "pose"
            else texts | {"size": json.dumps(size)}
        )

    for version in ("polarpix-export-2", "polarpix-export-99", "", "x" * 10_000):
        yield f"format {version[:20]!r}", texts | {"format": version}
    for key in ("run", "labels", "metrics", "calibration", "size"):
        yield f"{key} that is no JSON", texts | {key: "{"}
        yield f"{key} of another kind", texts | {key: '["x"]'}
        yield f"{key} nested 100,000 deep", texts | {key: "[" * 100_000}
    for key in ("task", "run", "labels", "udp", "polarpix"):
        yield f"no {key}", {k: v for k, v in texts.items() if k != key}
    yield "another task", texts | {"task": "seg" if run["task"] == "pose" else "pose"}
    yield "a task that is none", texts | {"task": "../x"}
    yield "a text of 20 million letters", texts | {"commit": "x" * 20_000_000}
    for size in ((-64, 64), (0, 0), (10**6, 10**6), (65, 64), (2**63, 2**63), ("x", 64), (1e400, 64), (64,)):
        yield f"size {size!s:.30}", sized(*size)
    names = labels["names"]
    short = {k: v[:-1] if isinstance(v, list) and len(v) == len(names) else v for k, v in labels.items()}
    short |= {k: [] for k in ("flip_pairs", "skeleton") if k in labels}
    if run["task"] == "pose":  # a label map does not tell how many classes there could be
        yield "a name too few", texts | {"labels": json.dumps(short)}
    yield "100,000 names", texts | {"labels": json.dumps(labels | {"names": [f"n{i}" for i in range(100_000)]})}
    curve = {"scores": [0.1, 0.9], "probabilities": [0.2, 0.8], "split": "val", "samples": 3}
    for words, change in {
        "a falling curve": {"probabilities": [0.8, 0.2]},
        "no numbers": {"scores": [float("nan"), 1.0]},
        "a covariance below 0": {"covariance": [-1.0, 0.0]},
        "texts": {"scores": ["a", "b"]},
    }.items():
        yield f"calibration with {words}", texts | {"calibration": json.dumps(curve | change)}
