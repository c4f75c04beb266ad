"""Real keypoint annotations through every format that `polarpix data convert` knows, and back.

    python benchmarks/round_trips.py CollectedData.csv IMAGES OUT.json

The CSV is DeepLabCut's, IMAGES the folder of its pictures. It goes to COCO and back, which must give the same bytes;
and from COCO to YOLO, LabelMe and CVAT and back, where every instance must come home with its keypoints as they were.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.doctor.convert import convert
from polarpix.doctor.tables import Options, Table
from polarpix.engine.evaluate import conditions

TARGETS = {"yolo": ("yolo", "data.yaml"), "labelme": ("labelme", ""), "cvat": ("cvat.xml", "")}  # written to, read from


def instances(table: Table) -> dict[str, np.ndarray[Any, Any]]:
    """File name and rank of every instance -> its keypoints [K, 3]; points that are not labelled are 0."""
    files = {image["id"]: Path(image["file_name"]).stem for image in table["images"]}
    found: dict[str, np.ndarray[Any, Any]] = {}
    for note in table["annotations"]:
        points = np.array(note["keypoints"], float).reshape(-1, 3)
        points[points[:, 2] == 0] = 0
        name = files[note["image_id"]]
        found[f"{name} {sum(key.split()[0] == name for key in found)}"] = points
    return found


def row(fmt: str, start: Table, home: Table) -> dict[str, Any]:
    """How many instances came home, and how far their keypoints moved."""
    before, after = instances(start), instances(home)
    common = before.keys() & after.keys()
    moved = [np.abs(before[key][:, :2] - after[key][:, :2]).max() for key in common]
    same = sum(bool((before[key][:, 2] > 0).tolist() == (after[key][:, 2] > 0).tolist()) for key in common)
    return {
        "format": fmt,
        "instances": len(before),
        "came_home": len(common),
        "labelled_alike": same,
        "farthest_move_px": float(max(moved, default=float("nan"))),
    }


def main() -> None:
    """Convert there and back, and write what came home."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    csv, images, out = (Path(word) for word in sys.argv[1:])
    options = Options.of(images=str(images))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = convert(csv, folder / "start.json", "dlc", "coco", options)
        home = convert(folder / "start.json", folder / "home.csv", "coco", "dlc", options)
        same = (folder / "home.csv").read_bytes() == csv.read_bytes()
        rows.append(row("dlc", start, home) | {"same_bytes": same})
        for fmt, (target, inside) in TARGETS.items():
            convert(folder / "start.json", folder / target, "coco", fmt, options)
            rows.append(
                row(fmt, start, convert(folder / target / inside, folder / f"{fmt}.json", fmt, "coco", options))
            )
    for one in rows:
        print(one)
    record = {
        "name": "round_trips",
        "command": f"python benchmarks/round_trips.py {csv.name} IMAGES benchmarks/results/round_trips.json",
        "seed": 0,
        "file": csv.name,
        "trips": rows,
        "conditions": conditions(),
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
