"""`polarpix bench accuracy`: a page trained with each attention and several seeds, and one table of what it gained."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from polarpix.attention import ATTENTION
from polarpix.bench import accuracy_costs
from polarpix.bench.accuracy_page import BASE, Costs, RunRow, sections, summarize
from polarpix.bench.accuracy_plot import gain_plot, points
from polarpix.bench.accuracy_run import Job, Variant, check_page, finished_record, flat_metrics, make_job, perform, work
from polarpix.bench.record import Record, command_line, finished, machine, markdown, record_path, write_record
from polarpix.config import PoseRun, SegRun
from polarpix.engine.fit import LOWER_IS_BETTER, build_data
from polarpix.errors import InputError
from polarpix.report import Section

__all__ = ["AccuracySettings", "accuracy_settings", "bench_accuracy", "train_all"]

INITS = ("published", "identity", "torch")


@dataclass(frozen=True)
class AccuracySettings:
    """What is trained.

    Args:
        page: with its own name, folder and first seed.
        variants: the first is the one without attention.
        jobs: one for each seed and variant, seed after seed.
        split: val or test.
        parallel: how many are trained at once.
        outputs: keypoints or classes.
    """

    page: PoseRun | SegRun
    variants: Sequence[Variant]
    jobs: Sequence[Job]
    split: str
    parallel: int
    outputs: int

    @property
    def folder(self) -> Path:
        """Where all runs lie."""
        return self.jobs[0].folder.parent


def parse_variants(text: str) -> list[Variant]:
    """ "se,psa_p,psa_s:identity" -> variants without repetition, the one without attention first.

    Raises:
        InputError: a word that is no row of the shelf, or an init that its block does not have.
    """
    chosen = [Variant(BASE)]
    for word in (word.strip() for word in text.split(",") if word.strip()):
        name, _, init = word.partition(":")
        if name not in ATTENTION:
            near = difflib.get_close_matches(name, ATTENTION, n=1)
            mend = f"did you mean {near[0]}?" if near else f"choose among {', '.join(ATTENTION)}"
            raise InputError(f"--attention names {name!r}: {mend}")
        if ":" in word and (init not in INITS or not name.startswith("psa")):
            raise InputError(f"--attention names {word!r}: only psa blocks have an init, one of {', '.join(INITS)}")
        chosen.append(Variant(name, init or None))
    return list(dict.fromkeys(chosen))


def find_split(page: PoseRun | SegRun, wanted: str, data: Any) -> str:
    """The split that is reported: test where the page names one, else val; or the one that is wanted.

    Raises:
        InputError: another word, a split that the page does not name, or one whose labels are with a server.
    """
    test = page.data.test_annotations if isinstance(page, PoseRun) else page.data.test
    split = wanted or ("test" if test else "val")
    if split not in ("val", "test"):
        raise InputError(f"--split {split}: choose val or test")
    if split == "test" and not test:
        raise InputError("--split test: the page names no test split: name one under data, or use --split val")
    if not getattr(data.dataset(split), "labelled", True):
        raise InputError(f"{page.data.root}: the labels of {split} are not here: use --split val")
    return split


def accuracy_settings(
    page: PoseRun | SegRun, attention: str = "", seeds: int = 3, split: str = "", jobs: int = 1
) -> AccuracySettings:
    """The options of the command, checked before anything is trained.

    Raises:
        InputError: an option that means nothing, a page or data that are not in order, or runs of another page in the
            folder of the ablation.
    """
    if seeds < 1 or jobs < 1:
        raise InputError(f"--seeds {seeds} --jobs {jobs}: give at least 1")
    variants = parse_variants(attention or ",".join(ATTENTION))
    data: Any = build_data(page)
    outputs = len(data.labels.names)
    data.dataset("val")
    found = find_split(page, split, data)
    numbers = range(page.seed, page.seed + seeds)
    todo = [make_job(page, variant, seed, found) for seed in numbers for variant in variants]
    for job in todo:
        check_page(job)
    return AccuracySettings(page, variants, todo, found, min(jobs, len(todo)), outputs)


def train_all(jobs: Sequence[Job], parallel: int, done: Callable[[Job], None], begun: Callable[[Job], None]) -> None:
    """Do the jobs that are not done yet, one after the other or in processes of their own.

    Args:
        jobs: in the order they are begun in.
        parallel: at most this many at once; each gets its share of the threads, and a GPU of its own where there are
            several.
        done: called after each one.
        begun: called before each one.

    Raises:
        InputError: one that cannot be done; the others that run are stopped and go on with the next call.
    """
    if parallel == 1:
        for job in jobs:
            begun(job)
            work(job)
            done(job)
        return
    spawn = get_context("spawn")
    threads, gpus = max(1, torch.get_num_threads() // parallel), visible_gpus()
    waiting, slots = list(jobs), list(range(parallel))
    running: dict[Any, tuple[Any, Any, Job, int]] = {}  # sentinel -> process, connection, job, slot
    try:
        while waiting or running:
            while waiting and slots:
                job, slot = waiting.pop(0), slots.pop(0)
                heard, told = spawn.Pipe(duplex=False)
                gpu = gpus[slot % len(gpus)] if gpus else None
                process = spawn.Process(target=perform, args=(job, threads, gpu, told))
                begun(job)
                process.start()
                told.close()  # the process has its own end
                running[process.sentinel] = process, heard, job, slot
            for sentinel in connection.wait(list(running)):
                process, heard, job, slot = running.pop(sentinel)
                process.join()
                check_end(process, heard, job)
                slots.append(slot)
                done(job)
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join()


def check_end(process: Any, heard: Any, job: Job) -> None:
    """How a process ended.

    Raises:
        InputError: the line it sent, or its status where it ended without one.
        KeyboardInterrupt: it was interrupted.
    """
    try:
        line = heard.recv() if heard.poll() else None
    except EOFError:
        line = None
    if line == "":
        raise KeyboardInterrupt
    if line is not None:
        raise InputError(line)
    if process.exitcode:
        output = job.folder / "output.txt"
        raise InputError(f"{job.folder}: the training ended with status {process.exitcode}: see {output}")


def visible_gpus() -> list[str]:
    """What names each CUDA device to a process, where there are several."""
    count = torch.cuda.device_count()
    if count < 2:
        return []
    named = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    return named[:count] if len(named) >= count else [str(i) for i in range(count)]


def run_row(job: Job) -> RunRow | None:
    """The row of a run; null while it is not done."""
    record = finished_record(job)
    if record is None:
        return None
    course = record.get("training", {})
    return RunRow(
        attention=job.variant,
        seed=job.seed,
        metric=record["metrics"][job.page.monitor],
        flat=(flat_metrics(job) or {}).get(job.page.monitor),
        metrics={name: value for name, value in record["metrics"].items() if "/" not in name},
        epochs=course.get("epochs"),
        step_ms=course.get("step_ms_median"),
        commit=record["conditions"]["weights_commit"],
        folder=str(job.folder),
    )


def protocol_of(settings: AccuracySettings, lower: bool) -> dict[str, Any]:
    """What was compared, and how."""
    page = settings.page
    start = page.model.weights or page.model.backbone.weights or "random weights"
    return {
        "page": page.name,
        "metric": f"{page.monitor} of {settings.split}, {'lower' if lower else 'higher'} is better",
        "weights": f"the epoch with the best {page.monitor} of val",
        "network": f"{page.task}: {page.model.backbone.name}, from {start}",
        "seeds": sorted({job.seed for job in settings.jobs}),
        "training": f"{page.engine.epochs} epochs, batch {page.engine.batch_size}, {page.engine.precision}, one device",
        "optimiser": f"{page.optim.name}, lr {page.optim.lr:g}, that of attention times {page.optim.attention_lr:g}",
        "options": {job.variant: job.page.model.backbone.attention_options for job in settings.jobs},
        "deviation": "of the metric over seeds, n - 1",
        "difference": "metric minus that without attention, same seed; 95 percent t interval of the mean",
        "mult-adds": "of one training crop, conv by conv; collapsed: as the block runs",
        "step": "forward, loss, backward, update of the page's batch; milliseconds, median and quartiles",
        "step ratio": "to the step without attention in the same round, median and quartiles",
        "memory": "weights, buffers, optimiser state, and the most one step allocates beside them",
        "jobs at once": settings.parallel,
    }


def evaluation_protocol(jobs: Sequence[Job]) -> dict[str, Any]:
    """What `polarpix eval` says about the first run that is done; the others were evaluated alike."""
    record = next(filter(None, map(finished_record, jobs)), None)
    return {key: value for key, value in (record or {}).get("protocol", {}).items() if key != "attention"}


def measure_accuracy(settings: AccuracySettings, keep: Callable[[Record], None]) -> Record:
    """Train what is not done, then measure costs; ``keep`` gets the record after each run."""
    started = time.perf_counter()
    page = settings.page
    device = accuracy_costs.device_of(page.engine.accelerator)
    told = machine(device)
    one_each = settings.jobs[: len(settings.variants)]  # those of the first seed
    costs = accuracy_costs.count(one_each, settings.outputs)
    tables: dict[str, list[Any]] = {"rows": [], "runs": []}
    lower = page.monitor in LOWER_IS_BETTER
    record = Record("bench accuracy", command_line(), page.seed, told, protocol_of(settings, lower), tables)
    order = [variant.label for variant in settings.variants]

    def update(costs: dict[str, Costs]) -> None:
        tables["runs"] = [row for row in map(run_row, settings.jobs) if row is not None]
        record.protocol["evaluation"] = evaluation_protocol(settings.jobs)
        tables["rows"] = summarize(tables["runs"], order, costs)
        finished(told, time.perf_counter() - started)
        keep(record)

    todo = [job for job in settings.jobs if finished_record(job) is None]
    total = len(settings.jobs)
    with tqdm(total=total, initial=total - len(todo), desc="bench accuracy", unit="run") as bar:

        def done(job: Job) -> None:
            bar.update()
            update(costs)

        train_all(todo, settings.parallel, done, lambda job: bar.set_postfix_str(job.folder.name))
        bar.set_postfix_str("time and memory of a step")
        update(accuracy_costs.measure(one_each, costs, bar.refresh))
    return record


def bench_accuracy(settings: AccuracySettings, json: str = "") -> str:
    """Train, measure, write FILE.json, FILE.md and FILE.png, and give the Markdown page.

    Args:
        settings: what is trained.
        json: FILE.json; by default ablation.json in the folder of the runs.

    Raises:
        InputError: a file name that cannot be a record's, or a run that cannot be done.
    """
    path = record_path(json or str(settings.folder / "ablation.json"))
    assert path is not None
    metric = settings.page.monitor
    lower = metric in LOWER_IS_BETTER
    title = f"Attention on {settings.page.name}"

    def page(record: Record) -> list[Section]:
        return sections(record.tables["rows"], record.tables["runs"], metric, lower)

    def keep(record: Record) -> None:
        gain = f"gain in {metric} of {settings.split}" + (", sign turned: upwards is better" if lower else "")
        shown = gain_plot(title, gain, points(record.tables["rows"], lower))
        write_record(record, title, page(record), shown, path)

    record = measure_accuracy(settings, keep)
    files = ", ".join(str(path.with_suffix(s)) for s in (".json", ".md", ".png") if path.with_suffix(s).is_file())
    return f"{markdown(title, record, page(record))}\nruns: {settings.folder}\nrecord: {files}"
