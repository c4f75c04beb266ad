"""``polarpix predict --ray``: Ray Data over any number of pictures, one predictor per worker; resumable.

Every worker writes what it found as one Parquet file per ``shard`` pictures, whole or not at all. A second call reads
which pictures are in those files and predicts the others only; at the end all files become COCO's JSON. Places are
paths or any address that fsspec knows (s3://, gs://, file://, ...).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.box_files import BoxSource, boxes_of, category_number, parse_boxes
from polarpix.errors import InputError
from polarpix.framed import FramedSegs
from polarpix.images import decode_image
from polarpix.places import list_places, opened, write_whole
from polarpix.predictor import load
from polarpix.ray_parts import merge_parts, read_parts, result_row, write_part
from polarpix.sources import Frame, Medium
from polarpix.streams import predict_groups

__all__ = ["RayJob", "RayWorker", "fetch_data", "predict_ray"]

SHARD = 256  # pictures of one Parquet file


@dataclass(frozen=True)
class RayJob:
    """What every worker needs to know; all of it travels, so it is plain.

    Attributes:
        weights: what :func:`polarpix.load` takes; every machine must see it.
        out: folder or address for what is written.
        options: changes to the page.
        config: a page instead of the one inside the weights file.
        boxes: x,y,width,height or a COCO detection JSON; "" for none.
        category: of the detections, or of the detector.
        detector: the name of one, or "".
        batch: crops or images per forward pass.
        device: auto, cpu or cuda.
        workers: how many predictors.
        shard: pictures of one Parquet file.
        address: of a running cluster, "auto" for this machine's; "" starts one here.
    """

    weights: str
    out: str
    options: tuple[str, ...] = ()
    config: str = ""
    boxes: str = ""
    category: str = ""
    detector: str = ""
    batch: int | None = None
    device: str = "auto"
    workers: int = 2
    shard: int = SHARD
    address: str = ""

    def box_table(self) -> BoxSource:
        """The boxes of ``boxes``; raises InputError as :func:`parse_boxes` does."""
        number = category_number(self.category) if self.category and not self.detector else None
        return parse_boxes(self.boxes, number)


class RayWorker:
    """One predictor; takes pictures, writes their results, gives back what could not be read."""

    def __init__(self, job: RayJob) -> None:
        self.job = job
        self.predictor: Any = load(job.weights, job.device, job.options, job.config, job.batch)
        self.table = job.box_table()
        self.detector = None
        if job.detector:
            from polarpix.detectors import find_detector

            self.detector = find_detector(self.predictor, job.detector, job.category, job.device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns ``place``, ``image_id`` and ``data`` (bytes) to columns ``place`` and ``error``, "" where it went."""
        errors: dict[str, str] = {}
        rows = []
        ids = dict(zip(map(str, batch["place"]), batch["image_id"], strict=True))
        pairs = self.prepared(self.frames(batch, errors), errors)
        groups: Iterator[list[tuple[Frame, Any]]] = predict_groups(self.predictor, pairs)
        for found in groups:
            rows += [result_row(result, int(ids[frame.medium.place])) for frame, result in found]
        write_part(self.job.out, rows)
        places = [str(place) for place in batch["place"]]
        return {"place": np.array(places), "error": np.array([errors.get(place, "") for place in places])}

    def frames(self, batch: dict[str, Any], errors: dict[str, str]) -> Iterator[Frame]:
        """The pictures that can be read."""
        for place, data, failed in zip(batch["place"], batch["data"], batch["error"], strict=True):
            try:
                if failed:
                    raise InputError(str(failed))
                yield Frame(decode_image(bytes(data), str(place)), Medium("picture", str(place)))
            except InputError as error:
                errors[str(place)] = str(error)

    def prepared(self, frames: Iterator[Frame], errors: dict[str, str]) -> Iterator[tuple[Frame, Any]]:
        """The frames with their boxes."""
        if self.detector:
            pairs: Iterator[tuple[Frame, Any]] = self.detector.stream(frames)
        else:
            pairs = ((frame, boxes_of(self.table, frame.medium.path)) for frame in frames)
        for frame, boxes in pairs:
            try:
                ready: Any = self.predictor.prepare(frame, boxes)
            except InputError as error:
                errors[frame.medium.place] = str(error)
                continue
            yield frame, ready


