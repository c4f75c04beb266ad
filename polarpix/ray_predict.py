"""``polarpix predict --ray``: Ray Data over any number of pictures, one predictor per worker; resumable.

Every worker writes what it found as one Parquet file per ``shard`` pictures, whole or not at all. A second call reads
which pictures are in those files and predicts the others only; at the end all files become COCO's JSON. Places are
paths or any address that fsspec knows (s3://, gs://, file://, ...).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polarpix.box_files import boxes_of, parse_boxes
from polarpix.errors import InputError
from polarpix.images import decode_image
from polarpix.places import list_places, opened, write_whole
from polarpix.results import PoseResult, SegResult
from polarpix.sources import Frame, Medium
from polarpix.streams import predict_groups

__all__ = ["RayJob", "RayWorker", "fetch_data", "predict_ray"]

SHARD = 256  # pictures of one Parquet file


@dataclass(frozen=True)
class RayJob:
    """What every worker needs to know; all of it travels, so it is plain.

    Attributes:
        weights: weights file or run folder; every machine must see it.
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


class RayWorker:
    """One predictor; takes pictures, writes their results, gives back what could not be read."""

    def __init__(self, job: RayJob) -> None:
        from polarpix.predict import PosePredictor, load

        self.job = job
        self.predictor: Any = load(job.weights, job.device, job.options, job.config, job.batch)
        number = int(job.category) if job.category and not job.detector else None
        self.table = parse_boxes(job.boxes, number)
        self.detector = None
        if job.detector and isinstance(self.predictor, PosePredictor):
            from polarpix.detectors import load_detector

            predictor = self.predictor
            threshold = predictor.run.eval.box_threshold
            self.detector = load_detector(job.detector, predictor.schema, predictor.device, job.category, threshold)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns ``place``, ``image_id`` and ``data`` (bytes) to columns ``place`` and ``error``, "" where it went."""
        errors: dict[str, str] = {}
        rows = []
        ids = dict(zip(map(str, batch["place"]), batch["image_id"], strict=True))
        pairs = self.prepared(self.frames(batch, errors), errors)
        groups: Iterator[list[tuple[Frame, Any]]] = predict_groups(self.predictor, pairs)
        for found in groups:
            rows += [result_row(result, int(ids[frame.medium.place])) for frame, result in found]
        if rows:
            name = hashlib.sha256("\n".join(row["place"] for row in rows).encode()).hexdigest()[:24]
            write_whole(f"{self.job.out}/parts/{name}.parquet", parquet(rows))
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


def result_row(result: PoseResult | SegResult, image_id: int) -> dict[str, Any]:
    """One picture's row: place, image_id, width, height; instances, or label (PNG) and segments."""
    height, width = result.image.shape[:2]
    row: dict[str, Any] = {"place": result.file, "image_id": image_id, "width": width, "height": height}
    if isinstance(result, PoseResult):
        found = zip(result.to_coco(image_id), result.prediction.boxes, result.prediction.box_scores, strict=True)
        row["instances"] = [
            {
                "bbox": [float(value) for value in box],
                "box_score": float(box_score),
                "score": one["score"],
                "keypoints": one["keypoints"],
            }
            for one, box, box_score in found
        ]
        return row
    row["label"] = result.label_bytes()
    row["segments"] = [
        {"category_id": one["category_id"], "counts": one["segmentation"]["counts"], "score": one["score"]}
        for one in result.to_coco(image_id)
    ]
    return row


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file; the columns' types do not depend on what was found."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("place", pa.string()), ("image_id", pa.int64()), ("width", pa.int32()), ("height", pa.int32())]
    numbers = pa.list_(pa.float64())
    if "instances" in rows[0]:
        instance = [("bbox", numbers), ("box_score", pa.float64()), ("score", pa.float64()), ("keypoints", numbers)]
        fields.append(("instances", pa.list_(pa.struct(instance))))
    else:
        segment = [("category_id", pa.int64()), ("counts", pa.string()), ("score", pa.float64())]
        fields += [("label", pa.binary()), ("segments", pa.list_(pa.struct(segment)))]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), stream)
    return stream.getvalue()


def read_parts(out: str, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of every Parquet file that is there."""
    import fsspec
    import pyarrow.parquet as pq

    system, root = fsspec.url_to_fs(f"{out}/parts")
    if not system.exists(root):
        return
    for path in sorted(one for one in system.ls(root, detail=False) if one.endswith(".parquet")):
        with system.open(path, "rb") as file:
            table = pq.read_table(file, columns=columns)
        yield table.to_pylist()


def check_same(job: RayJob) -> None:
    """Note what the folder's predictions were made with; refuse to go on with something else.

    Raises:
        InputError: the folder holds predictions of another network, page or boxes.
    """
    import fsspec

    from polarpix.engine.artifact import load_artifact

    kept = ("options", "config", "boxes", "category", "detector")
    artifact = Path(job.weights)  # with a page for it, somebody's checkpoint
    if not job.config:
        loaded = load_artifact(job.weights)
        artifact = Path(loaded.file)
        if loaded.task == "seg" and (job.boxes or job.detector):
            raise InputError(f"{artifact}: a segmentation network takes no boxes: leave out --boxes and --detector")
    if job.category and not job.detector and not job.category.isdecimal():
        raise InputError(f"--category {job.category}: give the number of a category (names need a --detector)")
    parse_boxes(job.boxes, int(job.category) if job.category and not job.detector else None)
    told = {name: value for name, value in asdict(job).items() if name in kept} | {"options": list(job.options)}
    told["weights"] = hashlib.sha256(artifact.read_bytes()).hexdigest()
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
    write_json(job.out, ids)
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


def write_json(out: str, ids: dict[str, int]) -> None:
    """All Parquet files as COCO's JSON, picture by picture in the order of their ids."""
    images: dict[str, dict[str, Any]] = {}
    found: dict[str, list[dict[str, Any]]] = {}
    name = "keypoints"
    for rows in read_parts(out):
        for row in rows:
            place, image_id = row["place"], ids.get(row["place"])
            if image_id is None:
                continue  # of an earlier call, over more pictures
            size = {"width": row["width"], "height": row["height"]}
            images[place] = {"id": image_id, "file_name": place, **size}
            if "instances" in row:
                found[place] = [
                    {"image_id": image_id, "category_id": 1, "keypoints": one["keypoints"], "score": one["score"]}
                    for one in row["instances"]
                ]
                continue
            name = "segments"
            found[place] = [
                {
                    "image_id": image_id,
                    "category_id": one["category_id"],
                    "segmentation": {"size": [row["height"], row["width"]], "counts": one["counts"]},
                    "score": one["score"],
                }
                for one in row["segments"]
            ]
    order = [place for place in ids if place in images]
    if order:
        write_whole(f"{out}/images.json", json.dumps([images[place] for place in order]).encode())
        rows = [one for place in order for one in found[place]]
        write_whole(f"{out}/{name}.json", json.dumps(rows).encode())
