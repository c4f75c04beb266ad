"""COCO tables, pictures and label maps that Hypothesis damages, through the real readers.

    python benchmarks/fuzz_hypothesis.py OUT.json [--count 10000]

COUNT tables, COUNT pictures and COUNT label maps, drawn in the same order each time. A table is a valid one with up to
four of its values replaced by any JSON; a file is a valid one with bytes replaced, cut off or put in, or any bytes at
all. Each is accepted or refused in one line (:class:`polarpix.errors.InputError`); anything else stops the run, and
Hypothesis then shows the smallest such file. Beside it stands benchmarks/fuzz_inputs.py, whose cases are made by hand.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polarpix.engine.artifact import write_text
from polarpix.engine.evaluate import conditions
from polarpix.errors import InputError
from polarpix.images import encode_label, read_image, read_label
from polarpix.pose.coco import CocoKeypoints

BOUND_MB = 3072  # of memory, for the whole process
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TABLE: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in (1, 2)],
    "annotations": [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [2, 2, 20, 16],
            "area": 300,
            "num_keypoints": 2,
            "keypoints": [4, 5, 2, 9, 8, 1],
        }
        for i in (1, 2)
    ],
    "categories": [{"id": 1, "name": "mouse", "keypoints": ["snout", "tail"], "skeleton": [[1, 2]]}],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a table."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, inner in items for place in places(inner, (*path, key))]


TABLES = st.lists(st.tuples(st.sampled_from(places(TABLE)), VALUES), min_size=1, max_size=4)


def table_of(edits: list[tuple[tuple[Any, ...], Any]]) -> bytes:
    """The valid table with some values replaced; an edit whose place an earlier one took away is passed over."""
    table: Any = copy.deepcopy(TABLE)
    for path, value in edits:
        at = table
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    return json.dumps(table).encode("utf-8", "surrogatepass")


def damaged(whole: list[bytes]) -> st.SearchStrategy[bytes]:
    """Files with up to five stretches replaced by others, or any bytes."""
    edit = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8))
    return st.binary(max_size=200) | st.builds(
        edited, st.sampled_from(whole), st.lists(edit, max_size=5), st.floats(0, 1.2)
    )


def edited(data: bytes, edits: list[tuple[float, int, bytes]], kept: float) -> bytes:
    """The file with edits (where, how many bytes go, what comes), cut off after a share of it."""
    for where, gone, new in edits:
        at = int(where * len(data))
        data = data[:at] + new + data[at + gone :]
    return data[: int(kept * len(data)) or None] if kept < 1 else data


def pictures() -> dict[str, list[bytes]]:
    """Small valid files to begin with."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    label = rng.integers(0, 3, (24, 32), np.uint8)
    kinds = [(".png", image), (".jpg", image), (".bmp", image), (".png", image[..., 0]), (".tiff", image)]
    return {
        "picture": [cv2.imencode(suffix, array)[1].tobytes() for suffix, array in kinds],
        "label": [encode_label(label, [(0, 0, 0), (9, 9, 9), (200, 0, 0)]), cv2.imencode(".png", label)[1].tobytes()],
    }


def fuzz(cases: st.SearchStrategy[Any], count: int, read: Callable[[Any], Any]) -> dict[str, int]:
    """Outcome -> how many of the cases had it."""
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=cases)
    def one(case: Any) -> None:
        try:
            read(case)
            outcomes["accepted"] += 1
        except InputError as error:
            if "\n" in str(error):
                raise AssertionError("more than one line") from error
            outcomes["refused in one line"] += 1

    one()
    return dict(outcomes)


def main() -> None:
    """Fuzz each reader and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        root, whole = Path(name), pictures()
        for i in (1, 2):
            (root / f"{i}.png").write_bytes(whole["picture"][0])

        def table(edits: Any) -> None:
            (root / "a.json").write_bytes(table_of(edits))
            data = CocoKeypoints(root / "a.json", root)
            for index in range(len(data)):
                data[index]

        def file(suffix: str, read: Callable[[Path], Any]) -> Callable[[bytes], None]:
            def one(data: bytes) -> None:
                (root / f"a{suffix}").write_bytes(data)
                read(root / f"a{suffix}")

            return one

        readers = {
            "CocoKeypoints and its pictures": (TABLES, table),
            "read_image": (damaged(whole["picture"]), file(".jpg", read_image)),
            "read_label": (damaged(whole["label"]), file(".png", read_label)),
        }
        began, found = time.perf_counter(), {}
        for reader, (cases, read) in readers.items():
            found[reader] = fuzz(cases, options.count, read)
            print(reader, found[reader])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert peak < BOUND_MB, f"{peak:.0f} MB of memory were taken, {BOUND_MB} are allowed"
    record = {
        "name": "fuzz_hypothesis",
        "command": " ".join(["python", *sys.argv]),
        "seed": 0,
        "readers": found,
        "highest_megabytes": round(peak),
        "bound_megabytes": BOUND_MB,
        "seconds": round(time.perf_counter() - began, 1),
        "conditions": conditions(),
    }
    write_text(options.out, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
