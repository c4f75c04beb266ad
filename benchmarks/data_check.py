"""Time of `polarpix data check` on 10,000 pictures of 640x480 with keypoints and label maps.

    python benchmarks/data_check.py FOLDER OUT.json

The set is written into FOLDER first, where it is not there yet (about 1 GB); that is not timed. The command then runs
as a user runs it, page with pictures included. Among the pictures are a hundred copies between the splits, saved anew.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SEED = 0
COUNT, VAL, COPIES = 10_000, 1_000, 100
H, W = 480, 640
NAMES = ["snout", "left_ear", "right_ear", "tail"]
LIMIT = 120.0  # seconds


def draw(job: tuple[str, int, int]) -> None:
    """Picture and label number i: smooth colours, shapes and grain, so that a JPEG is as large as a photograph's."""
    root, i, quality = job
    rng = np.random.default_rng([SEED, i])
    colours = rng.integers(20, 235, (6, 8, 3)).astype(np.uint8)
    picture = cv2.resize(colours, (W, H), interpolation=cv2.INTER_LINEAR)
    label = np.zeros((H, W), np.uint8)
    for _ in range(6):
        centre, axes = rng.integers(0, (W, H)).tolist(), rng.integers(10, 120, 2).tolist()
        angle, colour = float(rng.uniform(0, 180)), rng.integers(0, 255, 3).tolist()
        cv2.ellipse(picture, centre, axes, angle, 0, 360, colour, -1)
        cv2.ellipse(label, centre, axes, angle, 0, 360, int(rng.integers(1, 8)), -1)
    left, top = rng.integers(0, 200, 2).tolist()
    picture = cv2.addWeighted(picture, 0.85, grain()[top : top + H, left : left + W], 0.15, 0)
    split = place(i, quality)
    name = f"{i:05d}" if quality == 90 else f"{i:05d}_again"
    cv2.imwrite(f"{root}/images/{split}/{name}.jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    cv2.imwrite(f"{root}/labels/{split}/{name}.png", label, [cv2.IMWRITE_PNG_COMPRESSION, 1])


@functools.cache
def grain() -> npt.NDArray[np.uint8]:
    """Noise [H + 200, W + 200, 3] that every picture takes a part of."""
    cv2.setNumThreads(1)
    noise = np.random.default_rng(SEED).normal(128, 60, (H + 200, W + 200, 1)).clip(0, 255).astype(np.uint8)
    return np.repeat(noise, 3, axis=2)


def place(i: int, quality: int) -> str:
    """The split of a picture; copies lie in val."""
    return "val" if quality != 90 or i >= COUNT - VAL else "train"


def write_set(root: Path) -> None:
    """All pictures, labels and two tables with one animal on each picture."""
    jobs = [(str(root), i, 90) for i in range(COUNT - COPIES)] + [(str(root), i, 70) for i in range(COPIES)]
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(draw, jobs, chunksize=50):
            pass
    rng = np.random.default_rng(SEED)
    (root / "annotations").mkdir(exist_ok=True)
    for split in ("train", "val"):
        images, notes = [], []
        for number, file in enumerate(sorted((root / "images" / split).iterdir()), start=1):
            angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform((150, 150), (W - 150, H - 150))
            ahead = np.array([np.cos(angle), np.sin(angle)])
            left = np.array([ahead[1], -ahead[0]])
            body = np.stack([80 * ahead, 50 * ahead + 30 * left, 50 * ahead - 30 * left, -100 * ahead])
            points = centre + body + rng.normal(0, 3, body.shape)
            keypoints = [value for x, y in points.round(2).tolist() for value in (x, y, 2)]
            low, span = points.min(axis=0), np.ptp(points, axis=0)
            images.append({"id": number, "file_name": file.name, "width": W, "height": H})
            box = [*low.tolist(), *span.tolist()]
            note = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": 4}
            notes.append(note | {"bbox": box, "area": box[2] * box[3], "keypoints": keypoints})
        category = {"id": 1, "name": "mouse", "keypoints": NAMES, "skeleton": [], "sigmas": [0.05] * 4}
        table = {"images": images, "annotations": notes, "categories": [category]}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(table))


def main() -> None:
    from polarpix.engine.evaluate import conditions

    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    if not (root / "annotations" / "val.json").exists():
        write_set(root)
    sizes = [file.stat().st_size for file in (root / "images").glob("*/*")]
    found, page = root / "found.json", root / "found.html"
    command = [sys.executable, "-m", "polarpix", "data", "check", str(root), "--json", str(found), "--html", str(page)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = spent.ru_utime + spent.ru_stime
    print(done.stdout, done.stderr, f"{seconds:.1f} s, {processors:.1f} s of processors", sep="\n")
    told: dict[str, Any] = json.loads(found.read_text())
    counts = {finding["name"]: finding["count"] for finding in told["findings"]}
    if counts != {"leak_near": COPIES}:
        raise SystemExit(f"the {COPIES} copies should have been found and nothing else, not {counts}")
    record = {
        "name": "data_check",
        "command": "python benchmarks/data_check.py FOLDER benchmarks/results/data_check.json",
        "seed": SEED,
        "time": {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(processors, 1),
            "limit_seconds": LIMIT,
            "images_per_second": round(COUNT / seconds, 1),
        },
        "set": {
            "images": len(sizes),
            "labels": len(sizes),
            "size": [H, W],
            "mean_kilobytes": round(sum(sizes) / len(sizes) / 1000, 1),
            "copies_between_splits": COPIES,
        },
        "found": counts,
        "conditions": {
            **conditions(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "system": platform.system(),
        },
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
