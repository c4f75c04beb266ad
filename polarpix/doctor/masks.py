"""COCO instances to label maps in the layout of plain folders."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from polarpix.doctor.tables import Options, Table, image_size, place_image
from polarpix.errors import InputError
from polarpix.images import write_bytes, write_label
from polarpix.places import safe_name
from polarpix.seg.classes import voc_palette
from polarpix.types import UInt8Array

__all__ = ["instance_mask", "label_map", "write_masks"]

IGNORE = 255


def instance_mask(segmentation: Any, height: int, width: int, where: str) -> UInt8Array:
    """The pixels [height, width] of an instance as COCO's tools draw them: polygons, or run lengths of either kind.

    Raises:
        InputError: neither, or one that does not fit the image.
    """
    from faster_coco_eval.core import mask as coco_mask

    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if size != [height, width] or not isinstance(counts, list | str):
            raise InputError(f"{where}: run lengths of size {size!r:.40} in an image of {[height, width]}: mend them")
        if isinstance(counts, list):
            whole = all(isinstance(n, int) and n >= 0 for n in counts)
            if not whole or sum(counts) != height * width:
                raise InputError(f"{where}: run lengths do not add up to {height * width} pixels: mend them")
            runs = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8)
            return np.ascontiguousarray(runs.reshape(width, height).T)  # columns first
        return np.asarray(coco_mask.decode({"size": size, "counts": counts.encode()}), np.uint8)
    polygons = segmentation if isinstance(segmentation, list) else None
    if polygons is None or not all(_is_polygon(one) for one in polygons):
        raise InputError(f"{where}: segmentation is neither polygons nor run lengths: mend it")
    if not polygons:
        return np.zeros((height, width), np.uint8)
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return np.asarray(coco_mask.decode(runs), np.uint8)


def _is_polygon(one: Any) -> bool:
    numbers = isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0
    return numbers and all(isinstance(v, int | float) and abs(v) < 1e6 for v in one)


def label_map(image: dict[str, Any], notes: list[dict[str, Any]], values: dict[int, int], where: str) -> UInt8Array:
    """The label map [H, W] of an image: large instances below small ones, crowds ignored where no instance lies.

    Args:
        image: its entry.
        notes: its annotations; those without a segmentation count as not there.
        values: category id -> class index.
        where: named in errors.
    """
    height, width = int(image["height"]), int(image["width"])
    label = np.zeros((height, width), np.uint8)
    masks = []
    for note in notes:
        if note.get("segmentation"):
            mask = instance_mask(note["segmentation"], height, width, f"{where}: annotation {note['id']}") > 0
            masks.append((bool(note.get("iscrowd")), int(mask.sum()), note, mask))
    for crowd, _, note, mask in sorted(masks, key=lambda one: (not one[0], -one[1])):
        label[mask] = IGNORE if crowd else values[note["category_id"]]
    return label


def write_masks(table: Table, path: Path, options: Options) -> None:
    """Write ``images/<split>/`` (copies), ``labels/<split>/`` and ``classes.yaml`` into a folder.

    Class 0 is the background, the categories follow in the order of their ids.

    Raises:
        InputError: more categories than fit, a missing image, or two images of one name.
    """
    categories = sorted((c for c in table["categories"] if isinstance(c, dict)), key=lambda c: int(c["id"]))
    if not 0 < len(categories) < IGNORE:
        raise InputError(
            f"{path}: {len(categories)} categories: label maps hold 1 to {IGNORE - 1} beside the background"
        )
    values = {category["id"]: i for i, category in enumerate(categories, start=1)}
    names = ["background", *(str(category.get("name", category["id"])) for category in categories)]
    notes: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in table["images"]}
    for note in table["annotations"]:
        notes[note["image_id"]].append(note)
    if not any(note.get("segmentation") for note in table["annotations"]):
        raise InputError(f"{path}: no annotation has a segmentation: there is nothing to draw")
    bare = sum(not note.get("segmentation") for note in table["annotations"])
    if bare:
        warnings.warn(f"{path}: {bare:,} annotations have no segmentation and are not drawn", stacklevel=2)
    seen: dict[str, str] = {}
    palette = voc_palette(256)
    for image in tqdm(table["images"], desc="writing", unit="image", disable=None, leave=False):
        where = f"{path}: image {image['id']}"
        name = safe_name(image["file_name"], where)
        file = options.folder() / place_image(options.folder(), name, where)
        size = image_size(file)
        if size != (image["height"], image["width"]):  # before a map of that size is made
            raise InputError(f"{where}: {file} is {size[1]}x{size[0]}, the table says otherwise: mend width and height")
        stem = PurePosixPath(name).stem
        if stem in seen:
            raise InputError(f"{where}: {name} and {seen[stem]} have one name: plain folders need different ones")
        seen[stem] = name
        label = label_map(image, notes[image["id"]], values, where)
        copy = path / "images" / options.split / f"{stem}{file.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        write_label(path / "labels" / options.split / f"{stem}.png", label, palette)
    write_bytes(path / "classes.yaml", yaml.safe_dump({"classes": names}, allow_unicode=True).encode())
