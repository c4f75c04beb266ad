"""One training of `polarpix bench accuracy`: where it lies, whether it is done, and what it takes to do it."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import Artifact, load_artifact
from polarpix.engine.evaluate import evaluate
from polarpix.engine.fit import fit, run_folder
from polarpix.errors import InputError, TerminatedError
from polarpix.pages import flatten, load_page, page_text
from polarpix.predict import artifact_run
from polarpix.records import read_record
from polarpix.summary import write_evaluation, write_record, write_training

__all__ = [
    "FLAT",
    "Job",
    "Variant",
    "check_page",
    "finished_record",
    "flat_metrics",
    "flattened",
    "make_job",
    "perform",
    "record_file",
    "work",
]

# Block -> the same with a spatial gate of 0.5.
FLAT = {"psa_p": "psa_p_flat", "psa_s": "psa_s_flat"}
# Where and how fast a run is computed, not what: these may differ between two halves of an ablation.
FREE = ("out", "engine.accelerator", "engine.workers", "engine.pictures")


@dataclass(frozen=True)
class Variant:
    """What stands at the places of attention.

    Args:
        name: a row of the shelf.
        init: how it starts, of polarized self-attention; null for what the page or the block says.
    """

    name: str
    init: str | None = None

    @property
    def label(self) -> str:
        """As the command line names it."""
        return f"{self.name}:{self.init}" if self.init else self.name


@dataclass(frozen=True)
class Job:
    """One training and its evaluation: a page of its own, in a folder of its own."""

    variant: str
    seed: int
    split: str
    page: PoseRun | SegRun

    @property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.page)


def options_of(variant: Variant, page: PoseRun | SegRun) -> dict[str, Any]:
    """Arguments of a variant's block: those of the page for the block it names, and the scale that an init needs."""
    backbone = page.model.backbone
    options = dict(backbone.attention_options) if variant.name == backbone.attention else {}
    if variant.init == "identity":
        single = variant.name in ("psa_channel", "psa_spatial")
        options["scale"] = 2.0 if single else 4.0 if variant.name.startswith("psa_s") else 1.0
    return options | ({"init": variant.init} if variant.init else {})


def make_job(page: PoseRun | SegRun, variant: Variant, seed: int, split: str) -> Job:
    """The page with another attention and seed, on one device, below ``<out>/ablation/<name>``."""
    run = deepcopy(page)
    run.out = str(Path(page.out) / "ablation" / page.name)
    run.name = f"{variant.label.replace(':', '_')}_seed{seed}"
    run.seed = seed
    run.model.backbone.attention_options = options_of(variant, page)
    run.model.backbone.attention = variant.name
    run.engine.devices, run.engine.nodes, run.engine.strategy = 1, 1, "auto"
    run.engine.sync_batchnorm = False
    return Job(variant.label, seed, split, run)


def record_file(job: Job) -> Path:
    """The record that a finished run is known by."""
    return job.folder / "eval" / job.split / "record.json"


def check_page(job: Job) -> None:
    """Refuse to go on with a run of another page.

    Raises:
        InputError: the run's folder holds one whose page differs in what it computes; names the first key.
    """
    before = job.folder / "config.yaml"
    if not before.is_file():
        return
    then, now = (flatten(asdict(page)) for page in (load_page(before), job.page))
    changed = next((key for key in now if key not in FREE and now[key] != then.get(key)), None)
    if changed:
        raise InputError(
            f"{job.folder}: trained with {changed} {then.get(changed)!r}, now it is {now[changed]!r}: "
            "change it back, or choose another --name"
        )


def finished_record(job: Job) -> dict[str, Any] | None:
    """The record of a run that is done; null for one that is not.

    Raises:
        InputError: a record that cannot be read, or without the metric the page is judged by.
    """
    path = record_file(job)
    if not path.is_file():
        return None
    try:
        record = read_record(path)
    except InputError as error:
        raise InputError(f"{path}: is no record of an evaluation: remove it to have it made again") from error
    if job.page.monitor not in record["metrics"]:
        raise InputError(f"{path}: has no {job.page.monitor}: name another --monitor, or another --split")
    return record


def flat_metrics(job: Job) -> dict[str, float] | None:
    """The metrics of a run evaluated with its spatial gates at 0.5; null where that was not done."""
    path = flat_file(job)
    return dict(json.loads(path.read_text(encoding="utf-8"))["metrics"]) if path.is_file() else None


def flat_file(job: Job) -> Path:
    """The record of that evaluation."""
    return job.folder / "eval" / f"{job.split}_flat" / "record.json"


def flattened(artifact: Artifact) -> Artifact:
    """Trained weights of a block of FLAT without their spatial branch: every spatial gate is 0.5."""
    run = deepcopy(artifact.run)
    run["model"]["backbone"]["attention"] = FLAT[artifact.attention]
    return replace(artifact, run=run, state={key: v for key, v in artifact.state.items() if ".spatial." not in key})


def work(job: Job) -> None:
    """Train, or go on with a training, and evaluate: what `polarpix train` and `polarpix eval` leave behind.

    A block of FLAT is evaluated once more with its spatial gates at 0.5.

    What they print is written to output.txt in the run folder.

    Raises:
        InputError: a page or data that are not in order.
    """
    with output_to(job.folder / "output.txt"):
        fitted = fit(job.page, resume=True)
        write_training(job.page, fitted.folder, fitted.metrics, page_text(job.page))
        artifact = load_artifact(fitted.weights)
        options = [f"--out={job.page.out}", f"--engine.accelerator={job.page.engine.accelerator}"]
        command = f"polarpix eval {fitted.weights} --split {job.split}"
        if artifact.attention in FLAT:
            without = flattened(artifact)
            page = artifact_run(without, options)
            write_record(evaluate(without, page, job.split, 1), page, flat_file(job), f"{command}, spatial gate 0.5")
        page = artifact_run(artifact, options)
        found = evaluate(artifact, page, job.split)
        write_evaluation(found, record_file(job).parent, command)
        write_record(found, page, record_file(job), command)  # last: with it the run is done


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Bars and lines of a training go to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def perform(job: Job, threads: int, gpu: str | None, told: Any) -> None:
    """:func:`work` in a process of its own; sends one line through the connection ``told`` if it cannot be done.

    What nobody foresaw ends in status 1, with its traceback in output.txt.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA starts in this process, which then knows one device
    torch.set_num_threads(threads)
    try:
        work(job)
    except InputError as error:
        told.send(str(error))
    except KeyboardInterrupt:
        told.send("")
    except TerminatedError:
        raise SystemExit(143) from None
    except Exception:
        with output_to(job.folder / "output.txt"):
            traceback.print_exc()
        raise SystemExit(1) from None
