"""Injects faults into real trainings and writes down what became of them.

    python benchmarks/fault_injection.py OUT.json [--only kill,disk] [--kills 20] [--seed 0]

Trainings are processes of their own, of a small network on drawn figures, deterministic on the CPU. Each fault is a row
of OUT.json with its own command and commit, written as soon as it is known: --only does some of them, or does them
again, and leaves the others as they are. What was to hold, and whether it did, is read from the status of the process,
from what it said and from the checkpoints it left. Where a file system is mounted, or a training is started as another
user, it takes root; a fault that cannot be made is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_places as places
import fault_readers as readers
import fault_signals as signals
from fault_parts import NotTriedError, Place

from polarpix.engine.evaluate import conditions

Row = dict[str, Any]

# Key of a row -> what is done, and how it is done so many times.
FAULTS: dict[str, tuple[str, Callable[[Place, int], Row]]] = {
    "kill": ("SIGKILL between two updates, then resumed", signals.killed),
    "term": ("SIGTERM between two updates, then resumed", lambda place, n: signals.asked(place, max(n // 4, 2))),
    "term-late": ("SIGTERM behind the last", lambda place, n: signals.asked(place, max(n // 4, 2), late=True)),
    "disk": ("disk full", lambda place, _: places.full_disk(place)),
    "failed-disk": ("disk read-only while training (ext4 aborted)", lambda place, _: places.failed_disk(place)),
    "read-only": ("disk read-only from the start", lambda place, _: places.read_only(place)),
    "permission": ("no permission any more, ordinary user", lambda place, _: places.no_permission(place)),
    "permission-start": ("no permission, ordinary user", lambda place, _: places.not_permitted(place)),
    "gone": ("folder moved away", lambda place, _: places.vanished(place)),
    "twice": ("two in one folder", lambda place, _: places.twice(place)),
    "peer-second": ("second of two processes killed", lambda place, _: readers.peer(place, first=False)),
    "peer-first": ("first of two processes killed", lambda place, _: readers.peer(place, first=True)),
    "nan": ("NaN loss", lambda place, _: readers.nan_loss(place)),
    "worker": ("loading process killed", lambda place, _: readers.dead_worker(place)),
    "corrupt": ("one corrupt picture of 10,000", lambda place, _: readers.corrupt(place)),
}


def chosen(only: str) -> list[str]:
    """The keys that --only names, or all.

    Raises:
        SystemExit: one that is none.
    """
    keys = [word for word in only.split(",") if word] or list(FAULTS)
    unknown = [key for key in keys if key not in FAULTS]
    if unknown:
        raise SystemExit(f"--only {unknown[0]}: choose of {', '.join(FAULTS)}")
    return keys


def merged(rows: list[Row], row: Row) -> list[Row]:
    """The rows with one more, in the place of an older one of its key, in the order of FAULTS."""
    found = {one["key"]: one for one in rows if one["key"] in FAULTS} | {row["key"]: row}
    return [found[key] for key in FAULTS if key in found]


def write(path: Path, row: Row) -> None:
    """Put a row into the record."""
    rows = json.loads(path.read_text()).get("rows", []) if path.exists() else []
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"kind": "fault injection", "rows": merged(rows, row)}, indent=2) + "\n")
    os.replace(part, path)


def told(value: Any, folder: str) -> Any:
    """A value without the name of the temporary folder."""
    if isinstance(value, dict):
        return {key: told(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [told(one, folder) for one in value]
    return value.replace(folder, "FOLDER") if isinstance(value, str) else value


def main() -> None:
    """Do them and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="keys of rows")
    parser.add_argument("--kills", type=int, default=20, help="for kill; a quarter of it for term and term-late")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keys = chosen(options.only)
    conditions_now = conditions()  # before the record changes the tree
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.seed, random.Random())
        for key in keys:
            place.rng.seed(options.seed)  # whatever --only says
            fault, inject = FAULTS[key]
            row: Row = {"key": key, "fault": fault, "command": f"python {' '.join(sys.argv)}"}
            try:
                row |= told(inject(place, options.kills), name)
            except NotTriedError as error:
                row |= {"times": 0, "held": {}, "not_tried": told(str(error), name)}
            write(options.out, row | {"seed": options.seed, "conditions": conditions_now})
            not_held = [words for words, so in row["held"].items() if not so]
            wrong += bool(not_held)
            print(f"{key}: {row.get('not_tried') or '; '.join(f'NOT {one}' for one in not_held) or 'as it should be'}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
