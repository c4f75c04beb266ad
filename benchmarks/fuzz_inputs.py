"""Thousands of damaged and hostile files through the real readers; what each was answered with, and the memory it took.

    python benchmarks/fuzz_inputs.py OUT.json [--count 10000] [--seed 0]

COUNT JSONs (COCO tables, detections, LabelMe), COUNT pictures and label maps, and COUNT / 5 other texts (CVAT, YOLO,
DeepLabCut, schemas, pages), then the attacks of benchmarks/attacks.py by name. Each file is read as the commands read
it, in processes of their own whose memory is measured at every file. An answer is right if the file is accepted or
refused in one line (:class:`polarpix.errors.InputError`); a traceback, a dead or hanging process, memory over the bound
and a file written out of its place are wrong, and listed with the number that draws the file again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_cases as cases

BATCH = 1000  # files that one process reads
BOUND_MB = 3072  # of memory that one file may take above the process's own
PATIENCE = 120  # seconds for one file
LONGEST = 1000  # letters of a line that a person still reads
WRONG_SHOWN = 20
CATEGORY = ("coco", "coco", "coco", "detections", "labelme")
GROUPS: dict[str, Callable[[int], str]] = {
    "json": lambda number: CATEGORY[number % len(CATEGORY)],
    "picture": lambda number: "picture",
    "text": lambda number: list(cases.PLAIN)[number % len(cases.PLAIN)],
}
Reader = Callable[[], Any]


def prepare(folder: Path) -> None:
    """What the readers need beside the file: pictures, a whole table, folders in the layouts of the formats."""
    from polarpix.images import write_image, write_label

    H, W = cases.SIZE
    grey = cases.np.zeros((H, W), cases.np.uint8)
    for place in ("images", "set/images/train", "yolo/images", "frames/labeled-data/video", "labelme"):
        for i in range(cases.PICTURES):
            write_image(folder / place / f"{i}.png", cases.np.stack([grey + 50 * i] * 3, axis=2))
    write_label(folder / "set/labels/train/0.png", grey)
    (folder / "yolo/labels").mkdir()
    (folder / "yolo/labels/0.txt").write_bytes(cases.YOLO)
    (folder / "yolo/data.yaml").write_bytes(cases.YOLO_PAGE)
    (folder / "whole.json").write_text(json.dumps(cases.coco_table()))
    (folder / "out").mkdir()


def coco_readers(file: Path, folder: Path, rng: random.Random) -> dict[str, Reader]:
    from polarpix.box_files import parse_boxes
    from polarpix.doctor.check import check, record, told
    from polarpix.doctor.convert import WRITERS, convert
    from polarpix.doctor.tables import Options
    from polarpix.pose.coco import CocoKeypoints
    from polarpix.types import KeypointSchema

    images = folder / "images"
    schema = KeypointSchema(tuple(cases.NAMES), ((1, 2),), (), (0.05,) * 4, "given") if rng.random() < 0.2 else None
    options = {"whole_image": rng.random() < 0.1, "training": rng.random() < 0.5, "schema": schema}

    def dataset() -> None:
        found = CocoKeypoints(file, images, **options)
        for i in range(min(len(found), 3)):
            found[i]

    def doctor() -> None:
        result = check(file, images=str(images), workers=0, quiet=True)
        told(result).encode()
        json.dumps(record(result)).encode()

    to = rng.choice(list(WRITERS))
    target = folder / "out" / ("folder" if to in ("yolo", "labelme", "masks") else "table")
    return {
        "CocoKeypoints": dataset,
        "data check": doctor,
        f"data convert --from coco --to {to}": lambda: convert(file, target, "coco", to, Options(images)),
        "predict --boxes": lambda: parse_boxes(str(file)),
    }


def detection_readers(file: Path, folder: Path, rng: random.Random) -> dict[str, Reader]:
    from polarpix.box_files import parse_boxes
    from polarpix.pose.coco import CocoKeypoints

    def dataset() -> None:
        found = CocoKeypoints(folder / "whole.json", folder / "images", boxes=file, box_threshold=0.1)
        found[0]

    return {"CocoKeypoints with boxes": dataset, "predict --boxes": lambda: parse_boxes(str(file), category=1)}


def labelme_readers(file: Path, folder: Path, rng: random.Random) -> dict[str, Reader]:
    from polarpix.doctor.convert import convert
    from polarpix.doctor.tables import Options

    place = folder / "labelme" / "0.json"
    shutil.move(file, place)
    options = Options(folder / "images" if rng.random() < 0.5 else None)
    source = rng.choice([place, place.parent])
    return {
        "data convert --from labelme": lambda: convert(source, folder / "out" / "table", "labelme", "coco", options)
    }


def text_readers(kind: str, file: Path, folder: Path) -> dict[str, Reader]:
    from polarpix.doctor.convert import convert
    from polarpix.doctor.tables import Options
    from polarpix.pages import load_page
    from polarpix.pose.schema import load_schema

    target = folder / "out" / "table"
    if kind == "schema":
        return {"load_schema": lambda: load_schema(file)}
    if kind == "page":
        return {"load_page": lambda: load_page(file)}
    if kind in ("yolo", "yolo_page"):
        place = folder / "yolo" / ("labels/0.txt" if kind == "yolo" else "data.yaml")
        (folder / "yolo/labels/0.txt").write_bytes(cases.YOLO)
        (folder / "yolo/data.yaml").write_bytes(cases.YOLO_PAGE)
        shutil.move(file, place)
        return {"data convert --from yolo": lambda: convert(folder / "yolo", target, "yolo", "coco", Options())}
    options = Options(folder / "frames" if kind == "dlc" else folder / "images")
    return {f"data convert --from {kind}": lambda: convert(file, target, kind, "coco", options)}


def picture_readers(file: Path, folder: Path, rng: random.Random) -> dict[str, Reader]:
    from polarpix.doctor.scan import image_facts, label_facts
    from polarpix.doctor.tables import image_size
    from polarpix.images import read_image, read_label
    from polarpix.plain_images import decode_plain
    from polarpix.seg.classes import VOC
    from polarpix.seg.datasets import SegDataset

    known = {value: value for value in (*range(21), 255)}
    return {
        "read_image": lambda: read_image(file),
        "read_image without Pillow": lambda: decode_plain(file.read_bytes(), file),
        "read_label": lambda: read_label(file),
        "SegDataset, its label": lambda: SegDataset([(folder / "images/0.png", file)], VOC, known)[0],
        "SegDataset, its image": lambda: SegDataset([(file, folder / "set/labels/train/0.png")], VOC, known)[0],
        "data check, image": lambda: image_facts(file),
        "data check, label": lambda: label_facts(file),
        "data convert, size": lambda: image_size(file),
    }


def readers(group: str, number: int, seed: int, folder: Path) -> dict[str, Reader]:
    """The file of a number written, and what reads it."""
    kind = GROUPS[group](number)
    rng = random.Random(f"{seed} {group} {number}")
    if group == "picture":
        suffix, data = cases.picture_case(rng)
        file = folder / f"case{suffix}"
        file.write_bytes(data)
        return picture_readers(file, folder, rng)
    file = folder / ("case.json" if group == "json" else f"case.{kind}")
    file.write_bytes(cases.json_case(kind, rng) if group == "json" else cases.plain_case(kind, rng))
    if group == "text":
        return text_readers(kind, file, folder)
    return {"coco": coco_readers, "detections": detection_readers, "labelme": labelme_readers}[kind](file, folder, rng)


def memory(key: str) -> float:
    """VmRSS or VmHWM, the highest since it was last reset, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def too_late(*_: Any) -> None:
    raise TimeoutError


