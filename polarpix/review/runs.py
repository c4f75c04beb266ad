"""Finding what `polarpix eval` left behind: records, scores of samples, the course of the training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polarpix.costs import run_costs
from polarpix.errors import InputError
from polarpix.pages import make_run
from polarpix.records import read_record
from polarpix.zoo import MODELS, named_folder

__all__ = [
    "Evaluated",
    "different",
    "find_runs",
    "flat_page",
    "measures",
    "protocol_differences",
]

NO_PROTOCOL = ("attention",)  # told beside the protocol, but it is the network
NO_PAGE = ("name", "out")


@dataclass(frozen=True)
class Evaluated:
    """One evaluation that can be set beside others."""

    label: str  # a letter and the name
    source: str  # what the user named
    folder: Path  # of record.json
    record: dict[str, Any]
    run_folder: Path  # of metrics.csv; may not be there
    samples: dict[tuple[str, int | None], dict[str, Any]] = field(default_factory=dict)
    score_name: str = ""

    @property
    def task(self) -> str:
        """pose or seg."""
        return str(self.record.get("task") or self.record["config"].get("task"))

    @property
    def metrics(self) -> dict[str, float]:
        """Name -> value, without the single keypoints and classes, and without what was not measured."""
        return {name: value for name, value in self.record["metrics"].items() if "/" not in name and value != -1}

    def costs(self) -> tuple[int | None, int | None]:
        """Parameters and multiply-adds; null where the record does not say enough to build the network."""
        each = self.record.get("each") or {}
        count = len(each.get("rows", [])) or len(self.record["protocol"].get("sigmas", [])) or None
        try:
            costs = run_costs(make_run(self.record["config"]), count)
        except (InputError, OSError):
            return None, None
        return costs["params"], costs["macs"]


def find_runs(sources: Sequence[str], split: str = "") -> list[Evaluated]:
    """The evaluations that run folders, evaluation folders, record.json files or models' names name.

    Args:
        sources: two at least.
        split: which evaluation of a run folder to take; by default test where all of them have it, else val.

    Raises:
        InputError: fewer than two, nothing evaluated there, a file that is no record, or different tasks.
    """
    if len(sources) < 2:
        raise InputError(f"compare needs two runs or more, not {len(sources)}: name run folders or record.json files")
    folders = [place for place in map(place_of, sources) if (place / "eval").is_dir()]
    if not split and folders:
        both = [one for one in ("test", "val") if all((f / "eval" / one / "record.json").is_file() for f in folders)]
        split = both[0] if both else ""
    files = [record_file(one, split) for one in sources]
    records = [read_record(file) for file in files]
    names = [str(record.get("name", file.parent.name)) for record, file in zip(records, files, strict=True)]
    found = []
    for i, (source, file, record) in enumerate(zip(sources, files, records, strict=True)):
        name = names[i] if names.count(names[i]) == 1 else distinct(sources)[i]
        score_name, samples = read_samples(file.parent / "samples.json")
        label = f"{chr(ord('A') + i) if i < 26 else i} {name}"
        found.append(Evaluated(label, source, file.parent, record, run_folder_of(file, record), samples, score_name))
    if len({one.task for one in found}) > 1:
        told = ", ".join(f"{one.source} is {one.task}" for one in found)
        raise InputError(f"runs of different tasks cannot be compared ({told}): name runs of one task")
    return found


def place_of(source: str) -> Path:
    """The file or folder that a source names; of a model's name where its evaluations are."""
    path = Path(source)
    return (named_folder(source) or path) if source in MODELS and not path.exists() else path


def record_file(source: str, split: str) -> Path:
    """The record that a source means.

    Raises:
        InputError: there is none.
    """
    path = place_of(source)
    if path.is_file():
        return path
    if not path.exists():
        if source in MODELS:
            raise InputError(f"{source}: nothing evaluated here: run polarpix eval {source} first")
        raise InputError(f"{source}: no such file or folder: name a run folder, an evaluation folder or a record.json")
    if (path / "record.json").is_file():
        return path / "record.json"
    there = sorted(file.parent.name for file in path.glob("eval/*/record.json"))
    if split in there or (not split and len(there) == 1):
        return path / "eval" / (split or there[0]) / "record.json"
    if there and split:
        raise InputError(f"{source}: no evaluation of {split} but of {', '.join(there)}: run polarpix eval on it")
    if there:
        raise InputError(f"{source}: evaluations of {', '.join(there)}, not all runs have one of them: add --split")
    raise InputError(f"{source}: nothing evaluated here: run polarpix eval {source} first")


def read_samples(file: Path) -> tuple[str, dict[tuple[str, int | None], dict[str, Any]]]:
    """The name of the score, and (file, instance) -> its row; nothing where earlier versions wrote none."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        return str(table["score"]), {(row["file"], row["instance"]): row for row in table["samples"]}
    except (OSError, ValueError, KeyError, TypeError):
        return "", {}


def run_folder_of(file: Path, record: Mapping[str, Any]) -> Path:
    """Where the training left its metrics.csv: above the evaluation, or where the weights lie."""
    above = file.resolve().parent.parent.parent
    if (above / "metrics.csv").is_file():
        return above
    return Path(str(record["conditions"].get("weights", ""))).resolve().parent.parent


def distinct(sources: Sequence[str]) -> list[str]:
    """The sources from the first part on in which they differ."""
    parts = [Path(one).parts for one in sources]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]


def different(tables: Sequence[Mapping[str, Any]], ignored: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Key -> its value in each table, for the keys that do not have the same value everywhere; null where it is not."""
    keys = dict.fromkeys(key for table in tables for key in table if key not in ignored)
    rows = {key: [table.get(key) for table in tables] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def protocol_differences(runs: Sequence[Evaluated]) -> dict[str, list[Any]]:
    """The settings of the protocols that differ; a file that was only moved, by its hash, is the same."""
    tables = [{"split": one.record.get("split"), **one.record["protocol"]} for one in runs]
    known = all("split" in one.record for one in runs)  # earlier versions did not write it
    found = different(tables, NO_PROTOCOL if known else (*NO_PROTOCOL, "split"))
    for name in ("annotations", "boxes"):
        hashes = {table.get(f"{name}_sha256") for table in tables}
        if len(hashes) == 1 and None not in hashes:
            found.pop(name, None)
    return found


def flat_page(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A page as one table: model.backbone.name -> value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if above + key in NO_PAGE:
            continue
        if isinstance(value, Mapping) and value:
            found |= flat_page(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


def measures(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Measure -> keypoint or class -> value: what the metrics name after a slash, and the table of the page."""
    found: dict[str, dict[str, float]] = {}
    for name, value in record["metrics"].items():
        measure, slash, one = name.partition("/")
        if slash:
            found.setdefault(measure, {})[one] = value
    each = record.get("each") or {}
    for j, measure in enumerate(each.get("headers", [])[1:], start=1):
        column = {str(row[0]): row[j] for row in each["rows"]}
        found.setdefault(measure, {name: math.nan if value is None else value for name, value in column.items()})
    return found