def check_same(job: RayJob) -> None:
    """Note what the folder's predictions were made with; refuse to go on with something else.

    Raises:
        InputError: weights that do not load, boxes that are none or for a network that takes none, or a folder that
            holds predictions of another network, page or boxes.
    """
    import fsspec

    kept = ("options", "config", "boxes", "category", "detector")
    predictor = load(job.weights, "cpu", job.options, job.config, job.batch)
    if isinstance(predictor, FramedSegs) and (job.boxes or job.detector):
        raise InputError(f"{predictor.file}: a segmentation network takes no boxes: leave out --boxes and --detector")
    job.box_table()
    told = {name: value for name, value in asdict(job).items() if name in kept} | {"options": list(job.options)}
    told["weights"] = hashlib.sha256(Path(predictor.file).read_bytes()).hexdigest()
    place = f"{job.out}/job.json"
    system, path = fsspec.url_to_fs(place)
    if not system.exists(path):
        write_whole(place, json.dumps(told, indent=2).encode())
        return
    before = json.loads(system.cat_file(path))
    differ = [name for name in told if told[name] != before.get(name)]
    if differ:
        raise InputError(f"{job.out}: holds predictions with other {', '.join(differ)}: choose another --out")


def fetch_data(batch: dict[str, Any]) -> dict[str, Any]:
    """Column ``place`` to further columns ``data``, the bytes of each, and ``error``."""
    data, errors = [], []
    for place in batch["place"]:
        try:
            with opened(str(place)) as file:
                data.append(file.read())
            errors.append("")
        except (InputError, OSError) as error:
            data.append(b"")
            errors.append(str(error))
    return batch | {"data": np.array(data, dtype=object), "error": np.array(errors)}


def predict_ray(job: RayJob, sources: Sequence[str]) -> tuple[int, int, list[str]]:
    """Predict all pictures that are not done yet; then write keypoints.json (or segments.json) and images.json.

    Args:
        job: what to do.
        sources: folders, patterns, fsspec addresses, text files of one place a line.

    Returns:
        How many pictures were predicted now, how many before, and one line for each that was not.

    Raises:
        InputError: no picture, no ray, weights that do not load, or a folder with predictions of something else.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--ray needs Ray Data: pip install 'polarpix[ray]'") from error
    from polarpix.outputs import image_ids

    job = replace(job, out=job.out if "://" in job.out else str(Path(job.out).absolute()))
    places = list_places(sources)
    ids = dict(zip(places, image_ids([Path(place) for place in places]), strict=True))
    check_same(job)
    done = {row["place"] for rows in read_parts(job.out, ["place"]) for row in rows}
    missing = [place for place in places if place not in done]
    failed: list[str] = []
    if missing:
        start_ray(ray, job)
        failed = run_missing(ray, job, missing, ids)
    merge_parts(job.out, ids)
    return len(missing) - len(failed), len(places) - len(missing), failed


def start_ray(ray: Any, job: RayJob) -> None:
    """Join the cluster, or start one on this machine that tells nobody."""
    if ray.is_initialized():
        return
    if job.address:
        ray.init(address=job.address, log_to_driver=False)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=job.workers + 1, include_dashboard=False, log_to_driver=False)


def run_missing(ray: Any, job: RayJob, missing: list[str], ids: dict[str, int]) -> list[str]:
    """Predict on the workers; one line for each picture that was not."""
    from tqdm import tqdm

    ray.data.DataContext.get_current().enable_progress_bars = False
    gpu = job.device.startswith("cuda") or (job.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    shard = max(1, min(job.shard, -(-len(missing) // job.workers)))
    items = [{"place": place, "image_id": ids[place]} for place in missing]
    blocks = -(-len(items) // shard)
    data = ray.data.from_items(items, override_num_blocks=blocks)
    data = data.map_batches(fetch_data, batch_size=shard, num_cpus=0.1)  # it waits more than it works
    data = data.map_batches(
        RayWorker,
        fn_constructor_args=(job,),
        batch_size=shard,
        compute=ray.data.ActorPoolStrategy(size=min(job.workers, blocks)),
        num_gpus=1 if gpu else 0,
    )
    failed = []
    with tqdm(total=len(missing), desc="predict", unit="image") as bar:
        for batch in data.iter_batches(batch_size=None):
            failed += [str(error) for error in batch["error"] if error]
            bar.update(len(batch["place"]))
    return failed
