"""What `polarpix data check` says of real sets: it should be silent but for what is really wrong with them.

    python benchmarks/doctor_real_sets.py FOLDER OUT.json

FOLDER holds camvid, coco_mini, lspet and openfield; a set that is not there is left out and named. Each is checked as a
user checks it; the record holds every kind of finding with its count and its worst cases. What of it is a true error of
the set has to be looked at: ``LOOKED_AT`` says what was seen, and the record repeats it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from polarpix.doctor.check import check, record, told
from polarpix.engine.evaluate import conditions

SETS = ("camvid", "coco_mini", "lspet", "openfield")
# Set and finding -> what the pictures of its cases show.
LOOKED_AT: dict[str, dict[str, str]] = {
    "lspet": {
        "swapped_sides": "36 drawn and looked at by one person: in about 28 a pair, or a whole side, is annotated the "
        "wrong way round or across the body; in the others, among them im00503, im01745, im02439, im04837 and im09119, "
        "arms or legs are crossed or hidden and the annotation may be right",
        "outside_image": "true: the points are beyond the border of the image",
        "missing_sigmas": "true: the file has none",
    },
    "openfield": {
        "swapped_sides": "true: the ears of that frame are exchanged",
        "missing_sigmas": "true: the file has none",
    },
}


def main() -> None:
    """Check every set and write what was found."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows: list[dict[str, Any]] = []
    for name in SETS:
        if not (root / name).is_dir():
            print(f"{root / name}: not there, left out")
            continue
        start = time.perf_counter()
        result = check(root / name)
        print(told(result), end="\n\n")
        found = record(result)
        rows.append(
            {
                "set": name,
                "images": found["images"],
                "instances": found["instances"],
                "seconds": round(time.perf_counter() - start, 1),
                "findings": [
                    {key: one[key] for key in ("name", "level", "count", "examples")}
                    | {"looked_at": LOOKED_AT.get(name, {}).get(one["name"], "")}
                    for one in found["findings"]
                ],
            }
        )
    whole = {
        "name": "doctor_real_sets",
        "command": "python benchmarks/doctor_real_sets.py FOLDER benchmarks/results/doctor_real_sets.json",
        "sets": rows,
        "conditions": conditions(),
    }
    out.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
