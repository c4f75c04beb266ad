"""Damaged and hostile exported files through the ways a user meets them; what each was answered with.

    python benchmarks/fuzz_exports.py OUT.json [--count 400] [--seed 0]

A small network of each task is exported to ONNX, OpenVINO and torch.export. COUNT damaged copies of each file (bits
flipped, cut off, bytes put in, zeroed or exchanged) go through ``polarpix.load`` and predict a picture; the attacks of
benchmarks/export_attacks.py go through ``polarpix.load``, ``polarpix predict`` and ``polarpix info`` (``polarpix
serve`` opens files by ``polarpix.load``). Each in a process of its own, whose end and memory are looked at. An answer
is right if the file is refused in one line; a damaged copy may also be accepted if it gives what the whole file gives.
What would run code is given to ``torch.export.load`` alone as well, to see that it does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from export_attacks import ATTACKS, COMPUTED, Files, plain_attacks

BOUND_MB = 3072  # of memory that one file may take above the process's own
PATIENCE = 120  # seconds for one file
LONGEST = 1000  # letters of a line that a person still reads
KINDS = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
TASKS = ("pose", "seg")
REFUSED, ACCEPTED, SAME = "refused in one line", "accepted", "accepted, gives the same"
LOAD, PREDICT, INFO = "polarpix.load", "polarpix predict", "polarpix info"
READ_BY = (
    *("onnxruntime", "openvino", "torch.export.passes", "torch.export.pt2_archive._package", "sympy"),
    *("polarpix.cli", "polarpix.predict", "polarpix.predict_files", "polarpix.predictor", "polarpix.about"),
)
NEEDLESS = "a library"  # which torch alone would load: no file of this kind is given to the linker


def make_files(folder: Path) -> None:
    """A network of each task, untrained, in every format; and a picture."""
    import torch

    from polarpix.config import PoseModelConfig, PoseRun, SegModelConfig, SegRun
    from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA
    from polarpix.engine.artifact import save_artifact
    from polarpix.export.run import export
    from polarpix.images import write_image
    from polarpix.page_parts import BackboneConfig
    from polarpix.pose.model import build_pose_model
    from polarpix.seg.model import build_seg_model

    torch.manual_seed(0)
    backbone = BackboneConfig("test_resnet", weights=None, output_stride=32, attention="psa_p")
    pose = PoseRun(name="x", model=PoseModelConfig(backbone, head_channels=[4, 4, 4], input_size=(64, 64), codec="udp"))
    seg = SegRun(name="x", model=SegModelConfig(backbone, aspp_channels=4, low_channels=4, rates=[1, 1, 1]))
    state = build_pose_model(pose.model, len(FIGURE_SCHEMA.names)).state_dict()
    save_artifact(folder / "pose.safetensors", state, pose, FIGURE_SCHEMA, {"AP": 0.5})
    state = build_seg_model(seg.model, len(FIGURE_CLASSES.names)).state_dict()
    save_artifact(folder / "seg.safetensors", state, seg, FIGURE_CLASSES, {"mIoU": 0.5})
    for task in TASKS:
        for to, suffix in KINDS.items():
            export(folder / f"{task}.safetensors", to, folder / f"{task}{suffix}")
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    write_image(folder / "photo.png", noise.numpy())


def files_of(folder: Path, task: str, suffix: str) -> Files:
    return {
        one: (folder / f"{task}{one}").read_bytes() for one in ((".xml", ".bin") if suffix == ".xml" else (suffix,))
    }


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One change by chance."""
    at, length = rng.randrange(len(data)), rng.choice([1, 4, 100, 5000])
    way = rng.randrange(8)
    if way < 4:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 16])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if way == 4:
        return data[:at]
    if way == 5:
        return data[:at] + rng.randbytes(length) + data[at:]
    if way == 6:
        return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]
    return data[:at] + data[at + length :] + data[at : at + length]


