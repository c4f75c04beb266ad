"""Hold our COCO keypoint evaluation against pycocotools on real annotations, and make boxes in place of a detector's.

    python benchmarks/coco_protocol.py ANNOTATIONS.json OUT.json BOXES.json

Writes the figures of a perfect prediction and of three perturbed ones, ours beside pycocotools', to OUT.json, and to
BOXES.json a COCO detection file: the annotated boxes (crowds left out) moved and resized by a few percent, with scores,
every tenth missing and one false box per ten.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polarpix.engine.evaluate import conditions
from polarpix.pose.oks import evaluate_oks
from polarpix.pose.schema import schema_from_category

SEED = 0
NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def predictions(page: dict[str, Any], noise: float) -> list[dict[str, Any]]:
    """The annotations as results, each keypoint moved by Gaussian noise in pixels; random scores if there is noise."""
    rng = np.random.default_rng(SEED)
    results = []
    for one in page["annotations"]:
        if one["iscrowd"] or not one["num_keypoints"]:
            continue
        points = np.array(one["keypoints"], float).reshape(-1, 3)
        points[:, :2] += noise * rng.standard_normal((len(points), 2))
        score = float(rng.uniform(0.3, 1.0)) if noise else 1.0
        results.append(
            {"image_id": one["image_id"], "category_id": 1, "keypoints": points.ravel().tolist(), "score": score}
        )
    return results


def by_pycocotools(annotations: Path, results: list[dict[str, Any]]) -> dict[str, float]:
    """What pycocotools says."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, map(float, evaluation.stats), strict=True))


def stand_in_boxes(page: dict[str, Any]) -> list[dict[str, Any]]:
    """A detection list made from the annotations."""
    rng = np.random.default_rng(SEED)
    found = []
    for number, one in enumerate(a for a in page["annotations"] if not a["iscrowd"]):
        if number % 10 == 9:
            continue
        x, y, w, h = one["bbox"]
        shift, grow = 0.05 * rng.standard_normal(2), np.exp(0.05 * rng.standard_normal(2))
        box = [
            x + shift[0] * w + w * (1 - grow[0]) / 2,
            y + shift[1] * h + h * (1 - grow[1]) / 2,
            w * grow[0],
            h * grow[1],
        ]
        found.append({"image_id": one["image_id"], "category_id": 1, "bbox": box, "score": float(rng.uniform(0.5, 1))})
        if number % 10 == 0:
            size = rng.uniform(30, 120, 2)
            false = [*rng.uniform(0, 200, 2).tolist(), *size.tolist()]
            found.append(
                {"image_id": one["image_id"], "category_id": 1, "bbox": false, "score": float(rng.uniform(0, 0.5))}
            )
    return found


def main() -> None:
    annotations, out, boxes = map(Path, sys.argv[1:4])
    page = json.loads(annotations.read_text())
    sigmas = schema_from_category(page["categories"][0], str(annotations)).sigmas
    rows = {}
    for noise in (0.0, 3.0, 10.0, 30.0):
        results = predictions(page, noise)
        ours, theirs = evaluate_oks(annotations, results, sigmas, 1), by_pycocotools(annotations, results)
        gap = max(abs(ours[name] - theirs[name]) for name in NAMES)
        rows[f"noise {noise:g} px"] = {"polarpix": ours, "pycocotools": theirs, "largest_difference": gap}
        print(
            f"noise {noise:>4g} px: AP {ours['AP']:.4f}, pycocotools {theirs['AP']:.4f}, largest difference {gap:.1e}"
        )
    boxes.parent.mkdir(parents=True, exist_ok=True)
    boxes.write_text(json.dumps(stand_in_boxes(page)))
    record = {
        "name": "coco_protocol",
        "command": " ".join(["python", *sys.argv]),
        "seed": SEED,
        "metrics": rows,
        "conditions": conditions(),
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