def answer(read: Reader) -> tuple[str, str]:
    """What a reader made of a file: the outcome, and more where it was wrong."""
    from polarpix.errors import InputError

    signal.alarm(PATIENCE)
    try:
        read()
        return "accepted", ""
    except InputError as error:
        line = str(error)
        if "\n" in line or "\r" in line or len(line) > LONGEST:
            return "no one line", repr(line[:300])
        return "refused in one line", ""
    except TimeoutError:
        return "too slow", ""
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {str(error)[:120]!r} at {place.filename}:{place.lineno}"
    finally:
        signal.alarm(0)


def work(group: str, seed: int, first: int, count: int, folder: Path) -> None:
    """Read the files of some numbers; a line of JSON for each, written before and after."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_late)
    sandbox = folder / "inside"
    sandbox.mkdir()
    os.chdir(sandbox)
    prepare(sandbox)
    import cv2
    from PIL import Image

    cv2.setNumThreads(1)
    Image.init()
    before = {path.name for path in folder.iterdir()}
    limit = int((memory("VmSize") + 2 * BOUND_MB) * 2**20)  # a belt: what takes so much is measured as too much
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for number in range(first, first + count):
        out.write(json.dumps({"number": number}) + "\n")
        row: dict[str, Any] = {"number": number, "kind": GROUPS[group](number), "answers": {}, "megabytes": 0.0}
        for name, read in readers(group, number, seed, sandbox).items():
            Path("/proc/self/clear_refs").write_text("5")
            start = memory("VmRSS")
            outcome, more = answer(read)
            took = memory("VmHWM") - start
            row["megabytes"] = max(row["megabytes"], took)
            if took > BOUND_MB:
                outcome, more = "memory over the bound", f"{took:.0f} MB"
            row["answers"][name] = [outcome, more]
        made = {path.name for path in folder.iterdir()} - before
        if made:
            row["answers"]["place"] = ["written elsewhere", str(sorted(made))]
            for name in made:
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        shutil.rmtree(sandbox / "out")
        (sandbox / "out").mkdir()
        out.write(json.dumps(row) + "\n")


def batch(group: str, seed: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    """The rows of some numbers; a process that dies costs one row, and another goes on behind it."""
    while count:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--work", group, str(seed), str(first), str(count), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        answered = [row for row in rows if "answers" in row]
        yield from answered
        first, count = first + len(answered), count - len(answered)
        if count:
            if not rows:
                raise SystemExit(f"a reading process ended before its first file:\n{done.stderr[-3000:]}")
            words = f"status {done.returncode}: {done.stderr[-300:]!r}"
            row = {"number": first, "kind": GROUPS[group](first), "megabytes": 0.0}
            yield row | {"answers": {"process": ["crash", words]}}
            first, count = first + 1, count - 1


RIGHT = ("accepted", "refused in one line")


def run_group(group: str, seed: int, count: int) -> dict[str, Any]:
    """All files of a group, by as many processes as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    starts = range(0, count, BATCH)
    kinds: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {}
    wrong: list[dict[str, Any]] = []
    highest = 0.0
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=count, desc=group, unit="file") as bar:
        for rows in pool.map(lambda one: list(batch(group, seed, one, min(BATCH, count - one))), starts):
            for row in rows:
                kinds[row["kind"]] += 1
                highest = max(highest, row["megabytes"])
                for reader, (outcome, more) in row["answers"].items():
                    outcomes.setdefault(reader, Counter())[outcome] += 1
                    if outcome not in RIGHT:
                        wrong.append({"number": row["number"], "reader": reader, "outcome": outcome, "more": more})
            bar.update(len(rows))
    return {
        "files": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "readers": {reader: dict(counts) for reader, counts in sorted(outcomes.items())},
        "files_answered_wrongly": len({one["number"] for one in wrong}),
        "wrong": wrong[:WRONG_SHOWN],
        "highest_megabytes_of_a_file": round(highest, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        group, seed, first, count, folder = sys.argv[2:]
        return work(group, int(seed), int(first), int(count), Path(folder))
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from attacks import run_attacks

    from polarpix.engine.evaluate import conditions

    counts = {"json": given.count, "picture": given.count, "text": given.count // 5}
    groups = {group: run_group(group, given.seed, count) for group, count in counts.items()}
    attacks = run_attacks()
    from importlib.metadata import version

    import cv2

    record = {
        "name": "fuzz_inputs",
        "command": "python benchmarks/fuzz_inputs.py benchmarks/results/fuzz_inputs.json"
        + (f" --count {given.count}" if given.count != 10_000 else ""),
        "seed": given.seed,
        "bound_megabytes": BOUND_MB,
        "patience_seconds": PATIENCE,
        "fuzz": groups,
        "attacks": attacks,
        "conditions": {
            **conditions(),
            "pillow": version("pillow"),
            "opencv": cv2.__version__,
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
    }
    given.out.write_text(json.dumps(record, indent=2) + "\n")
    wrong = sum(group["files_answered_wrongly"] for group in groups.values())
    lost = [attack["name"] for attack in attacks if attack["outcome"] != attack["expected"]]
    print(f"{wrong} files answered wrongly; attacks not answered as they should be: {', '.join(lost) or 'none'}")
    raise SystemExit(bool(wrong or lost))


if __name__ == "__main__":
    main()
