"""What ``polarpix predict --ray`` leaves behind: Parquet files of some pictures each, and COCO's JSON made of them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

from polarpix.places import write_whole
from polarpix.results import PoseResult, SegResult

__all__ = ["merge_parts", "read_parts", "result_row", "write_part"]


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


def write_part(out: str, rows: list[dict[str, Any]]) -> None:
    """Write rows below ``out`` as one Parquet file, whole or not at all; none is no file."""
    if rows:
        name = hashlib.sha256("\n".join(row["place"] for row in rows).encode()).hexdigest()[:24]
        write_whole(f"{out}/parts/{name}.parquet", parquet(rows))


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


def merge_parts(out: str, ids: dict[str, int]) -> None:
    """All Parquet files as COCO's JSON: images.json, and keypoints.json or segments.json.

    Args:
        out: folder or address.
        ids: the pictures in the order of the files, each with its image_id; others in the Parquet files are left out.
    """
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
