"""What `polarpix predict` waits for: decoding, network and drawing of pictures and of a video made from them.

    python benchmarks/predict_overlap.py FOLDER OUT.json

FOLDER holds pictures; the first FRAMES of one size are taken, as files and as a video. Each is predicted as the command
does it, files written, by a pose and a segmentation network with random weights; beside it the network alone, over the
same frames when they are decoded already and nothing is written. Once before, unmeasured, to warm up.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from polarpix.bench.record import Record, finished, machine, plain
from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA
from polarpix.engine.artifact import save_artifact, write_text
from polarpix.images import list_images, read_image
from polarpix.pages import make_run
from polarpix.pose.model import build_pose_model
from polarpix.predict import PosePredictor, SegPredictor, load
from polarpix.predict_files import FileJob, predict_files
from polarpix.seg.model import build_seg_model
from polarpix.types import UInt8Array

SEED = 0
FRAMES = 60
WARM = 4
BACKBONE = {"name": "mobilenetv2_100", "attention": "psa_p", "weights": None}
PAGES: dict[str, dict[str, Any]] = {
    "pose": {"model": {"backbone": BACKBONE, "input_size": [256, 192], "codec": "udp"}, "data": {"whole_image": True}},
    "seg": {"model": {"backbone": {**BACKBONE, "output_stride": 16}, "head": "deeplabv3plus_separable"}},
}
NETWORKS = {
    "pose": "keypoints: MobileNetV2 with psa_p, 256x192, flip test, the whole image as one box",
    "seg": "masks: MobileNetV2 with psa_p, separable DeepLabV3+, stride 16, whole images",
}


def network(task: str, folder: Path) -> PosePredictor | SegPredictor:
    """A predictor of that task with random weights."""
    run = make_run({"task": task, "name": task, **PAGES[task]})
    torch.manual_seed(SEED)
    if task == "pose":
        labels: Any = FIGURE_SCHEMA
        model: torch.nn.Module = build_pose_model(run.model, len(labels.names))  # type: ignore[arg-type]
    else:
        labels = FIGURE_CLASSES
        model = build_seg_model(run.model, len(labels.names))  # type: ignore[arg-type]
    save_artifact(folder / f"{task}.safetensors", model.state_dict(), run, labels, {})
    return load(folder / f"{task}.safetensors", "cpu")


def chosen(folder: Path) -> list[Path]:
    """The first pictures of the size that the first one has."""
    paths = list_images(folder)
    size = read_image(paths[0]).shape
    found = [path for path in paths if read_image(path).shape == size][:FRAMES]
    if len(found) < 2 * WARM:
        raise SystemExit(f"{folder}: {len(found)} pictures of the first one's size, at least {2 * WARM} are needed")
    return found


def write_video(path: Path, frames: Sequence[UInt8Array]) -> None:
    """The frames as an mp4 of 25 a second."""
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, frames[0].shape[1::-1])
    for frame in frames:
        film.write(np.ascontiguousarray(frame[:, :, ::-1]))
    film.release()


def alone(predictor: PosePredictor | SegPredictor, frames: Sequence[UInt8Array]) -> float:
    """Seconds of the network over frames in memory, batched as the command batches them."""
    start = time.perf_counter()
    for _ in predictor.stream(list(frames)):
        pass
    return time.perf_counter() - start


def measure(
    predictor: PosePredictor | SegPredictor, name: str, sources: Sequence[str], frames: Sequence[UInt8Array], out: Path
) -> dict[str, Any]:
    """One source through the command, and the network alone."""
    predict_files(predictor, FileJob(sources, out / "warm", frames=WARM))
    alone(predictor, frames[:WARM])
    by_itself = alone(predictor, frames)
    job = FileJob(sources, out / "measured")
    start = time.perf_counter()
    predict_files(predictor, job)
    seconds = time.perf_counter() - start
    assert job.done == len(frames), job.failed
    spent = job.clock.seconds
    return {
        "source": name,
        "network": predictor.run.task,
        "frames": job.done,
        "seconds": round(seconds, 3),
        "frames_per_second": round(job.done / seconds, 2),
        "alone_seconds": round(by_itself, 3),
        "network_seconds": round(spent["find"] - spent["waiting to decode"], 3),
        "waiting_to_decode": round(spent["waiting to decode"], 3),
        "waiting_to_write": round(spent["waiting to write"], 3),
        "decode": round(spent["decode"], 3),
        "write": round(spent["write"], 3),
    }


def main(folder: Path, out: Path) -> None:
    """Measure all, and write the record."""
    started = time.perf_counter()
    told = machine(torch.device("cpu"))
    paths = chosen(folder)
    frames = [read_image(path) for path in paths]
    height, width = frames[0].shape[:2]
    protocol = {"dtype": "fp32", "frames": len(frames), "size": [height, width], **NETWORKS}
    protocol |= {"folder": "/".join(folder.resolve().parts[-2:])}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        write_video(room / "clip.mp4", frames)
        for task in PAGES:
            predictor = network(task, room)
            for source, given in (("pictures", [str(path) for path in paths]), ("video", [str(room / "clip.mp4")])):
                title = f"{source}, {height}x{width}"
                rows.append(measure(predictor, title, given, frames, room / task / source))
    finished(told, time.perf_counter() - started)
    command = " ".join(["python", "benchmarks/predict_overlap.py", str(folder), str(out)])
    record = Record("predict overlap", command, SEED, told, protocol, {"rows": rows})
    write_text(out, json.dumps(plain(record), indent=2) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
