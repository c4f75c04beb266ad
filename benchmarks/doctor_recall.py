"""How many faults planted in real sets `polarpix data check` finds, and what else it then says.

    python benchmarks/doctor_recall.py FOLDER OUT.json

FOLDER holds camvid, coco_mini, lspet and openfield; a set that is not there is left out and named. A fault is planted
in a copy, in a temporary folder, and the copy is checked as a user checks it. What the doctor says of the untouched set
is known beforehand (benchmarks/doctor_real_sets.py) and counts neither as found nor as a false alarm. The faults are
rows of ``POSE`` and ``MASKS`` in benchmarks/doctor_faults.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from doctor_faults import CITY, MASKS, POSE, RATES, SWAPS, WHOLE, Key, as_city, copied, tables
from tqdm import tqdm

from polarpix.doctor.check import check
from polarpix.engine.evaluate import conditions

SEED = 0
POSE_SETS = ("coco_mini", "lspet", "openfield")
REPEATS = {"coco_mini": 4, "openfield": 5}  # draws; of a set of thousands one will do
Row = dict[str, Any]


def said(root: Path) -> set[Key]:
    """What the doctor says of a set: the kind, the file below the set, and the annotation where it is of one."""
    found = check(root, quiet=True).found
    keys = set()
    for finding in found:
        if finding.count > len(finding.cases):
            raise SystemExit(f"{finding.name}: only {len(finding.cases):,} of {finding.count:,} cases were kept")
        for case in finding.cases:
            file = Path(case.file)
            name = file.relative_to(root).as_posix() if file.is_relative_to(root) else case.file
            about = case.detail.split(":")[0] if finding.name in SWAPS else ""
            keys.add((SWAPS.get(finding.name, finding.name), name, about))
    return keys


def judged(before: set[Key], planted: set[Key], after: set[Key]) -> Row:
    """Counts of one planting; a planted exchange may be told as a note only, and a spoilt file under another kind.

    What is said of an instance on a picture that was spoilt as a whole is about what was planted, too.
    """
    planted = planted - before
    places, files = {key[1:] for key in planted}, {key[1] for key in planted if not key[2]}
    new = after - before
    notes = {key for key in new if key[0] == "note"}
    elsewhere = {key for key in new - planted if key[1:] not in places and key[1] not in files}
    return {
        "planted": len(planted),
        "found": len(planted & new),
        "only_noted": len({key[1:] for key in notes} & ({key[1:] for key in planted - new})),
        "otherwise_named": len(places & {key[1:] for key in new - notes} - {key[1:] for key in planted & new}),
        "false_alarms": len(elsewhere - notes),
        "false_notes": len(elsewhere & notes),
    }


def added(rows: Iterable[Row]) -> Row:
    """The sums of several draws."""
    listed = list(rows)
    return {key: sum(row[key] for row in listed) for key in listed[0]}


def measure(name: str, source: Path, bar: Any) -> list[Row]:
    """All faults that a set can have."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        (as_city if name == CITY else copied)(source, whole)
        before = said(whole)
        faults = POSE if name in POSE_SETS else MASKS
        for fault, (kind, plant, sets) in faults.items():
            if sets and name not in sets:
                continue
            swapped = kind in SWAPS.values()
            for rate in RATES if swapped else (1.0 if fault in WHOLE else 0.1,):
                draws = []
                for seed in range(REPEATS.get(name, 1) if swapped else 1):
                    spoilt = Path(folder) / "spoilt"
                    copied(whole, spoilt)
                    planted = {(kind, *key) for key in plant(spoilt, np.random.default_rng([SEED, seed]), rate, before)}
                    draws.append(judged(before, planted, said(spoilt)) if planted else {})
                    remove(spoilt)
                if all(draws):
                    told = added(draws)
                    rows.append({"set": name, "fault": fault, "rate": rate, "draws": len(draws), **told})
                    bar.write(f"{name:<10} {fault:<40} {rate:>5.1%} {told}")
                bar.update()
    return rows


def remove(root: Path) -> None:
    """A copy; its links lead out and are not followed."""
    import shutil

    shutil.rmtree(root)


def main() -> None:
    """Plant everything everywhere and write what came of it."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    root, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    rows: list[Row] = []
    with tqdm(desc="plantings", unit="") as bar:
        for name in (*POSE_SETS, "camvid", CITY):
            source = root / ("camvid" if name == CITY else name)
            if not source.is_dir():
                bar.write(f"{source}: not there, left out")
                continue
            rows += measure(name, source, bar)
    record = {
        "name": "doctor_recall",
        "command": "python benchmarks/doctor_recall.py FOLDER benchmarks/results/doctor_recall.json",
        "seed": SEED,
        "instances": {name: instances(root / name) for name in POSE_SETS if (root / name).is_dir()},
        "rows": rows,
        "conditions": conditions(),
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


def instances(root: Path) -> int:
    """Labelled ones, crowds aside."""
    notes = [note for _, table in tables(root) for note in table["annotations"]]
    return sum(any(note["keypoints"][2::3]) and not note.get("iscrowd") for note in notes)


if __name__ == "__main__":
    main()
