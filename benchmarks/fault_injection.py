"""Injects faults into real trainings and writes down what became of them.

    python benchmarks/fault_injection.py OUT.json [--kills 20] [--seed 0]

Trainings are processes of their own, of a small network on drawn figures, deterministic on the CPU:

- kill: SIGKILL at random moments of a run, each followed by ``--resume``; the weights at the end against those of an
  uninterrupted run, bit by bit. Half of the runs load data in processes of their own.
- term: the same with SIGTERM.
- disk: the run folder on a small file system that fills up (where mounting one is allowed), or is removed.
- twice: a second training in the folder of a running one.
- peer: one of two processes of a training killed; whether both end, how soon, and with which line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from polarpix.demo.figures import write_figures
from polarpix.engine.artifact import load_artifact
from polarpix.engine.evaluate import conditions

EPOCHS = 6
BACKBONE = {"name": "test_resnet", "weights": None, "output_stride": 32, "attention": "psa_p"}
PAGE: dict[str, Any] = {
    "task": "pose",
    "monitor": "mean_error",
    "model": {"backbone": BACKBONE, "head_channels": [8, 8, 8], "input_size": [64, 64], "codec": "udp"},
    "data": {
        "train_annotations": "annotations/train.json",
        "train_images": "images/train",
        "val_annotations": "annotations/val.json",
        "val_images": "images/val",
    },
    "optim": {"lr": 0.01},
    "engine": {"epochs": EPOCHS, "batch_size": 4, "ema": 0.9, "accelerator": "cpu", "devices": 1, "pictures": 1},
}


def write_page(folder: Path, root: Path, name: str, **engine: Any) -> Path:
    """A page for a run of that name."""
    page = PAGE | {"name": name, "out": str(folder / "runs"), "data": PAGE["data"] | {"root": str(root)}}
    page["engine"] = PAGE["engine"] | engine
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(page))
    return path


def start(page: Path, *options: str, **more: str) -> subprocess.Popen[str]:
    """A training in a process of its own."""
    call = [sys.executable, "-m", "polarpix", "train", "--config", str(page), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, bool]:
    """Status, the program's last line of its own, and whether there was a traceback."""
    _, said = process.communicate(timeout=timeout)
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("polarpix: ")]
    lines = [line for line in lines if "warning" not in line]
    return process.returncode, lines[-1] if lines else "", "Traceback" in said