def memory(key: str) -> float:
    """VmRSS or VmHWM in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def answer(read: Callable[[], Any]) -> tuple[str, str, Any]:
    """Outcome, what was said, and what came of it."""
    from polarpix.errors import InputError

    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ACCEPTED, "", read()
    except InputError as error:
        line = str(error)
        return (REFUSED if "\n" not in line and len(line) < LONGEST else "no one line"), line[:300], None
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:200]!r}", None


def in_child(read: Callable[[], Any], folder: Path, mark: Path) -> dict[str, Any]:
    """What a reading process of its own made of a file."""
    before = {path.name for path in folder.iterdir()}
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        null = os.open("/dev/null", os.O_RDWR)
        errors = os.open(str(folder / "inside" / "stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(null, 1)
        os.dup2(errors, 2)
        os.chdir(folder / "inside")
        signal.alarm(PATIENCE)
        limit = int((memory("VmSize") + 3 * BOUND_MB) * 2**20)  # a belt: so much is measured as too much
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        Path("/proc/self/clear_refs").write_text("5")
        start = memory("VmRSS")
        outcome, more, value = answer(read)
        theirs.send((outcome, more, value, max(memory("VmHWM") - start, 0.0)))
        os._exit(0)
    theirs.close()
    outcome, more, value, took = "crash", "", None, 0.0
    with contextlib.suppress(EOFError):
        outcome, more, value, took = ours.recv()
    _, status = os.waitpid(child, 0)
    ours.close()
    if outcome == "crash":
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        outcome = "too slow" if number == signal.SIGALRM else "crash"
        more = f"signal {number}" if number else f"status {os.waitstatus_to_exitcode(status)}"
    said = (folder / "inside" / "stderr").read_text(errors="replace")
    if outcome in (REFUSED, ACCEPTED) and ("Traceback" in said or len(said) > LONGEST):
        outcome, more = "more than one line on stderr", said[-300:]
    if took > BOUND_MB:
        outcome, more = "memory over the bound", f"{took:.0f} MB"
    made = {path.name for path in folder.iterdir()} - before
    for name in made:
        (folder / name).unlink()
    if made:
        outcome = "code was run" if mark.name in made else "written elsewhere"
    return {"outcome": outcome, "answer": more.replace(str(folder), "..."), "value": value, "megabytes": round(took, 1)}


def readers(file: Path, photo: Path) -> dict[str, Callable[[], Any]]:
    """The ways to a file, by name; the first gives the numbers it predicts."""
    import polarpix
    from polarpix import cli
    from polarpix.images import read_image

    def load() -> Any:
        import torch

        torch.set_num_threads(1)
        found: Any = polarpix.load(file, "cpu")(read_image(photo)).prediction
        return (found.keypoints if hasattr(found, "keypoints") else found.label).tolist()

    out = str(file.parent / "out")
    return {
        LOAD: load,
        PREDICT: lambda: cli.run(["predict", str(file), str(photo), "--out", out]),
        INFO: lambda: cli.run(["info", str(file)]),
    }


def written(place: Path, files: Files) -> None:
    for suffix, data in files.items():
        place.with_suffix(suffix).write_bytes(data)


def damage(folder: Path, source: Path, count: int, seed: int) -> dict[str, Any]:
    """Damaged copies of every file through ``polarpix.load``."""
    from tqdm import tqdm

    mark, rows, wrong = folder / "ran", {}, []
    most = 0.0
    for kind in (".onnx", ".xml", ".bin", ".pt2"):
        suffix = ".xml" if kind == ".bin" else kind
        place = folder / "inside" / f"case{suffix}"
        whole = {}
        for task in TASKS:
            written(place, files_of(source, task, suffix))
            found = in_child(readers(place, source / "photo.png")[LOAD], folder, mark)
            if found["outcome"] != ACCEPTED:
                raise SystemExit(f"the whole {task}{suffix} is not accepted: {found}")
            whole[task] = found["value"]
        counts: Counter[str] = Counter()
        for number in tqdm(range(count), desc=kind, unit="file"):
            rng = random.Random(f"{seed} {kind} {number}")
            task = rng.choice(TASKS)
            files = files_of(source, task, suffix)
            written(place, files | {kind: damaged(files[kind], rng)})
            found = in_child(readers(place, source / "photo.png")[LOAD], folder, mark)
            if found["outcome"] == ACCEPTED:
                found["outcome"] = SAME if found["value"] == whole[task] else "accepted, gives other numbers"
            counts[found["outcome"]] += 1
            most = max(most, found["megabytes"])
            if found["outcome"] not in (REFUSED, SAME):
                wrong.append({"kind": kind, "number": number, **{k: found[k] for k in ("outcome", "answer")}})
        rows[kind] = dict(counts)
    return {"files": rows, "wrong": wrong, "highest_megabytes_of_a_file": most}


def torch_alone(file: Path) -> Callable[[], Any]:
    """The file opened and run by torch without polarpix."""

    def read() -> None:
        import torch

        torch.export.load(file).module()(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), torch.zeros(1, 2, 3))

    return read


def cases_of(suffix: str, source: Path, mark: Path) -> Iterator[tuple[str, str, Files]]:
    """Task, name and files of every attack of a format. The graphs of both tasks are read alike: those of one do."""
    for task in TASKS:
        others = {one: files_of(source, task, one) for one in ATTACKS}
        for name, files in (
            *(plain_attacks(suffix, others) if task == "pose" else ()),
            *ATTACKS[suffix](others[suffix], mark),
        ):
            if task == "pose" or name.startswith("metadata"):
                yield task, name, files


def attacks(folder: Path, source: Path) -> list[dict[str, Any]]:
    """Every attack of every format through every way; wrong metadata of the second task through one."""
    mark, rows = folder / "ran", []
    for suffix in ATTACKS:
        place = folder / "inside" / f"case{suffix}"
        for task, name, files in cases_of(suffix, source, mark):
            written(place, files)
            alone = suffix == ".pt2" and not name.startswith("metadata") and name != NEEDLESS
            told = {"torch_alone": in_child(torch_alone(place), folder, mark)["outcome"]} if alone else {}
            for through, read in readers(place, source / "photo.png").items():
                if through != LOAD and task == "seg":
                    continue
                found = in_child(read, folder, mark)
                del found["value"]
                expected = ACCEPTED if name == COMPUTED and through == INFO else REFUSED
                named = {"format": suffix, "task": task, "name": name, "through": through, "expected": expected}
                rows.append(named | found | told)
                sign = " " if found["outcome"] == expected else "!"
                words = (suffix, task, name, through, found["outcome"], *told.values(), found["answer"][:160])
                print(sign, " | ".join(words), found["megabytes"], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from importlib.metadata import version

    from polarpix.engine.evaluate import conditions

    for module in READ_BY:  # before the readers are forked: their memory and time are the file's alone
        import_module(module)

    start, where = time.perf_counter(), conditions()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as made:
        folder, source = Path(name), Path(made)
        (folder / "inside").mkdir()
        maker = multiprocessing.get_context("spawn").Process(target=make_files, args=(source,))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit("the networks could not be exported")
        fuzz, tried = damage(folder, source, given.count, given.seed), attacks(folder, source)
    record = {
        "name": "fuzz_exports",
        "command": "python benchmarks/fuzz_exports.py benchmarks/results/fuzz_exports.json"
        + (f" --count {given.count}" if given.count != 400 else ""),
        "seed": given.seed,
        "bound_megabytes": BOUND_MB,
        "patience_seconds": PATIENCE,
        "fuzz": fuzz,
        "attacks": tried,
        "seconds": round(time.perf_counter() - start, 1),
        "conditions": {
            **where,
            **{one: version(one) for one in ("onnxruntime", "openvino", "onnx")},
            "system": platform.system(),
        },
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    lost = [f"{one['format']} {one['name']}" for one in tried if one["outcome"] != one["expected"]]
    print(f"{len(fuzz['wrong'])} files answered wrongly; attacks not refused: {', '.join(lost) or 'none'}")
    sys.exit(bool(fuzz["wrong"] or lost))


if __name__ == "__main__":
    main()
