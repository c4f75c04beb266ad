"""`polarpix bench export`: the predictor of an exported file beside loops over onnxruntime written by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from polarpix.bench import by_hand
from polarpix.bench.record import (
    Record,
    command_line,
    finished,
    machine,
    markdown,
    record_path,
    spread_text,
    write_record,
)
from polarpix.bench.timing import Candidate, Spread, interleaved, keep_freed_memory, paired_ratio
from polarpix.config import PoseRun, SegRun
from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA, draw_scene
from polarpix.engine.artifact import load_artifact, save_artifact
from polarpix.errors import InputError
from polarpix.export.run import export
from polarpix.pages import make_run
from polarpix.pose.model import build_pose_model
from polarpix.pose.task import run_codec
from polarpix.predictor import load
from polarpix.report import Section, Table
from polarpix.runtime.predictors import ExportedPosePredictor, ExportedSegPredictor
from polarpix.seg.model import build_seg_model

__all__ = ["ExportRow", "bench_export", "measure_exports"]

ROUNDS = 41
LIMIT = 1.1
SIZE = (360, 480)  # of the picture
BACKBONE = {"name": "mobilenetv2_100", "attention": "psa_p", "weights": None}
PAGES: dict[str, dict[str, Any]] = {
    "pose": {"model": {"backbone": BACKBONE, "input_size": [256, 192], "codec": "udp"}},
    "seg": {"model": {"backbone": {**BACKBONE, "output_stride": 16}, "head": "deeplabv3plus_separable"}},
}
BOXES = (1, 4)  # of the pose network, on one picture
HEATMAP_PIXEL = 6.0  # in pixels of the picture, for the larger side of a box
OWN, WHOLE, BARE = "polarpix.load(FILE)", "by hand, same file", "by hand, bare network"

Array = npt.NDArray[Any]


@dataclass
class ExportRow:
    """One network on one picture: the predictor and the two loops by hand."""

    task: str
    input: str
    times: dict[str, Spread] = field(default_factory=dict)  # way -> milliseconds per picture
    ratio: dict[str, Spread] = field(default_factory=dict)  # way by hand -> time of the predictor over it, by rounds


def bare_network(network: nn.Module, image: torch.Tensor, path: Path) -> Path:
    """The network alone as ONNX, for the input [B, 3, H, W] it is given."""
    with torch.no_grad():
        torch.onnx.export(network.eval(), (image,), str(path), dynamo=True, verbose=False, external_data=False)
    return path


def build(task: str, folder: Path, seed: int) -> tuple[PoseRun | SegRun, nn.Module, Path]:
    """Page, network with random weights, and its exported file."""
    run = make_run({"task": task, "name": f"bench_{task}", **PAGES[task]})
    torch.manual_seed(seed)
    labels = FIGURE_SCHEMA if task == "pose" else FIGURE_CLASSES
    network: nn.Module
    if isinstance(run, PoseRun):
        network = build_pose_model(run.model, len(labels.names))
        nn.init.normal_(network.head.final_layer.weight, std=0.05)  # heatmaps with summits
    else:
        network = build_seg_model(run.model, len(labels.names))
    weights = folder / f"{task}.safetensors"
    save_artifact(weights, network.state_dict(), run, labels, {})
    return run, network.eval(), export(load_artifact(weights).file, "onnx").file


def pose_candidates(folder: Path, seed: int, picture: Array) -> dict[str, dict[str, Candidate]]:
    """Input -> way -> what to time."""
    run, network, file = build("pose", folder, seed)
    assert isinstance(run, PoseRun)
    predictor = load(file, "cpu")
    assert isinstance(predictor, ExportedPosePredictor)
    size, padding = (run.model.input_size[0], run.model.input_size[1]), run.data.box_padding
    order, sigma = list(FIGURE_SCHEMA.flip_order), run_codec(run).sigma
    found = {}
    for count in BOXES:
        boxes = np.array([[40 + 90 * i, 30 + 10 * i, 110, 250] for i in range(count)], np.float32)
        bare = bare_network(network, torch.zeros(2 * count, 3, *size), folder / f"pose_{count}.onnx")
        own = _called(predictor, picture, boxes)
        hand = by_hand.points_whole(file, picture, boxes, size, padding)
        alone = by_hand.points_bare(bare, picture, boxes, size, padding, order, sigma)
        found[f"{count} box{'es' * (count > 1)}"] = _alike(own, hand, alone, HEATMAP_PIXEL)
    return found


def seg_candidates(folder: Path, seed: int, picture: Array) -> dict[str, dict[str, Candidate]]:
    """Input -> way -> what to time."""
    _, network, file = build("seg", folder, seed)
    predictor = load(file, "cpu")
    assert isinstance(predictor, ExportedSegPredictor)

    def own() -> tuple[Array, Array]:
        found = predictor(picture).prediction
        return found.label, found.confidence

    bare = bare_network(network, torch.zeros(1, 3, *SIZE), folder / "seg_bare.onnx")
    found = _alike(own, by_hand.masks_whole(file, picture), by_hand.masks_bare(bare, picture))
    return {"x".join(map(str, SIZE)): found}


def _called(predictor: ExportedPosePredictor, picture: Array, boxes: Array) -> Callable[[], tuple[Array, Array]]:
    def run() -> tuple[Array, Array]:
        found = predictor(picture, boxes).prediction
        return found.keypoints, found.scores

    return run


def _alike(
    own: Callable[[], tuple[Array, Array]],
    whole: Callable[[], tuple[Array, Array]],
    bare: Callable[[], tuple[Array, Array]],
    near: float = 0.5,
) -> dict[str, Candidate]:
    """The three ways, checked to find the same: of 9 in 10 values no further apart than ``near``.

    Heatmaps of random weights have many summits, and smoothing at the border differs from loop to loop.

    Raises:
        InputError: they do not.
    """
    ways = {OWN: own, WHOLE: whole, BARE: bare}
    first, _ = own()
    for way, run in ways.items():
        found, _ = run()
        apart = np.abs(found.astype(np.float64) - first)
        if found.shape != first.shape or np.mean(apart > near) > 0.1:
            raise InputError(f"{way} finds something else than {OWN}: the benchmark compares unlike things")
    return {way: Candidate(run) for way, run in ways.items()}


def measure_exports(rounds: int = ROUNDS, seed: int = 0) -> Record:
    """Export both networks and time the ways in turns."""
    started = time.perf_counter()
    device = torch.device("cpu")
    told = machine(device)
    protocol = {
        "device": "cpu",
        "dtype": "fp32",
        "allocator": keep_freed_memory(),
        "picture": f"one of {SIZE[0]}x{SIZE[1]} in memory",
        "pose": "MobileNetV2 with psa_p, three deconvolutions, 256x192, UDP, flip test, 14 keypoints, random weights",
        "seg": "MobileNetV2 with psa_p, separable DeepLabV3+, output stride 16, 7 classes, random weights",
        "samples": f"{rounds}, in turns; milliseconds per picture, median and quartiles",
        "ratio": f"time of the predictor over that by hand in the same round; at most {LIMIT} is promised",
        "by hand": "polarpix/bench/by_hand.py: crop, session.run, decode; nothing is checked",
        "onnxruntime": "CPUExecutionProvider, default options and threads",
    }
    record = Record("bench export", command_line(), seed, told, protocol, {"rows": []})
    picture = draw_scene(np.random.default_rng(seed), SIZE).image
    with TemporaryDirectory() as folder, torch.random.fork_rng():
        groups = {
            "pose": pose_candidates(Path(folder), seed, picture),
            "seg": seg_candidates(Path(folder), seed, picture),
        }
        total = sum(map(len, groups.values())) * rounds
        with tqdm(total=total, desc="bench export", unit="round") as bar:
            for task, inputs in groups.items():
                for name, candidates in inputs.items():
                    record.tables["rows"].append(measure(task, name, candidates, rounds, bar.update))
    finished(told, time.perf_counter() - started)
    return record


def measure(
    task: str, name: str, candidates: Mapping[str, Candidate], rounds: int, tick: Callable[[], object]
) -> ExportRow:
    """The ways on one input, in turns."""
    found = interleaved(candidates, torch.device("cpu"), rounds, tick=tick)
    times = {way: samples.timing() for way, samples in found.items()}
    return ExportRow(task, name, times, {way: paired_ratio(found[OWN], found[way]) for way in (WHOLE, BARE)})


def sections(rows: list[ExportRow]) -> list[Section]:
    """The page: times and ratios in one table."""
    head = ["network", "input", *(f"{way}, ms" for way in (OWN, WHOLE, BARE)), "ratio, same file", "ratio, bare"]
    cells = [
        [
            row.task,
            row.input,
            *(spread_text(row.times[way]) for way in (OWN, WHOLE, BARE)),
            *(spread_text(row.ratio[way]) for way in (WHOLE, BARE)),
        ]
        for row in rows
    ]
    return [Section("Milliseconds per picture", "", Table(head, cells))]


def bench_export(json: str = "", rounds: int = 0) -> str:
    """Measure, write FILE.json and FILE.md if a file is named, and give the Markdown page.

    Raises:
        InputError: a file name that cannot be a record's, or fewer than no rounds.
    """
    if rounds < 0:
        raise InputError(f"--rounds {rounds}: give at least 1, or 0 for the default")
    path = record_path(json)
    title = "An exported network beside a loop by hand"
    record = measure_exports(rounds or ROUNDS)
    page = sections(record.tables["rows"])
    if path is not None:
        write_record(record, title, page, None, path)
    return markdown(title, record, page)
