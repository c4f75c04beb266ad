"""OKS sigmas from repeated annotations of the same instances.

COCO defines them so (https://cocodataset.org/#keypoints-eval): on images annotated several times, sigma_i^2 = E[d_i^2
/ s^2] with d_i the distance of an annotated keypoint from where it truly is and s^2 the object's area; the constant
of OKS is then k_i = 2 sigma_i, so that exp(-d^2 / (2 s^2 k_i^2)) is exp(-1/8), exp(-1/2) and exp(-9/8) at one, two
and three sigmas. The evaluation accordingly divides by (2 sigma_i)^2. Nobody knows the truth; the squared distances
of n annotations from their mean, summed and divided by n - 1, have the same expectation. For two annotations that is
half their squared distance.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.pose.coco_json import find_category, index_pictures, read_area, read_box, read_keypoints, read_page
from polarpix.pose.schema import load_schema, schema_from_category
from polarpix.types import KeypointSchema

__all__ = ["FEWEST", "Sigma", "estimate", "estimate_files", "sigma_schema"]

Array = npt.NDArray[np.float64]

OVERLAP = 0.5  # IoU from which two boxes are of one instance
DRAWS = 2000  # of the bootstrap
FEWEST = 10  # repeated instances below which a sigma is not worth having


@dataclass(frozen=True)
class Sigma:
    """The estimate for one keypoint, with the 95% interval of a bootstrap over instances."""

    name: str
    value: float
    low: float
    high: float
    instances: int
    pairs: int  # of annotations compared


def estimate(points: Sequence[Array], areas: Sequence[float], names: Sequence[str], seed: int = 0) -> list[Sigma]:
    """Sigmas of instances that were annotated more than once.

    Args:
        points: of each instance [n, K, 3] (x, y, visibility), n annotations.
        areas: of each instance, square pixels.
        names: of the keypoints.
        seed: of the bootstrap.

    Raises:
        InputError: a keypoint that fewer than two instances have labelled twice.
    """
    rng = np.random.default_rng(seed)
    found = []
    for k, name in enumerate(names):
        values, weights, pairs = [], [], 0
        for instance, area in zip(points, areas, strict=True):
            here = instance[instance[:, k, 2] > 0, k, :2]  # [m, 2]
            m = len(here)
            if m >= 2:
                values.append(float(((here - here.mean(axis=0)) ** 2).sum() / area))
                weights.append(m - 1)
                pairs += m * (m - 1) // 2
        if len(values) < 2:
            raise InputError(f"keypoint {name!r} is labelled twice in {len(values)} instances: annotate more of them")
        sums, degrees = np.array(values), np.array(weights, np.float64)
        draws = rng.integers(0, len(sums), (DRAWS, len(sums)))
        spread = np.sqrt(sums[draws].sum(axis=1) / degrees[draws].sum(axis=1))
        low, high = np.quantile(spread, [0.025, 0.975])
        value = float(np.sqrt(sums.sum() / degrees.sum()))
        found.append(Sigma(name, value, float(low), float(high), len(sums), pairs))
    return found


def estimate_files(files: Sequence[str | Path], schema: str | Path = "") -> tuple[list[Sigma], KeypointSchema, int]:
    """Sigmas from COCO keypoint files that annotate the same instances.

    Images are matched by file name. On each, an annotation belongs to the one of the first file that has its id and
    lies where it lies, else to the free one whose box overlaps most, by at least half.

    Args:
        files: at least two.
        schema: schema file; "" takes the skeleton of the first file.

    Returns:
        The estimates, the skeleton (with its sigmas as they were), and the instances matched.

    Raises:
        InputError: fewer than two files, other keypoints, or nothing that matches.
    """
    if len(files) < 2:
        raise InputError(f"{len(files)} file of annotations: give at least two that annotate the same instances")
    known = load_schema(schema) if schema else None
    sets: list[dict[str, list[_Instance]]] = []
    for file in map(Path, files):
        table = read_page(file)
        category = find_category(table, known, file)
        if known is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there are no sigmas yet
                known = schema_from_category(category, str(file))
        elif (category.get("keypoints") or list(known.names)) != list(known.names):
            listed = ", ".join(map(str, category["keypoints"]))
            raise InputError(f"{file}: keypoints are {listed}; those of {files[0]} are {', '.join(known.names)}")
        sets.append(_by_image(table, category["id"], len(known.names), file))
    assert known is not None
    points, areas = [], []
    for name, firsts in sets[0].items():
        groups = [[one] for one in firsts]
        for other in sets[1:]:
            for i, match in _matches(firsts, other.get(name, [])):
                groups[i].append(match)
        for group in groups:
            if len(group) > 1:
                points.append(np.stack([one.points for one in group]))
                areas.append(float(np.mean([one.area for one in group])))
    if not points:
        raise InputError(f"{files[0]} and {files[1]}: no instance is in both: images are matched by file name")
    return estimate(points, areas, known.names), known, len(points)


def sigma_schema(schema: KeypointSchema, found: Sequence[Sigma], instances: int) -> KeypointSchema:
    """The skeleton with the estimates as its sigmas, in four digits.

    Raises:
        InputError: a keypoint whose annotations never differ.
    """
    same = [one.name for one in found if not one.value > 0]
    if same:
        raise InputError(f"annotations of {same[0]!r} never differ: they are copies, not repeated annotations")
    origin = f"estimated from {instances} instances annotated repeatedly"
    return replace(schema, sigmas=tuple(float(f"{one.value:.4g}") for one in found), sigmas_from=origin)


@dataclass(frozen=True, eq=False)
class _Instance:
    id: int
    points: Array  # [K, 3]
    box: Array  # [4]
    area: float


def _by_image(table: dict[str, Any], category: int, K: int, file: Path) -> dict[str, list[_Instance]]:
    """File name -> its labelled instances, crowds left out."""
    pictures = index_pictures(table, file)
    found: dict[str, list[_Instance]] = {}
    for note in table["annotations"]:
        if note["category_id"] != category or note.get("iscrowd") or note["image_id"] not in pictures:
            continue
        where = f"{file}: annotation {note['id']}"
        read_keypoints(note, K, where)  # refuses what is no keypoints
        points = np.array(note.get("keypoints") or [0] * (3 * K), np.float64).reshape(K, 3)
        if not (points[:, 2] > 0).any():
            continue
        box = read_box(note, where).astype(np.float64) if note.get("bbox") is not None else _around(points)
        area = read_area(note, where) or float(box[2] * box[3])
        if not area > 0:
            raise InputError(f"{where}: neither area nor bbox has square pixels: the scale of OKS is missing")
        found.setdefault(pictures[note["image_id"]].file, []).append(_Instance(note["id"], points, box, area))
    return found


def _around(points: Array) -> Array:
    """The box [4] around the labelled points [K, 3]."""
    there = points[points[:, 2] > 0, :2]
    return np.concatenate([there.min(axis=0), np.ptp(there, axis=0)])


def _matches(firsts: Sequence[_Instance], others: Sequence[_Instance]) -> list[tuple[int, _Instance]]:
    """Position in ``firsts`` and the annotation of the same instance among ``others``; each at most once."""
    overlaps = np.array([[_overlap(a.box, b.box) for b in others] for a in firsts]).reshape(len(firsts), len(others))
    same = np.array([[a.id == b.id for b in others] for a in firsts], bool).reshape(overlaps.shape)
    rank = np.where(overlaps >= OVERLAP, overlaps + same, 0.0)  # the same id first
    found = []
    while rank.size and rank.max() > 0:
        i, j = np.unravel_index(int(rank.argmax()), rank.shape)
        found.append((int(i), others[int(j)]))
        rank[i], rank[:, j] = 0, 0
    return found


def _overlap(a: Array, b: Array) -> float:
    """IoU of two boxes [4]."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / max(float(a[2] * a[3] + b[2] * b[3]) - shared, 1e-9)
