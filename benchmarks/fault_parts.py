"""What trainings under fault have in common: pages, processes, what they said, the weights they left."""

from __future__ import annotations

import functools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

import polarpix
from polarpix.demo.figures import FIGURE_CLASSES, write_figures
from polarpix.engine.artifact import load_artifact

CHILD = Path(__file__).with_name("fault_child.py")
BAR = re.compile(r"\d+/(\d+|\?) \[")  # of progress, as tqdm writes it
BACKBONE = {"name": "test_resnet", "weights": None, "output_stride": 32, "attention": "psa_p"}
PAGES: dict[str, dict[str, Any]] = {
    "pose": {
        "monitor": "mean_error",
        "model": {"backbone": BACKBONE, "head_channels": [8, 8, 8], "input_size": [64, 64], "codec": "udp"},
        "data": {
            "train_annotations": "annotations/train.json",
            "train_images": "images/train",
            "val_annotations": "annotations/val.json",
            "val_images": "images/val",
        },
    },
    "seg": {
        "monitor": "mIoU",
        "model": {"backbone": BACKBONE, "aspp_channels": 8, "low_channels": 8, "rates": [1, 1, 1]},
        "data": {"format": "folder", "classes": list(FIGURE_CLASSES.names), "crop_size": [64, 64], "uniform": 0.0},
    },
}
ENGINE = {"epochs": 8, "batch_size": 4, "ema": 0.9, "accelerator": "cpu", "devices": 1, "pictures": 1}
DDP = {"devices": 2, "strategy": "ddp", "batch_size": 2, "workers": 0}

State = dict[str, torch.Tensor]


class NotTriedError(Exception):
    """A fault that this machine or user cannot make; says what it needs."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote to stderr beside its progress bars."""

    status: int
    lines: list[str]  # of the program itself: "polarpix: ..."
    warned: list[str]
    others: list[str]
    hung: bool  # and had to be killed

    @property
    def line(self) -> str:
        """The last word."""
        return self.lines[-1] if self.lines else ""

    @property
    def clean(self) -> bool:
        """Whether it ended by itself without a traceback."""
        return not self.hung and not any("Traceback" in line for line in self.others)

    def one_line(self, *words: str, status: int = 2) -> dict[str, bool]:
        """Whether it ended as an error is to end, as what is to hold."""
        return {
            f"status {status}": self.status == status and not self.hung,
            "one line and no other": len(self.lines) == 1 and not self.others,
            **{f"it names {Path(word).name}": word in self.line for word in words},
        }


@dataclass(frozen=True)
class Run:
    """One training to be harmed: its page, and where it leaves what."""

    page: Path
    folder: Path

    @property
    def last(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    def kept(self) -> dict[str, Any] | None:
        """That checkpoint, read from end to end; null where there is none."""
        return torch.load(self.last, map_location="cpu", weights_only=True) if self.last.exists() else None

    def weights(self) -> State:
        """What a finished run leaves, the best and the last ones."""
        last = self.kept()
        assert last is not None
        best = load_artifact(self.folder).state
        return {f"best.{k}": v for k, v in best.items()} | {f"last.{k}": v for k, v in last["state_dict"].items()}


@dataclass
class Place:
    """A folder to do harm in, and figures to train on."""

    folder: Path
    seed: int
    rng: random.Random
    undisturbed: dict[str, State] = field(default_factory=dict)

    @functools.cached_property
    def figures(self) -> Path:
        """32 pictures, made when they are first needed."""
        root = self.folder / "figures"
        write_figures(root, train=32, val=8, test=2, size=(64, 64), seed=self.seed)
        return root

    def run(
        self, name: str, at: Path | None = None, task: str = "pose", root: Path | None = None, **engine: Any
    ) -> Run:
        """A run of that name below a folder, of our own if none is given."""
        at = at or self.folder
        page = PAGES[task] | {"task": task, "name": name, "out": str(at / "runs"), "engine": ENGINE | engine}
        page["data"] = page["data"] | {"root": str(root or self.figures)}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(page))
        return Run(path, at / "runs" / task / name)

    def straight(self, kind: str) -> State:
        """The weights of an uninterrupted training, by "one" process or by "two"."""
        if kind not in self.undisturbed:
            run = self.run(f"straight_{kind}", **(DDP if kind == "two" else {}))
            ended = finish(start(run.page))
            assert ended.status == 0, ended
            self.undisturbed[kind] = run.weights()
        return self.undisturbed[kind]

    def goes_on(self, run: Run, kind: str = "one", call: Callable[..., Any] | None = None) -> dict[str, bool]:
        """Whether a harmed run can be resumed, and ends with what an uninterrupted one has."""
        ended = finish((call or start)(run.page, "--resume"))
        equal = ended.status == 0 and self.equal(run, kind)
        return {"resumed, it ends with the weights of an uninterrupted run": equal}

    def equal(self, run: Run, kind: str = "one") -> bool:
        """Whether a finished run left what an uninterrupted one does."""
        return same(run.weights(), self.straight(kind))


def same(a: State, b: State) -> bool:
    """Bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def start(
    page: Path, *options: str, before: Sequence[str] = (), updates: Path | None = None, nan: str = "", **more: str
) -> subprocess.Popen[str]:
    """A training in a process of its own; one that tells its updates runs through fault_child.py."""
    program = ["-m", "polarpix"] if updates is None else [str(CHILD), str(updates), nan]
    call = [*before, sys.executable, *program, "train", "--config", str(page), *options]
    home = str(Path(polarpix.__file__).resolve().parent.parent)  # the package whose commit the record names
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": home} | more
    return subprocess.Popen(
        call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    )


def finish(process: subprocess.Popen[str], timeout: float = 600) -> Ended:
    """Wait for the end; one that does not come is made."""
    hung = False
    try:
        _, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        hung = True
        process.kill()
        _, said = process.communicate()
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines()]
    lines = [line for line in lines if line and not BAR.search(line)]
    ours = [line for line in lines if line.startswith("polarpix: ")]
    warned = [line for line in ours if line.startswith("polarpix: warning: ")]
    others = [line for line in lines if line not in ours]
    return Ended(process.returncode, [line for line in ours if line not in warned], warned, others, hung)


def after_first_checkpoint(run: Run, process: subprocess.Popen[str]) -> None:
    """Wait until a run has one.

    Raises:
        RuntimeError: it ended before.
    """
    while not run.last.exists():
        if process.poll() is not None:
            raise RuntimeError(f"a training ended before its first checkpoint: {finish(process)}")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in path.read_text().split()]
    return [one for one in found if alive(one)]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
