"""LabelMe: a JSON beside each image, keypoints as points, an instance as the shapes of one group.

A rectangle of the group gives its box; it is named as the category. LabelMe knows no hidden points; the flag
``hidden`` of a point says so here. It and the keys ``image_id``, ``annotation_box`` and ``annotation_area``, which
LabelMe keeps when it saves a file, are read where they are there. Names and their order are those of ``schema.yaml``
in the folder, which is written with the files.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from polarpix.doctor.scan import special
from polarpix.doctor.tables import (
    OUTLINES,
    Options,
    Table,
    Triple,
    annotation,
    categories_with_keypoints,
    category_entry,
    dropped,
    file_of,
    image_size,
    new_table,
    notes_by_image,
    place_image,
    put_point,
    schema_entry,
    schema_of,
    triples,
)
from polarpix.errors import InputError
from polarpix.images import write_bytes
from polarpix.places import safe_name
from polarpix.pose.coco_json import is_number, parse_json
from polarpix.pose.schema import load_schema, save_schema

__all__ = ["read_labelme", "write_labelme"]

VERSION = "5.5.0"
SCHEMA = "schema.yaml"


def read_labelme(path: Path, options: Options) -> Table:
    """The files of a folder and its subfolders, or one file, as a COCO table.

    Raises:
        InputError: no such files, or a shape that is no point of the skeleton.
    """
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: folder holds no JSON files of LabelMe")
    for file in files if path.is_dir() else []:
        if what := special(file):
            raise InputError(f"{file}: is {what}, no file: put the file itself in its place")
    pages = [(file, _page(file)) for file in files]
    schema = options.schema or (load_schema(root / SCHEMA) if (root / SCHEMA).is_file() else None)
    if schema is not None:
        entry = schema_entry(1, schema)
    else:
        labels = [shape["label"] for _, page in pages for shape in page["shapes"] if shape["shape_type"] == "point"]
        boxes = [shape["label"] for _, page in pages for shape in page["shapes"] if shape["shape_type"] == "rectangle"]
        entry = category_entry(1, boxes[0] if boxes else "object", list(dict.fromkeys(labels)))
    if not entry["keypoints"]:
        raise InputError(f"{path}: no file holds a point: LabelMe's keypoints are shapes of the type point")
    groups = [_groups(page) for _, page in pages]
    ids = [group for here in groups for group in here]
    keep = all(isinstance(one, int) and one > 0 for one in ids) and len(set(ids)) == len(ids)
    own = [page.get("image_id") for _, page in pages]
    keep_images = all(isinstance(one, int) for one in own) and len(set(own)) == len(own)
    table = new_table(path)
    for (file, page), here in zip(pages, groups, strict=True):
        image = _image(file, page, root, options)
        image = {"id": page["image_id"] if keep_images else len(table["images"]) + 1, **image}
        table["images"].append(image)
        for group, shapes in here.items():
            id = int(group) if keep and group is not None else len(table["annotations"]) + 1
            table["annotations"].append(_instance(id, image, shapes, entry, options, str(file)))
    if keep_images:
        table["images"].sort(key=lambda image: int(image["id"]))
    table["annotations"].sort(key=lambda note: int(note["id"]))
    table["categories"] = [entry]
    return table


def _page(file: Path) -> dict[str, Any]:
    """A file with its shapes checked."""
    page = parse_json(file)[0]
    if not isinstance(page, dict) or not isinstance(page.get("shapes"), list):
        raise InputError(f"{file}: no list 'shapes', so not a file of LabelMe: take it out of the folder")
    for number, shape in enumerate(page["shapes"]):
        where = f"{file}: shape number {number}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise InputError(f"{where} has no label: give it one")
        shape.setdefault("shape_type", "polygon")
        shape["flags"] = shape.get("flags") or {}
        if not isinstance(shape["flags"], dict) or not isinstance(shape.get("group_id"), int | str | None):
            raise InputError(f"{where}: flags are no mapping, or group_id is no number: mend them")
        if not isinstance(shape["shape_type"], str):
            raise InputError(f"{where}: shape_type is {shape['shape_type']!r:.40}: give a word such as point")
        points = shape.get("points")
        if not isinstance(points, list) or not all(_is_point(point) for point in points):
            raise InputError(f"{where}: points are not pairs of finite numbers: mend them")
        if len(points) != {"point": 1, "rectangle": 2}.get(shape["shape_type"], len(points)):
            raise InputError(f"{where}: a {shape['shape_type']} has {len(points)} points: mend it")
    return page


def _is_point(point: Any) -> bool:
    numbers = isinstance(point, list) and len(point) == 2
    return numbers and all(map(is_number, point))


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and _is_point(value[:2]) and _is_point(value[2:])


def _groups(page: dict[str, Any]) -> dict[Any, list[dict[str, Any]]]:
    """Group -> its points and rectangles; shapes without one belong together."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for shape in page["shapes"]:
        if shape["shape_type"] in ("point", "rectangle"):
            found.setdefault(shape.get("group_id"), []).append(shape)
    return found