def state(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights a finished run leaves, the best and the last ones."""
    run = folder / "runs" / "pose" / name
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    return {f"best.{k}": v for k, v in load_artifact(run).state.items()} | {f"last.{k}": v for k, v in last.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupted(folder: Path, root: Path, kind: signal.Signals, count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Runs ended by a signal at a random moment and resumed, beside an uninterrupted one with as many workers."""
    rows: list[dict[str, Any]] = []
    straight: dict[int, tuple[dict[str, torch.Tensor], float]] = {}
    for number in tqdm(range(count), desc=kind.name, unit="run"):
        workers = number % 2
        if workers not in straight:
            name = f"{kind.name}_straight{workers}"
            began = time.perf_counter()
            status, line, _ = finish(start(write_page(folder, root, name, workers=workers)))
            assert status == 0, line
            straight[workers] = state(folder, name), time.perf_counter() - began
        whole, seconds = straight[workers]
        name = f"{kind.name}{number}"
        page = write_page(folder, root, name, workers=workers)
        process, moment = start(page), rng.uniform(0.3, 1.0) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
        status, line, traceback = finish(process)
        last = folder / "runs" / "pose" / name / "checkpoints" / "last.ckpt"
        kept = torch.load(last, weights_only=False) if last.exists() else None
        again, told, broke = finish(start(page, "--resume"))
        rows.append(
            {
                "workers": workers,
                "moment": round(moment / seconds, 3),
                "status": status,
                "line": line,
                "traceback": traceback or broke,
                "epochs_kept": None if kept is None else int(kept["epoch"]),
                "updates_kept": None if kept is None else int(kept["global_step"]),
                "resumed_status": again,
                "resumed_line": told,
                "weights_equal": again == 0 and equal(state(folder, name), whole),
            }
        )
        shutil.rmtree(folder / "runs" / "pose" / name)
    return rows


def after_first_checkpoint(folder: Path, name: str, process: subprocess.Popen[str]) -> Path:
    """Wait for the first checkpoint of a run."""
    last = folder / "runs" / "pose" / name / "checkpoints" / "last.ckpt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.05)
    return last


def full_disk(folder: Path, root: Path) -> dict[str, Any]:
    """A run folder on a file system that is filled up after the first checkpoint."""
    place = folder / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        return {"fault": "disk full", "outcome": "not tried: mounting a small file system needs root"}
    try:
        process = start(write_page(place, root, "full", epochs=500))
        last = after_first_checkpoint(place, "full", process)
        with (place / "filler").open("wb") as filler:
            try:
                while True:
                    filler.write(bytes(2**16))
                    filler.flush()
            except OSError:
                pass
        status, line, traceback = finish(process)
        whole = torch.load(last, weights_only=False)["epoch"] >= 0
        (place / "filler").unlink(missing_ok=True)
        return {"fault": "disk full", "status": status, "line": line, "traceback": traceback, "checkpoint_whole": whole}
    finally:
        subprocess.run(["umount", str(place)], check=False)


def vanished(folder: Path, root: Path) -> dict[str, Any]:
    """A run folder removed after the first checkpoint."""
    process = start(write_page(folder, root, "gone", epochs=500))
    after_first_checkpoint(folder, "gone", process)
    (folder / "runs" / "pose" / "gone").rename(folder / "elsewhere")
    status, line, traceback = finish(process)
    whole = torch.load(folder / "elsewhere" / "checkpoints" / "last.ckpt", weights_only=False)["epoch"] >= 0
    return {"fault": "folder gone", "status": status, "line": line, "traceback": traceback, "checkpoint_whole": whole}


def twice(folder: Path, root: Path) -> dict[str, Any]:
    """A second training in the folder of a running one."""
    page = write_page(folder, root, "twice", epochs=500)
    first = start(page)
    after_first_checkpoint(folder, "twice", first)
    status, line, traceback = finish(start(page, "--resume"))
    alive = first.poll() is None
    first.send_signal(signal.SIGTERM)
    finish(first)
    return {
        "fault": "two in one folder",
        "status": status,
        "line": line,
        "traceback": traceback,
        "first_unharmed": alive,
    }


def peer(folder: Path, root: Path, first: bool) -> dict[str, Any]:
    """One of two processes of a training killed."""
    name = f"peer{int(first)}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    page = write_page(folder, root, name, epochs=500, devices=2, strategy="ddp", batch_size=2, workers=0)
    one = start(page, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    after_first_checkpoint(folder, name, one)
    children = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
    other = next(int(pid) for pid in children if b"polarpix" in Path(f"/proc/{pid}/cmdline").read_bytes())
    began = time.perf_counter()
    os.kill(one.pid if first else other, signal.SIGKILL)
    status, line, traceback = finish(one, timeout=120)
    while Path(f"/proc/{other}").exists() and "Z" not in Path(f"/proc/{other}/stat").read_text().split()[2]:
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    killed = "first of two" if first else "second of two"
    return {"fault": f"{killed} killed", "status": status, "line": line, "traceback": traceback, "seconds": seconds}


def main() -> None:
    """Do them all and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    record: dict[str, Any] = {
        "kind": "fault injection",
        "command": " ".join(["python", *sys.argv]),
        "seed": options.seed,
        "conditions": conditions(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "figures"
        write_figures(root, train=32, val=8, test=2, size=(64, 64), seed=options.seed)
        record["faults"] = [full_disk(folder, root), vanished(folder, root), twice(folder, root)]
        record["faults"] += [peer(folder, root, first) for first in (False, True)]
        record["kill"] = interrupted(folder, root, signal.SIGKILL, options.kills, rng)
        record["term"] = interrupted(folder, root, signal.SIGTERM, max(options.kills // 4, 2), rng)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    for key in ("kill", "term"):
        rows = record[key]
        print(f"{key}: {sum(row['weights_equal'] for row in rows)} of {len(rows)} ended with equal weights")
    for row in record["faults"]:
        print(row)


if __name__ == "__main__":
    main()
