"""Sigmas come out as they went in, in COCO's convention; instances are matched by id and box."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarpix.doctor.sigmas import estimate, estimate_files, sigma_schema
from polarpix.errors import InputError
from polarpix.pose.oks import oks
from polarpix.pose.schema import load_schema, save_schema

NAMES = ["snout", "left_ear", "right_ear"]
SIGMAS = np.array([0.03, 0.05, 0.09])


def annotators(count: int, instances: int, seed: int = 0) -> tuple[list[Any], list[float]]:
    """[n, K, 3] of each instance: each annotation lies around the truth with E[d^2] = sigma^2 * area."""
    rng = np.random.default_rng(seed)
    points, areas = [], []
    for _ in range(instances):
        area = float(rng.uniform(500, 20000))
        truth = rng.uniform(0, 300, (3, 2))
        spread = SIGMAS[None, :, None] * np.sqrt(area) / np.sqrt(2)  # of each of two axes
        noisy = truth + rng.normal(0, 1, (count, 3, 2)) * spread
        points.append(np.concatenate([noisy, np.full((count, 3, 1), 2.0)], axis=2))
        areas.append(area)
    return points, areas


@pytest.mark.parametrize("count", [2, 3, 5])
def test_sigmas_are_recovered(count: int) -> None:
    found = estimate(*annotators(count, 800), NAMES)
    assert [one.name for one in found] == NAMES
    for one, true in zip(found, SIGMAS, strict=True):
        assert abs(one.value / true - 1) < 0.08
        assert one.low < one.value < one.high
        assert (one.instances, one.pairs) == (800, 800 * count * (count - 1) // 2)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(60):
        points, areas = annotators(2, 60, seed)
        hits += sum(
            one.low <= true <= one.high for one, true in zip(estimate(points, areas, NAMES), SIGMAS, strict=True)
        )
    assert 0.86 <= hits / 180 <= 0.99


def test_oks_at_one_sigma_is_as_coco_says() -> None:
    """exp(-1/8): the convention that k is twice sigma, in which the evaluation uses the file."""
    points = np.zeros((1, 2))
    moved = points + np.array([0.05 * 100, 0])  # one sigma at an area of 100 * 100
    assert float(oks(moved, points, np.array([2]), 100.0 * 100.0, (0.05,))) == pytest.approx(np.exp(-1 / 8))


def table(points: Any, areas: list[float], annotator: int, ids: list[int]) -> dict[str, Any]:
    notes = []
    for i, (one, area) in enumerate(zip(points, areas, strict=True)):
        side = float(np.sqrt(area))
        low = one[:, :, :2].mean(axis=(0, 1))
        note = {"id": ids[i], "image_id": 10 + i // 2, "category_id": 1, "iscrowd": 0, "area": area}
        box = [float(low[0] + 1000 * (i % 2)), float(low[1]), side, side]
        notes.append(note | {"bbox": box, "keypoints": one[annotator].ravel().tolist()})
    images = [
        {"id": 10 + i, "file_name": f"{i}.jpg", "width": 2000, "height": 500} for i in range((len(points) + 1) // 2)
    ]
    return {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "mouse", "keypoints": NAMES}]}


def test_files_are_matched_by_id_or_box_and_give_a_schema_that_trains(tmp_path: Path) -> None:
    points, areas = annotators(3, 40)
    orders = [list(range(1, 41)), list(range(1, 41)), list(range(140, 100, -1))]
    files = []
    for annotator, ids in enumerate(orders):
        files.append(tmp_path / f"{annotator}.json")
        files[-1].write_text(json.dumps(table(points, areas, annotator, ids)))
    found, schema, instances = estimate_files(files)
    assert instances == 40
    assert [one.value for one in found] == pytest.approx([one.value for one in estimate(points, areas, NAMES)])
    save_schema(sigma_schema(schema, found, instances), tmp_path / "sigmas.yaml")
    kept = load_schema(tmp_path / "sigmas.yaml")
    assert kept.sigmas == pytest.approx([one.value for one in found], rel=1e-3)
    assert kept.sigmas_from == "estimated from 40 instances annotated repeatedly"
    assert kept.flip_pairs == ((1, 2),)


def test_unlabelled_points_and_strangers_are_left_out(tmp_path: Path) -> None:
    points, areas = annotators(2, 12)
    points[3][1, 0, 2] = 0
    first, second = (table(points, areas, i, list(range(1, 13))) for i in (0, 1))
    second["annotations"][5]["bbox"][0] += 5000
    for i, one in enumerate((first, second)):
        (tmp_path / f"{i}.json").write_text(json.dumps(one))
    found, _, instances = estimate_files([tmp_path / "0.json", tmp_path / "1.json"])
    assert instances == 11
    assert [one.instances for one in found] == [10, 11, 11]


def test_what_cannot_be_estimated_is_refused(tmp_path: Path) -> None:
    points, areas = annotators(2, 4)
    page = table(points, areas, 0, [1, 2, 3, 4])
    (tmp_path / "a.json").write_text(json.dumps(page))
    with pytest.raises(InputError, match="at least two"):
        estimate_files([tmp_path / "a.json"])
    found, schema, instances = estimate_files([tmp_path / "a.json", tmp_path / "a.json"])
    with pytest.raises(InputError, match="never differ"):
        sigma_schema(schema, found, instances)
    for image in page["images"]:
        image["file_name"] = "other_" + image["file_name"]
    (tmp_path / "b.json").write_text(json.dumps(page))
    with pytest.raises(InputError, match="no instance is in both"):
        estimate_files([tmp_path / "a.json", tmp_path / "b.json"])
    page["categories"][0]["keypoints"] = ["x", "y", "z"]
    (tmp_path / "c.json").write_text(json.dumps(page))
    with pytest.raises(InputError, match="schema"):
        estimate_files([tmp_path / "a.json", tmp_path / "c.json"])
    with pytest.raises(InputError, match="labelled twice in 1"):
        estimate(points[:1], areas[:1], NAMES)