def _image(file: Path, page: dict[str, Any], root: Path, options: Options) -> dict[str, Any]:
    """The entry of the image; a path that leads elsewhere counts by its last part, beside the JSON."""
    given = page.get("imagePath")
    if not isinstance(given, str) or not given:
        raise InputError(f"{file}: imagePath is {given!r:.40}: name the image")
    last = PurePosixPath(given.replace("\\", "/")).name
    name = safe_name((file.parent.relative_to(root) / last).as_posix(), str(file))
    if options.images is not None:
        name = place_image(options.images, name, str(file))
    size = (page.get("imageHeight"), page.get("imageWidth"))
    if not all(isinstance(side, int) and side > 0 for side in size):
        folder = options.images or root
        size = image_size(folder / name)
    return {"file_name": name, "width": size[1], "height": size[0]}


def _instance(
    id: int, image: dict[str, Any], shapes: list[dict[str, Any]], category: dict[str, Any], options: Options, where: str
) -> dict[str, Any]:
    names = category["keypoints"]
    points: list[Triple] = [(0, 0, 0)] * len(names)
    box: list[float] | None = None
    area: float | None = None
    crowd = 0
    for shape in shapes:
        if shape["shape_type"] == "rectangle":
            if shape["label"] != category["name"]:
                raise InputError(
                    f"{where}: rectangle {shape['label']!r:.80}; the category is {category['name']!r}: mend one"
                )
            (x0, y0), (x1, y1) = shape["points"]
            box, area = [min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)], None
            kept = shape.get("annotation_box") or []
            if _is_box(kept) and [kept[:2], [kept[0] + kept[2], kept[1] + kept[3]]] == shape["points"]:
                box, area = kept, shape.get("annotation_area")  # else the rectangle was moved since
            crowd = int(bool(shape["flags"].get("crowd")))
            continue
        x, y = shape["points"][0]
        put_point(points, names, shape["label"], (x, y, 1 if shape["flags"].get("hidden") else 2), where)
    return annotation(id, image, category["id"], points, options, box, area, crowd)


def write_labelme(table: Table, path: Path, options: Options) -> None:
    """Write a JSON for each image into a folder, and the skeleton as schema.yaml.

    Raises:
        InputError: no keypoints, several categories of them, or two images of one name without ending.
    """
    categories = categories_with_keypoints(table, str(path))
    if len(categories) > 1:
        listed = ", ".join(str(c["name"]) for c in categories)
        raise InputError(f"{path}: LabelMe's points have one skeleton, the table has {listed}: convert one at a time")
    category = categories[0]
    names = category["keypoints"]
    dropped(table, str(path), OUTLINES)
    notes = notes_by_image(table, categories)
    seen: dict[Path, str] = {}
    for image in table["images"]:
        name = file_of(image, path)
        file = (path / name).with_suffix(".json")
        if file in seen:
            raise InputError(f"{file}: belongs to {seen[file]} and to {name}: rename one of the images")
        seen[file] = name
        shapes = [shape for note in notes[image["id"]] for shape in _shapes(note, category, names)]
        page = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(name).name,
            "imageData": None,
            "imageHeight": image["height"],
            "imageWidth": image["width"],
            "image_id": image["id"],
        }
        write_bytes(file, json.dumps(page, indent=2, ensure_ascii=False).encode())
    save_schema(schema_of(category, str(path)), path / SCHEMA)


def _shapes(note: dict[str, Any], category: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    shapes = []
    if note.get("bbox") is not None:
        x, y, w, h = note["bbox"]
        extra = {"annotation_area": note.get("area"), "annotation_box": note["bbox"]}
        flags = {"crowd": True} if note.get("iscrowd") else {}
        shapes.append(_shape(str(category["name"]), [[x, y], [x + w, y + h]], note["id"], "rectangle", flags) | extra)
    for name, (x, y, v) in zip(names, triples(note, len(names)), strict=True):
        if v:
            shapes.append(_shape(name, [[x, y]], note["id"], "point", {"hidden": True} if v == 1 else {}))
    return shapes


def _shape(label: str, points: list[list[float]], group: int, kind: str, flags: dict[str, bool]) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": flags}
