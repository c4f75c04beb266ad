"""`polarpix data check`: look at a data set, say what is wrong, how to mend it, worst first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.doctor.duplicates import exact_pairs, near_pairs
from polarpix.doctor.findings import Findings, Shown
from polarpix.doctor.layout import MaskView, PoseView, look
from polarpix.doctor.mask_checks import check_masks
from polarpix.doctor.pose_checks import check_pose, image_files, schemas
from polarpix.doctor.scan import SPECIAL, ImageFacts, scan
from polarpix.images import write_bytes
from polarpix.seg.classes import CITYSCAPES, cityscapes_label_ids
from polarpix.types import KeypointSchema

__all__ = ["Checkup", "check", "record", "share", "told", "write_record"]

EXAMPLES = 20  # of each kind in the record


@dataclass
class Checkup:
    """What was looked at and what was found."""

    path: str
    found: Findings
    kinds: list[str] = field(default_factory=list)  # "keypoints", "masks (camvid)"
    images: dict[str, int] = field(default_factory=dict)  # of each split
    instances: dict[str, int] = field(default_factory=dict)  # labelled, of each split of keypoints
    pixels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)  # [256] of each split of masks
    class_values: dict[str, int] = field(default_factory=dict)  # class name -> value in the files
    skeletons: dict[str, KeypointSchema] = field(default_factory=dict)


def check(
    path: str | Path, format: str = "", images: str = "", workers: int | None = None, quiet: bool = False
) -> Checkup:
    """Look at everything of a data set.

    Args:
        path: a page (.yaml), a COCO keypoint file (.json) or a folder.
        format: the folder's layout, or "" to find out.
        images: folder of the images of a COCO file, or "" to look for it.
        workers: processes that read files; None for as many as there are cores.
        quiet: no progress bar.

    Raises:
        InputError: nothing is there that could be looked at.
    """
    found = Findings()
    pose, masks = look(path, format, images, found)
    places = list(dict.fromkeys(_places(pose, masks)))  # (split, file)
    labels = [label for split in (masks.splits if masks else []) for _, label in split.pairs if label]
    facts, label_facts = scan([file for _, file in places], labels, workers, quiet)
    errors = [(one.file, one.error) for one in facts.values()]
    for file, error in errors + [(one.file, one.error) for one in label_facts.values()]:
        if error == "missing":
            found.add("missing_file", file, "no such file")
        elif error:
            found.add("special_file" if error in SPECIAL.values() else "corrupt", file, error)
    result = Checkup(str(path), found)
    for split, _ in places:
        result.images[split] = result.images.get(split, 0) + 1
    _check_twice(places, facts, found)
    if pose:
        result.kinds.append("keypoints")
        result.skeletons = schemas(pose, found)
        result.instances = check_pose(pose, facts, result.skeletons, found)
    if masks:
        result.kinds.append(f"masks ({masks.format})")
        result.pixels = check_masks(masks, facts, label_facts, found)
        result.class_values = _class_values(masks, result.pixels)
    return result


def _places(pose: PoseView | None, masks: MaskView | None) -> list[tuple[str, Path]]:
    """Split and file of every image, of both tasks."""
    found = [(split.name, file) for split in (pose.splits if pose else []) for file in image_files(split).values()]
    return found + [(split.name, image) for split in (masks.splits if masks else []) for image, _ in split.pairs]


def _check_twice(places: Sequence[tuple[str, Path]], facts: dict[Path, ImageFacts], found: Findings) -> None:
    """Images that are in two splits, or twice in one."""
    entries = [facts[file] for _, file in places]
    names = {split: i for i, split in enumerate(dict.fromkeys(split for split, _ in places))}
    for pair in exact_pairs(entries):
        (one, first), (other, second) = places[pair.first], places[pair.second]
        shown = Shown(first, other=second)
        if one == other:
            found.add("twice", second, f"the same as {first.name}", shown=shown)
        else:
            found.add("leak_exact", second, f"in {other}, the same as {first} in {one}", shown=shown)
    if len(names) > 1:
        for pair in near_pairs(entries, [names[split] for split, _ in places]):
            (one, first), (other, second) = places[pair.first], places[pair.second]
            detail = f"in {other}, nearly the same as {first} in {one} ({pair.difference:.1f} grey levels apart)"
            found.add("leak_near", second, detail, -pair.difference, Shown(first, other=second))


def _class_values(masks: MaskView, pixels: dict[str, npt.NDArray[np.int64]]) -> dict[str, int]:
    """Class name -> value in the files; the values themselves where nobody named the classes."""
    everything = np.sum(list(pixels.values()), axis=0) if pixels else np.zeros(256, np.int64)
    if masks.classes is None:
        values = np.flatnonzero(everything).tolist()
        return {str(value): value for value in values if value != 255 or values == [0, 255]}
    values = [*range(len(masks.classes.names))]
    if masks.classes is CITYSCAPES and everything[19:34].any():
        values = cityscapes_label_ids(np.arange(19, dtype=np.uint8)).tolist()
    return dict(zip(masks.classes.names, values, strict=True))


def told(result: Checkup) -> str:
    """What was found, for the terminal: each kind in a line with its count and mend, then one example."""
    total = sum(result.images.values())
    lines = [f"{result.path}: {' and '.join(result.kinds)}, {len(result.images)} splits, {total:,} images"]
    for split, count in result.images.items():
        instances = result.instances.get(split)
        lines.append(f"  {split}: {count:,} images" + (f", {instances:,} instances" if instances is not None else ""))
    lines += shares(result)
    for finding in result.found:
        worst = finding.worst()[0]
        lines.append(f"{finding.kind.level:<8}{finding.count:>7,}  {finding.kind.title}: {finding.kind.mend}")
        lines.append(f"{'':17}e.g. {worst.file}: {worst.detail}")
    serious = sum(finding.kind.level != "note" for finding in result.found)
    lines.append(f"{serious} kinds of trouble" if serious else "no trouble found")
    return "\n".join(lines)


def shares(result: Checkup) -> list[str]:
    """The class histogram: percent of the pixels of each split, ignored ones left out."""
    if not result.pixels:
        return []
    width = max((len(name) for name in result.class_values), default=0)
    lines = [f"  {'class':<{width}}  " + "  ".join(f"{split:>8}" for split in result.pixels)]
    columns = {split: share(total, result.class_values) for split, total in result.pixels.items()}
    for name in result.class_values:
        lines.append(f"  {name:<{width}}  " + "  ".join(f"{columns[split][name]:>7.2f}%" for split in columns))
    return lines


def share(total: npt.NDArray[np.int64], values: dict[str, int]) -> dict[str, float]:
    """Class -> percent of the pixels [256] that are of any class."""
    counts = {name: int(total[value]) for name, value in values.items()}
    whole = max(sum(counts.values()), 1)
    return {name: 100 * counts.get(name, 0) / whole for name in values}


def record(result: Checkup) -> dict[str, Any]:
    """The same for machines."""
    return {
        "path": result.path,
        "kinds": result.kinds,
        "images": result.images,
        "instances": result.instances,
        "class_percent": {split: share(total, result.class_values) for split, total in result.pixels.items()},
        "clean": not result.found.serious(),
        "findings": [
            {
                "name": finding.name,
                "level": finding.kind.level,
                "title": finding.kind.title,
                "mend": finding.kind.mend,
                "count": finding.count,
                "examples": [{"file": case.file, "detail": case.detail} for case in finding.worst()[:EXAMPLES]],
            }
            for finding in result.found
        ],
    }


def write_record(result: Checkup, path: str | Path) -> None:
    """Write the record as JSON."""
    write_bytes(path, (json.dumps(record(result), indent=2) + "\n").encode())
