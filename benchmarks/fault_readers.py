"""Faults of data and of the processes of a training: a NaN loss, a dead loader or peer, one bad picture in 10,000."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

from fault_parts import DDP, ENGINE, Place, after_first_checkpoint, alive, children, finish, start
from fault_places import found, whole

from polarpix.demo.figures import write_figures
from polarpix.engine.fit import build_data
from polarpix.loading import EpochSampler
from polarpix.pages import load_page

MANY = 10_000
NAN_AT = (3, 5)  # epoch and batch
PATIENCE = 60  # seconds within which both processes of a training are to end


def nan_loss(place: Place) -> dict[str, Any]:
    """A loss multiplied by NaN in the fourth epoch."""
    run = place.run("nan")
    data: Any = build_data(load_page(str(run.page))).dataset("train")
    sampler = EpochSampler(len(data), seed=0, shuffle=True)
    sampler.set_epoch(NAN_AT[0])
    size = ENGINE["batch_size"]
    files = [str(data.images / one.file) for one in data.instances]
    batch = {files[position] for _, position in list(sampler)[NAN_AT[1] * size :][:size]}
    ended = finish(start(run.page, updates=place.folder / "nan.txt", nan=":".join(map(str, NAN_AT))))
    kept = run.kept() or {"epoch": None, "state_dict": {}}
    finite = [bool(one.isfinite().all()) for one in kept["state_dict"].values()]
    held = ended.one_line(str(run.last)) | {
        "it names the pictures of the batch and no others": {one for one in files if one in ended.line} == batch,
        "the last checkpoint is of the epoch before and finite": kept["epoch"] == NAN_AT[0] - 1 and all(finite),
    }
    return found(ended, held | place.goes_on(run))


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    try:
        return any(os.readlink(one) == str(path) for one in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # the process ended, or closed one of them
        return False


def dead_worker(place: Place) -> dict[str, Any]:
    """A loading process killed while it reads a picture: a pipe in its place, which tells that it is opened."""
    root = place.folder / "piped"
    shutil.copytree(place.figures, root)
    picture = root / "images" / "train" / "0005.jpg"
    away = picture.with_suffix(".away")
    run = place.run("worker", root=root, workers=1)
    process = start(run.page)
    after_first_checkpoint(run, process)
    os.mkfifo(pipe := picture.with_suffix(".pipe"))
    shutil.copy(picture, away)
    pipe.replace(picture)
    reading = -1
    while reading < 0 and process.poll() is None:
        try:
            reading = os.open(picture, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            time.sleep(0.001)
    worker = -1
    while worker < 0 and process.poll() is None:
        worker = next((pid for pid in children(process.pid) if has_open(pid, picture)), -1)
    if worker > 0:
        os.kill(worker, signal.SIGKILL)
    ended = finish(process)
    if reading >= 0:
        os.close(reading)
    away.replace(picture)
    held = {"it was killed while it read the picture": worker > 0} | ended.one_line(str(picture), "signal 9")
    return found(ended, held | whole(run) | place.goes_on(run))


def many(place: Place) -> tuple[Path, Path]:
    """10,000 pictures, one of which is cut off; the folder and that picture."""
    root = place.folder / "many"
    bad = root / "images" / "train" / f"{place.rng.randrange(MANY):04d}.jpg"
    write_figures(root, train=MANY, val=8, test=2, size=(64, 64), seed=place.seed)
    bad.write_bytes(bad.read_bytes()[:300])
    return root, bad


def corrupt(place: Place) -> dict[str, Any]:
    """One corrupt picture among 10,000, first as it is, then passed over."""
    root, bad = many(place)
    engine = {"epochs": 1, "batch_size": 64, "workers": 1}
    run = place.run("corrupt", task="seg", root=root, **engine)
    ended = finish(start(run.page))
    run = place.run("skips", task="seg", root=root, skip_unreadable=True, **engine)
    other = finish(start(run.page), timeout=1200)
    table = run.folder / "metrics.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file)) if table.exists() else []
    named = [line for line in other.warned if str(bad) in line and f"1 of {MANY} training samples" in line]
    held = ended.one_line(str(bad)) | {
        "with engine.skip_unreadable the epoch is trained": other.status == 0 and not other.lines + other.others,
        "with it named in one line and counted": len(named) == 1 and [float(r["unreadable"]) for r in rows] == [1.0],
    }
    return found(ended, held, times=2, skipped=named)


def peer(place: Place, first: bool) -> dict[str, Any]:
    """One of two processes of a training killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    run = place.run(f"peer{int(first)}", **DDP)
    one = start(run.page, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    after_first_checkpoint(run, one)
    (other,) = (pid for pid in children(one.pid) if b"polarpix" in Path(f"/proc/{pid}/cmdline").read_bytes())
    began = time.monotonic()
    os.kill(one.pid if first else other, signal.SIGKILL)
    while (one.poll() is None or alive(other)) and time.monotonic() - began < 2 * PATIENCE:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    left = alive(other)
    if left:
        os.kill(other, signal.SIGKILL)
    ended = finish(one)
    said = ended.one_line("another process of this training", status=-signal.SIGKILL if first else 2)
    held = said | {f"both ended within {PATIENCE} s": not left and seconds < PATIENCE}
    return found(ended, held | whole(run) | place.goes_on(run, "two"), seconds=round(seconds, 1))
